//! Queries on the pool, by many callers who wait for so long and no longer.
//!
//! A caller's patience must not cut a connection off that is being made: after a fail-over or a restart every place of
//! the pool connects anew, and those who had waited long had too little time left for that, gave up half way, and so did
//! whoever came next, for as long as the load lasted. So the connection is asked for by a task of its own; what comes too
//! late for the one who asked is there for the next. Whoever gives up while it waits for a place leaves the queue.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Describe, Either, Execute, Executor, Postgres, SqlStr};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::error::Elapsed;
use tokio_util::task::TaskTracker;

use super::metered;
use super::session::{Deadline, PREPARE};
use crate::clock::Clock;

/// For each connection so many callers may wait; more are refused at once.
const WAITERS: usize = 100;

/// A connection may take so much longer than its caller's patience.
const GRACE: Duration = Duration::from_secs(2);

/// A connection that does not come to rest within this after its use is closed. Its server-side deadline has passed by
/// then; until it has, its place in the pool is not given to another one, so that there are never more backends than
/// places.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(6);

#[derive(Clone)]
pub(crate) struct Queries {
    pool: PgPool,
    patience: Duration,
    queue: Arc<Semaphore>,
    /// As many as the pool has connections.
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    suspicion: Arc<Suspicion>,
}

/// When a connection was last found broken: those that were idle then may be as well.
#[derive(Debug, Default)]
pub(in crate::store) struct Suspicion(Mutex<Option<Instant>>);

impl Suspicion {
    /// Whether a connection that has been idle for so long must be asked whether it lives.
    pub(in crate::store) fn is_on(&self, idle_for: Duration) -> bool {
        let broken = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        broken.is_some_and(|broken| Clock.since(broken) <= idle_for)
    }

    fn note(&self, error: &sqlx::Error) {
        let broken = match error {
            sqlx::Error::Io(_) => true,
            // The server's last words to one it shuts.
            sqlx::Error::Database(error) => error.code().is_some_and(|code| code.starts_with("57P")),
            _ => false,
        };
        if broken {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Clock.now());
        }
    }
}

impl fmt::Debug for Queries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queries").field("patience", &self.patience).finish_non_exhaustive()
    }
}

impl Queries {
    /// The pool's own time-out for callers of this patience.
    pub(in crate::store) fn pool_timeout(patience: Duration) -> Duration {
        patience + GRACE
    }

    pub(in crate::store) fn new(pool: PgPool, patience: Duration, suspicion: Arc<Suspicion>) -> Self {
        let most = usize::try_from(pool.options().get_max_connections()).unwrap_or(usize::MAX);
        let permits = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        let (queue, places) = (permits(most.saturating_mul(WAITERS)), permits(most));
        Self { pool, patience, queue, places, tasks: TaskTracker::new(), suspicion }
    }

    /// The pool itself, for what is not a caller's query.
    pub(in crate::store) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// One statement that may take longer than others, or changes something on somebody's behalf.
    pub(in crate::store) fn statement(&self, deadline: Deadline, actor: Option<Arc<str>>) -> Statement {
        Statement { queries: self.clone(), deadline, actor }
    }

    /// A connection, within the caller's patience.
    pub(in crate::store) async fn acquire(&self) -> Result<Connection, sqlx::Error> {
        let _waiting = self.queue.try_acquire().map_err(|_| sqlx::Error::PoolTimedOut)?;
        let asked = async {
            let place = self.places.clone().acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)?;
            let pool = self.pool.clone();
            let asked = async move { Ok(Connection { pooled: pool.acquire().await?, place: Some(place) }) };
            self.tasks.spawn(asked).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
        };
        tokio::time::timeout(self.patience, asked).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }
}

/// A connection of the pool, which goes back when it is dropped.
#[derive(Debug)]
pub(in crate::store) struct Connection {
    pooled: PoolConnection<Postgres>,
    /// Until it is back in the pool, or closed.
    place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Closes it when it is dropped: it is of no use to the next caller.
    fn is_spent(&mut self) {
        self.pooled.close_on_drop();
        self.place = None;
    }
}

