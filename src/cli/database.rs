//! The flags that name the database of a command.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use clap::Args;

use super::CliError;
use crate::config::{Config, DatabaseConfig, RetentionConfig};
use crate::secret::Secret;
use crate::store::{Database, StoreError};

/// The flags that name a database.
#[derive(Debug, Args)]
pub(super) struct DatabaseArgs {
    /// Configuration file that names the database.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// URL of the database; overrides the configuration file. Without --config and --database-url, the environment
    /// variable DATABASE_URL is used.
    #[arg(long, value_name = "URL", global = true)]
    database_url: Option<String>,
}

impl DatabaseArgs {
    /// Opens a pool on the primary. Before it connects, it prints what the command is `doing`, and to which database, on
    /// standard error.
    pub(super) async fn open(&self, doing: &str) -> Result<Database, CliError> {
        let database = pool(&self.config()?)?;
        eprintln!("tollgate: {doing} database {}", database.place());
        database.find_primary().await?;
        Ok(database)
    }

    /// How long the configuration file says that content is kept. Without a file nothing is guessed: what is erased does not
    /// come back.
    pub(super) fn retention(&self) -> Result<RetentionConfig, CliError> {
        let Some(file) = &self.config else {
            return Err(CliError::Usage(
                "how long is content kept? Use --content-days DAYS, or --config FILE with what the gateways use".into(),
            ));
        };
        Ok(Config::load(file)?.retention)
    }

    fn config(&self) -> Result<DatabaseConfig, CliError> {
        let file = self.config.as_deref().map(Config::load).transpose()?.map(|config| config.database);
        let url = match (&self.database_url, &file) {
            (Some(url), _) => Some(url.clone()),
            (None, Some(_)) => None,
            (None, None) => std::env::var("DATABASE_URL").ok(),
        };
        match (url, file) {
            (Some(url), _) if url.trim().is_empty() => Err(no_database()),
            (Some(url), Some(file)) => {
                Ok(DatabaseConfig { url: Some(Secret::new(url)), urls: Vec::new(), url_file: None, ..file })
            }
            (Some(url), None) => Ok(DatabaseConfig::of(Secret::new(url))),
            (None, Some(file)) => Ok(file),
            (None, None) => Err(no_database()),
        }
    }
}

fn no_database() -> CliError {
    CliError::Usage("no database given: use --config FILE or --database-url URL, or set DATABASE_URL".into())
}

/// The pool that `config` describes. An invalid URL is a usage error.
pub(super) fn pool(config: &DatabaseConfig) -> Result<Database, CliError> {
    crate::app::database(config).map_err(|error| match error {
        StoreError::Invalid(what) => CliError::Usage(what),
        other => other.into(),
    })
}

/// Starts this program again without the variables of PostgreSQL's own programs (`PGHOST`, `PGPASSWORD`, `PGOPTIONS`, …), if
/// any are set. sqlx would use these variables for what a URL leaves out, and add some of them to what the URL says. sqlx
/// cannot be told not to, and the variables of a running process cannot be changed safely.
pub(super) fn without_postgres_variables() -> Result<(), CliError> {
    let names: Vec<OsString> =
        std::env::vars_os().map(|(name, _)| name).filter(|name| name.as_bytes().starts_with(b"PG")).collect();
    if names.is_empty() {
        return Ok(());
    }
    let list: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
    let list = list.join(", ");
    eprintln!("tollgate: ignoring {list} in the environment: a database is what its URL says");
    let mut arguments = std::env::args_os();
    let error = match std::env::current_exe() {
        Ok(program) => {
            let mut command = std::process::Command::new(program);
            command.arg0(arguments.next().unwrap_or_else(|| "tollgate".into())).args(arguments);
            for name in &names {
                command.env_remove(name);
            }
            command.exec()
        }
        Err(error) => error,
    };
    Err(CliError::Failed(format!(
        "cannot restart without {list} in the environment ({error}): unset these variables"
    )))
}
