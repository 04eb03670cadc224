//! A primary with a synchronous standby: the primary dies, the standby is promoted, the old primary comes back.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tollgate::clock::Clock;
use tollgate::ids::{GatewayId, HoldId, OrgId};
use tollgate::secret::Secret;
use tollgate::simulator::{Simulator, SimulatorConfig};
use tollgate::store::{Acting, Applied, Database, KeySpec, LaneSettings, Ledger, StoreError, Verdict};

use crate::support::cluster::TestCluster;
use crate::support::database::{PATIENCE, until};
use crate::support::fixture::{HOUR, credits, grant, lanes, money, new_hold, run, settle};
use crate::support::gateway::{MASTER_KEY, body};
use crate::support::http;
use crate::support::process::{Process, Scratch, run as run_tollgate};
use crate::support::seed::{TOP_UP, acting, org_named, user_named};

fn on(servers: &[&TestCluster]) -> Acting {
    let urls: Vec<Secret> = servers.iter().map(|server| server.secret()).collect();
    acting(&Database::connect_to_primary(&urls, 4, Duration::from_secs(5)).unwrap())
}

async fn funded(database: &Acting, amount: i64) -> OrgId {
    let org = database.add_org(&org_named("a customer")).await.unwrap();
    database.grant(org, credits(amount), None, TOP_UP, None).await.unwrap();
    org
}

async fn audit(database: &Database) {
    let report = database.audit().await.unwrap();
    assert!(report.breaches.is_empty(), "{:#?}", report.breaches);
}

/// Callers that reserve until they are told to stop; each tells what it was granted.
struct Load {
    stop: Arc<AtomicBool>,
    callers: JoinSet<Vec<HoldId>>,
}

impl Load {
    fn on(ledger: &Ledger, org: OrgId) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut callers = JoinSet::new();
        for _ in 0..8 {
            let (ledger, stop) = (ledger.clone(), stop.clone());
            callers.spawn(async move {
                let mut acknowledged = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    // Without a primary there are none; with one there are again.
                    if let Ok(Verdict::Granted(mut guard)) = ledger.reserve(new_hold(org, 1)).await {
                        acknowledged.push(guard.id());
                        let step = guard.step(run(guard.id())).await.unwrap();
                        assert!(matches!(step, Applied::Yes | Applied::No));
                    }
                }
                acknowledged
            });
        }
        Self { stop, callers }
    }

    async fn stop(self) -> Vec<HoldId> {
        self.stop.store(true, Ordering::Relaxed);
        self.callers.join_all().await.concat()
    }
}

async fn holds(server: &TestCluster) -> BTreeSet<String> {
    let all = server.run("select coalesce(string_agg(hold_id::text, ','), '') from task").await.unwrap();
    all.split(',').map(str::to_owned).collect()
}

async fn grows(server: &TestCluster) {
    let before = holds(server).await.len();
    until("reservations go on", async || holds(server).await.len() > before + 50).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_is_followed_without_a_lost_hold_and_the_old_primary_is_not_used_again() {
    let mut old = TestCluster::new().await;
    let new = old.synchronous_standby().await;
    let database = on(&[&old, &new]);
    database.find_primary().await.unwrap();
    let org = funded(&database, 1_000_000).await;
    let gateway = GatewayId::generate();
    database.renew_lease(gateway, HOUR).await.unwrap();
    let ledger = Ledger::start((*database).clone(), gateway, &lanes(), Duration::from_secs(2), Clock);
    let mut listener = database.listen().await.unwrap();
    let load = Load::on(&ledger, org);
    grows(&old).await;

    old.kill();
    assert!(matches!(
        database.ping().await,
        Err(StoreError::Database(_) | StoreError::Unreachable | StoreError::NoPrimary(_))
    ));
    new.promote().await;
    grows(&new).await;
    until("the pool follows", async || database.ping().await.is_ok()).await;
    assert!(matches!(listener.changed().await, Ok(()) | Err(StoreError::Unreachable)));
    until("changes can be listened for", async || database.listen().await.is_ok()).await;

    // It comes back as if nothing had happened, and takes writes.
    old.restart();
    old.set("synchronous_standby_names", "").await;
    let left = holds(&old).await;
    let newcomer = on(&[&old, &new]);
    newcomer.find_primary().await.unwrap();
    let other = GatewayId::generate();
    newcomer.renew_lease(other, HOUR).await.unwrap();
    let newer = Ledger::start((*newcomer).clone(), other, &lanes(), Duration::from_secs(2), Clock);
    let late = grant(&newer, new_hold(org, 1)).await;
    grows(&new).await;
    assert_eq!(holds(&old).await, left, "nobody writes to the old primary");
    drop(late);

    let acknowledged = load.stop().await;
    ledger.shut_down().await;
    newer.shut_down().await;
    let there = holds(&new).await;
    let lost = acknowledged.iter().filter(|hold| !there.contains(&hold.as_uuid().to_string())).count();
    assert!(acknowledged.len() > 100);
    assert_eq!(lost, 0, "of {} acknowledged holds", acknowledged.len());
    audit(&newcomer).await;
}

/// The primary does not die, it is silent: no error ever tells that it is time to look elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_falls_silent_is_left_for_its_successor() {
    let mut old = TestCluster::new().await;
    let new = old.synchronous_standby().await;
    let database = on(&[&old, &new]);
    database.find_primary().await.unwrap();
    let org = funded(&database, 1_000).await;
    // No call's own time-out helps.
    let settings = LaneSettings { call_timeout: HOUR, ..lanes() };
    let ledger = Ledger::start((*database).clone(), GatewayId::generate(), &settings, HOUR, Clock);
    let before = grant(&ledger, new_hold(org, 1)).await;
    old.freeze();
    let waiting = tokio::spawn({
        let ledger = ledger.clone();
        async move { grant(&ledger, new_hold(org, 1)).await }
    });
    new.promote().await;
    // With a pool whose connections all hang.
    until("the pool follows", async || database.balance(org).await.is_ok()).await;
    let mut during = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap();
    during.step(run(during.id())).await.unwrap();
    during.step(settle(1)).await.unwrap();
    drop(before);
    ledger.shut_down().await;
    assert_eq!(money(&database, org).await, [999, 0, 1]);
    audit(&database).await;
}

