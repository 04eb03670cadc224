//! `tollgate demo`: everything in one process tree, ready to paste into.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio_util::task::TaskTracker;

use super::{CliError, block_on, log, output, stop_signal, url_of};
use crate::api_key::PresentedKey;
use crate::app::App;
use crate::config::{Config, DatabaseConfig, Log, LogFormat};
use crate::credits::Credits;
use crate::ids::OrgId;
use crate::postgres::{Cluster, ClusterConfig, default_demo_data_dir};
use crate::secret::Secret;
use crate::server::bind;
use crate::simulator::{Simulator, SimulatorConfig};
use crate::store::{
    Acting, Actor, Database, KeySpec, LedgerError, NewOrg, NewUser, Once, OperatorRole, OrgChange, Role, Why,
};

const ORG: &str = "demo";
const CREDITS: Credits = Credits::new(100_000);
const MASTER_KEY: &str = "sim-master-key";

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Where to keep the database and the simulator's books [default: tollgate/demo in your data home]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where the gateway listens; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Where the operations listener listens; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    admin_listen: SocketAddr,
    /// Print one line of JSON when ready, and nothing else on standard output.
    #[arg(long)]
    json: bool,
    /// Lift the demo organisation's rate and concurrency limits: for load tests.
    #[arg(long)]
    unlimited: bool,
    /// How long a simulated task takes, in milliseconds.
    #[arg(long, default_value_t = 8000, value_name = "MS")]
    task_ms: u64,
    /// What to log, to standard error.
    #[arg(long, default_value = "warn", value_parser = ["error", "warn", "info", "debug", "trace"])]
    log_level: String,
}

