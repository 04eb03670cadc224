//! The command line: what can be typed, and what each command does with it.

mod admin;
mod archive;
mod config;
mod database;
mod demo;
mod doctor;
mod healthcheck;
mod operate;
mod output;

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use self::database::DatabaseArgs;
use crate::api_key::NewKey;
use crate::app::StartError;
use crate::config::{Config, ConfigError, Log};
use crate::log_queue;
use crate::postgres::PostgresError;
use crate::postgres::child::{self, ChildArgs};
use crate::simulator::SimulatorError;
use crate::store::{Actor, OperatorRole, Purpose, Shortfall, StoreError};
use crate::telemetry::{Logging, log_to_stderr};

/// A gateway that lets many teams share one paid video-generation account without losing a credit.
///
/// Exit codes: 0 success; 1 failure, or a breach found by an audit; 2 wrong usage or configuration; 3 the database or
/// the management API is unavailable.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a complete demo: gateway, private PostgreSQL, simulated video service, an organisation with an API key.
    Demo(demo::DemoArgs),
    /// Run a gateway in front of the real video service, on your PostgreSQL database.
    Serve {
        /// Configuration file of the gateway.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Allow the database of a demo. Without this flag such a database is refused, because its credits are made up and
        /// its operator token lies in a file.
        #[arg(long)]
        beside_demo: bool,
    },
    /// Bring the schema of the database up to date; safe while gateways run.
    Migrate(DatabaseArgs),
    /// Run the simulated video service, for tests, staging and load tests.
    Simulate(operate::SimulateArgs),
    /// Check the invariants of the ledger; safe while gateways run.
    Audit(operate::AuditArgs),
    /// Write months that are sealed into files, and prove such files; safe while gateways run.
    #[command(subcommand)]
    Archive(archive::ArchiveCommand),
    /// Erase what is not money and is older than it is kept; safe while gateways run.
    #[command(subcommand)]
    Retention(operate::RetentionCommand),
    /// Find out what would go wrong with a configuration: database, vendor, identity providers, certificates, limits. Buys
    /// nothing and changes nothing.
    Doctor(doctor::DoctorArgs),
    /// Check the health of the gateway on this machine, for containers without curl.
    Healthcheck(healthcheck::HealthcheckArgs),
    /// Check a configuration file, or print the reference or the JSON Schema of such files.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Manage organisations, teams, users, keys, credits and prices through the management API of a gateway.
    Admin(Box<admin::AdminArgs>),
    /// Print a completion script: source it, or save it where your shell looks for completions.
    Completions {
        /// Shell that the script is for.
        shell: clap_complete::Shell,
    },
    /// Print a new operator token, for admin.bootstrap_token_file. It is valid once a gateway has started with it.
    OperatorToken {
        /// Store the token in the database, so that it is valid at once; for when all operator tokens are lost.
        #[arg(long)]
        enter: bool,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Become a PostgreSQL process that ends when the gateway ends.
    #[command(hide = true)]
    PostgresChild(ChildArgs),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Ledger(#[from] StoreError),
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    #[error(transparent)]
    Simulator(#[from] SimulatorError),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Unreachable(String),
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    #[deny(clippy::wildcard_enum_match_arm)]
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Usage(_) => 2,
            Self::Ledger(error) | Self::Start(StartError::Ledger(error)) => exit_code_of(error),
            Self::Postgres(_) | Self::Unreachable(_) => 3,
            Self::Start(_) | Self::Simulator(_) | Self::Failed(_) => 1,
        }
    }
}

/// 3 where the database cannot be used, and the same command may work another time; 1 where it answered.
#[deny(clippy::wildcard_enum_match_arm)]
fn exit_code_of(error: &StoreError) -> u8 {
    match error {
        StoreError::Timeout
        | StoreError::QueueFull
        | StoreError::ShuttingDown
        | StoreError::Unreachable
        | StoreError::NoPrimary(_)
        | StoreError::Database(_)
        | StoreError::Schema(_) => 3,
        StoreError::Refused(_)
        | StoreError::Unstorable(_)
        | StoreError::Corrupt(_)
        | StoreError::Invalid(_)
        | StoreError::NotFound(_)
        | StoreError::Conflict(_)
        | StoreError::KeyReused
        | StoreError::InProgress
        | StoreError::Stale { .. } => 1,
    }
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        let ready =
            if self.command.opens_a_database() { database::without_postgres_variables() } else { Ok(()) };
        match ready.and_then(|()| self.command.run()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("tollgate: {error}");
                ExitCode::from(error.exit_code())
            }
        }
    }
}

