//! Gateways die at random instants.

use std::time::{Duration, Instant};

use rand::RngExt;

use crate::support::database::TestDatabase;
use crate::support::faults::fleet::{Fleet, Spec};
use crate::support::faults::load::Plan;
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
