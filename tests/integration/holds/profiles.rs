//! The ledger's two profiles share a ledger, and both keep what they acknowledged through a crash of the database. That
//! the crash test would see a loss is shown by taking the barrier away.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tollgate::clock::Clock;
use tollgate::config::Profile;
use tollgate::ids::{GatewayId, HoldId, OrgId};
use tollgate::secret::Secret;
use tollgate::store::{Database, LaneSettings, Ledger, NewHold, Verdict};

use crate::support::cluster::TestCluster;
use crate::support::database::{TestDatabase, until};
use crate::support::fixture::{HOUR, credits, funded, ledger_with, money, new_hold, run, settle, with_key};
use crate::support::seed::{TOP_UP, acting, org_named};

/// So often a control may fail to see what it must.
const MOST_TRIES: usize = 20;

fn settings(profile: Profile) -> LaneSettings {
    LaneSettings { lanes: 1, profile, ..LaneSettings::default() }
}

/// The profile is a gateway's own affair: the books are the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_of_both_profiles_share_a_ledger() {
    let db = TestDatabase::new().await;
    let ledgers = [
        ledger_with(&db, settings(Profile::Plain)).await,
        ledger_with(&db, settings(Profile::TwoCommit)).await,
    ];
    let org = funded(&db, 137).await;
    let key = with_key(org, 1, "a key");
    let mut callers = JoinSet::new();
    for n in 0..400 {
        let (ledger, key) = (ledgers[n % 2].clone(), key.clone());
        callers.spawn(async move {
            // Every fourth says it is the same call as all the others with that key.
            let new = if n % 4 < 2 { with_key(org, 1, "a key") } else { new_hold(org, 1) };
            let new = if n < 2 { key } else { new };
            match ledger.reserve(new).await.unwrap() {
                Verdict::Granted(mut guard) => {
                    guard.step(run(guard.id())).await.unwrap();
                    guard.step(settle(1)).await.unwrap();
                    1
                }
                Verdict::KeyTaken | Verdict::Insufficient { .. } | Verdict::Ended => 0,
                other => panic!("{other:?}"),
            }
        });
    }
    let granted: i64 = callers.join_all().await.into_iter().sum();
    assert_eq!((granted, money(db.database(), org).await), (137, [0, 0, 137]));
}

/// A repeated call answers from rows that may not be durable yet, so it must pass the second commit as well. A refusal
/// for want of credits rests on nothing, and writes nothing.
#[tokio::test]
async fn whatever_rests_on_a_row_passes_the_second_commit() {
    let server = TestCluster::new().await;
    server.set("autovacuum", "off").await;
    let database = server.database();
    let org = database.add_org(&org_named("a customer")).await.unwrap();
    database.grant(org, credits(10), None, TOP_UP, None).await.unwrap();
    for (profile, commits) in [(Profile::Plain, 1), (Profile::TwoCommit, 2)] {
        let ledger =
            Ledger::start((*database).clone(), GatewayId::generate(), &settings(profile), HOUR, Clock);
        // How many transactions wrote something: each takes one id.
        let written = async |verdict: &str, new: NewHold| {
            let next = "select pg_snapshot_xmax(pg_current_snapshot())::text";
            let before: u64 = server.run(next).await.unwrap().parse().unwrap();
            let answer = ledger.reserve(new).await.unwrap();
            assert!(format!("{answer:?}").starts_with(verdict), "{answer:?}");
            if let Verdict::Granted(guard) = answer {
                std::mem::forget(guard);
            }
            server.run(next).await.unwrap().parse::<u64>().unwrap() - before
        };
        let key = format!("{profile:?}");
        assert_eq!(written("Insufficient", new_hold(org, 11)).await, 0, "{profile:?}");
        assert_eq!(written("Granted", with_key(org, 1, &key)).await, commits, "{profile:?}");
        assert_eq!(written("KeyTaken", with_key(org, 1, &key)).await, commits, "{profile:?}");
    }
}

/// Reserves on `ledger` until told to stop; tells what was granted.
async fn reserve(ledger: Ledger, org: OrgId, stop: Arc<AtomicBool>, count: Arc<AtomicUsize>) -> Vec<HoldId> {
    let mut acknowledged = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if let Ok(Verdict::Granted(guard)) = ledger.reserve(new_hold(org, 1)).await {
            acknowledged.push(guard.id());
            count.fetch_add(1, Ordering::Relaxed);
            std::mem::forget(guard);
        }
    }
    acknowledged
}

/// How many holds were acknowledged while the server was killed, and how many of these are gone.
async fn lost_in_a_crash(server: &mut TestCluster, url: &str, profile: Profile) -> (usize, usize) {
    let database = acting(&Database::connect(&Secret::new(url), 2, Duration::from_secs(30)).unwrap());
    let org = database.add_org(&org_named(&HoldId::generate().to_string())).await.unwrap();
    database.grant(org, credits(1 << 40), None, TOP_UP, None).await.unwrap();
    let ledger = Ledger::start((*database).clone(), GatewayId::generate(), &settings(profile), HOUR, Clock);
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for _ in 0..16 {
        callers.spawn(reserve(ledger.clone(), org, stop.clone(), count.clone()));
    }
    until("there is load", async || count.load(Ordering::Relaxed) > 300).await;
    server.kill();
    stop.store(true, Ordering::Relaxed);
    server.restart();
    // Whoever still waited when the server died is answered by the next one.
    let acknowledged = callers.join_all().await.concat();
    ledger.shut_down().await;
    let there = format!(
        "select coalesce(string_agg(hold_id::text, ','), '') from task where org_id = '{}'",
        org.as_uuid()
    );
    let there = server.run(&there).await.unwrap();
    let there: BTreeSet<&str> = there.split(',').collect();
    let lost = acknowledged.iter().filter(|hold| !there.contains(&*hold.as_uuid().to_string())).count();
    let report = server.database().audit().await.unwrap();
    assert!(report.breaches.is_empty(), "{:#?}", report.breaches);
    (acknowledged.len(), lost)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_hold_is_lost_when_the_server_is_killed_but_for_the_barrier() {
    let mut server = TestCluster::new().await;
    // Only whoever waits for the disk writes to it now.
    server.set("wal_writer_delay", "10s").await;
    let url = server.url();
    let mut acknowledged = 0;
    for profile in [Profile::Plain, Profile::TwoCommit, Profile::Plain, Profile::TwoCommit] {
        let (granted, lost) = lost_in_a_crash(&mut server, &url, profile).await;
        assert_eq!(lost, 0, "{profile:?}: of {granted} holds");
        acknowledged += granted;
    }
    assert!(acknowledged > 1200);
    // The control: a connection that is told not to wait for the disk. What it has acknowledged may have got there all the
    // same, on a busy machine: then the server is killed again.
    let careless = format!("{url}&options=-c%20synchronous_commit%3Doff");
    for profile in [Profile::Plain, Profile::TwoCommit] {
        let mut tries = 0;
        while lost_in_a_crash(&mut server, &careless, profile).await.1 == 0 {
            tries += 1;
            assert!(tries < MOST_TRIES, "{profile:?}: nothing is ever lost");
        }
    }
}