fn config(servers: &[&TestCluster], simulator: SocketAddr) -> String {
    let urls: Vec<String> = servers.iter().map(|server| format!("\"{}\"", server.url())).collect();
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[database]\nurls = [{}]\n\
         [upstream.kling_3]\nbase_url = \"http://{simulator}\"\nmaster_key = \"{MASTER_KEY}\"\n\
         [ledger]\nreserve_timeout_ms = 1000\n[limits]\norg_create_per_minute = 0\n",
        urls.join(", ")
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_goes_on_after_a_failover_without_a_restart() {
    let mut old = TestCluster::new().await;
    let new = old.synchronous_standby().await;
    let here = SocketAddr::from(([127, 0, 0, 1], 0));
    let simulator = Simulator::bind(here, SimulatorConfig::default()).await.unwrap();
    let vendor = simulator.local_addr();
    let stop = CancellationToken::new();
    let simulating = tokio::spawn(simulator.run(stop.clone().cancelled_owned()));

    // A standby alone is no place for a ledger, and it says so.
    let scratch = Scratch::new();
    let lone = scratch.file("lone.toml", &config(&[&new], vendor));
    let said = run_tollgate(&["serve", "--config", &lone]).await;
    assert_eq!(said.code, 3);
    assert!(said.err.contains("is a standby: it takes no writes"), "{}", said.err);

    // The standby first: the order means nothing.
    let file = scratch.file("gateway.toml", &config(&[&new, &old], vendor));
    let database = on(&[&new, &old]);
    database.find_primary().await.unwrap();
    let org = funded(&database, 100_000).await;
    let user = database.add_user(org, &user_named("a user")).await.unwrap();
    let spec = KeySpec { name: "a key".into(), env: "test".into(), ..KeySpec::default() };
    let (_, key) = database.create_key(org, user, &spec).await.unwrap();
    let mut gateway = Process::start(&["serve", "--config", &file]);
    let serving = gateway.event("serving").await;
    let address = |what: &str| serving[what].as_str().unwrap().to_owned();
    let client = http::client();
    let create = async |prompt: &str| {
        let call = client.post(format!("{}/api/generate", address("data"))).bearer_auth(key.expose());
        call.body(body(prompt).to_string()).send().await.unwrap()
    };
    let ready = async || {
        let answer = client.get(format!("{}/readyz", address("operations"))).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    assert_eq!(create("before").await.status(), 200);

    old.kill();
    until("it says that no server takes writes", async || {
        let (status, said) = ready().await;
        status == 503 && said["database"].as_str().unwrap().contains("is a standby: it takes no writes")
    })
    .await;
    let refused = create("between").await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    new.promote().await;
    until("it is ready", async || ready().await.0 == 200).await;
    until("creates are accepted", async || create("after").await.status() == 200).await;

    let said = run_tollgate(&["audit", "--config", &file]).await;
    assert_eq!(said.code, 0, "{said:?}");
    gateway.terminate();
    assert_eq!(gateway.ended().await, 0);
    stop.cancel();
    simulating.await.unwrap().unwrap();
}
