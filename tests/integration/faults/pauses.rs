//! A gateway stops for longer than its lease, and goes on as if nothing had happened.

use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::database::{TestDatabase, until};
use crate::support::faults::fleet::{Fleet, Spec};
use crate::support::faults::load::Reply;
use crate::support::faults::scaled;
use crate::support::faults::table::{Row, report, skipped};
use crate::support::network::{Network, Weather};

/// Where it stops: when the create's own task begins, and at the last instant before the first byte.
const STEPS: &[&str] = &["create.held", "create.before_send"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_wakes_up_after_its_lease_does_not_send() {
    if !cfg!(debug_assertions) {
        return skipped("named steps", "a release build has no fail points");
    }
    let db = TestDatabase::new().await;
    let armed = |step: &&str| vec![("TOLLGATE_FAIL_POINT", format!("{step}=stop"))];
    let each = STEPS.iter().map(armed).enumerate().collect();
    let gateways = STEPS.len() + 1;
    let mut fleet = Fleet::start(Spec { gateways, each, ..Spec::on(db.url()) }).await;
    let rounds = scaled(1, 5);
    let mut last = Instant::now();
    for round in 0..rounds {
        for (gateway, step) in STEPS.iter().enumerate() {
            if round > 0 {
                fleet.kill(gateway).await;
                fleet.launch_as(gateway, &armed(step)).await;
            }
        }
        let mut creates = Vec::new();
        for gateway in 0..STEPS.len() {
            let create = fleet.customers.draft(gateway);
            let (mut sent, customers) = (create.clone(), fleet.customers.clone());
            let sending = tokio::spawn(async move {
                let reply = customers.send(&mut sent, gateway).await;
                customers.note(sent);
                reply
            });
            creates.push((create, sending));
        }
        for gateway in 0..STEPS.len() {
            until("it has stopped", async || fleet.is_stopped(gateway)).await;
        }
        for (create, _) in &creates {
            fleet.until_state(create, "IN_DOUBT").await;
        }
        last = Instant::now();
        for (gateway, (create, sending)) in creates.into_iter().enumerate() {
            fleet.signal(gateway, Signal::SIGCONT);
            let reply = sending.await.unwrap();
            let step = STEPS[gateway];
            assert!(matches!(reply, Reply::Refused { status: 503, .. }), "{step}: {reply:?}");
            assert_eq!(fleet.vendor.task_of(&create.prompt).await.map(|task| task.task_id), None, "{step}");
            fleet.until_state(&create, "RELEASED").await;
        }
    }
    let served = fleet.until_serving().await;
    let verdict = fleet.conclude(last).await;
    let (fault, tried) = ("gateway stopped past its lease before sending".into(), rounds * STEPS.len());
    report(&Row { fault, tried, verdict: verdict.clone(), served: Some(served) });
    verdict.must_be_clean();
}

/// Taken for dead while its database was away, it has recorded its task by the time the other gateway acts on what it
/// has read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_recorded_before_the_take_over_is_not_put_in_doubt() {
    if !cfg!(debug_assertions) {
        return skipped("named steps", "a release build has no fail points");
    }
    let db = TestDatabase::new().await;
    let own = Network::to(db.url()).await;
    let each = vec![
        (0, vec![("TOLLGATE_DATABASE__URLS", format!("[{:?}]", own.url()))]),
        (1, vec![("TOLLGATE_FAIL_POINT", "sweep.before=stop".to_owned())]),
    ];
    let spec = Spec { gateways: 2, each, ..Spec::on(db.url()) };
    let fleet = Fleet::start(spec).await;
    let slow =
        [json!({"kind": "delay", "ms": 1000, "accept": true}), json!({"kind": "task_ms", "ms": 12_000})];
    fleet.vendor.script(json!([{"on": "create", "times": 1, "fault": slow}])).await;
    let create = fleet.customers.draft(0);
    let sending = {
        let (mut create, customers) = (create.clone(), fleet.customers.clone());
        tokio::spawn(async move {
            customers.send(&mut create, 0).await;
            customers.note(create);
        })
    };
    until("the vendor has it", async || fleet.vendor.task_of(&create.prompt).await.is_some()).await;
    own.set(Weather::CUT);
    until("the other one has read whose holds to take over", async || fleet.is_stopped(1)).await;
    own.set(Weather::CLEAR);
    fleet.until_state(&create, "RUNNING").await;
    let last = Instant::now();
    fleet.signal(1, Signal::SIGCONT);
    sending.await.unwrap();
    fleet.until_serving().await;
    let holds = fleet.holds_of(&create).await;
    assert_ne!(holds[0].state, "IN_DOUBT", "a recorded task is in doubt: {holds:?}");
    fleet.conclude(last).await.must_be_clean();
}
