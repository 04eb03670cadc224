//! The commands `serve`, `simulate`, `audit` and `retention`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use super::database::{self, DatabaseArgs};
use super::{CliError, block_on, log, output, say, stop_signal, url_of};
use crate::app::{App, StartError};
use crate::config::{Config, Log, LogFormat};
use crate::https::unread;
use crate::simulator::{Simulator, SimulatorConfig};

/// Serves until a signal. A demo's database is refused unless `beside_demo` is set.
pub(super) fn serve(config: Config, beside_demo: bool) -> Result<(), CliError> {
    let _log = log(&config.log)?;
    block_on(async move {
        let stop = stop_signal()?;
        // SIGHUP reloads certificates. A gateway without certificates must not be ended by it either.
        let _hangup = signal(SignalKind::hangup()).map_err(|error| CliError::Failed(error.to_string()))?;
        let database = database::pool(&config.database)?;
        for warning in config.warnings.iter().map(String::as_str).chain(config.quotes.warning()) {
            tracing::warn!("{warning}");
        }
        let place = database.place();
        say(&format!("tollgate: serving on database {place}"));
        database.find_primary().await.map_err(StartError::from)?;
        if !beside_demo && database.is_a_demos().await.map_err(StartError::from)? {
            return Err(CliError::Usage(format!(
                "database {place} is a demo's: its credits are made up, and its operator's token lies in a file. Nothing in \
                 it was changed. Use another database, or give --beside-demo"
            )));
        }
        drop(database);
        let secure = [config.server.tls.is_some(), config.admin.tls.is_some()];
        let app = App::start(config).await?;
        // To standard output, not to the log: logs are kept, and read by many people.
        app.bootstrap_operator(|token| {
            output::secret(format_args!("the first operator token, shown only once: {}", token.expose()))
        })
        .await?;
        let url = |address: std::io::Result<SocketAddr>, secure| {
            let url = address.map(url_of).unwrap_or_default();
            if secure { url.replacen("http", "https", 1) } else { url }
        };
        tracing::info!(
            database = place,
            data = url(app.data_address(), secure[0]),
            operations = url(app.admin_address(), secure[1]),
            "serving"
        );
        if app.run(stop).await {
            Ok(())
        } else {
            Err(CliError::Failed("stopped before all requests in flight were finished".into()))
        }
    })
}

#[derive(Debug, Args)]
pub(super) struct SimulateArgs {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Master key that is accepted; may be repeated, and each key is an account of its own.
    #[arg(long = "master-key", default_value = "sim-master-key", value_name = "KEY")]
    master_keys: Vec<String>,
    /// Duration of a task, in milliseconds.
    #[arg(long, default_value_t = 8000, value_name = "MS")]
    task_ms: u64,
    /// Maximum of a random addition to the duration of a task, in milliseconds.
    #[arg(long, default_value_t = 4000, value_name = "MS")]
    jitter_ms: u64,
    /// Share of tasks that fail, from 0 to 1.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    fail_ratio: f64,
    /// File that keeps tasks and accounts over a restart.
    #[arg(long, value_name = "FILE")]
    state_file: Option<PathBuf>,
    /// File with the token for the simulator's own pages, `/_sim/…`, which read keys and set faults. Without it they are
    /// open to every program on this machine, and closed if the simulator listens for other machines too.
    #[arg(long, value_name = "FILE")]
    script_token_file: Option<PathBuf>,
}

/// The token in a file.
fn token(file: &Path) -> Result<String, CliError> {
    let wrong = |why: String| CliError::Usage(format!("--script-token-file {}: {why}", file.display()));
    let text = std::fs::read_to_string(file)
        .map_err(|error| wrong(format!("cannot be read: {}", unread(&error))))?;
    let token = text.trim();
    if token.is_empty() { Err(wrong("it is empty".into())) } else { Ok(token.to_owned()) }
}

