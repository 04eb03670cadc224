//! The handle that the whole store works through: a pool of connections that follows the primary.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgPoolOptions};
use sqlx::{ConnectOptions, Executor};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::error::StoreError;
use super::metered;
use super::queries::{Kept, Queries, Suspicion};
use super::role;
use super::servers::Servers;
use super::session::{Deadline, RESET};
use crate::secret::Secret;

/// A pool of connections to the primary among the ledger's database servers.
#[derive(Debug, Clone)]
pub struct Database {
    queries: Queries,
    pub(in crate::store) servers: Arc<Servers>,
    /// Ends the watch for another primary when the last handle is dropped.
    _watch: Option<Arc<DropGuard>>,
}

impl Database {
    /// A pool on `url`. It connects when it is first used, and a caller waits at most `acquire_timeout` for a
    /// connection.
    pub fn connect(
        url: &Secret,
        max_connections: u32,
        acquire_timeout: Duration,
    ) -> Result<Self, StoreError> {
        Self::connect_to_primary(std::slice::from_ref(url), max_connections, acquire_timeout)
    }

    /// A pool on the server among `urls` that is the primary, now and after every fail-over. Needs a Tokio runtime.
    pub fn connect_to_primary(
        urls: &[Secret],
        max_connections: u32,
        acquire_timeout: Duration,
    ) -> Result<Self, StoreError> {
        metered::register_queries();
        let servers = Arc::new(Servers::new(urls)?);
        let (before, after, released) = (servers.clone(), servers.clone(), servers.clone());
        let suspicion = Arc::new(Suspicion::new(acquire_timeout));
        let suspected = suspicion.clone();
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(Queries::pool_timeout(acquire_timeout))
            // A connection that was in use a moment ago is alive; one that was idle may have died with its server, or be
            // forgotten on the way, and must not fail a call.
            .test_before_acquire(false)
            .before_acquire(move |connection, state| {
                // A connection to a former primary must not be used, even if it is alive.
                let outdated = before.outdates(state.age);
                let suspected = suspected.clone();
                Box::pin(async move { Ok(!outdated && suspected.allows(connection, state.idle_for).await?) })
            })
            .after_connect(move |connection, _| {
                let servers = after.clone();
                Box::pin(async move { servers.receive(connection).await })
            })
            .after_release(move |connection, _| {
                let (servers, turn) = (released.clone(), released.turn());
                Box::pin(async move {
                    tokio::select! {
                        rested = connection.execute(RESET) => rested.map(|_| true),
                        // A connection to a former primary may never finish what it is doing.
                        () = servers.changed_from(turn) => Ok(false),
                    }
                })
            })
            .connect_lazy_with(servers.options().0);
        let watch = servers.several().then(|| {
            let stop = CancellationToken::new();
            TaskTracker::new().spawn(servers.clone().watch(pool.clone(), stop.clone()));
            Arc::new(stop.drop_guard())
        });
        Ok(Self { queries: Queries::new(pool, acquire_timeout, suspicion), servers, _watch: watch })
    }

    /// Fails if there is no primary, with the reason for each server.
    pub async fn find_primary(&self) -> Result<(), StoreError> {
        self.servers.first_look().await.map_err(sqlx::Error::from)?;
        self.ping().await
    }

    /// Creates the database `name` on the server of `url`, unless it exists.
    pub async fn create_database(url: &Secret, name: &str) -> Result<(), StoreError> {
        let server = Self::connect(url, 2, Duration::from_secs(10))?;
        let there: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(name)
            .fetch_one(server.pool())
            .await?;
        if !there {
            let quoted = name.replace('"', "\"\"");
            sqlx::query(sqlx::AssertSqlSafe(format!("create database \"{quoted}\"")))
                .execute(server.pool())
                .await?;
        }
        server.queries.pool().close().await;
        Ok(())
    }

    pub(crate) fn pool(&self) -> &Queries {
        &self.queries
    }

    /// Asks the primary whether it takes writes.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let asked = async {
            let mut connection = self.queries.acquire().await?;
            self.servers.admit(&mut connection).await
        };
        let asked = tokio::time::timeout(Deadline::QUERY.patience(), asked).await;
        asked.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(|error| {
            match (error, self.servers.complaint()) {
                // The pool does not say why it found no usable connection; the watch of the servers knows.
                (sqlx::Error::PoolTimedOut, Some(why)) => sqlx::Error::from(why).into(),
                (error, _) => error.into(),
            }
        })
    }

    /// A connection outside of the pool for work that takes long, so that it takes no connection that others need. Each
    /// of its statements ends by the deadline.
    pub(in crate::store) async fn connection_for_long_work(
        &self,
        name: &str,
        deadline: Deadline,
    ) -> Result<PgConnection, StoreError> {
        let mut connection = self.connection_of_login(name, deadline).await?;
        let assumed = tokio::time::timeout(Deadline::QUERY.patience(), role::assume(&mut connection)).await;
        assumed.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
        Ok(connection)
    }

    /// The same with all the rights of the user in the database's URL, for what a gateway must not do: migrating, and
    /// examining what that user may.
    pub(in crate::store) async fn connection_of_login(
        &self,
        name: &str,
        deadline: Deadline,
    ) -> Result<PgConnection, StoreError> {
        let (server, _) = self.servers.options();
        let server = server
            .application_name(name)
            // Work that takes minutes may also wait a minute for a lock.
            .options([("statement_timeout", deadline.setting()), ("lock_timeout", "60s".into())])
            .disable_statement_logging();
        let connect = async {
            let mut connection: PgConnection = server.connect().await?;
            self.servers.admit(&mut connection).await?;
            Ok(connection)
        };
        let connected = tokio::time::timeout(Deadline::QUERY.patience(), connect).await;
        Ok(connected.unwrap_or(Err(sqlx::Error::PoolTimedOut))?)
    }

    /// A handle that keeps something until its connections are back in the pool.
    pub(in crate::store) fn keeping(&self, kept: Kept) -> Self {
        Self { queries: self.queries.keeping(kept), ..self.clone() }
    }

    /// The most connections that this pool opens.
    pub(in crate::store) fn max_connections(&self) -> u32 {
        self.queries.pool().options().get_max_connections()
    }

    /// How long a caller waits for a connection.
    pub(in crate::store) fn patience(&self) -> Duration {
        self.queries.patience()
    }

    /// Sets the connection gauges of this pool, which the metrics call `pool`.
    pub fn show_pool(&self, pool: &'static str) {
        metered::pool(pool, self.queries.pool());
    }

    /// The name of the database and its servers, for people; without user and password.
    pub fn place(&self) -> String {
        self.servers.place()
    }

    /// How often another server has become the primary since the start.
    pub fn primary_changes(&self) -> u64 {
        self.servers.changes()
    }
}
