//! A gateway breaks at each named step of a task's life (`tollgate::fail_point`), and the state the contract names is
//! what is left.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use crate::support::database::{TestDatabase, until};
use crate::support::faults::fleet::{Fleet, Spec};
use crate::support::faults::load::{Create, Reply};
use crate::support::faults::scaled;
use crate::support::faults::table::{Row, report, skipped};
use crate::support::network::{Flow, Network, Weather};

/// What is left of a create whose gateway died at a step.
struct Left {
    step: &'static str,
    /// Whether the vendor has the task; nothing if both may be.
    sent: Option<bool>,
    /// The state of its hold in the end; nothing if there is no hold.
    state: Option<&'static str>,
}

const fn left(step: &'static str, sent: Option<bool>, state: Option<&'static str>) -> Left {
    Left { step, sent, state }
}

/// Steps before the customer has an answer.
const CREATE_STEPS: &[Left] = &[
    left("reserve.before", Some(false), None),
    left("reserve.committed", Some(false), Some("IN_DOUBT")),
    left("create.held", Some(false), Some("IN_DOUBT")),
    left("create.before_send", Some(false), Some("IN_DOUBT")),
    left("create.sent", None, Some("IN_DOUBT")),
    left("create.head", Some(true), Some("IN_DOUBT")),
    left("create.answered", Some(true), Some("IN_DOUBT")),
    left("record.committed", Some(true), Some("SETTLED")),
];

/// Steps after it.
const POLL_STEPS: &[&str] = &["poll.before", "poll.answered", "settle.committed"];

fn armed(step: &str, action: &str) -> Vec<(&'static str, String)> {
    vec![("TOLLGATE_FAIL_POINT", format!("{step}={action}"))]
}

/// One gateway for each step, and one that lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_killed_before_its_answer_leaves_what_the_contract_names() {
    if !cfg!(debug_assertions) {
        return skipped("named steps", "a release build has no fail points");
    }
    let db = TestDatabase::new().await;
    let steps = CREATE_STEPS.len();
    let each = CREATE_STEPS.iter().map(|left| armed(left.step, "kill")).enumerate().collect();
    let mut spec = Spec { gateways: steps + 1, each, ..Spec::on(db.url()) };
    // On a busy machine too the one create that meets the step is the one that is looked at, and not one given up before.
    spec.all.push(("TOLLGATE_LEDGER__RESERVE_TIMEOUT_MS", "20000".into()));
    let mut fleet = Fleet::start(spec).await;
    let rounds = scaled(1, 10);
    let mut last = Instant::now();
    for round in 0..rounds {
        for (gateway, left) in CREATE_STEPS.iter().enumerate().filter(|_| round > 0) {
            fleet.launch_as(gateway, &armed(left.step, "kill")).await;
        }
        let creates = join_all((0..steps).map(|gateway| send_in_time(&fleet, gateway))).await;
        last = Instant::now();
        for (gateway, Left { step, .. }) in CREATE_STEPS.iter().enumerate() {
            must_have_died(&mut fleet, gateway, step).await;
        }
        fleet.until_ended().await;
        for (Left { step, sent, state }, create) in CREATE_STEPS.iter().zip(creates) {
            let reply = &create.attempts[0].reply;
            assert_eq!(*reply, Reply::NoAnswer, "{step}");
            let task = fleet.vendor.task_of(&create.prompt).await;
            assert!(sent.is_none_or(|sent| sent == task.is_some()), "{step}: {task:?}");
            let holds = fleet.holds_of(&create).await;
            let states: Vec<&str> = holds.iter().map(|hold| hold.state.as_str()).collect();
            assert_eq!(states, Vec::from_iter(*state), "{step}: {holds:?}");
        }
    }
    let verdict = fleet.conclude(last).await;
    let (fault, tried) = ("gateway killed at each step before its answer".into(), rounds * steps);
    report(&Row { fault, tried, verdict: verdict.clone(), served: None });
    verdict.must_be_clean();
}

async fn must_have_died(fleet: &mut Fleet, gateway: usize, step: &str) {
    let status = fleet.ended(gateway).await;
    assert!(!status.success(), "{step}: ended with {status}");
    assert!(fleet.log(gateway).contains("a fail point is reached"), "{step}: {}", fleet.log(gateway));
}

