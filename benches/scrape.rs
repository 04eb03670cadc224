//! A scrape of a gateway with ten thousand organisations: how long it takes, idle and under load, and how much it is.
//!
//! `cargo bench --bench scrape`. Everything runs on this machine: load generator, gateway, Postgres, simulator. A tenth
//! of the organisations calls; `-- --orgs N` for another number of them.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark may stop with a panic")]
#![expect(
    clippy::disallowed_methods,
    reason = "it makes its organisations behind the ledger's back, on a clock of its own"
)]

#[path = "support.rs"]
mod support;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::Client;
use sqlx::postgres::PgPoolOptions;
use support::{Scratch, TOLLGATE, percentile};
use tokio::task::JoinSet;
use tollgate::ids::OrgId;
use tollgate::secret::Secret;
use tollgate::store::{Actor, Database, KeySpec, NewUser, Role};
use uuid::Uuid;

/// How often each load is scraped, and how far apart.
const SCRAPES: usize = 200;
const APART: Duration = Duration::from_millis(100);

const CONNECTIONS: usize = 32;
const BODY: &str = r#"{"type":"pro-text-to-video","prompt":"A cinematic shot of mountains at sunrise"}"#;

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--orgs").skip(1);
    let orgs: i64 = arguments.next().map_or(10_000, |value| value.parse().expect("a number"));
    let scratch = Scratch::new("scrape");
    let (_cluster, url) = support::postgres(&scratch);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let keys = runtime.block_on(tenants(&url, orgs));
    let [simulator, gateway, admin] = [(); 3].map(|()| free_address());
    let config = scratch.path().join("tollgate.toml");
    let text = format!(
        "[server]\nlisten = \"{gateway}\"\n[admin]\nlisten = \"{admin}\"\n[database]\nurl = \"{url}\"\n\
         [upstream.kling_3]\nbase_url = \"http://{simulator}\"\nmaster_key = \"sim-master-key\"\n\
         [limits]\nkey_create_per_minute = 0\nkey_status_per_minute = 0\nuser_create_per_minute = 0\n\
         user_status_per_minute = 0\norg_create_per_minute = 0\norg_status_per_minute = 0\nmax_open_tasks = 0\nmax_exposure_per_day = 0\n"
    );
    std::fs::write(&config, text).unwrap();
    let address = simulator.to_string();
    let _simulator =
        start(Command::new(TOLLGATE).args(["simulate", "--task-ms", "2000", "--listen", &address]));
    let _gateway = start(Command::new(TOLLGATE).arg("serve").arg("--config").arg(&config));
    for address in [simulator, gateway, admin] {
        let begun = Instant::now();
        while std::net::TcpStream::connect(address).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "nobody listens on {address}");
            std::thread::yield_now();
        }
    }
    runtime.block_on(run(gateway, admin, orgs, keys.into()));
}

/// A process that is stopped at the end.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn start(command: &mut Command) -> Process {
    Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a process"))
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Makes the organisations; the keys of those that call.
async fn tenants(url: &str, orgs: i64) -> Vec<String> {
    let pool = PgPoolOptions::new().max_connections(1).connect(url).await.unwrap();
    sqlx::query("insert into org (org_id, name) select gen_random_uuid(), 'tenant ' || n from generate_series(1, $1) n")
        .bind(orgs)
        .execute(&pool)
        .await
        .unwrap();
    sqlx::raw_sql(
        "insert into org_balance (org_id) select org_id from org; \
         select post_entry(org_id, gen_random_uuid(), 'grant', 1000000000, 'bench', null, null, null, 'bench', null) from org",
    )
    .execute(&pool)
    .await
    .unwrap();
    let calling: Vec<Uuid> =
        sqlx::query_scalar("select org_id from org limit $1").bind(orgs / 10).fetch_all(&pool).await.unwrap();
    let database = Database::connect(&Secret::new(url), 4, Duration::from_secs(30))
        .unwrap()
        .acting(Actor::program("bench"));
    let mut keys = Vec::new();
    for org in calling.into_iter().map(OrgId::from_uuid) {
        let user = database
            .add_user(org, &NewUser { name: "bench".into(), role: Role::Member, team: None })
            .await
            .unwrap();
        let spec = KeySpec { name: "bench".into(), env: "bench".into(), ..KeySpec::default() };
        keys.push(database.create_key(org, user, &spec).await.unwrap().1.expose().to_owned());
    }
    keys
}

