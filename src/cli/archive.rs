//! The command `archive`.

use std::path::PathBuf;

use clap::Subcommand;

use super::database::DatabaseArgs;
use super::{CliError, block_on, output};
use crate::store::{Manifest, Month};

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
                    output::note(format_args!(
                        "{:04}-{:02}: {} organisations, {} holds, {} entries",
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
            ArchiveCommand::Verify { directory, database } => {
                let database = database.open("proving an archive, without a change, by").await?;
                database.check_schema().await?;
                told("proved", &database.verify_archive(&directory).await?);
            }
        }
        Ok(())
    })
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
