//! A month's charged tasks leave the database for the files of their archive, and come back from them. Each way is one transaction:
//! whoever is killed meanwhile has changed nothing. `migrations/functions/ledger/detach_month.sql` says what leaves and what stays.

use std::path::Path;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use time::Date;

use super::{Archive, MANIFEST, Month, prove, sync};
use crate::fail_point;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::session::Deadline;

/// What left with a month, or came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    pub month: Month,
    /// Charged tasks: their holds, charges and labels.
    pub tasks: i64,
    /// What they were charged.
    pub credits: i64,
}

/// How often a month is begun with.
const ATTEMPTS: usize = 5;

/// How often the lock is tried for that a table is made small under, and how long each time: whoever reads all months waits behind.
const TRIES: usize = 50;
const LOCK: &str = "set lock_timeout = '100ms'";
const PAUSE: Duration = Duration::from_millis(200);

/// The codes of a lock that could not be had.
const LOCKED: [&str; 2] = ["55P03", "40P01"];

/// The code of what these functions refuse.
const REFUSED: &str = "TG002";

impl Database {
    /// Takes the charged tasks of an archived month out of the database, if its files are proved to have them and it ended at least
    /// `keep` months ago.
    pub async fn detach_month(&self, month: Month, directory: &Path, keep: u32) -> Result<Moved, StoreError> {
        let archive = Archive::read(directory)?;
        if archive.month != month {
            let other = format!("{} is an archive of {}", directory.display(), archive.month);
            return Err(StoreError::Conflict(other));
        }
        for file in &archive.manifest.files {
            sync(&directory.join(&file.file))?;
        }
        sync(&directory.join(MANIFEST))?;
        sync(directory)?;
        while_locked(month, async || self.leave(&archive, keep).await).await
    }

    async fn leave(&self, archive: &Archive<'_>, keep: u32) -> Result<Moved, StoreError> {
        let month = archive.month;
        let mut connection = self.connection_of_login("tollgate-archive", Deadline::UNBOUNDED).await?;
        connection.execute("begin").await?;
        archive.load_proved(&mut connection).await?;
        let moved = sqlx::query_as("select left_tasks, left_credits from detach_month($1, $2, $3)")
            .bind(month.first_day())
            .bind(&archive.digest)
            .bind(i32::try_from(keep).unwrap_or(i32::MAX))
            .fetch_one(&mut connection)
            .await;
        let (tasks, credits) = moved.map_err(|error| refused(month, error))?;
        fail_point::reach("archive.moved");
        connection.execute("commit").await?;
        fail_point::reach("archive.committed");
        tidy(connection, month, "vacuum (analyze)").await;
        Ok(Moved { month, tasks, credits })
    }

    /// Gives the charged tasks of a month back to the database, from the files that they left for. Nobody sees them before they are
    /// proved to be what was sealed.
    pub async fn restore_month(&self, directory: &Path) -> Result<Moved, StoreError> {
        let archive = Archive::read(directory)?;
        while_locked(archive.month, async || self.come_back(&archive).await).await
    }

    async fn come_back(&self, archive: &Archive<'_>) -> Result<Moved, StoreError> {
        let month = archive.month;
        let mut connection = self.connection_of_login("tollgate-archive", Deadline::UNBOUNDED).await?;
        connection.execute("begin").await?;
        archive.load_proved(&mut connection).await?;
        let moved = sqlx::query_as("select back_tasks, back_credits from restore_month($1, $2)")
            .bind(month.first_day())
            .bind(&archive.digest)
            .fetch_one(&mut connection)
            .await;
        let (tasks, credits) = moved.map_err(|error| refused(month, error))?;
        connection.execute("drop table pg_temp.hold, pg_temp.entry, pg_temp.label").await?;
        prove(&mut connection, month, &archive.manifest.seals).await?;
        fail_point::reach("archive.moved");
        connection.execute("commit").await?;
        fail_point::reach("archive.committed");
        tidy(connection, month, "analyze").await;
        Ok(Moved { month, tasks, credits })
    }

    /// Whether charged tasks of a month are in an archive.
    pub async fn is_archived(&self, month: Month) -> Result<bool, StoreError> {
        let archived = sqlx::query_scalar("select exists (select from archived_month a where a.month = $1)");
        Ok(archived.bind(month.first_day()).fetch_one(self.pool()).await?)
    }

    /// Gives the space that a month took on the disk back to it: what is left of the month is written anew. Whoever reads all months
    /// waits for that; while the lock cannot be had at once, it is tried again. Returns whether it was had in the end.
    pub async fn compact_month(&self, month: Month) -> Result<bool, StoreError> {
        let mut connection = self.connection_of_login("tollgate-archive", Deadline::UNBOUNDED).await?;
        connection.execute(LOCK).await?;
        let mut all = true;
        for part in parts(&mut connection, month.first_day()).await? {
            let mut done = false;
            for _ in 0..TRIES {
                match connection.execute(AssertSqlSafe(format!("vacuum (full, analyze) {part}"))).await {
                    Ok(_) => done = true,
                    Err(sqlx::Error::Database(error))
                        if error.code().is_some_and(|code| LOCKED.contains(&&*code)) => {}
                    Err(error) => return Err(error.into()),
                }
                if done {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
            all &= done;
        }
        connection.close().await?;
        Ok(all)
    }
}

/// The month's own partitions of the tables that it leaves.
async fn parts(connection: &mut PgConnection, month: Date) -> Result<Vec<String>, StoreError> {
    let parts = sqlx::query_scalar(
        "select part.oid::regclass::text from unnest(array['hold', 'entry', 'label']) of_table(name) \
         join pg_inherits known on known.inhparent = to_regclass(of_table.name) join pg_class part on part.oid = known.inhrelid \
         where part.relname = of_table.name || to_char($1::date, '_YYYY_MM') order by 1",
    );
    Ok(parts.bind(month).fetch_all(connection).await?)
}

/// Tidies up after a month that has moved, or leaves that to the server's own time.
async fn tidy(mut connection: PgConnection, month: Month, how: &str) {
    let tidied = async {
        for part in parts(&mut connection, month.first_day()).await? {
            connection.execute(AssertSqlSafe(format!("{how} {part}"))).await?;
        }
        Ok::<_, StoreError>(connection.close().await?)
    };
    if let Err(error) = tidied.await {
        tracing::warn!(%error, %month, "what the month has left in its tables is not tidied up yet");
    }
}

/// Tries again what found a lock that somebody held for too long.
async fn while_locked(
    month: Month,
    mut attempt: impl AsyncFnMut() -> Result<Moved, StoreError>,
) -> Result<Moved, StoreError> {
    for _ in 0..ATTEMPTS {
        match attempt().await {
            Err(StoreError::Timeout) => tokio::time::sleep(PAUSE).await,
            done => return done,
        }
    }
    Err(StoreError::Conflict(format!("{month}: somebody holds a lock on it: try again later")))
}

fn refused(month: Month, error: sqlx::Error) -> StoreError {
    match &error {
        sqlx::Error::Database(why) if why.code().as_deref() == Some(REFUSED) => {
            StoreError::Conflict(format!("{month}: {}", why.message()))
        }
        sqlx::Error::Database(why) if why.code().is_some_and(|code| LOCKED.contains(&&*code)) => {
            StoreError::Timeout
        }
        _ => error.into(),
    }
}
