//! Brings the schema up to date, and checks whether it fits this version.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::{Connection, Executor, PgConnection, PgExecutor};

use super::assumptions::Purpose;
use super::database::Database;
use super::definitions::{self, NotApplied, REVISION};
use super::error::StoreError;
use super::looks;
use super::migrations::MIGRATIONS;
use super::role;
use super::session::Deadline;

/// While a migration waits for a lock on a table, all other statements on that table wait behind it. So a migration
/// gives up after this time, and is tried again after the other statements had their turn.
const LOCK_TIMEOUT: &str = "set lock_timeout = '5s'";
const PAUSE: Duration = Duration::from_secs(2);
const TRIES: u32 = 20;

impl Database {
    /// Brings the schema up to date: migrations first, then functions, triggers and views. Safe while other gateways
    /// run, and when several start at once. A database that is not as assumed is refused and not changed.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        self.check_assumptions(Purpose::Migrate).await?;
        let mut holder = self.connection_of_login("tollgate-migrate", Deadline::UNBOUNDED).await?;
        let mut connection = self.connection_of_login("tollgate-migrate", Deadline::UNBOUNDED).await?;
        let migrated = with_the_lock(&mut holder, &mut connection).await;
        drop(tokio::join!(connection.close(), holder.close()));
        migrated
    }

    /// Checks that the schema has everything that this version needs. Newer migrations are accepted, because they only
    /// add, unless one of them says that older versions must not run.
    pub async fn check_schema(&self) -> Result<(), StoreError> {
        let history = History::read(self.pool()).await?;
        history.check_origin()?;
        if let Some(missing) = history.first_missing() {
            return schema(format!("the database lacks migration {missing}: run 'tollgate migrate' first"));
        }
        let revision = definitions::revision(self.pool()).await?;
        if revision.is_none_or(|revision| revision < REVISION) {
            return schema(format!(
                "the database lacks functions of revision {REVISION}: run 'tollgate migrate' first"
            ));
        }
        let taken_down: bool =
            sqlx::query_scalar("select exists (select from history_seal)").fetch_one(self.pool()).await?;
        if !taken_down {
            return schema(
                "entries and holds of before are not sealed yet: run 'tollgate migrate' first".into(),
            );
        }
        let known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default();
        let needed: Option<(i64, String)> = sqlx::query_as(
            "select needs_migration, reason from schema_requirement where needs_migration > $1 \
             order by needs_migration desc limit 1",
        )
        .bind(known)
        .fetch_optional(self.pool())
        .await?;
        needed.map_or(Ok(()), |(version, reason)| {
            schema(format!(
                "the database needs a tollgate that knows migration {version}, this one knows {known}: run a newer \
                 one ({reason})"
            ))
        })
    }
}

fn schema<T>(complaint: String) -> Result<T, StoreError> {
    Err(StoreError::Schema(complaint.into()))
}

/// The migration lock: one that conflicts with itself, and with no statement of a migration or a gateway. It is no advisory
/// lock, because PostgreSQL lets every login take those, also one that may only read.
const MIGRATION_LOCK: &str = "lock table _sqlx_migrations in share update exclusive mode";

/// Takes the migration lock first, so that gateways that start at once migrate one after the other. `holder` keeps the lock
/// in a transaction of its own, because each migration is a transaction on `connection`.
async fn with_the_lock(holder: &mut PgConnection, connection: &mut PgConnection) -> Result<(), StoreError> {
    // Without time-outs: another process may migrate for as long as it needs.
    holder.execute("set lock_timeout = 0; set idle_in_transaction_session_timeout = 0").await?;
    make_history(holder).await?;
    let mut locked = holder.begin().await?;
    locked.execute(MIGRATION_LOCK).await?;
    let migrated = under_the_lock(connection).await;
    locked.rollback().await?;
    migrated
}

/// Makes the table of migrations, unless it is there.
async fn make_history(connection: &mut PgConnection) -> Result<(), StoreError> {
    for _ in 0..TRIES {
        match connection.ensure_migrations_table("_sqlx_migrations").await {
            Ok(()) => return Ok(()),
            // Another process makes it at the same moment.
            Err(MigrateError::Execute(sqlx::Error::Database(error)))
                if matches!(error.code().as_deref(), Some("23505" | "42710" | "42P07")) => {}
            Err(error) => return schema(format!("migrating failed: {error}")),
        }
    }
    schema("migrating failed: the table of migrations cannot be made".into())
}

async fn under_the_lock(connection: &mut PgConnection) -> Result<(), StoreError> {
    connection.execute(LOCK_TIMEOUT).await?;
    let mut tries = TRIES;
    loop {
        tries -= 1;
        match bring_up_to_date(connection).await {
            Ok(()) => return Ok(()),
            Err(Failure::Locked(why)) if tries > 0 => {
                tracing::warn!(%why, "a migration could not lock a table that others use; it is tried again");
                tokio::time::sleep(PAUSE).await;
            }
            Err(Failure::Locked(why)) => return schema(format!("migrating failed: {why}")),
            Err(Failure::Other(error)) => return Err(error),
        }
    }
}

