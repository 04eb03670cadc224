//! What a database can do to a gateway without dying for good: refuse, stall, fall silent, restart. Waits are bounded,
//! nothing is granted twice or lost, and everything goes on without a restart of the gateway.

use std::time::Duration;

use futures_util::future::join_all;
use sqlx::{Connection, Executor, PgConnection};
use tollgate::clock::Clock;
use tollgate::ids::{GatewayId, OrgId};
use tollgate::secret::Secret;
use tollgate::store::{Applied, Database, LaneSettings, Ledger, StoreError, Verdict};

use crate::support::cluster::TestCluster;
use crate::support::database::{TestDatabase, alter, until};
use crate::support::fixture::{credits, funded, grant, lanes, money, new_hold, run, settle, with_key};
use crate::support::http;
use crate::support::network::{Flow, Network, Weather};
use crate::support::process::{Process, Scratch};
use crate::support::seed::{TOP_UP, acting, org_named, user_named};

/// For what must take a second or two, on a busy machine.
const GENEROUS: Duration = Duration::from_secs(20);

/// One lane, which loses patience soon.
fn impatient(database: &Database) -> Ledger {
    let settings = LaneSettings { lanes: 1, call_timeout: Duration::from_millis(1000), ..lanes() };
    Ledger::start(database.clone(), GatewayId::generate(), &settings, Duration::from_millis(700), Clock)
}

/// The refusal of a reservation that the database does not take now. It comes in time: that of the ledger is over long
/// before the one that a busy machine gets here.
async fn refused(ledger: &Ledger, org: OrgId) -> StoreError {
    let answer = tokio::time::timeout(GENEROUS, ledger.reserve(new_hold(org, 10))).await;
    answer.unwrap().unwrap_err()
}

async fn until_it_grants(ledger: &Ledger, org: OrgId) {
    until("it grants again", async || {
        matches!(ledger.reserve(new_hold(org, 1)).await, Ok(Verdict::Granted(_)))
    })
    .await;
}

/// Nothing is held, and all of it can be spent.
async fn all_is_there(ledger: &Ledger, database: &Database, org: OrgId, available: i64) {
    until("what came too late is released", async || money(database, org).await == [available, 0, 0]).await;
    drop(grant(ledger, new_hold(org, available)).await);
    ledger.shut_down().await;
    assert_eq!(money(database, org).await, [available, 0, 0]);
}

/// Lets the next so many holds fail with an error of this code.
async fn fail_holds(db: &TestDatabase, code: &str, times: u32) {
    let script = format!(
        "create sequence failures; grant usage on sequence failures to public; create function fail() returns trigger language plpgsql as $$ begin \
         if nextval('failures') <= {times} then raise exception 'on purpose' using errcode = '{code}'; end if; \
         return null; end $$; create trigger fail before insert or update on hold for each statement execute function fail()"
    );
    alter(db.pool(), &script).await;
}

#[tokio::test]
async fn what_was_rolled_back_by_chance_is_tried_again() {
    // Serialization failure, deadlock, disk full, out of memory.
    for code in ["40001", "40P01", "53100", "53200"] {
        let db = TestDatabase::new().await;
        let org = funded(&db, 100).await;
        let settings = LaneSettings { lanes: 1, ..lanes() };
        let ledger = Ledger::start(
            (**db.database()).clone(),
            GatewayId::generate(),
            &settings,
            Duration::from_secs(30),
            Clock,
        );
        fail_holds(&db, code, 3).await;
        let mut guard = grant(&ledger, with_key(org, 10, "a key")).await;
        sqlx::raw_sql("alter sequence failures restart").execute(db.pool()).await.unwrap();
        assert_eq!(guard.step(run(guard.id())).await.unwrap(), Applied::Yes, "{code}");
        assert_eq!(guard.step(settle(10)).await.unwrap(), Applied::Yes, "{code}");
        assert_eq!(money(db.database(), org).await, [90, 0, 10], "{code}");
    }
}

#[tokio::test]
async fn a_full_disk_refuses_in_time_and_leaves_nothing_behind() {
    let db = TestDatabase::new().await;
    let org = funded(&db, 100).await;
    let ledger = impatient(db.database());
    fail_holds(&db, "53100", u32::MAX).await;
    for _ in 0..3 {
        assert!(matches!(refused(&ledger, org).await, StoreError::Timeout));
    }
    alter(db.pool(), "drop trigger fail on hold").await;
    until_it_grants(&ledger, org).await;
    all_is_there(&ledger, db.database(), org, 100).await;
}