/// A lone gateway, so that nobody else takes its polls and its sweeps from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_killed_while_it_finishes_tasks_ends_each_once() {
    if !cfg!(debug_assertions) {
        return skipped("named steps", "a release build has no fail points");
    }
    let db = TestDatabase::new().await;
    let mut fleet = Fleet::start(Spec { gateways: 2, ..Spec::on(db.url()) }).await;
    fleet.kill(0).await;
    fleet.kill(1).await;
    let rounds = scaled(1, 10);
    let mut last = Instant::now();
    for _ in 0..rounds {
        for step in POLL_STEPS {
            fleet.launch_as(0, &armed(step, "kill")).await;
            let create = send(&fleet, 0).await;
            assert!(matches!(create.attempts[0].reply, Reply::Accepted(_)), "{step}: {create:?}");
            must_have_died(&mut fleet, 0, step).await;
            fleet.launch_again(0).await;
            fleet.until_ended().await;
            let holds = fleet.holds_of(&create).await;
            assert_eq!(
                (holds.len(), holds[0].state.as_str(), holds[0].consumes),
                (1, "SETTLED", 1),
                "{step}"
            );
            fleet.kill(0).await;
        }
        // One dies with a task the vendor has; the next while it takes it over; the third does.
        fleet.launch_again(1).await;
        fleet.vendor.script(json!([{"on": "create", "fault": {"kind": "hang", "accept": true}}])).await;
        let create = fleet.customers.draft(2);
        let sending = {
            let (mut create, customers) = (create.clone(), fleet.customers.clone());
            tokio::spawn(async move {
                customers.send(&mut create, 1).await;
                customers.note(create);
            })
        };
        until("the vendor has it", async || fleet.vendor.task_of(&create.prompt).await.is_some()).await;
        fleet.launch_as(0, &armed("sweep.before", "kill")).await;
        last = Instant::now();
        fleet.kill(1).await;
        sending.await.unwrap();
        must_have_died(&mut fleet, 0, "sweep.before").await;
        fleet.vendor.behave().await;
        fleet.launch_again(0).await;
        fleet.until_ended().await;
        let holds = fleet.holds_of(&create).await;
        assert_eq!((holds.len(), holds[0].state.as_str(), holds[0].consumes), (1, "IN_DOUBT", 0));
        fleet.kill(0).await;
    }
    fleet.launch_again(0).await;
    let verdict = fleet.conclude(last).await;
    let (fault, tried) =
        ("gateway killed at each step after its answer".into(), rounds * (POLL_STEPS.len() + 1));
    report(&Row { fault, tried, verdict: verdict.clone(), served: None });
    verdict.must_be_clean();
}

/// A create, sent once and written down.
async fn send(fleet: &Fleet, gateway: usize) -> Create {
    let mut create = fleet.customers.draft(gateway);
    fleet.customers.send(&mut create, gateway).await;
    fleet.customers.note(create.clone());
    create
}

/// The same; another one, if a busy machine had no time for it.
async fn send_in_time(fleet: &Fleet, gateway: usize) -> Create {
    let mut last = None;
    until("the gateway has time for a create", async || {
        let create = send(fleet, gateway).await;
        let late = matches!(create.attempts[0].reply, Reply::Refused { status: 503, .. });
        last = Some(create);
        !late
    })
    .await;
    last.unwrap()
}

/// A panic breaks one create, not its gateway.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_a_create_s_own_task_leaves_an_honest_hold() {
    if !cfg!(debug_assertions) {
        return skipped("named steps", "a release build has no fail points");
    }
    let db = TestDatabase::new().await;
    let steps = [("create.held", false, "RELEASED"), ("create.answered", true, "IN_DOUBT")];
    let each = steps.iter().map(|(step, ..)| armed(step, "panic")).enumerate().collect();
    let fleet = Fleet::start(Spec { gateways: steps.len(), each, ..Spec::on(db.url()) }).await;
    let last = Instant::now();
    for (gateway, (step, sent, state)) in steps.into_iter().enumerate() {
        let create = send(&fleet, gateway).await;
        let reply = &create.attempts[0].reply;
        assert!(matches!(reply, Reply::Unknown(_)), "{step}: {reply:?}");
        assert_eq!(fleet.vendor.task_of(&create.prompt).await.is_some(), sent, "{step}");
        fleet.until_state(&create, state).await;
    }
    let served = fleet.until_serving().await;
    let verdict = fleet.conclude(last).await;
    let fault = "panic in a create's own task".into();
    report(&Row { fault, tried: steps.len(), verdict: verdict.clone(), served: Some(served) });
    verdict.must_be_clean();
}

