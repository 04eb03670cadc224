//! Building and running a gateway for a test.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tollgate::app::App;
use tollgate::config::{AccountConfig, Config};
use tollgate::simulator::{Simulator, SimulatorConfig};

use super::books::{Closing, close};
use super::{MASTER_KEY, TestGateway, caller};
use crate::support::database::TestDatabase;
use crate::support::fixture::profile;
use crate::support::http;
use crate::support::leaks;

/// What a test's gateway is to be like.
pub struct Builder {
    credits: i64,
    task_time: Duration,
    accounts: Vec<&'static str>,
    tune: Box<dyn FnOnce(&mut Config) + Send>,
}

/// Where its parts listen.
pub struct Addresses {
    pub data: SocketAddr,
    pub admin: SocketAddr,
    pub simulator: SocketAddr,
}

impl Builder {
    pub fn new() -> Self {
        Self {
            credits: 1_000_000,
            task_time: Duration::from_millis(50),
            accounts: vec![MASTER_KEY],
            tune: Box::new(|_| {}),
        }
    }

    pub fn credits(self, credits: i64) -> Self {
        Self { credits, ..self }
    }

    /// How long the vendor takes over a task.
    pub fn task_time(self, task_time: Duration) -> Self {
        Self { task_time, ..self }
    }

    /// The master keys the vendor takes; each is an account with books of its own.
    pub fn accounts(self, keys: &[&'static str]) -> Self {
        Self { accounts: keys.to_vec(), ..self }
    }

    /// Changes the gateway's configuration.
    pub fn config(self, tune: impl FnOnce(&mut Config) + Send + 'static) -> Self {
        Self { tune: Box::new(tune), ..self }
    }

    pub async fn start(self) -> TestGateway {
        leaks::watch();
        let db = TestDatabase::new().await;
        let caller = caller(&db, self.credits).await;
        let stop = CancellationToken::new();
        let (ready, addresses) = oneshot::channel();
        let (url, stopping) = (db.url().to_owned(), stop.clone());
        let settings = SimulatorConfig {
            master_keys: self.accounts.iter().map(|key| (*key).to_owned()).collect(),
            task_time: self.task_time,
            task_jitter: Duration::ZERO,
            ..SimulatorConfig::default()
        };
        let thread = thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(Box::pin(serve(settings, self.tune, url, ready, stopping)))
        });
        let addresses = addresses.await.unwrap();
        let client = http::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        TestGateway { thread: Some(thread), stop, addresses, expected_difference: 0, client, caller, db }
    }
}

async fn serve(
    settings: SimulatorConfig,
    tune: Box<dyn FnOnce(&mut Config) + Send>,
    database_url: String,
    ready: oneshot::Sender<Addresses>,
    stop: CancellationToken,
) -> Closing {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let simulator = Simulator::bind(any_port, settings).await.unwrap();
    let address = simulator.local_addr();
    let simulator_stop = CancellationToken::new();
    let simulating = tokio::spawn(simulator.run(simulator_stop.clone().cancelled_owned()));

    let mut config = config(address, &database_url);
    tune(&mut config);
    let keys = account_keys(&config);
    let app = App::start(config).await.unwrap();
    let addresses = Addresses {
        data: app.data_address().unwrap(),
        admin: app.admin_address().unwrap(),
        simulator: address,
    };
    let scrape = format!("http://{}/metrics", addresses.admin);
    assert!(ready.send(addresses).is_ok(), "the test waits for its gateway");
    let app_stop = CancellationToken::new();
    let running = tokio::spawn(app.run(app_stop.clone()));
    stop.cancelled().await;
    let metrics = http::client().get(scrape).send().await.unwrap().text().await.unwrap();
    leaks::look_at("the metrics", &metrics);
    app_stop.cancel();
    // From here on the vendor behaves.
    let script = format!("http://{address}/_sim/script");
    http::client().delete(script).send().await.unwrap().error_for_status().unwrap();
    let finished = running.await.unwrap();
    let closing = close(finished, address, &database_url, keys).await;
    simulator_stop.cancel();
    simulating.await.unwrap().unwrap();
    closing
}

/// The key of every configured account.
fn account_keys(config: &Config) -> HashMap<String, String> {
    let backends = [Some(&config.upstream.kling_3), config.upstream.kling_o3.as_ref()];
    let accounts = backends.into_iter().flatten().flat_map(|backend| &backend.accounts);
    let key = |account: &AccountConfig| account.master_key.as_ref().unwrap().expose().to_owned();
    accounts.map(|account| (account.name.clone(), key(account))).collect()
}

/// Quick intervals, patience with a busy machine, and no limits but those a test sets.
fn config(simulator: SocketAddr, database_url: &str) -> Config {
    let text = format!(
        r#"
        [server]
        # A thousand callers at once are one client here, on the thread that serves them too.
        max_connections = 20000
        listen = "127.0.0.1:0"
        shutdown_grace_ms = 15000
        [admin]
        listen = "127.0.0.1:0"
        [database]
        url = "{database_url}"
        acquire_timeout_ms = 20000
        [upstream.kling_3]
        base_url = "http://{simulator}"
        master_key = "{MASTER_KEY}"
        retry_429_ms = 400
        breaker_failures = 0
        max_creates = 4000
        [ledger]
        lanes = 2
        audit_minutes = 0
        reserve_timeout_ms = 20000
        [limits]
        org_create_per_minute = 0
        org_status_per_minute = 0
        max_open_tasks = 0
        max_exposure_per_day = 0
        [status]
        min_interval_ms = 20
        [reconciler]
        interval_ms = 100
        tick_ms = 600
        polls_per_second = 10000
        [telemetry]
        otlp_endpoint = "http://{}"
        sample_ratio = 1.0
        "#,
        leaks::collector()
    );
    let mut config = Config::from_toml(&text).unwrap();
    config.ledger.profile = profile();
    config
}