/// Simulates the vendor until a signal.
pub(super) fn simulate(args: SimulateArgs) -> Result<(), CliError> {
    if !(0.0..=1.0).contains(&args.fail_ratio) {
        return Err(CliError::Usage(format!("--fail-ratio is {}; it must be from 0 to 1", args.fail_ratio)));
    }
    let control_token = args.script_token_file.as_deref().map(token).transpose()?;
    let _log = log(&Log { format: LogFormat::Pretty, level: "info".into() })?;
    block_on(async move {
        let stop = stop_signal()?;
        let config = SimulatorConfig {
            control_token,
            master_keys: args.master_keys,
            task_time: Duration::from_millis(args.task_ms),
            task_jitter: Duration::from_millis(args.jitter_ms),
            at_once: None,
            fail_ratio: args.fail_ratio,
            state_file: args.state_file,
            public_url: None,
        };
        let simulator = Simulator::bind(args.listen, config).await?;
        output::note(format_args!("simulating the video service on {}", url_of(simulator.local_addr())));
        simulator.run(stop.cancelled_owned()).await?;
        Ok(())
    })
}

#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    /// Also prove each month that is sealed: compute its sums and its chain of digests again. Reads all holds and entries
    /// once more, one organisation and month at a time.
    #[arg(long)]
    months: bool,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Runs one audit. Prints one line if it finds no breach, otherwise a line for each offending row.
pub(super) fn audit(args: AuditArgs) -> Result<(), CliError> {
    block_on(async move {
        let database = args.database.open("auditing, without a change,").await?;
        database.check_schema().await?;
        let mut report = database.audit().await?;
        let mut proved = String::new();
        if args.months {
            let (months, wrong) = database.prove_months().await?;
            report.breaches.extend(wrong);
            proved = format!(", {months} sealed months");
        }
        for warning in &report.warnings {
            output::note(format_args!("warning: {}: {}", warning.check, warning.detail));
        }
        for breach in &report.breaches {
            output::note(format_args!("BREACH: {}: {}", breach.check, breach.detail));
        }
        if report.archived > 0 {
            proved.push_str(&format!(", {} charged tasks in archives", report.archived));
        }
        let seen = format!(
            "{} organisations, {} holds, {} entries{proved}",
            report.orgs, report.holds, report.entries
        );
        if report.breaches.is_empty() {
            output::note(format_args!("audit clean: {seen}, {} warnings", report.warnings.len()));
            Ok(())
        } else {
            Err(CliError::Failed(format!(
                "audit found breaches in {seen}: {} lines above",
                report.breaches.len()
            )))
        }
    })
}

#[derive(Debug, Subcommand)]
pub(super) enum RetentionCommand {
    /// Erase content that is older than it is kept, as gateways do every ten minutes.
    Run {
        /// Say of how many tasks the content would be erased, and erase nothing.
        #[arg(long)]
        dry_run: bool,
        /// Days for which content is kept where an organisation has no time of its own; default: retention.content_days of
        /// the configuration file, which must be given then.
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(..=3650))]
        content_days: Option<u32>,
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

/// Erases old content, or counts it.
pub(super) fn retention(command: RetentionCommand) -> Result<(), CliError> {
    let RetentionCommand::Run { dry_run, content_days, database } = command;
    let days = match content_days {
        Some(days) => days,
        None => database.retention()?.content_days,
    };
    block_on(async move {
        let action = if dry_run { "counting old content, without a change," } else { "erasing old content" };
        let database = database.open(action).await?;
        database.check_schema().await?;
        if dry_run {
            let (old, unkept) = database.old_content(days).await?;
            output::note(format_args!(
                "content of {old} tasks is older than it is kept, and content of {unkept} tasks is not to be kept"
            ));
        } else {
            let tasks = database.erase_old_content(days).await?;
            output::note(format_args!("content of {tasks} tasks is erased"));
        }
        Ok(())
    })
}
