//! Queries on the pool, by many callers who wait for so long and no longer.
//!
//! A caller's patience must not cut a connection off that is being made: after a fail-over or a restart every place of
//! the pool connects anew, and those who had waited long had too little time left for that, gave up half way, and so did
//! whoever came next, for as long as the load lasted. So the place is asked for by a task of its own; what comes too
//! late for the one who asked is there for the next.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgPool, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Describe, Either, Execute, Executor, Postgres, SqlStr, Transaction};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;

/// For each connection so many callers may wait; more are refused at once.
const WAITERS: usize = 100;

/// A connection may take so much longer than its caller's patience.
const GRACE: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Clone)]
pub(crate) struct Queries {
    pool: PgPool,
    patience: Duration,
    queue: Arc<Semaphore>,
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

    fn look_at<T>(&self, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        let broken = match &result {
            Err(sqlx::Error::Io(_)) => true,
            // The server's last words to one it shuts.
            Err(sqlx::Error::Database(error)) => error.code().is_some_and(|code| code.starts_with("57P")),
            _ => false,
        };
        if broken {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Clock.now());
        }
        result
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
        let queue = Arc::new(Semaphore::new(most.saturating_mul(WAITERS).min(Semaphore::MAX_PERMITS)));
        Self { pool, patience, queue, tasks: TaskTracker::new(), suspicion }
    }

    /// The pool itself, for what is not a caller's query.
    pub(in crate::store) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// A connection, within the caller's patience.
    pub(in crate::store) async fn acquire(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        self.within_patience(|pool| async move { pool.acquire().await }).await
    }

    /// A transaction, within the caller's patience. It is begun by the task too: a caller that gave up half way would
    /// leave a connection behind that does not know that it is in one.
    pub(in crate::store) async fn begin(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        let begun = self.within_patience(|pool| async move { pool.begin().await }).await;
        self.suspicion.look_at(begun)
    }

    async fn within_patience<T, F>(
        &self,
        asking: impl FnOnce(PgPool) -> F + Send + 'static,
    ) -> Result<T, sqlx::Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, sqlx::Error>> + Send,
    {
        let place = self.queue.clone().try_acquire_owned().map_err(|_| sqlx::Error::PoolTimedOut)?;
        let pool = self.pool.clone();
        let asked = self.tasks.spawn(async move {
            let had = asking(pool).await;
            drop(place);
            had
        });
        match tokio::time::timeout(self.patience, asked).await {
            Ok(Ok(had)) => had,
            Ok(Err(_)) | Err(_) => Err(sqlx::Error::PoolTimedOut),
        }
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
        let queries = self.clone();
        // All at once: nobody here reads rows one by one.
        let all = async move {
            let mut connection = queries.acquire().await?;
            let rows: Result<Vec<_>, _> = connection.fetch_many(query).try_collect().await;
            let rows = queries.suspicion.look_at(rows)?;
            Ok::<_, sqlx::Error>(stream::iter(rows.into_iter().map(Ok)))
        };
        stream::once(all).try_flatten().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        E: 'q + Execute<'q, Postgres>,
    {
        let queries = self.clone();
        Box::pin(async move {
            let row = queries.acquire().await?.fetch_optional(query).await;
            queries.suspicion.look_at(row)
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'p: 'e,
    {
        let queries = self.clone();
        Box::pin(async move { queries.acquire().await?.prepare_with(sql, parameters).await })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'p: 'e,
    {
        let queries = self.clone();
        Box::pin(async move { queries.acquire().await?.describe(sql).await })
    }
}