/// The vendor has taken the task, and there is no database to write its id to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_lost_between_acceptance_and_record_gets_the_record_later() {
    let db = TestDatabase::new().await;
    let network = Network::to(db.url()).await;
    // Nobody is taken for dead: a hold that another gateway puts in doubt meanwhile takes longer to end.
    let spec = Spec { gateways: 2, ..Spec::on(db.url()).through(network.url()) };
    let fleet = Fleet::start(spec.patient()).await;
    let rounds = scaled(1, 10);
    let mut last = Instant::now();
    let mut unrecorded = 0;
    while unrecorded < rounds {
        fleet.until_serving().await;
        let slow = json!([{"on": "create", "fault": {"kind": "delay", "ms": 2000, "accept": true}}]);
        fleet.vendor.script(slow).await;
        let creates: Vec<Create> = (0..4).map(|tenant| fleet.customers.draft(tenant)).collect();
        // A connection that the last cut has broken refuses one create more.
        let refused = Arc::new(Mutex::new(HashSet::new()));
        let sending = join_all(creates.iter().cloned().enumerate().map(|(number, mut create)| {
            let (customers, refused) = (fleet.customers.clone(), refused.clone());
            async move {
                customers.send(&mut create, number % 2).await;
                if matches!(create.attempts[0].reply, Reply::Refused { status: 503, .. }) {
                    refused.lock().unwrap().insert(create.prompt.clone());
                }
                create
            }
        }));
        let cutting = async {
            for create in &creates {
                until("the vendor has it, or never gets it", async || {
                    fleet.vendor.task_of(&create.prompt).await.is_some()
                        || refused.lock().unwrap().contains(&create.prompt)
                })
                .await;
            }
            network.set(Weather::CUT);
        };
        let (sent, ()) = tokio::join!(sending, cutting);
        network.set(Weather::CLEAR);
        last = Instant::now();
        let refused = refused.lock().unwrap().clone();
        assert!(refused.len() < sent.len(), "the vendor has at least one");
        for create in sent {
            let reply = &create.attempts[0].reply;
            // On a busy machine the vendor has answered one before it has got the last.
            if !matches!(reply, Reply::Accepted(_)) && !refused.contains(&create.prompt) {
                let Reply::Unknown(hold) = reply else { panic!("{reply:?}") };
                unrecorded += 1;
                let task = fleet.vendor.task_of(&create.prompt).await.unwrap();
                until("task and hold are logged", async || {
                    let logs = [0, 1].map(|gateway| fleet.log(gateway));
                    logs.iter().flat_map(|log| log.lines()).any(|line| {
                        ["not recorded yet", hold, &task.task_id].iter().all(|word| line.contains(*word))
                    })
                })
                .await;
                fleet.until_state(&create, "SETTLED").await;
            }
            fleet.customers.note(create);
        }
        fleet.vendor.behave().await;
    }
    let served = fleet.until_serving().await;
    let verdict = fleet.conclude(last).await;
    let fault = "database lost between acceptance and record".into();
    report(&Row { fault, tried: unrecorded, verdict: verdict.clone(), served: Some(served) });
    verdict.must_be_clean();
}

/// The database grants what the customer has been refused meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reserve_answered_after_the_customer_s_503_is_released() {
    let db = TestDatabase::new().await;
    let network = Network::to(db.url()).await;
    let all = vec![
        ("TOLLGATE_LEDGER__RESERVE_TIMEOUT_MS", "1500".to_owned()),
        ("TOLLGATE_LEDGER__CALL_TIMEOUT_MS", "10000".to_owned()),
        // Meanwhile it is not taken for dead.
        ("TOLLGATE_LEDGER__LEASE_MS", "30000".to_owned()),
    ];
    let fleet = Fleet::start(Spec { gateways: 1, all, ..Spec::on(db.url()).through(network.url()) }).await;
    let rounds = scaled(1, 10);
    let mut last = Instant::now();
    for _ in 0..rounds {
        fleet.until_serving().await;
        // More than a create waits for its reservation, less than the lane waits for the database.
        network.set(Weather { answers: Flow::Delay(Duration::from_millis(1750)), ..Weather::CLEAR });
        let create = send(&fleet, 0).await;
        last = Instant::now();
        network.set(Weather::CLEAR);
        let reply = &create.attempts[0].reply;
        assert!(matches!(reply, Reply::Refused { status: 503, .. }), "{reply:?}");
        fleet.until_state(&create, "RELEASED").await;
        assert!(fleet.vendor.task_of(&create.prompt).await.is_none(), "sent after the 503");
    }
    let served = fleet.until_serving().await;
    let verdict = fleet.conclude(last).await;
    let fault = "reservation granted after the customer's 503".into();
    report(&Row { fault, tried: rounds, verdict: verdict.clone(), served: Some(served) });
    verdict.must_be_clean();
}