impl Command {
    fn opens_a_database(&self) -> bool {
        match self {
            Self::Demo(_)
            | Self::Serve { .. }
            | Self::Migrate(_)
            | Self::Archive(_)
            | Self::Audit(_)
            | Self::Doctor(_)
            | Self::Retention(_) => true,
            Self::OperatorToken { enter, .. } => *enter,
            Self::Simulate(_)
            | Self::Healthcheck(_)
            | Self::Config(_)
            | Self::Admin(_)
            | Self::Completions { .. }
            | Self::PostgresChild(_) => false,
        }
    }

    fn run(self) -> Result<(), CliError> {
        match self {
            Self::PostgresChild(args) => match child::run(args) {
                Ok(never) => match never {},
                Err(error) => Err(CliError::Failed(error.to_string())),
            },
            Self::Demo(args) => demo::run(args),
            Self::Serve { config, beside_demo } => operate::serve(Config::load(&config)?, beside_demo),
            Self::Migrate(args) => block_on(async move {
                let database = args.open("migrating").await?;
                database.migrate().await?;
                output::note("the schema is up to date");
                for Shortfall { what, remedy, .. } in database.check_assumptions(Purpose::Serve).await? {
                    eprintln!("tollgate: note: {what}. {remedy}");
                }
                Ok(())
            }),
            Self::Simulate(args) => operate::simulate(args),
            Self::Archive(command) => archive::run(command),
            Self::Audit(args) => operate::audit(args),
            Self::Retention(command) => operate::retention(command),
            Self::Doctor(args) => doctor::run(args),
            Self::Healthcheck(args) => healthcheck::run(args),
            Self::Config(command) => config::run(command),
            Self::Admin(args) => admin::run(*args),
            Self::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "tollgate", &mut script);
                output::raw(String::from_utf8_lossy(&script));
                Ok(())
            }
            Self::OperatorToken { enter: false, .. } => {
                output::secret(NewKey::generate_operator().text.expose())
            }
            Self::OperatorToken { enter: true, database } => block_on(async move {
                let database = database.open("storing an operator token in").await?;
                let database = database.acting(Actor::program("operator-token"));
                database.check_schema().await?;
                let made =
                    database.create_operator_token("entered by hand", OperatorRole::Operator, None).await?;
                output::secret(made.1.expose())
            }),
        }
    }
}

/// Runs a command's asynchronous part.
fn block_on(work: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start the runtime: {error}")))?;
    runtime.block_on(work)
}

/// Sends events to standard error.
fn log(log: &Log) -> Result<Logging, CliError> {
    log_to_stderr(log).map_err(|error| CliError::Failed(format!("cannot write to standard error: {error}")))
}

/// A token that is cancelled by Ctrl-C or SIGTERM.
fn stop_signal() -> Result<CancellationToken, CliError> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error: std::io::Error| CliError::Failed(format!("cannot watch for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let token = CancellationToken::new();
    let stop = token.clone();
    let watch = tokio_util::task::TaskTracker::new();
    watch.spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if first {
                stop.cancel();
                // Through the queue of the log: `eprintln!` would block while nobody reads standard error.
                say("tollgate: stopping: finishing the requests in flight; a second signal stops at once");
            } else {
                // The holds of requests in flight are in the ledger; the next start puts them in doubt.
                log_queue::flush(Duration::from_millis(100));
                std::process::exit(1);
            }
        }
    });
    Ok(token)
}

/// Writes a plain line, which is not an event, into the queue of the log.
fn say(line: &str) {
    if let Ok(mut log) = log_queue::start() {
        drop(log.write(format!("{line}\n").as_bytes()));
    }
}

fn url_of(address: SocketAddr) -> String {
    format!("http://{address}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::error_samples as samples;

    #[test]
    fn the_exit_code_tells_whether_the_database_could_be_used() {
        for error in samples::all() {
            let name = samples::name(&error);
            let expected = match name {
                "Timeout" | "QueueFull" | "ShuttingDown" | "Unreachable" | "NoPrimary" | "Database"
                | "Schema" => 3,
                "Refused" | "Unstorable" | "Corrupt" | "Invalid" | "NotFound" | "Conflict" | "KeyReused"
                | "InProgress" | "Stale" => 1,
                other => panic!("what is {other} for a script?"),
            };
            assert_eq!(CliError::from(error).exit_code(), expected, "{name}");
        }
    }
}