#[tokio::test]
async fn a_row_that_somebody_has_locked_is_waited_for_within_bounds() {
    let db = TestDatabase::new().await;
    let (org, other) = (funded(&db, 100).await, funded(&db, 100).await);
    let ledger = impatient(db.database());
    let mut somebody = PgConnection::connect(db.url()).await.unwrap();
    let lock = "begin; select from org_balance for update";
    sqlx::raw_sql(lock).execute(&mut somebody).await.unwrap();
    for org in [org, other] {
        assert!(matches!(refused(&ledger, org).await, StoreError::Timeout));
    }
    sqlx::raw_sql("rollback").execute(&mut somebody).await.unwrap();
    until_it_grants(&ledger, org).await;
    all_is_there(&ledger, db.database(), org, 100).await;
}

/// Somebody has the second row of a batch, and wants the first: a lane that waited for the second would be in a deadlock.
#[tokio::test]
async fn a_lane_waits_for_no_row_while_it_has_another() {
    let db = TestDatabase::new().await;
    let mut orgs = [funded(&db, 100).await, funded(&db, 100).await];
    orgs.sort();
    let [first, second] = orgs;
    let settings = LaneSettings { lanes: 1, ..lanes() };
    let ledger = Ledger::start(
        (**db.database()).clone(),
        GatewayId::generate(),
        &settings,
        Duration::from_secs(30),
        Clock,
    );
    let lock = async |connection: &mut PgConnection, org: OrgId| {
        let lock = sqlx::query("select from org_balance where org_id = $1 for update").bind(org.as_uuid());
        lock.execute(connection).await
    };
    let mut rival = PgConnection::connect(db.url()).await.unwrap();
    rival.execute("begin").await.unwrap();
    // The victim would be the lane.
    rival.execute("set deadlock_timeout = '1min'").await.unwrap();
    lock(&mut rival, second).await.unwrap();
    let reserve = |org| {
        let ledger = ledger.clone();
        tokio::spawn(async move { grant(&ledger, new_hold(org, 10)).await })
    };
    let (granted, waiting) = (reserve(first), reserve(second));
    drop(tokio::time::timeout(GENEROUS, granted).await.unwrap().unwrap());
    lock(&mut rival, first).await.unwrap();
    assert!(!waiting.is_finished());
    rival.execute("rollback").await.unwrap();
    drop(waiting.await.unwrap());
    ledger.shut_down().await;
    let deadlocks =
        "select pg_stat_clear_snapshot(), deadlocks from pg_stat_database where datname = current_database()";
    let row = sqlx::query(deadlocks).fetch_one(db.pool()).await.unwrap();
    assert_eq!(sqlx::Row::get::<i64, _>(&row, 1), 0);
    for org in orgs {
        assert_eq!(money(db.database(), org).await, [100, 0, 0]);
    }
}

#[tokio::test]
async fn a_server_in_read_only_mode_is_named_and_left_alone_until_it_takes_writes() {
    let server = TestCluster::new().await;
    let database = server.database();
    let org = database.add_org(&org_named("a customer")).await.unwrap();
    database.grant(org, credits(100), None, TOP_UP, None).await.unwrap();
    let ledger = impatient(&database);
    drop(grant(&ledger, new_hold(org, 10)).await);
    // Connections that are open stay so, and begin to fail.
    server.set("default_transaction_read_only", "on").await;
    assert!(matches!(refused(&ledger, org).await, StoreError::Timeout));
    match database.ping().await {
        Err(StoreError::NoPrimary(why)) => assert!(why.contains("is in read-only mode"), "{why}"),
        other => panic!("{other:?}"),
    }
    server.run("alter system reset default_transaction_read_only").await;
    server.run("select pg_reload_conf()::text").await;
    until_it_grants(&ledger, org).await;
    database.ping().await.unwrap();
    all_is_there(&ledger, &database, org, 100).await;
}