async fn run(gateway: SocketAddr, admin: SocketAddr, orgs: i64, keys: Arc<[String]>) {
    println!("{orgs} organisations, {} of them call; scrapes every {} ms", keys.len(), APART.as_millis());
    println!(
        "{:<28} {:>9} {:>8} {:>8} {:>8} {:>9} {:>8}",
        "", "calls/s", "p50 ms", "p99 ms", "max ms", "bytes", "series"
    );
    // At a rate that leaves the machine room, and as fast as the answers come.
    for (name, pause) in
        [("idle", None), ("200 calls a second", Some(160)), ("32 connections", Some(0)), ("idle again", None)]
    {
        let load = Load::start(gateway, keys.clone(), pause.map(Duration::from_millis));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (begun, before) = (Instant::now(), load.calls.load(Ordering::Relaxed));
        let (mut times, bytes, series) = scrapes(admin).await;
        let calls = load.calls.load(Ordering::Relaxed) - before;
        let rate = calls as f64 / begun.elapsed().as_secs_f64();
        load.end().await;
        times.sort_by(f64::total_cmp);
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| percentile(&times, share));
        println!("{name:<28} {rate:>9.0} {p50:>8.2} {p99:>8.2} {max:>8.2} {bytes:>9} {series:>8}");
    }
    println!("aim: below 50 ms");
}

/// Times in milliseconds, and the size of the last one.
async fn scrapes(admin: SocketAddr) -> (Vec<f64>, usize, usize) {
    let client = Client::new();
    let (mut times, mut text) = (Vec::new(), String::new());
    for _ in 0..SCRAPES {
        let begun = Instant::now();
        text = client.get(format!("http://{admin}/metrics")).send().await.unwrap().text().await.unwrap();
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(APART).await;
    }
    let series = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
    (times, text.len(), series)
}

/// Callers, each with another key at every turn: a create, then its state.
struct Load {
    calls: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
    callers: JoinSet<()>,
}

impl Load {
    fn start(gateway: SocketAddr, keys: Arc<[String]>, pause: Option<Duration>) -> Self {
        let mut load = Self { calls: Arc::default(), ends: Arc::default(), callers: JoinSet::new() };
        let Some(pause) = pause else { return load };
        let client = Client::new();
        for caller in 0..CONNECTIONS {
            let (keys, calls, ends) = (keys.clone(), load.calls.clone(), load.ends.clone());
            let client = client.clone();
            load.callers.spawn(async move {
                let mut turn = caller;
                while !ends.load(Ordering::Relaxed) {
                    let key = &keys[turn % keys.len()];
                    turn += CONNECTIONS;
                    let create = client.post(format!("http://{gateway}/api/generate")).bearer_auth(key);
                    let answer: serde_json::Value =
                        create.body(BODY).send().await.unwrap().json().await.unwrap();
                    calls.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(pause).await;
                    // One that was refused is a call as well.
                    let task = answer["data"]["task_id"].as_str().unwrap_or("none");
                    let status = client.get(format!("http://{gateway}/api/status?task_id={task}"));
                    status.bearer_auth(key).send().await.unwrap().bytes().await.unwrap();
                    calls.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(pause).await;
                }
            });
        }
        load
    }

    async fn end(self) {
        self.ends.store(true, Ordering::Relaxed);
        self.callers.join_all().await;
    }
}
