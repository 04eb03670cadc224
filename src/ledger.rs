//! The ledger: balances, holds, entries. All SQL of the crate lives here and below.
//!
//! A create reserves its price in a *hold* before anything is sent; the hold then takes *steps* (table `transition`)
//! until it ends: SETTLED (charged, one `consume` entry), RELEASED (nothing charged) or WRITTEN_OFF (refunded, the
//! platform's loss). Entries are only ever added. At every instant, per organisation:
//! `available = sum of entries − sum of open holds`. [`Database::audit`] proves it.
//!
//! Two handles: [`Database`] is a pool for everything that is not on the paid path; [`Ledger`] adds the lanes, which
//! reserve and step in batches. Both follow the primary if the database has several servers.
#![expect(clippy::disallowed_methods, reason = "this is where SQL lives")]

mod accounts;
mod audit;
mod audit_log;
mod batch;
mod budgets;
mod change;
mod credit;
mod demo_mark;
mod doubts;
mod drift;
mod due;
mod entries;
mod epochs;
mod error;
mod gateways;
mod hold;
mod hold_place;
mod idempotency;
mod identity;
mod keys;
mod lanes;
mod lots;
mod metered;
mod operators;
mod prices;
mod queries;
mod servers;
mod statement;
mod summary;
mod tasks;
mod tenancy;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, Executor};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub use self::accounts::{Balance, Posted};
pub use self::audit::{AUDIT_CHECKS, AuditReport, AuditResult, Breach, Finding};
pub use self::audit_log::{AuditEntry, AuditFilter, Order};
pub use self::budgets::{
    Budget, BudgetChange, BudgetEvent, BudgetFilter, BudgetInForce, BudgetLevel, BudgetSubject, CallerBudget,
    NewBudget, Period,
};
pub use self::change::Actor;
pub use self::credit::{Done, Once, Overdraft, PostedEntry, Transferred, Why};
pub use self::doubts::{Doubt, Loss, Resolution, Resolved};
pub use self::drift::{AccountDrift, Drift, PriceDrift, TaskDrift};
pub use self::entries::{Entry, EntryFilter, EntryKind, Place};
pub use self::epochs::{EpochListener, Epochs};
pub use self::error::LedgerError;
pub use self::gateways::Lease;
pub use self::hold::{Applied, Fingerprint, HoldGuard, NewHold, Step, Terms, Verdict};
pub use self::hold_place::HoldPlace;
pub use self::idempotency::Claim;
pub use self::identity::{
    FoundIdentity, IdentityInfo, Presented, Provider, ProviderSpec, Serves, SigningAlgorithm,
};
pub use self::keys::{
    FoundKey, KeyEdit, KeyFilter, KeyInfo, KeySpec, KeyStatus, MAX_OVERLAP, Principal, Rates, Role, Rotated,
};
pub use self::lanes::LaneSettings;
pub use self::operators::{OperatorRole, OperatorToken};
pub use self::prices::{Activation, BookInfo, BookState, OrgOutcome, PriceFactorInfo, TypeOutcome, WhatIf};
pub use self::statement::{Line, Month, Statement, Total};
pub use self::summary::{CreditSummary, ExpiringGrant, Runway};
pub use self::tasks::{Late, OpenHolds, State, Task, TaskFilter};
pub use self::tenancy::{
    NewOrg, NewUser, Org, OrgChange, OrgFilter, Owned, Slice, Status, Team, TeamChange, User, UserChange,
    UserFilter,
};
pub use self::usage::{Usage, UsageBy, UsageFilter};

use self::lanes::Lanes;
use self::queries::{Queries, Suspicion};
use self::servers::Servers;
use crate::clock::Clock;
use crate::fail_point;
use crate::ids::{GatewayId, HoldId, OrgId};
use crate::secret::Secret;

/// A query that takes longer is given up: a database that hangs must not hang its callers.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that does not come to rest within this after its use is closed. The pool itself would wait for ever,
/// and keep its place: a server that has gone silent would take them all.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// Puts the deadline on a query of the pool.
trait Bounded<T>: Future<Output = Result<T, sqlx::Error>> + Sized {
    async fn bounded(self) -> Result<T, sqlx::Error> {
        let begun = Clock.now();
        let done = tokio::time::timeout(QUERY_TIMEOUT, self).await.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        metered::query(begun, done.as_ref().err());
        done
    }
}