pub(super) fn run(args: DemoArgs) -> Result<(), CliError> {
    let _log = log(&Log { format: LogFormat::Pretty, level: args.log_level.clone() })?;
    let dir = match &args.data_dir {
        Some(dir) => dir.clone(),
        None => default_demo_data_dir()?,
    };
    // The thread that starts the cluster must outlive it; this is the main thread.
    let external = std::env::var("DATABASE_URL").ok().filter(|url| !url.is_empty());
    block_on(check_port(args.listen))?;
    let cluster = match &external {
        Some(_) => None,
        None => Some(start_cluster(&dir)?),
    };
    let url = match (&cluster, external) {
        (Some(cluster), _) => {
            block_on(async {
                Ok(Database::create_database(&Secret::new(cluster.url("postgres")), "tollgate").await?)
            })?;
            cluster.url("tollgate")
        }
        (None, url) => url.unwrap_or_default(),
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

/// Before anything slow is done.
async fn check_port(listen: SocketAddr) -> Result<(), CliError> {
    bind("the gateway", listen, "--listen").await.map(drop).map_err(|error| CliError::Start(error.into()))
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

async fn serve(args: DemoArgs, dir: PathBuf, url: String) -> Result<(), CliError> {
    let stop = stop_signal()?;
    let database = crate::app::database(&DatabaseConfig::of(Secret::new(&url)))?;
    database.migrate().await?;
    let simulator = simulator(&args, &dir).await?;
    let simulator_url = url_of(simulator.local_addr());
    let acting = database.acting(Actor::program("demo"));
    let (org, key) = tenant(&acting, &dir, args.unlimited).await?;
    let text = format!(
        "[server]\nlisten = {}\n[admin]\nlisten = {}\n[database]\nurl = {}\n[upstream.kling_3]\nbase_url = {}\nmaster_key = {}\n",
        json!(args.listen),
        json!(args.admin_listen),
        json!(url),
        json!(simulator_url),
        json!(MASTER_KEY),
    );
    let operator_token = operator(&acting, &dir).await?;
    let app = App::start(Config::from_toml(&text)?).await?;
    let address = |address: std::io::Result<SocketAddr>| address.map(url_of).unwrap_or_default();
    let (base_url, admin_url) = (address(app.data_address()), address(app.admin_address()));
    drop(database);

    let ready = Ready { base_url, admin_url, key, operator_token, org, simulator_url, database_url: url };
    if args.json {
        ready.print_json()
    } else {
        ready.print()
    }

    let tasks = TaskTracker::new();
    let simulator_stop = tokio_util::sync::CancellationToken::new();
    let simulating = tasks.spawn(simulator.run(simulator_stop.clone().cancelled_owned()));
    let finished = app.run(stop).await;
    simulator_stop.cancel();
    match simulating.await {
        Ok(result) => result?,
        Err(error) => return Err(CliError::Failed(format!("the simulator broke: {error}"))),
    }
    if finished {
        Ok(())
    } else {
        Err(CliError::Failed("stopped before everything in flight was finished".into()))
    }
}

/// The simulator, on the port of the last start if that is still free: the videos it made have it in their URLs.
async fn simulator(args: &DemoArgs, dir: &Path) -> Result<Simulator, CliError> {
    let config = || SimulatorConfig {
        master_keys: vec![MASTER_KEY.into()],
        task_time: Duration::from_millis(args.task_ms),
        task_jitter: Duration::from_millis(args.task_ms / 4),
        state_file: Some(dir.join("simulator.jsonl")),
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

/// The demo's organisation with a user and a key; made once, found again later.
async fn tenant(database: &Acting, dir: &Path, unlimited: bool) -> Result<(OrgId, Secret), CliError> {
    let org = match database.org_by_name(ORG).await? {
        Some(org) => org.org_id,
        None => database.add_org(&NewOrg { name: ORG.into(), time_zone: "UTC".into() }).await?,
    };
    if database.balance(org).await?.is_some_and(|balance| balance.granted == Credits::ZERO) {
        let why = Why { reason: "demo", external_ref: None };
        database.grant(org, CREDITS, None, why, Some(Once { key: "demo", body: b"" })).await?;
    }
    let limit = Some(unlimited.then_some(0));
    let limits = OrgChange {
        create_per_minute: limit,
        status_per_minute: limit,
        max_open_tasks: limit,
        ..OrgChange::default()
    };
    database.update_org(org, limits, None).await?;
    let file = dir.join("api_key");
    if let Some(key) = known_key(database, org, &file).await? {
        return Ok((org, key));
    }
    let user = match database
        .add_user(org, &NewUser { name: "demo".into(), role: Role::Member, team: None })
        .await
    {
        Ok(user) => user,
        // It was made by an earlier start whose key file is gone.
        Err(LedgerError::Conflict(_)) => database.user_by_name(org, "demo").await?,
        Err(error) => return Err(error.into()),
    };
    let spec = KeySpec { name: "demo".into(), env: "demo".into(), ..KeySpec::default() };
    let (_, key) = database.create_key(org, user, &spec).await?;
    keep(&file, &key)?;
    Ok((org, key))
}

/// Writes a secret into a file that only its owner can read.
fn keep(file: &Path, secret: &Secret) -> Result<(), CliError> {
    let written = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file);
    written
        .and_then(|mut file| file.write_all(secret.expose().as_bytes()))
        .map_err(|error| cannot_write(file, &error))
}

/// The demo's operator; made once, found again later.
async fn operator(database: &Acting, dir: &Path) -> Result<Secret, CliError> {
    let file = dir.join("operator_token");
    let kept = fs::read_to_string(&file).unwrap_or_default();
    if let Some(presented) = PresentedKey::parse(kept.trim())
        && database.find_operator(&presented).await?.is_some()
    {
        return Ok(Secret::new(kept.trim()));
    }
    let (_, token) = database.create_operator_token("demo", OperatorRole::Operator, None).await?;
    keep(&file, &token)?;
    Ok(token)
}

/// The key of an earlier start; not that of an organisation which had this name then.
async fn known_key(database: &Database, org: OrgId, file: &Path) -> Result<Option<Secret>, CliError> {
    let Ok(text) = fs::read_to_string(file) else { return Ok(None) };
    let Some(presented) = PresentedKey::parse(text.trim()) else { return Ok(None) };
    let found = database.find_key(&presented.public_id).await?;
    let valid = found.is_some_and(|found| {
        !found.revoked && found.principal.org == org && found.secret.matches(&presented.secret)
    });
    Ok(valid.then(|| Secret::new(text.trim())))
}

struct Ready {
    base_url: String,
    admin_url: String,
    key: Secret,
    operator_token: Secret,
    org: OrgId,
    simulator_url: String,
    database_url: String,
}

impl Ready {
    fn print_json(&self) {
        output::note(json!({
            "base_url": self.base_url,
            "admin_url": self.admin_url,
            "api_key": self.key.expose(),
            "operator_token": self.operator_token.expose(),
            "org_id": self.org,
            "simulator_url": self.simulator_url,
            "simulator_key": MASTER_KEY,
            "database_url": self.database_url,
        }));
    }

    fn print(&self) {
        let Self { base_url, admin_url, org, simulator_url, database_url, .. } = self;
        let key = self.key.expose();
        let token = self.operator_token.expose();
        let program =
            std::env::current_exe().map_or_else(|_| "tollgate".into(), |path| path.display().to_string());
        output::note(format_args!(
            r#"
Tollgate is ready. Ctrl-C stops everything; the data stays.

  gateway      {base_url}
  API key      {key}
  organisation {org}
  operations   {admin_url}/readyz  {admin_url}/metrics
  management   {admin_url}/admin/v1
  simulator    {simulator_url}/_sim/books
  database     {database_url}

Create a task:

  curl -X POST '{base_url}/api/generate' \
    -H 'Authorization: Bearer {key}' \
    -H 'Content-Type: application/json' \
    -d '{{"type":"pro-text-to-video","prompt":"A cinematic shot of mountains at sunrise","duration":5,"aspect_ratio":"16:9"}}'

Ask for its state, with the task_id of the answer:

  curl '{base_url}/api/status?task_id=TASK_ID' -H 'Authorization: Bearer {key}'

A refusal, which costs nothing:

  curl -X POST '{base_url}/api/generate' -H 'Authorization: Bearer {key}' -d '{{"type":"pro-text-to-video","prompt":""}}'

The balance:

  curl '{base_url}/api/credits' -H 'Authorization: Bearer {key}'

Manage it, as its operator:

  export TOLLGATE_ADMIN_URL='{admin_url}' TOLLGATE_ADMIN_TOKEN='{token}'
  {program} admin org list
"#
        ));
    }
}
