//! The command `archive`.

use std::path::PathBuf;

use clap::Subcommand;

use super::database::DatabaseArgs;
use super::{CliError, block_on, output};
use crate::store::{Manifest, Month, Moved};

#[derive(Debug, Subcommand)]
pub(super) enum ArchiveCommand {
    /// List the months that are sealed.
    List {
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Write a month that is sealed into files, and prove that the files have what was sealed. Nothing in the database is changed.
    Month {
        /// Month, such as 2026-11.
        month: Month,
        /// Directory to be made for the files.
        #[arg(long, value_name = "DIRECTORY")]
        to: PathBuf,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Take the charged tasks of an archived month out of the database: their holds, charges and labels. Sums of them stay, so that
    /// balances, statements, usage and the audit go on. It is refused unless the files are proved to have all of it.
    Detach {
        /// Month, such as 2026-11.
        month: Month,
        /// Directory of its archive.
        #[arg(long, value_name = "DIRECTORY")]
        from: PathBuf,
        /// So many months must have passed since the end of the month; 1 at least.
        #[arg(long, default_value_t = 12, value_name = "MONTHS")]
        keep_months: u32,
        /// Also give the space back to the disk. What is left of the month is written anew, and lists of tasks wait meanwhile. May be
        /// done later, by the same command.
        #[arg(long)]
        compact: bool,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Give the charged tasks of a month back to the database, from the files that they left for.
    Restore {
        /// Directory of the archive.
        directory: PathBuf,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Prove that the files of an archive are whole, and have what the database has sealed. Nothing in the database is changed.
    Verify {
        /// Directory of the archive.
        directory: PathBuf,
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

/// Lists, writes or proves archives of months.
pub(super) fn run(command: ArchiveCommand) -> Result<(), CliError> {
    block_on(async move {
        match command {
            ArchiveCommand::List { database } => {
                let database = database.open("listing sealed months of").await?;
                database.check_schema().await?;
                for month in database.sealed_months().await? {
                    let archived = match month.archived {
                        0 => String::new(),
                        tasks => format!("; {tasks} charged tasks are archived"),
                    };
                    output::note(format_args!(
                        "{:04}-{:02}: {} organisations, {} holds, {} entries{archived}",
                        month.month.year(),
                        u8::from(month.month.month()),
                        month.orgs,
                        month.holds,
                        month.entries
                    ));
                }
            }
            ArchiveCommand::Month { month, to, database } => {
                let database = database.open("archiving a month, without a change, of").await?;
                database.check_schema().await?;
                told("archived and proved", &database.archive_month(month, &to).await?);
            }
            ArchiveCommand::Detach { month, from, keep_months, compact, database } => {
                let database = database.open("taking an archived month out of").await?;
                database.check_schema().await?;
                // Whoever was stopped between the two steps goes on with the second.
                if !(compact && database.is_archived(month).await?) {
                    moved("left the database", &database.detach_month(month, &from, keep_months).await?);
                }
                if compact {
                    let said = if database.compact_month(month).await? {
                        "has been given back"
                    } else {
                        "could not be given back, because others read all months: try again with --compact"
                    };
                    output::note(format_args!("{month}: its space {said}"));
                }
            }
            ArchiveCommand::Restore { directory, database } => {
                let database = database.open("giving an archived month back to").await?;
                database.check_schema().await?;
                moved("came back, and are proved", &database.restore_month(&directory).await?);
            }
            ArchiveCommand::Verify { directory, database } => {
                let database = database.open("proving an archive, without a change, by").await?;
                database.check_schema().await?;
                told("proved", &database.verify_archive(&directory).await?);
            }
        }
        Ok(())
    })
}

fn moved(what: &str, moved: &Moved) {
    output::note(format_args!(
        "{}: {} charged tasks, of {} credits, {what}",
        moved.month, moved.tasks, moved.credits
    ));
}

fn told(what: &str, manifest: &Manifest) {
    let rows: Vec<String> =
        manifest.files.iter().map(|file| format!("{} rows of {}", file.rows, file.table)).collect();
    output::note(format_args!(
        "{} of {} organisations is {what}: {}",
        manifest.month,
        manifest.seals.len(),
        rows.join(", ")
    ));
}