impl Deref for Connection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.pooled
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.pooled
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // One that is spent closes itself.
        let Some(place) = self.place.take() else { return };
        // The pool asks a connection that comes back whether it lives, and waits for the answer for ever: in a network
        // that swallows it, the place would be lost for as long as this process runs.
        let back = tokio::time::timeout(RELEASE_TIMEOUT, self.pooled.return_to_pool());
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                drop(back.await);
                drop(place);
            });
        }
    }
}

/// One statement on a connection of the pool. It is given away when it runs: what must hold together is one statement,
/// because no lock may be held while a message travels.
#[derive(Debug)]
pub(in crate::store) struct Statement {
    queries: Queries,
    deadline: Deadline,
    /// On whose behalf, as the audit log's triggers read it.
    actor: Option<Arc<str>>,
}

impl Statement {
    /// A connection that has been told what the statement is for.
    async fn ready(self) -> Result<Running, sqlx::Error> {
        let begun = Clock.now();
        let connection = match self.queries.acquire().await {
            Ok(connection) => connection,
            Err(error) => {
                metered::query(begun, Some(&error));
                self.queries.suspicion.note(&error);
                return Err(error);
            }
        };
        let patience = self.deadline.patience();
        let told = self.actor.is_some() || self.deadline != Deadline::QUERY;
        let mut running = Running { queries: self.queries, connection, begun, patience };
        if told {
            let tell = sqlx::query(PREPARE)
                .bind(self.actor.as_deref().unwrap_or_default())
                .bind(self.deadline.setting())
                .execute(&mut *running.connection);
            if let Err(error) =
                tokio::time::timeout(Deadline::QUERY.patience(), tell).await.unwrap_or(Err(SILENT))
            {
                return Err(running.failed(error));
            }
        }
        Ok(running)
    }
}

/// The server should have given up by itself: it is silent, and so is its connection.
const SILENT: sqlx::Error = sqlx::Error::PoolTimedOut;

struct Running {
    queries: Queries,
    connection: Connection,
    begun: Instant,
    patience: Duration,
}

impl Running {
    fn end<T>(self, answer: Result<Result<T, sqlx::Error>, Elapsed>) -> Result<T, sqlx::Error> {
        match answer.unwrap_or(Err(SILENT)) {
            Ok(answer) => {
                metered::query(self.begun, None);
                Ok(answer)
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(mut self, error: sqlx::Error) -> sqlx::Error {
        metered::query(self.begun, Some(&error));
        // After a migration that changes what a prepared statement answers, a new connection prepares it anew.
        if matches!(error, sqlx::Error::PoolTimedOut) || is_outdated_plan(&error) {
            self.connection.is_spent();
        }
        self.queries.suspicion.note(&error);
        error
    }
}

/// "cached plan must not change result type"
fn is_outdated_plan(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if error.code().as_deref() == Some("0A000"))
}

impl<'c> Executor<'c> for Statement {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        // All at once: nobody here reads rows one by one.
        let all = async move {
            let mut running = self.ready().await?;
            let rows = running.connection.fetch_many(query).try_collect::<Vec<_>>();
            let rows = tokio::time::timeout(running.patience, rows).await;
            let rows = running.end(rows)?;
            Ok::<_, sqlx::Error>(stream::iter(rows.into_iter().map(Ok)))
        };
        stream::once(all).try_flatten().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move {
            let mut running = self.ready().await?;
            let row = tokio::time::timeout(running.patience, running.connection.fetch_optional(query)).await;
            running.end(row)
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(async move { self.queries.acquire().await?.prepare_with(sql, parameters).await })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(async move { self.queries.acquire().await?.describe(sql).await })
    }
}

impl<'p> Executor<'p> for &'_ Queries {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        E: 'q + Execute<'q, Postgres>,
    {
        self.statement(Deadline::QUERY, None).fetch_many(query)
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        E: 'q + Execute<'q, Postgres>,
    {
        self.statement(Deadline::QUERY, None).fetch_optional(query)
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'p: 'e,
    {
        self.statement(Deadline::QUERY, None).prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'p: 'e,
    {
        self.statement(Deadline::QUERY, None).describe(sql)
    }
}
