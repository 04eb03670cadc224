//! `tollgate demo`: a complete installation in one process tree, and commands to try it with.
//!
//! A demo may be started in a shell that is set up for production. So its configuration is built as a value: no file, no
//! `TOLLGATE_…` variable and no `DATABASE_URL` is read. An external database is used only if `--database-url` names it, and
//! only if that database is empty or a demo's.

mod first_clip;
mod furnish;
mod ready;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::furnish::Furnished;
use self::ready::Ready;
use super::{CliError, block_on, database, log, stop_signal, url_of};
use crate::access::sessions::new_link;
use crate::app::App;
use crate::config::{Admin, Config, DatabaseConfig, Log, LogFormat, Server, UpstreamConfig, is_setting};
use crate::postgres::{Cluster, ClusterConfig, default_demo_data_dir};
use crate::secret::Secret;
use crate::server::bind;
use crate::simulator::{Simulator, SimulatorConfig};
use crate::store::{Acting, Actor, Database, Purpose};

const MASTER_KEY: &str = "sim-master-key";

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Directory for the database and the state of the simulator [default: tollgate/demo in your data home]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// URL of an existing database to use instead of a private PostgreSQL; it must be empty or a demo's.
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// Address that the gateway listens on; port 0 takes a free port.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Address of the operations listener; port 0 takes a free port.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    admin_listen: SocketAddr,
    /// Print one line of JSON when the demo is ready, and nothing else on standard output.
    #[arg(long)]
    json: bool,
    /// Lift the rate limits and the task limit of the demo's organisation and of the management API, and the limit on what
    /// tasks cost the platform in a day, for load tests.
    #[arg(long)]
    unlimited: bool,
    /// Duration of a simulated task, in milliseconds.
    #[arg(long, default_value_t = 8000, value_name = "MS")]
    task_ms: u64,
    /// Least level of the events that are logged to standard error.
    #[arg(long, default_value = "warn", value_parser = ["error", "warn", "info", "debug", "trace"])]
    log_level: String,
}

pub(super) fn run(args: DemoArgs) -> Result<(), CliError> {
    let _log = log(&Log { format: LogFormat::Pretty, level: args.log_level.clone() })?;
    let dir = match &args.data_dir {
        Some(dir) => dir.clone(),
        None => default_demo_data_dir()?,
    };
    block_on(check_port(args.listen))?;
    mention_settings();
    // The thread that starts the cluster must outlive it; this is the main thread.
    let cluster = match &args.database_url {
        Some(_) => None,
        None => Some(start_cluster(&dir)?),
    };
    let url = match (&cluster, &args.database_url) {
        (Some(cluster), _) => {
            block_on(async {
                Ok(Database::create_database(&Secret::new(cluster.url("postgres")), "tollgate").await?)
            })?;
            Secret::new(cluster.url("tollgate"))
        }
        (None, url) => Secret::new(url.clone().unwrap_or_default()),
    };
    fs::create_dir_all(&dir).map_err(|error| cannot_write(&dir, &error))?;
    let served = block_on(serve(args, dir, url));
    let stopped = cluster.map_or(Ok(()), Cluster::stop);
    served?;
    Ok(stopped?)
}

fn progress(line: &str) {
    eprintln!("tollgate: {line}");
}

fn cannot_write(dir: &Path, error: &std::io::Error) -> CliError {
    CliError::Failed(format!(
        "cannot write to {} ({error}): choose another directory with --data-dir",
        dir.display()
    ))
}

/// Prints which variables of the environment a demo ignores, though other commands use them.
fn mention_settings() {
    let names = std::env::vars_os().filter(|(_, value)| !value.is_empty()).map(|(name, _)| name);
    let names = names.filter_map(|name| name.into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name == "DATABASE_URL" || is_setting(name)).collect();
    if !names.is_empty() {
        names.sort_unstable();
        progress(&format!("a demo ignores {} in the environment", names.join(", ")));
    }
}

/// Refuses a port that is in use before the slow steps begin.
async fn check_port(listen: SocketAddr) -> Result<(), CliError> {
    bind("the gateway", listen, "--listen").map(drop).map_err(|error| CliError::Start(error.into()))
}

fn start_cluster(dir: &Path) -> Result<Cluster, CliError> {
    let launcher = std::env::current_exe()
        .map_err(|error| CliError::Failed(format!("cannot find this program: {error}")))?;
    let config = ClusterConfig {
        data_dir: dir.join("postgres"),
        launcher,
        durable: true,
        max_connections: 100,
        download_dir: None,
        tcp_port: None,
    };
    Ok(Cluster::start(config, &mut progress)?)
}