impl<T, F: Future<Output = Result<T, sqlx::Error>>> Bounded<T> for F {}

static MIGRATIONS: Migrator = sqlx::migrate!();

/// Behind a migration that waits for a table everything else on that table waits: it gives up soon, and comes again
/// after all those had their turn.
const MIGRATION_LOCK_TIMEOUT: &str = "set lock_timeout = '5s'";
const MIGRATION_PAUSE: Duration = Duration::from_secs(2);
const MIGRATION_TRIES: u32 = 20;

/// Whether a migration has failed, and was rolled back, only because others used what it needs.
fn stood_in_line(error: &MigrateError) -> bool {
    let (MigrateError::ExecuteMigration(sqlx::Error::Database(error), _)
    | MigrateError::Execute(sqlx::Error::Database(error))) = error
    else {
        return false;
    };
    matches!(error.code().as_deref(), Some("55P03" | "40P01"))
}

/// A pool of connections to the primary of the ledger's database servers.
#[derive(Debug, Clone)]
pub struct Database {
    queries: Queries,
    servers: Arc<Servers>,
    /// On whose behalf things are changed through this handle.
    actor: Option<Arc<Actor>>,
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

    pub(crate) fn pool(&self) -> &Queries {
        &self.queries
    }

    /// Brings the schema up to date. Safe while other gateways run, and when several start at once.
    pub async fn migrate(&self) -> Result<(), LedgerError> {
        // Closed at the end: its settings are for nobody else.
        let mut connection = self.queries.pool().acquire().await?.detach();
        // The lock is held by hand: whoever else migrates may take as long as it takes.
        let mut migrator = Migrator::with_migrations(MIGRATIONS.iter().cloned().collect());
        migrator.set_locking(false);
        let migrated = async {
            connection.lock().await?;
            connection.execute(MIGRATION_LOCK_TIMEOUT).await?;
            let mut tries = MIGRATION_TRIES;
            loop {
                tries -= 1;
                match migrator.run_direct(None, &mut connection, false).await {
                    Err(error) if tries > 0 && stood_in_line(&error) => {
                        tracing::warn!(%error, "a migration waits for a table that others use, and is tried again");
                        tokio::time::sleep(MIGRATION_PAUSE).await;
                    }
                    done => return done,
                }
            }
        };
        let migrated = migrated.await;
        drop(connection.close().await);
        migrated.map_err(|error| match error {
            MigrateError::VersionMissing(version) => LedgerError::Schema(
                format!("the database has migration {version}, which this version of tollgate does not know: run a newer one").into(),
            ),
            MigrateError::VersionMismatch(version) => LedgerError::Schema(
                format!(
                    "the database was made by another build of tollgate (its migration {version} differs): use that build, \
                     or another database (demo: another --data-dir)"
                )
                .into(),
            ),
            MigrateError::Execute(error) => error.into(),
            other => LedgerError::Schema(format!("migrating failed: {other}").into()),
        })
    }

    /// Whether the schema has everything this version needs. Newer migrations are fine, they only add, unless one says
    /// that it does not.
    pub async fn check_schema(&self) -> Result<(), LedgerError> {
        let applied: Vec<i64> = match sqlx::query_scalar("select version from _sqlx_migrations where success")
            .fetch_all(self.pool())
            .bounded()
            .await
        {
            Ok(applied) => applied,
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P01") => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        if let Some(missing) = MIGRATIONS.iter().find(|migration| !applied.contains(&migration.version)) {
            return Err(LedgerError::Schema(
                format!("the database lacks migration {}: run 'tollgate migrate' first", missing.version)
                    .into(),
            ));
        }
        let known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default();
        let needed: Option<(i64, String)> = sqlx::query_as(
            "select needs_migration, reason from schema_requirement where needs_migration > $1 \
             order by needs_migration desc limit 1",
        )
        .bind(known)
        .fetch_optional(self.pool())
        .bounded()
        .await?;
        needed.map_or(Ok(()), |(version, reason)| {
            Err(LedgerError::Schema(
                format!(
                    "the database needs a tollgate that knows migration {version}, this one knows {known}: run a newer \
                     one ({reason})"
                )
                .into(),
            ))
        })
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

    /// The database's name and its servers, for people: without user and password.
    pub fn place(&self) -> String {
        self.servers.place()
    }

    /// How often another server has become the primary.
    pub fn primary_changes(&self) -> u64 {
        self.servers.changes()
    }
}

/// The ledger of a running gateway.
#[derive(Debug, Clone)]
pub struct Ledger {
    database: Database,
    lanes: Lanes,
    gateway: GatewayId,
    reserve_timeout: Duration,
    clock: Clock,
}

impl Ledger {
    /// Starts the lanes. `reserve_timeout` bounds a caller's wait for a reservation.
    pub fn start(
        database: Database,
        gateway: GatewayId,
        settings: &LaneSettings,
        reserve_timeout: Duration,
        clock: Clock,
    ) -> Self {
        let lanes = Lanes::start(&database.servers, gateway, settings, clock);
        Self { database, lanes, gateway, reserve_timeout, clock }
    }

