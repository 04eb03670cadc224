//! Queries on the pool, by many callers each of which waits for a limited time.
//!
//! A caller's time-out must not cancel a connection that is being opened. After a fail-over or a restart all
//! connections of the pool are opened anew; callers that had already waited long gave up half way, and so did those
//! after them, for as long as the load lasted. So a task of its own asks the pool for the connection: if the connection
//! comes too late for the caller that asked, the next caller gets it. A caller that gives up while it waits for a place
//! leaves the queue.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Connection as _, Either, Execute, Executor, Postgres, SqlStr};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::error::Elapsed;
use tokio_util::task::TaskTracker;

use super::metered;
use super::session::{Deadline, PREPARE};
use crate::clock::Clock;

/// For each connection of the pool this many callers may wait; more are refused at once.
const WAITERS: usize = 100;

/// Opening a connection may take this much longer than the caller's patience.
const GRACE: Duration = Duration::from_secs(2);

/// A connection that was idle for longer than this is pinged before it is used. A ping before each use would double the round
/// trips of every read.
pub(in crate::store) const IDLE: Duration = Duration::from_secs(1);

/// Longer than any network takes, and short enough for a caller to get another connection in time.
pub(in crate::store) const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection that is not idle within this time after its use is closed. Its statement has passed its server-side
/// deadline by then. Until then its place in the pool is given to nobody, so that there are never more backends than
/// places.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(6);

#[derive(Clone)]
pub(crate) struct Queries {
    pool: PgPool,
    patience: Duration,
    queue: Arc<Semaphore>,
    /// As many places as the pool has connections.
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    suspicion: Arc<Suspicion>,
    /// What the caller has until its connections are back in the pool.
    kept: Option<Kept>,
}

/// Something that is given up with the last handle on it.
pub(in crate::store) type Kept = Arc<dyn fmt::Debug + Send + Sync>;

/// When a connection was last found broken: connections that were idle at that time may be broken too.
#[derive(Debug)]
pub(in crate::store) struct Suspicion {
    /// How long a ping may take.
    patience: Duration,
    broken: Mutex<Option<Instant>>,
    /// When a connection was last found that answered nothing, and told nobody that it is dead.
    silent: Mutex<Option<Instant>>,
}

impl Suspicion {
    /// For callers that wait this long for a connection: after a ping there must be time left for another connection.
    pub(in crate::store) fn new(patience: Duration) -> Self {
        let patience = (patience / 3).min(PING_TIMEOUT);
        Self { patience, broken: Mutex::default(), silent: Mutex::default() }
    }

    /// Whether a connection that was idle for this long may be used. What has been idle for more than a moment is pinged
    /// with a deadline, because a firewall or a NAT on the way may have forgotten it; then those that were idle at the same
    /// time are not even pinged, so that a caller waits for one deadline at most.
    pub(in crate::store) async fn allows(
        &self,
        connection: &mut PgConnection,
        idle_for: Duration,
    ) -> Result<bool, sqlx::Error> {
        if Self::covers(&self.silent, idle_for) {
            return Ok(false);
        }
        if idle_for > IDLE || Self::covers(&self.broken, idle_for) {
            let answered = is_alive(connection, self.patience).await;
            if matches!(answered, Err(sqlx::Error::PoolTimedOut)) {
                *self.silent.lock().unwrap_or_else(PoisonError::into_inner) = Some(Clock.now());
                return Ok(false);
            }
            answered?;
        }
        Ok(true)
    }

    fn covers(found: &Mutex<Option<Instant>>, idle_for: Duration) -> bool {
        let found = *found.lock().unwrap_or_else(PoisonError::into_inner);
        found.is_some_and(|found| Clock.since(found) <= idle_for)
    }

    fn note(&self, error: &sqlx::Error) {
        let broken = match error {
            sqlx::Error::Io(_) => true,
            // The server's last message on a connection that it closes.
            sqlx::Error::Database(error) => error.code().is_some_and(|code| code.starts_with("57P")),
            _ => false,
        };
        if broken {
            *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(Clock.now());
        }
    }
}

/// Pings a connection that has been idle.
pub(in crate::store) async fn is_alive(
    connection: &mut PgConnection,
    patience: Duration,
) -> Result<(), sqlx::Error> {
    tokio::time::timeout(patience, connection.ping()).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

impl fmt::Debug for Queries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queries").field("patience", &self.patience).finish_non_exhaustive()
    }
}