async fn serve(args: DemoArgs, dir: PathBuf, url: Secret) -> Result<(), CliError> {
    let stop = stop_signal()?;
    let database = open(&url).await?;
    let simulator = simulator(&args, &dir).await?;
    let simulator_url = url_of(simulator.local_addr());
    let Furnished { org, key, operator_token, wants_clip } =
        furnish::furnish(&database, &dir, args.unlimited).await?;
    let app = App::start(config(&args, url.clone(), &simulator_url)?).await?;
    let address = |address: std::io::Result<SocketAddr>| address.map(url_of).unwrap_or_default();
    let (base_url, admin_url) = (address(app.data_address()), address(app.admin_address()));
    let console_url = console_link(&database, &key, &base_url).await?;
    let operators_url = console_link(&database, &operator_token, &admin_url).await?;
    drop(database);

    let first_clip = wants_clip.then(|| first_clip::buy(base_url.clone(), key.clone()));
    let ready = Ready {
        base_url,
        admin_url,
        console_url,
        operators_url,
        key,
        operator_token,
        org,
        simulator_url,
        database_url: url,
    };
    if args.json {
        ready.print_json()
    } else {
        ready.print()
    }

    let tasks = TaskTracker::new();
    let simulator_stop = CancellationToken::new();
    let simulating = tasks.spawn(simulator.run(simulator_stop.clone().cancelled_owned()));
    // Its calls wait in the listener's queue until the gateway serves. What is unfinished at the end goes on at the next start.
    let buying = first_clip.map(|clip| tasks.spawn(clip));
    let finished = app.run(stop).await;
    if let Some(buying) = buying {
        buying.abort();
    }
    simulator_stop.cancel();
    match simulating.await {
        Ok(result) => result?,
        Err(error) => return Err(CliError::Failed(format!("the simulator failed: {error}"))),
    }
    if finished {
        Ok(())
    } else {
        Err(CliError::Failed("stopped before all requests in flight were finished".into()))
    }
}

/// How long the links that a demo prints can be used.
const LINK_LASTS: Duration = Duration::from_secs(15 * 60);

/// A link that opens one session of the console for the bearer of this key or token.
async fn console_link(database: &Database, credential: &Secret, url: &str) -> Result<String, CliError> {
    let link = new_link(database, credential, LINK_LASTS).await?;
    Ok(link.map(|link| format!("{url}/console/link/{}", link.expose())).unwrap_or_default())
}

/// Opens and migrates the demo's database. A database that is neither empty nor a demo's is refused and not changed.
async fn open(url: &Secret) -> Result<Acting, CliError> {
    if url.is_empty() {
        return Err(CliError::Usage("--database-url is empty: give a URL, or leave it out".into()));
    }
    let database = database::pool(&DatabaseConfig::of(url.clone()))?.acting(Actor::program("demo"));
    let place = database.place();
    progress(&format!("the demo works in database {place}"));
    database.find_primary().await?;
    // Before the mark: a database that cannot be used stays as it is.
    database.check_assumptions(Purpose::Migrate).await?;
    if let Some(found) = database.claim_for_demo().await? {
        return Err(CliError::Usage(format!(
            "database {place} is neither empty nor a demo's: it has '{found}' in it. Nothing in it was changed. Give \
             --database-url an empty database, or leave out the flag: then the demo uses a private PostgreSQL"
        )));
    }
    database.migrate().await?;
    Ok(database)
}

/// The whole configuration of the demo's gateway.
fn config(args: &DemoArgs, database: Secret, simulator_url: &str) -> Result<Config, CliError> {
    let simulator = simulator_url.parse().map_err(|error| {
        CliError::Failed(format!("the URL of the simulator, {simulator_url}, is not usable: {error}"))
    })?;
    let upstream = UpstreamConfig::of(simulator, Secret::new(MASTER_KEY));
    let mut config = Config {
        server: Server { listen: args.listen, ..Server::default() },
        admin: Admin { listen: args.admin_listen, ..Admin::default() },
        ..Config::of(DatabaseConfig::of(database), upstream)?
    };
    // Where the simulated videos are.
    config.console.media_hosts = vec![simulator_url.trim_end_matches('/').to_owned()];
    if args.unlimited {
        config.limits.max_exposure_per_day = 0;
        config.limits.org_management_per_minute = 0;
        config.limits.operator_management_per_minute = 0;
    }
    Ok(config)
}

/// Binds the simulator to the port of the last start, if that is still free: the URLs of earlier videos name it.
async fn simulator(args: &DemoArgs, dir: &Path) -> Result<Simulator, CliError> {
    let config = || SimulatorConfig {
        master_keys: vec![MASTER_KEY.into()],
        task_time: Duration::from_millis(args.task_ms),
        task_jitter: Duration::from_millis(args.task_ms / 4),
        state_file: Some(dir.join("simulator.jsonl")),
        at_once: Some(first_clip::PROMPT.into()),
        ..SimulatorConfig::default()
    };
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let file = dir.join("simulator_port");
    let last = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let simulator = match Simulator::bind(at(last), config()).await {
        Ok(simulator) => simulator,
        Err(_) if last != 0 => Simulator::bind(at(0), config()).await?,
        Err(error) => return Err(error.into()),
    };
    let port = simulator.local_addr().port();
    fs::write(&file, port.to_string()).map_err(|error| cannot_write(&file, &error))?;
    Ok(simulator)
}
