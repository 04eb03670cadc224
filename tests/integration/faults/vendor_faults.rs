//! The vendor does everything wrong that its simulator knows, at random.

use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::support::database::{TestDatabase, until};
use crate::support::faults::fleet::{Fleet, Spec};
use crate::support::faults::load::Plan;
use crate::support::faults::scaled;
use crate::support::faults::table::{Row, report};

/// An id that the vendor shows again and again.
const SAME_ID: &str = "n75alwaysthesamekling3";

fn same_id() -> Value {
    json!({"kind": "task_id", "value": SAME_ID})
}

/// Answers to a create that leave open whether it was taken: it may have been. (Not among them: an id that looks good and is
/// none. Its task runs until its greatest age, which is hours.)
fn open_ended() -> Vec<Value> {
    let mut faults = vec![
        json!({"kind": "cut_before"}),
        json!({"kind": "cut_after"}),
        json!({"kind": "cut_after", "partial": true}),
        json!({"kind": "truncated"}),
        json!({"kind": "no_task_id"}),
        json!({"kind": "task_id", "value": ""}),
        same_id(),
    ];
    for accept in [false, true] {
        faults.extend([
            json!({"kind": "hang", "accept": accept}),
            json!({"kind": "delay", "ms": 2000, "accept": accept}),
            json!({"kind": "html", "accept": accept}),
            json!({"kind": "garbage", "accept": accept}),
            json!({"kind": "http_error", "status": 408, "accept": accept}),
            json!({"kind": "http_error", "status": 502, "envelope": false, "accept": accept}),
            json!({"kind": "http_error", "status": 504, "envelope": false, "accept": accept}),
            // Refusals of the kind that is listed as a possible loss.
            json!({"kind": "http_error", "status": 500, "accept": accept}),
            json!({"kind": "body_code", "code": 500, "accept": accept}),
        ]);
    }
    faults
}

/// Answers to a create that settle whether it was taken. (A vendor that takes a task and says the contrary in so many
/// words would be lying about money; no books of ours could show that.)
fn definite() -> Vec<Value> {
    let mut faults = vec![
        json!({"kind": "delay", "ms": 300}),
        json!({"kind": "redirect", "location": "http://127.0.0.1:9/"}),
        json!({"kind": "http_error", "status": 429, "retry_after": 1}),
        json!({"kind": "http_error", "status": 400, "envelope": false}),
        json!({"kind": "body_code", "code": 402}),
        json!({"kind": "body_code", "code": 429}),
        json!({"kind": "huge", "bytes": 200_000}),
        json!({"kind": "slow_drip", "ms_per_byte": 2}),
        json!({"kind": "create_status", "status": "SUCCESS"}),
        json!({"kind": "create_status", "status": "FAILED"}),
        json!({"kind": "outcome", "status": "FAILED", "consumed": 0}),
        json!({"kind": "outcome", "status": "FAILED", "consumed": 7}),
        json!({"kind": "outcome", "status": "SUCCESS", "consumed": 0}),
        json!({"kind": "outcome", "status": "SUCCESS", "consumed": 123}),
        json!({"kind": "outcome", "status": "SUCCESS", "consumed": 777}),
        json!({"kind": "consumed"}),
        json!({"kind": "status_word", "value": "QUEUED"}),
        json!({"kind": "task_ms", "ms": 0}),
        json!({"kind": "task_ms", "ms": 1500}),
    ];
    for value in [json!(null), json!(-1), json!(0.5), json!("much"), json!(1e300), json!([])] {
        faults.push(json!({"kind": "consumed", "value": value}));
    }
    for status in [400, 401, 402, 403, 404, 413, 422, 429] {
        faults.push(json!({"kind": "http_error", "status": status}));
    }
    for shape in ["list", "string", "object", "null", "missing"] {
        faults.push(json!({"kind": "response_shape", "value": shape}));
    }
    faults
}

/// Answers to a poll.
fn on_status() -> Vec<Value> {
    let mut faults = vec![
        json!({"kind": "delay", "ms": 300}),
        json!({"kind": "hang"}),
        json!({"kind": "cut_before"}),
        json!({"kind": "cut_after", "partial": true}),
        json!({"kind": "http_error", "status": 502, "envelope": false}),
        json!({"kind": "body_code", "code": 500}),
        json!({"kind": "html"}),
        json!({"kind": "garbage"}),
        json!({"kind": "redirect", "location": "http://127.0.0.1:9/"}),
        json!({"kind": "truncated"}),
        json!({"kind": "huge", "bytes": 200_000}),
        json!({"kind": "slow_drip", "ms_per_byte": 1}),
        json!({"kind": "no_task_id"}),
        json!({"kind": "task_id", "value": "n75anotherkling3"}),
        json!({"kind": "response_shape", "value": "object"}),
        json!({"kind": "status_word", "value": "THINKING"}),
        json!({"kind": "forget"}),
    ];
    for status in [400, 401, 402, 404, 429, 500] {
        faults.push(json!({"kind": "http_error", "status": status}));
    }
    faults
}

/// A script in which every fault has its chance, some more than others.
fn mix(seed: u64) -> Value {
    let mut random = StdRng::seed_from_u64(seed);
    let mut rules = Vec::new();
    for (on, faults) in [("create", open_ended()), ("create", definite()), ("status", on_status())] {
        for fault in faults {
            let probability = random.random_range(0.002..0.02);
            rules.push(json!({"on": on, "probability": probability, "fault": fault}));
        }
    }
    Value::Array(rules)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_vendor_does_its_books_and_ours_agree() {
    let seed = std::env::var("TOLLGATE_FAULTS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| rand::rng().random());
    let db = TestDatabase::new().await;
    let all = vec![
        ("TOLLGATE_SERVER__CREATE_DEADLINE_MS", "1500".to_owned()),
        ("TOLLGATE_UPSTREAM__KLING_3__CREATE_TIMEOUT_MS", "4000".to_owned()),
        ("TOLLGATE_UPSTREAM__KLING_3__STATUS_TIMEOUT_MS", "1000".to_owned()),
    ];
    let fleet = Fleet::start(Spec { all, ..Spec::on(db.url()) }).await;
    // The vendor gives this id to a task whose customer is told of it: else it may come to be known by a later answer that names it
    // for another task, and no books of ours could show that.
    fleet.vendor.script(json!([{"on": "create", "fault": same_id()}])).await;
    assert_eq!(fleet.customers.judged(0, 0).await.task_id(), SAME_ID);
    fleet.vendor.script(mix(seed)).await;
    let creates = scaled(500, 20_000);
    let load = fleet.load(Plan { rate: scaled(80, 200), keyed: 4, again: true });
    let enough = async || fleet.customers.log.lock().unwrap().len() >= creates;
    // The long form takes longer than a test's patience.
    for part in 1..=scaled(1, 10) {
        let wanted = creates * part / scaled(1, 10);
        until("there are enough creates", async || fleet.customers.log.lock().unwrap().len() >= wanted).await;
    }
    assert!(enough().await);
    load.stop().await;
    let last = Instant::now();
    let verdict = fleet.conclude(last).await;
    report(&Row {
        fault: format!("every fault of the vendor, mixed (seed {seed})"),
        tried: verdict.creates,
        verdict: verdict.clone(),
        served: None,
    });
    verdict.must_be_clean();
    assert!(verdict.in_doubt > 0, "the vendor behaved");
}