    /// The pool, for everything that is not on the paid path.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The run of the gateway that owns this ledger's holds.
    pub fn gateway(&self) -> GatewayId {
        self.gateway
    }

    /// Reserves credits durably, or says why not. An error grants nothing: a grant that comes too late is released.
    pub async fn reserve(&self, new: NewHold) -> Result<Verdict, LedgerError> {
        let deadline = self.clock.now() + self.reserve_timeout;
        let verdict = self.lanes.reserve(new, deadline).await;
        metered::verdict(&verdict);
        verdict
    }

    /// Takes a step and waits for it to be durable; it is tried until the database takes it, waited for or not.
    pub async fn step(&self, org: OrgId, hold: HoldId, step: Step) -> Result<Applied, LedgerError> {
        self.lanes.step(org, hold, None, step).await.unwrap_or(Err(LedgerError::ShuttingDown))
    }

    /// The same for a task that was read: the credits it moves are counted.
    pub async fn step_of(&self, task: &Task, step: Step) -> Result<Applied, LedgerError> {
        let taken = self.lanes.step(task.org, task.hold, Some(task.terms()), step);
        taken.await.unwrap_or(Err(LedgerError::ShuttingDown))
    }

    /// Releases HELD rows of this gateway that nobody works on, puts those of dead gateways in doubt, and writes off
    /// what has been in doubt for `in_doubt_ttl`.
    ///
    /// `database` is asked for them: not the callers' pool, which they may have filled.
    pub async fn sweep(&self, database: &Database, in_doubt_ttl: Duration) -> Result<(), LedgerError> {
        self.lanes.sweep(database.overdue_holds(self.gateway).await?);
        let orphans = database.orphaned_holds(self.gateway).await?;
        if !orphans.is_empty() {
            fail_point::reach("sweep.before");
        }
        self.take_over_all(orphans.into_iter().map(|(org, hold)| (org, hold, None, Step::Orphan))).await?;
        let expired = database.expired_doubts(in_doubt_ttl).await?.into_iter();
        self.take_over_all(expired.map(|(org, hold, terms, possible_loss)| {
            (org, hold, Some(terms), Step::WriteOff { possible_loss })
        }))
        .await
    }

    /// All at once, so that they ride in few batches.
    async fn take_over_all(
        &self,
        holds: impl Iterator<Item = (OrgId, HoldId, Option<Terms>, Step)>,
    ) -> Result<(), LedgerError> {
        let steps = holds.map(|(org, hold, terms, step)| self.take_over(org, hold, terms, step));
        futures_util::future::try_join_all(steps).await?;
        Ok(())
    }

    async fn take_over(
        &self,
        org: OrgId,
        hold: HoldId,
        terms: Option<Terms>,
        step: Step,
    ) -> Result<(), LedgerError> {
        let kind = step.kind();
        let taken = self.lanes.step(org, hold, terms, step);
        if taken.await.unwrap_or(Err(LedgerError::ShuttingDown))? == Applied::Yes {
            tracing::error!(%org, %hold, kind, "nobody knows what became of a task");
        }
        Ok(())
    }

    /// Finishes what is queued, then ends the lanes.
    pub async fn shut_down(&self) {
        self.lanes.shut_down().await;
    }
}