async fn bring_up_to_date(connection: &mut PgConnection) -> Result<(), Failure> {
    let history = History::read(&mut *connection).await?;
    history.check_origin()?;
    if let Some(newer) = history.first_unknown() {
        return Ok(schema(format!(
            "the database has migration {newer}, which this version of tollgate does not know: run a newer one"
        ))?);
    }
    // The migration lock is held by the caller.
    let mut migrator = Migrator::with_migrations(MIGRATIONS.iter().cloned().collect());
    migrator.set_locking(false);
    migrator.run_direct(None, connection, false).await?;

    let revision = definitions::revision(&mut *connection).await?.unwrap_or_default();
    if revision > REVISION {
        return Ok(schema(format!(
            "the database has functions of revision {revision}, this version of tollgate knows {REVISION}: run a newer one"
        ))?);
    }
    definitions::apply(connection).await?;
    sqlx::query(TAKE_DOWN_HISTORY).execute(&mut *connection).await?;
    looks::set(connection).await?;
    role::grant(connection).await?;
    // They are made again and again by a job of each gateway; the first ones are there before any gateway starts.
    sqlx::query("select make_partitions()").execute(connection).await?;
    Ok(())
}

/// Takes down what there was of before entries and holds were sealed, once, and begins the journal of grants that expire.
/// It comes after the definitions: from then on nothing without a seal is added, so that nobody needs to be locked out.
const TAKE_DOWN_HISTORY: &str = "\
    with due as materialized (select where not exists (select from history_seal)), begun as ( \
    insert into credit_lot_event (org_id, entry_id, expires_at, burned) \
    select l.org_id, l.entry_id, l.expires_at, l.burned - coalesce(e.burned, 0) from due, credit_lot l \
    left join (select org_id, entry_id, sum(burned)::bigint as burned, count(expires_at) as begun from credit_lot_event group by 1, 2) e \
    using (org_id, entry_id) where coalesce(e.begun, 0) = 0) \
    insert into history_seal (org_id, entries, balance, seals, holds) \
    select known.org_id, known.entries, known.balance, known.seals, known.holds from due, unsealed_history() known \
    union all select '00000000-0000-0000-0000-000000000000', 0, 0, 0, 0 from due";

/// Why an attempt failed. What had not been committed was rolled back, so the attempt can be repeated.
enum Failure {
    /// Another statement held a lock that the migration needs.
    Locked(String),
    Other(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Other(error)
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        if is_locked(&error) { Self::Locked(error.to_string()) } else { Self::Other(error.into()) }
    }
}

impl From<MigrateError> for Failure {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(error) => error.into(),
            MigrateError::ExecuteMigration(ref why, _) if is_locked(why) => Self::Locked(error.to_string()),
            other => Self::Other(StoreError::Schema(format!("migrating failed: {other}").into())),
        }
    }
}

impl From<NotApplied> for Failure {
    fn from(error: NotApplied) -> Self {
        if is_locked(&error.error) {
            Self::Locked(error.to_string())
        } else {
            Self::Other(StoreError::Schema(format!("migrating failed: {error}").into()))
        }
    }
}

/// Whether a lock was not granted in time, or a deadlock was found.
fn is_locked(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("55P03" | "40P01"))
}

/// The migrations that the database has had: version and checksum.
struct History(BTreeMap<i64, Vec<u8>>);

impl History {
    async fn read(executor: impl PgExecutor<'_>) -> Result<Self, sqlx::Error> {
        let rows = sqlx::query_as("select version, checksum from _sqlx_migrations where success");
        match rows.fetch_all(executor).await {
            Ok(rows) => Ok(Self(rows.into_iter().collect())),
            // an empty database: there is no such table
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P01") => {
                Ok(Self(BTreeMap::new()))
            }
            Err(error) => Err(error),
        }
    }

    /// Fails if a migration differs from the one of the same version here. A migration never changes, so the database
    /// was made by another build, or before the migrations were rewritten, which was before the first release.
    fn check_origin(&self) -> Result<(), StoreError> {
        let differs = MIGRATIONS.iter().find(|migration| {
            self.0.get(&migration.version).is_some_and(|checksum| **checksum != *migration.checksum)
        });
        differs.map_or(Ok(()), |migration| {
            schema(format!(
                "the database was made by another build of tollgate: its migration {} is not the one of this version, so \
                 it cannot be brought up to date. Use that build, or 'tollgate migrate' on a new, empty database (demo: \
                 another --data-dir)",
                migration.version
            ))
        })
    }

    fn first_missing(&self) -> Option<i64> {
        MIGRATIONS.iter().map(|migration| migration.version).find(|version| !self.0.contains_key(version))
    }

    fn first_unknown(&self) -> Option<i64> {
        self.0.keys().copied().find(|version| !MIGRATIONS.version_exists(*version))
    }
}
