//! Gateways die at random instants.

use std::time::{Duration, Instant};

use rand::RngExt;
use serde_json::json;

use crate::support::database::TestDatabase;
use crate::support::faults::fleet::{Fleet, Spec};
use crate::support::faults::habits::VENDOR_TAKES;
use crate::support::faults::load::{Create, Plan, Reply};
use crate::support::faults::scaled;
use crate::support::faults::table::{Row, report};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_killed_at_any_instant_loses_nothing() {
    let db = TestDatabase::new().await;
    let mut fleet = Fleet::start(Spec::on(db.url())).await;
    let load = fleet.load(Plan { rate: scaled(40, 200), keyed: 4, again: true });
    let kills = scaled(6, 50);
    let mut last = Instant::now();
    let mut served = Duration::ZERO;
    for _ in 0..kills {
        // The instant is random: that is the fault.
        tokio::time::sleep(Duration::from_millis(rand::rng().random_range(100..700))).await;
        let victim = rand::rng().random_range(0..3);
        last = Instant::now();
        fleet.kill(victim).await;
        fleet.launch_again(victim).await;
        served = served.max(last.elapsed());
    }
    fleet.until_busy(50).await;
    load.stop().await;
    fleet.until_serving().await;
    let verdict = fleet.conclude(last).await;
    report(&Row {
        fault: "gateway killed at a random instant".into(),
        tried: kills,
        verdict: verdict.clone(),
        served: Some(served),
    });
    verdict.must_be_clean();
}

/// The same to customers with the habits of real clients, each of whom wants one task: nobody buys two, and nobody loses a credit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_tries_again_by_habit_while_gateways_are_killed_buys_nothing_twice() {
    let db = TestDatabase::new().await;
    let mut fleet = Fleet::start(Spec::on(db.url())).await;
    let slow = json!({"kind": "delay", "ms": VENDOR_TAKES.as_millis() as u64, "accept": true});
    fleet.vendor.script(json!([{"on": "create", "fault": slow}])).await;
    let load = fleet.customers.start_with_habits(scaled(15, 60));
    let kills = scaled(6, 60);
    let mut last = Instant::now();
    for _ in 0..kills {
        // The instant is random: that is the fault.
        tokio::time::sleep(Duration::from_millis(rand::rng().random_range(200..1500))).await;
        let victim = rand::rng().random_range(0..3);
        last = Instant::now();
        fleet.kill(victim).await;
        fleet.launch_again(victim).await;
    }
    fleet.until_busy(scaled(20, 200)).await;
    load.stop().await;
    fleet.vendor.behave().await;
    fleet.until_serving().await;
    let (repeated, given_up) = {
        let log = fleet.customers.log.lock().unwrap();
        let unanswered =
            |create: &&Create| create.attempts.iter().all(|attempt| attempt.reply == Reply::NoAnswer);
        (log.iter().filter(|create| create.attempts.len() > 1).count(), log.iter().filter(unanswered).count())
    };
    assert!(repeated > scaled(20, 200) && given_up > 0, "{repeated} {given_up}");
    let verdict = fleet.conclude(last).await;
    let fault = "gateway killed at a random instant, clients try again by habit".into();
    report(&Row { fault, tried: kills, verdict: verdict.clone(), served: None });
    verdict.must_be_clean();
}
