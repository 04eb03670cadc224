//! Gateways whose clocks are wrong.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::database::{TestDatabase, until};
use crate::support::faults::fleet::{Environment, Fleet, Spec};
use crate::support::faults::load::Plan;
use crate::support::faults::scaled;
use crate::support::faults::table::{Row, report, skipped};

/// Where Debian's package `libfaketime` has its library, which shifts the wall clock of a process.
fn faketime() -> Option<PathBuf> {
    let places = fs::read_dir("/usr/lib").ok()?.flatten();
    let mut libraries = places.map(|place| place.path().join("faketime/libfaketime.so.1"));
    libraries.find(|library| library.exists())
}

/// What matters is told by the database's clock and by monotonic ones: no lease, hold or task of anybody ends early
/// because one gateway is ahead of the others and one behind them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_ten_minutes_off_end_nothing_early_and_nothing_twice() {
    let Some(library) = faketime() else {
        return skipped("wrong clocks", "libfaketime is not installed");
    };
    let db = TestDatabase::new().await;
    let shifted = |shift: &str| -> Environment {
        vec![
            ("LD_PRELOAD", library.to_str().unwrap().to_owned()),
            ("FAKETIME", shift.to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    };
    // Long enough for a busy machine, short enough to wait for.
    let all = vec![("TOLLGATE_LEDGER__LEASE_MS", "5000".to_owned())];
    let each = vec![(0, shifted("+600s")), (1, shifted("-600s"))];
    let mut fleet =
        Fleet::start(Spec { all, each, task_time: Duration::from_secs(1), ..Spec::on(db.url()) }).await;
    let started = |gateway| {
        let log = fleet.log(gateway);
        log.split('"').find(|word| word.starts_with("20")).unwrap().to_owned()
    };
    assert!(started(1) < started(2) && started(2) < started(0), "the clocks are not wrong");
    let load = fleet.load(Plan { rate: scaled(40, 200), keyed: 4, again: true });
    let creates = scaled(100, 4000);
    until("there are enough creates", async || fleet.customers.log.lock().unwrap().len() >= creates).await;
    load.stop().await;
    // Nobody has died, so nobody may have been taken for dead.
    assert!(fleet.holds().await.iter().all(|hold| hold.state != "IN_DOUBT"), "taken over from the living");
    // One that dies is taken over from all the same.
    let last = Instant::now();
    fleet.kill(2).await;
    let verdict = fleet.conclude(last).await;
    let fault = "clocks of two gateways 10 minutes off, either way".into();
    report(&Row { fault, tried: 1, verdict: verdict.clone(), served: None });
    verdict.must_be_clean();
}