#[tokio::test]
async fn a_server_without_a_free_connection_is_asked_until_it_has_one() {
    let server = TestCluster::new().await;
    let database = acting(&Database::connect(&server.secret(), 2, Duration::from_millis(500)).unwrap());
    let org = database.add_org(&org_named("a customer")).await.unwrap();
    database.grant(org, credits(100), None, TOP_UP, None).await.unwrap();
    let mut taken = Vec::new();
    let full = loop {
        match PgConnection::connect(&server.url()).await {
            Ok(connection) => taken.push(connection),
            Err(sqlx::Error::Database(error)) => break error.code().unwrap().into_owned(),
            Err(other) => panic!("{other:?}"),
        }
    };
    assert_eq!(full, "53300");
    let ledger = impatient(&database);
    assert!(matches!(refused(&ledger, org).await, StoreError::Timeout));
    let newcomer =
        acting(&Database::connect(&Secret::new(server.url()), 1, Duration::from_millis(300)).unwrap());
    assert!(matches!(newcomer.ping().await, Err(StoreError::Unreachable)));
    drop(taken);
    until_it_grants(&ledger, org).await;
    until("others get in too", async || newcomer.ping().await.is_ok()).await;
    all_is_there(&ledger, &database, org, 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_server_is_got_over() {
    let mut server = TestCluster::new().await;
    let database = server.database();
    let org = database.add_org(&org_named("a customer")).await.unwrap();
    database.grant(org, credits(100), None, TOP_UP, None).await.unwrap();
    let ledger = impatient(&database);
    let mut guard = grant(&ledger, new_hold(org, 10)).await;
    server.kill();
    // Orphaned backends serve on for a moment.
    until("it is away", async || matches!(ledger.reserve(new_hold(org, 1)).await, Err(StoreError::Timeout)))
        .await;
    assert!(matches!(refused(&ledger, org).await, StoreError::Timeout));
    // An end that comes while it is away is kept.
    let ended = guard.queue(run(guard.id()));
    server.restart();
    assert_eq!(ended.await.unwrap().unwrap(), Applied::Yes);
    assert_eq!(guard.step(settle(10)).await.unwrap(), Applied::Yes);
    until_it_grants(&ledger, org).await;
    ledger.shut_down().await;
    assert_eq!(money(&server.database(), org).await, [90, 0, 10]);
}

/// A gateway on a server that falls silent: no error, no end of a connection.
async fn gateway_on(server: &TestCluster) -> (Process, serde_json::Value, String, Scratch) {
    gateway_by(server, &server.url(), IMPATIENT).await
}

/// Time-outs for tests that wait until they are over.
const IMPATIENT: [&str; 2] =
    ["acquire_timeout_ms = 500\n", "[ledger]\nreserve_timeout_ms = 500\ncall_timeout_ms = 1000\n"];

/// The same by another way to the server.
async fn gateway_by(
    server: &TestCluster,
    url: &str,
    [of_database, of_ledger]: [&str; 2],
) -> (Process, serde_json::Value, String, Scratch) {
    let database = server.database();
    let org = database.add_org(&org_named("a customer")).await.unwrap();
    database.grant(org, credits(100_000), None, TOP_UP, None).await.unwrap();
    let user = database.add_user(org, &user_named("a user")).await.unwrap();
    let spec = tollgate::store::KeySpec { name: "a key".into(), env: "test".into(), ..Default::default() };
    let (_, key) = database.create_key(org, user, &spec).await.unwrap();
    let scratch = Scratch::new();
    // Nobody is at the vendor's address: what is sent there is refused, and known not to have been taken.
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nshutdown_grace_ms = 3000\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [database]\nurl = \"{url}\"\n{of_database}[upstream.kling_3]\nbase_url = \"http://{}\"\nmaster_key = \"x\"\n\
         {of_ledger}[limits]\norg_create_per_minute = 0\n",
        crate::support::gateway::closed_port().await
    );
    let mut gateway = Process::start(&["serve", "--config", &scratch.file("gateway.toml", &config)]);
    let serving = gateway.event("serving").await;
    (gateway, serving, key.expose().to_owned(), scratch)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_costs_bounded_waits_and_no_restart() {
    let mut server = TestCluster::new().await;
    let (gateway, serving, key, scratch) = gateway_on(&server).await;
    let client = http::client();
    let create = async || {
        let url = format!("{}/api/generate", serving["data"].as_str().unwrap());
        let call = client.post(url).bearer_auth(&key).body(crate::support::gateway::body("x").to_string());
        let answer = call.timeout(GENEROUS).send().await.unwrap();
        let after = answer.headers().contains_key("retry-after");
        (answer.status().as_u16(), after, answer.json::<serde_json::Value>().await.unwrap()["error"].clone())
    };
    let ready = async || {
        let url = format!("{}/readyz", serving["operations"].as_str().unwrap());
        client.get(url).send().await.unwrap().status().as_u16()
    };
    assert_eq!(create().await, (503, true, "UPSTREAM_UNAVAILABLE".into()), "the vendor was asked");
    server.freeze();
    let mut took = Vec::new();
    for _ in 0..3 {
        let asked = Clock.now();
        assert_eq!(create().await, (503, true, "UNAVAILABLE".into()));
        took.push(Clock.since(asked));
    }
    // The longest time that a statement may take is five seconds. Not each answer is late because of a busy machine.
    assert!(took.iter().any(|took| *took < Duration::from_secs(4)), "{took:?}");
    // Load balancers and orchestrators wait for a second or two.
    let url = format!("{}/readyz", serving["operations"].as_str().unwrap());
    for _ in 0..3 {
        let answer = client.get(&url).timeout(Duration::from_secs(2)).send().await.unwrap();
        let (status, said) = (answer.status(), answer.text().await.unwrap());
        assert!(status == 503 && !said.contains("\"database\":\"ok\""), "{said}");
    }
    let health = scratch.file("health.toml", &{
        let config = std::fs::read_to_string(scratch.0.join("gateway.toml")).unwrap();
        let listen = serving["operations"].as_str().unwrap().strip_prefix("http://").unwrap();
        config.replace("[admin]\nlisten = \"127.0.0.1:0\"", &format!("[admin]\nlisten = \"{listen}\""))
    });
    let said = crate::support::process::run(&["healthcheck", "--ready", "--config", &health]).await;
    assert!(said.code == 1 && said.err.contains("not ready: database: "), "{said:?}");
    assert_eq!(ready().await, 503);
    server.thaw();
    until("it is ready", async || ready().await == 200).await;
    until("the vendor is asked again", async || create().await.2 == "UPSTREAM_UNAVAILABLE").await;
    gateway.terminate();
    assert_eq!(gateway.ended().await, 0);
    let database = server.database();
    assert!(database.audit().await.unwrap().breaches.is_empty());
    assert!(database.open_holds().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_does_not_keep_a_gateway_from_ending() {
    let mut server = TestCluster::new().await;
    let (gateway, serving, key, _scratch) = gateway_on(&server).await;
    let url = format!("{}/api/generate", serving["data"].as_str().unwrap());
    let client = http::client();
    let create =
        || client.post(&url).bearer_auth(&key).body(crate::support::gateway::body("x").to_string()).send();
    create().await.unwrap();
    server.freeze();
    assert_eq!(create().await.unwrap().status(), 503);
    gateway.terminate();
    // The grace period is three seconds.
    tokio::time::timeout(GENEROUS, gateway.ended()).await.unwrap();
}

/// A NAT or a firewall on the way forgets connections that are idle, and tells nobody: a create after silence must not pay for
/// it, neither in the pools nor in the lanes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_the_network_forgets_cost_no_create() {
    let server = TestCluster::new().await;
    let network = Network::to(&server.url()).await;
    let (gateway, serving, key, _scratch) = gateway_by(&server, network.url(), [""; 2]).await;
    let client = http::client();
    let url = format!("{}/api/generate", serving["data"].as_str().unwrap());
    let create = async || {
        let call = client.post(&url).bearer_auth(&key).body(crate::support::gateway::body("x").to_string());
        let answer = call.timeout(GENEROUS).send().await.unwrap();
        answer.json::<serde_json::Value>().await.unwrap()["error"].clone()
    };
    for round in 0..3 {
        // Nobody is at the vendor's address, so a create that the database has taken is this one.
        assert_eq!(create().await, "UPSTREAM_UNAVAILABLE", "round {round}");
        until("the lanes have been idle for a while", async || {
            let idle = "select (count(*) > 0 and bool_and(clock_timestamp() - state_change > interval '1500 ms'))::text \
                        from pg_stat_activity where application_name = 'tollgate-lane'";
            server.run(idle).await.as_deref() == Some("true")
        })
        .await;
        network.forget_connections();
    }
    assert_eq!(create().await, "UPSTREAM_UNAVAILABLE");
    assert!(network.lost() > 0, "nothing was sent on a forgotten connection");
    gateway.terminate();
    assert_eq!(gateway.ended().await, 0);
}

/// Whatever a pool waits for when the network begins to swallow what the server says, the connection's place comes back.
#[tokio::test]
async fn an_answer_that_never_comes_costs_no_place_of_the_pool() {
    let db = TestDatabase::new().await;
    let swallowed_from = async |chunk| {
        let network = Network::to(db.url()).await;
        network.set(Weather { answers: Flow::SwallowFrom(chunk), ..Weather::CLEAR });
        let database = Database::connect(&Secret::new(network.url()), 1, Duration::from_secs(1)).unwrap();
        // The more it says before, the later the connection falls silent: at last after it has come back.
        drop(database.ping().await);
        let swallowed = async || network.lost() > 0;
        let silent = tokio::time::timeout(Duration::from_secs(1), until("it falls silent", swallowed)).await;
        network.set(Weather::CLEAR);
        until(&format!("the pool serves again, silent from chunk {chunk} on"), async || {
            database.ping().await.is_ok()
        })
        .await;
        silent.is_ok()
    };
    let silent = join_all((0..24).map(swallowed_from)).await;
    assert!(silent[0] && !silent[23], "not every instant was tried: {silent:?}");
}
