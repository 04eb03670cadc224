//! Finishing tasks nobody asks for: ten thousand open at once, half of them of one organisation, two gateways, a bounded
//! rate of polls. How long after its end is a task settled, by whose backlog, and how often was the vendor asked?
//!
//! `cargo bench --bench reconciler [-- --polls-per-second 1000]`. Everything runs on this machine.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark may stop with a panic")]
#![expect(clippy::disallowed_methods, reason = "a benchmark measures on a clock of its own")]

#[path = "support.rs"]
mod support;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::PgPool;
use support::{Scratch, TOLLGATE, percentile};
use tokio::task::JoinSet;
use tollgate::credits::Credits;
use tollgate::secret::Secret;
use tollgate::store::{Actor, Database, KeySpec, NewOrg, NewUser, Role, Why};

const TASKS: usize = 10_000;
const SMALL_ORGS: usize = 19;
const CALLERS: usize = 64;
const TASK_TIME: Duration = Duration::from_secs(30);
const BODY: &str = r#"{"type":"pro-text-to-video","prompt":"a mountain","duration":5}"#;

/// A process that is stopped at the end.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn start(args: &[&str]) -> Process {
    let mut command = Command::new(TOLLGATE);
    Process(command.args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a process"))
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn main() {
    let mut args = std::env::args().skip_while(|arg| arg != "--polls-per-second").skip(1);
    let rate: u32 = args.next().map_or(1000, |text| text.parse().expect("--polls-per-second N"));
    let scratch = Scratch::new("reconciler");
    let (_cluster, url) = support::postgres(&scratch);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(&scratch, &url, rate));
    let audit = Command::new(TOLLGATE).arg("audit").env("DATABASE_URL", &url).output().unwrap();
    println!("{}", String::from_utf8_lossy(&audit.stdout).lines().last().unwrap_or("audit failed"));
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stderr));
}

async fn run(scratch: &Scratch, url: &str, rate: u32) {
    let simulator = format!("127.0.0.1:{}", free_port());
    let task_ms = TASK_TIME.as_millis().to_string();
    let mut processes =
        vec![start(&["simulate", "--listen", &simulator, "--task-ms", &task_ms, "--jitter-ms", "0"])];
    let gateways: Vec<String> = (0..2).map(|_| format!("127.0.0.1:{}", free_port())).collect();
    for (number, gateway) in gateways.iter().enumerate() {
        let config = scratch.path().join(format!("gateway-{number}.toml"));
        let text = format!(
            "[server]\nlisten = \"{gateway}\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[database]\nurl = \"{url}\"\n\
             [upstream.kling_3]\nbase_url = \"http://{simulator}\"\nmaster_key = \"sim-master-key\"\n\
             [limits]\norg_create_per_minute = 0\nmax_open_tasks = 0\nmax_exposure_per_day = 0\n\
             [reconciler]\npolls_per_second = {rate}\n[log]\nlevel = \"error\"\n"
        );
        std::fs::write(&config, text).unwrap();
        processes.push(start(&["serve", "--config", config.to_str().unwrap()]));
    }
    for address in gateways.iter().chain([&simulator]) {
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10), "nobody listens on {address}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    let database = Database::connect(&Secret::new(url), 4, Duration::from_secs(10))
        .unwrap()
        .acting(Actor::program("bench"));
    let mut keys = Vec::new();
    for number in 0..=SMALL_ORGS {
        let org = database
            .add_org(&NewOrg { name: format!("org {number}"), time_zone: "UTC".into() })
            .await
            .unwrap();
        database
            .grant(org, Credits::new(1 << 40), None, Why { reason: "bench", external_ref: None }, None)
            .await
            .unwrap();
        let user = database
            .add_user(org, &NewUser { name: "bench".into(), role: Role::Member, team: None })
            .await
            .unwrap();
        let spec = KeySpec { name: "bench".into(), env: "bench".into(), ..KeySpec::default() };
        let (_, text) = database.create_key(org, user, &spec).await.unwrap();
        keys.push(text.expose().to_owned());
    }
    let begun = Instant::now();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (keys, gateways) = (keys.clone(), gateways.clone());
        callers.spawn(async move {
            let client = reqwest::Client::new();
            for number in (caller..TASKS).step_by(CALLERS) {
                // Every second one belongs to the first organisation.
                let key = if number % 2 == 0 { &keys[0] } else { &keys[1 + number / 2 % SMALL_ORGS] };
                let url = format!("http://{}/api/generate", gateways[number % 2]);
                let answer = client.post(url).bearer_auth(key).body(BODY).send().await.unwrap();
                assert_eq!(answer.status().as_u16(), 200);
            }
        });
    }
    callers.join_all().await;
    println!("{TASKS} tasks created in {:.1} s", begun.elapsed().as_secs_f64());

    let client = reqwest::Client::new();
    let (mut worst_lag, mut worst_rate) = (0f64, 0f64);
    let mut polls = polls(&client, &simulator).await;
    let mut seen = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = self::polls(&client, &simulator).await;
        let per_second = (now - polls) as f64 / seen.elapsed().as_secs_f64();
        (polls, seen) = (now, Instant::now());
        worst_rate = worst_rate.max(per_second);
        worst_lag = worst_lag.max(database.poll_lag_seconds().await.unwrap());
        if database.open_holds().await.unwrap().is_empty() {
            break;
        }
    }
    println!("polls a second, at most: {worst_rate:.0} (configured {rate}); {polls} in all");
    println!("oldest due poll, at worst: {worst_lag:.1} s late (tollgate_reconciler_lag_seconds)");
    let pool = PgPool::connect(url).await.unwrap();
    for (name, sign) in [("the organisation with half of them", "="), ("the other nineteen", "<>")] {
        let late: Vec<f64> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "select extract(epoch from ended_at - created_at)::float8 - {} as late from task \
             where org_id {sign} (select org_id from org where name = 'org 0') order by late",
            TASK_TIME.as_secs()
        )))
        .fetch_all(&pool)
        .await
        .unwrap();
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| percentile(&late, share));
        println!(
            "settled after the vendor's end, {name}: p50 {p50:.1} s, p99 {p99:.1} s, at most {max:.1} s"
        );
    }
}

/// How often the vendor was asked so far.
async fn polls(client: &reqwest::Client, simulator: &str) -> u64 {
    let url = format!("http://{simulator}/_sim/books");
    let books: Value = client.get(url).send().await.unwrap().json().await.unwrap();
    books["accounts"][0]["tasks"].as_array().unwrap().iter().map(|task| task["polls"].as_u64().unwrap()).sum()
}
