//! The handle that everything in the store works through: a pool that follows the primary.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection;
use sqlx::postgres::PgPoolOptions;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::change::{Acting, Actor};
use super::error::LedgerError;
use super::metered;
use super::queries::{Queries, Suspicion};
use super::servers::Servers;
use crate::clock::Clock;
use crate::secret::Secret;

/// A query that takes longer is given up: a database that hangs must not hang its callers.
pub(in crate::store) const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that does not come to rest within this after its use is closed. The pool itself would wait for ever,
/// and keep its place: a server that has gone silent would take them all.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// Puts the deadline on a query of the pool.
pub(in crate::store) trait Bounded<T>:
    Future<Output = Result<T, sqlx::Error>> + Sized
{
    async fn bounded(self) -> Result<T, sqlx::Error> {
        let begun = Clock.now();
        let done = tokio::time::timeout(QUERY_TIMEOUT, self).await.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        metered::query(begun, done.as_ref().err());
        done
    }
}

impl<T, F: Future<Output = Result<T, sqlx::Error>>> Bounded<T> for F {}

/// A pool of connections to the primary of the ledger's database servers.
#[derive(Debug, Clone)]
pub struct Database {
    pub(in crate::store) queries: Queries,
    pub(in crate::store) servers: Arc<Servers>,
    /// On whose behalf things are changed through this handle.
    pub(in crate::store) actor: Option<Arc<Actor>>,
    /// Ends the look-out for another primary with the last handle.
    _watch: Option<Arc<DropGuard>>,
}

impl Database {
    /// A pool on `url`. Connects when first used; waits at most `acquire_timeout` for a connection.
    pub fn connect(
        url: &Secret,
        max_connections: u32,
        acquire_timeout: Duration,
    ) -> Result<Self, LedgerError> {
        Self::connect_to_primary(std::slice::from_ref(url), max_connections, acquire_timeout)
    }

    /// A pool on whichever of the servers at `urls` is the primary, now and after every fail-over. Needs a runtime.
    pub fn connect_to_primary(
        urls: &[Secret],
        max_connections: u32,
        acquire_timeout: Duration,
    ) -> Result<Self, LedgerError> {
        metered::register_queries();
        let servers = Arc::new(Servers::new(urls)?);
        let (before, after) = (servers.clone(), servers.clone());
        let suspicion = Arc::new(Suspicion::default());
        let suspected = suspicion.clone();
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(Queries::pool_timeout(acquire_timeout))
            // A ping before each use would double the round trips of every read. One that was in use a moment ago is
            // alive; one that was idle may have died with its server, and a status call must not fail for that.
            .test_before_acquire(false)
            .before_acquire(move |connection, state| {
                // One that leads to a former primary must not be used, alive or not.
                let outdated = before.outdates(state.age);
                let doubtful = state.idle_for > Duration::from_secs(1) || suspected.is_on(state.idle_for);
                Box::pin(async move {
                    if !outdated && doubtful {
                        connection.ping().await?;
                    }
                    Ok(!outdated)
                })
            })
            .after_connect(move |connection, _| {
                let servers = after.clone();
                Box::pin(async move { servers.admit(connection).await })
            })
            .after_release(|connection, _| {
                Box::pin(async move {
                    let rested = tokio::time::timeout(RELEASE_TIMEOUT, connection.ping()).await;
                    rested.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map(|()| true)
                })
            })
            .connect_lazy_with(servers.options().0);
        let watch = servers.several().then(|| {
            let stop = CancellationToken::new();
            TaskTracker::new().spawn(servers.clone().watch(pool.clone(), stop.clone()));
            Arc::new(stop.drop_guard())
        });
        Ok(Self {
            queries: Queries::new(pool, acquire_timeout, suspicion),
            servers,
            actor: None,
            _watch: watch,
        })
    }

    /// Makes sure that there is a primary, and says what is wrong with each server if there is none.
    pub async fn find_primary(&self) -> Result<(), LedgerError> {
        self.servers.first_look().await.map_err(sqlx::Error::from)?;
        self.ping().await
    }

    /// Makes the database `name` on the server of `url`, unless it is there.
    pub async fn create_database(url: &Secret, name: &str) -> Result<(), LedgerError> {
        let server = Self::connect(url, 2, Duration::from_secs(10))?;
        let there: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(name)
            .fetch_one(server.pool())
            .bounded()
            .await?;
        if !there {
            let quoted = name.replace('"', "\"\"");
            sqlx::query(sqlx::AssertSqlSafe(format!("create database \"{quoted}\"")))
                .execute(server.pool())
                .bounded()
                .await?;
        }
        server.queries.pool().close().await;
        Ok(())
    }

    /// A handle on the same database through which `actor` changes things.
    pub fn acting(&self, actor: &Actor) -> Acting {
        Acting(Self { actor: Some(Arc::new(actor.clone())), ..self.clone() })
    }

    pub(crate) fn pool(&self) -> &Queries {
        &self.queries
    }

    /// Asks the primary whether it takes writes.
    pub async fn ping(&self) -> Result<(), LedgerError> {
        let asked = async {
            let mut connection = self.queries.acquire().await?;
            self.servers.admit(&mut connection).await
        };
        asked.bounded().await.map_err(|error| match (error, self.servers.complaint()) {
            // The pool does not tell why it found no connection worth having.
            (sqlx::Error::PoolTimedOut, Some(why)) => sqlx::Error::from(why).into(),
            (error, _) => error.into(),
        })
    }

    /// Shows the connections of this pool, called `pool`.
    pub fn show_pool(&self, pool: &'static str) {
        metered::pool(pool, self.queries.pool());
    }

    /// How often another server has become the primary.
    pub fn primary_changes(&self) -> u64 {
        self.servers.changes()
    }
}