impl Queries {
    /// The time-out of the pool itself for callers with this patience.
    pub(in crate::store) fn pool_timeout(patience: Duration) -> Duration {
        patience + GRACE
    }

    pub(in crate::store) fn new(pool: PgPool, patience: Duration, suspicion: Arc<Suspicion>) -> Self {
        let most = usize::try_from(pool.options().get_max_connections()).unwrap_or(usize::MAX);
        let permits = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        let (queue, places) = (permits(most.saturating_mul(WAITERS)), permits(most));
        Self { pool, patience, queue, places, tasks: TaskTracker::new(), suspicion, kept: None }
    }

    /// The same, for a caller that keeps something until its connections are back in the pool: who leaves while a statement
    /// runs must not be followed by the next one before the statement has ended.
    pub(in crate::store) fn keeping(&self, kept: Kept) -> Self {
        Self { kept: Some(kept), ..self.clone() }
    }

    /// The pool itself, for work that is not a caller's query.
    pub(in crate::store) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// How long a caller waits for a connection.
    pub(in crate::store) fn patience(&self) -> Duration {
        self.patience
    }

    /// One statement that may take longer than others, or that changes something on behalf of an actor.
    pub(in crate::store) fn statement(&self, deadline: Deadline, actor: Option<Arc<str>>) -> SingleStatement {
        SingleStatement { queries: self.clone(), deadline, actor }
    }

    /// A connection, if there is one within the caller's patience.
    pub(in crate::store) async fn acquire(&self) -> Result<Connection, sqlx::Error> {
        let _waiting = self.queue.try_acquire().map_err(|_| sqlx::Error::PoolTimedOut)?;
        let asked = async {
            let place = self.places.clone().acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)?;
            let (pool, kept) = (self.pool.clone(), self.kept.clone());
            let asked =
                async move { Ok(Connection { pooled: pool.acquire().await?, place: Some(place), kept }) };
            self.tasks.spawn(asked).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
        };
        tokio::time::timeout(self.patience, asked).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }
}

/// A connection of the pool, which is returned when it is dropped.
#[derive(Debug)]
pub(in crate::store) struct Connection {
    pooled: PoolConnection<Postgres>,
    /// The connection's place, until the connection is returned to the pool or closed.
    place: Option<OwnedSemaphorePermit>,
    kept: Option<Kept>,
}

impl Connection {
    /// Makes dropping close the connection, because it is of no use to the next caller.
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
        // A spent connection closes itself.
        let Some(place) = self.place.take() else { return };
        let kept = self.kept.take();
        // It keeps buffers as large as its largest statement or answer, which may have had megabytes.
        self.pooled.shrink_buffers();
        // The pool pings a returned connection and waits for the answer without limit: in a network that loses the
        // answer, the place would be lost for as long as this process runs.
        let back = tokio::time::timeout(RELEASE_TIMEOUT, self.pooled.return_to_pool());
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                drop(back.await);
                drop((place, kept));
            });
        }
    }
}

/// One statement on a connection of the pool. Running the statement consumes it, because no lock may be held between
/// two statements: what must be done together is one statement.
#[derive(Debug)]
pub(in crate::store) struct SingleStatement {
    queries: Queries,
    deadline: Deadline,
    /// The actor as JSON, which the audit log's triggers read.
    actor: Option<Arc<str>>,
}

impl SingleStatement {
    /// A connection that has been told the actor and the deadline of the statement.
    async fn ready(self) -> Result<RunningQuery, sqlx::Error> {
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
        let mut running = RunningQuery { queries: self.queries, connection, begun, patience };
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

/// The server did not end the statement by its own deadline: it is silent, so the connection is given up.
const SILENT: sqlx::Error = sqlx::Error::PoolTimedOut;

struct RunningQuery {
    queries: Queries,
    connection: Connection,
    begun: Instant,
    patience: Duration,
}

impl RunningQuery {
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
        // A migration has changed the result of a prepared statement; a new connection prepares the statement anew.
        if matches!(error, sqlx::Error::PoolTimedOut) || is_outdated_plan(&error) {
            self.connection.is_spent();
        }
        self.queries.suspicion.note(&error);
        error
    }
}

/// Whether the error is "cached plan must not change result type".
fn is_outdated_plan(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if error.code().as_deref() == Some("0A000"))
}

impl<'c> Executor<'c> for SingleStatement {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        // Fetches all rows at once, because no caller reads rows one by one.
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
}
