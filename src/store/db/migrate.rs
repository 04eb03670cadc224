//! Brings the schema up to date, and says whether it can serve this version.

use std::time::Duration;

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::{Connection, Executor};

use super::database::Database;
use super::error::LedgerError;
use super::session::Deadline;

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

impl Database {
    /// Brings the schema up to date. Safe while other gateways run, and when several start at once.
    pub async fn migrate(&self) -> Result<(), LedgerError> {
        let mut connection = self.connection_for_long_work("tollgate-migrate", Deadline::UNBOUNDED).await?;
        // The lock is held by hand: whoever else migrates may take as long as it takes.
        let mut migrator = Migrator::with_migrations(MIGRATIONS.iter().cloned().collect());
        migrator.set_locking(false);
        let migrated = async {
            connection.execute("set lock_timeout = 0").await?;
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
}
