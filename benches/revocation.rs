//! From the revocation of a key to its refusal, at each of three gateways that have it in memory, while others call: a
//! thousand times.
//!
//! `cargo bench --bench revocation`. Everything runs on this machine.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark may stop with a panic")]
#![expect(clippy::disallowed_methods, reason = "a benchmark measures on a clock of its own")]

#[path = "support.rs"]
mod support;

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Client;
use support::{Scratch, TOLLGATE, percentile};
use tokio::task::JoinSet;
use tollgate::secret::Secret;
use tollgate::store::{Actor, Database, KeySpec, NewOrg, NewUser, Role};

const REVOCATIONS: usize = 1_000;
const GATEWAYS: usize = 3;
/// Callers with other keys, on each gateway.
const OTHERS: usize = 4;

/// A process that is stopped at the end.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn main() {
    let scratch = Scratch::new("revocation");
    let (_cluster, url) = support::postgres(&scratch);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(&scratch, &url));
}

fn gateway(scratch: &Scratch, url: &str, number: usize) -> (Process, String) {
    let address = format!("127.0.0.1:{}", free_port());
    let config = scratch.path().join(format!("gateway-{number}.toml"));
    // Nobody asks the vendor for anything.
    let text = format!(
        "[server]\nlisten = \"{address}\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[database]\nurl = \"{url}\"\n\
         [upstream.kling_3]\nbase_url = \"http://127.0.0.1:1\"\nmaster_key = \"x\"\n\
         [limits]\norg_status_per_minute = 0\nfailed_logins_per_minute = 0\n[log]\nlevel = \"error\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(TOLLGATE);
    command.args(["serve", "--config", config.to_str().unwrap()]);
    (Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a process")), address)
}

async fn status(client: &Client, address: &str, key: &str) -> u16 {
    let call = client.get(format!("http://{address}/api/credits")).bearer_auth(key);
    call.send().await.unwrap().status().as_u16()
}

async fn run(scratch: &Scratch, url: &str) {
    let (_processes, gateways): (Vec<_>, Vec<_>) =
        (0..GATEWAYS).map(|number| gateway(scratch, url, number)).unzip();
    for address in &gateways {
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10), "nobody listens on {address}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let database = Database::connect(&Secret::new(url), 4, Duration::from_secs(10))
        .unwrap()
        .acting(Actor::program("bench"));
    let org = database.add_org(&NewOrg { name: "a customer".into(), time_zone: "UTC".into() }).await.unwrap();
    let user = database
        .add_user(org, &NewUser { name: "a user".into(), role: Role::Member, team: None })
        .await
        .unwrap();
    let spec = KeySpec { name: "a key".into(), env: "bench".into(), ..KeySpec::default() };
    let mut keys = Vec::new();
    for _ in 0..REVOCATIONS + OTHERS {
        let (key, text) = database.create_key(org, user, &spec).await.unwrap();
        keys.push((key, text.expose().to_owned()));
    }
    let others = keys.split_off(REVOCATIONS);

    let stop = Arc::new(AtomicBool::new(false));
    let calls = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for (address, (_, key)) in
        gateways.iter().flat_map(|address| others.iter().map(move |key| (address, key)))
    {
        let (address, key, stop, calls) = (address.clone(), key.clone(), stop.clone(), calls.clone());
        callers.spawn(async move {
            let client = Client::new();
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(status(&client, &address, &key).await, 200);
                calls.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    let clients: Vec<Client> = gateways.iter().map(|_| Client::new()).collect();
    let mut took = vec![Vec::new(); GATEWAYS];
    let begun = Instant::now();
    for (key, text) in &keys {
        // In memory everywhere.
        for (client, address) in clients.iter().zip(&gateways) {
            assert_eq!(status(client, address, text).await, 200);
        }
        let revoked = Instant::now();
        let probes = clients.iter().zip(&gateways).map(|(client, address)| async move {
            while status(client, address, text).await != 401 {
                assert!(revoked.elapsed() < Duration::from_secs(30), "never refused at {address}");
            }
            revoked.elapsed().as_secs_f64() * 1e3
        });
        let (done, refused) = tokio::join!(database.revoke_key(*key), join_all(probes));
        assert!(done.unwrap());
        for (all, one) in took.iter_mut().zip(refused) {
            all.push(one);
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    callers.join_all().await;
    println!(
        "{REVOCATIONS} revocations in {seconds:.1} s, beside {:.0} calls a second with other keys",
        calls.load(Ordering::Relaxed) as f64 / seconds
    );
    took.push(took.concat());
    for (number, mut all) in took.into_iter().enumerate() {
        all.sort_by(f64::total_cmp);
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| percentile(&all, share));
        let name = if number < GATEWAYS { format!("gateway {}", number + 1) } else { "all".into() };
        println!(
            "from the order to revoke to the refusal, {name}: p50 {p50:.1} ms, p99 {p99:.1} ms, at most {max:.1} ms"
        );
    }
}
