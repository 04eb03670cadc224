//! One idempotency key, many callers, dying gateways: one task.

use std::time::Instant;

use futures_util::future::join_all;
use serde_json::json;

use crate::support::database::{TestDatabase, until};
use crate::support::faults::fleet::{Fleet, Spec};
use crate::support::faults::load::Reply;
use crate::support::faults::scaled;
use crate::support::faults::table::{Row, report};

const IN_PROGRESS: u16 = 409;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_callers_with_one_key_get_one_task() {
    let db = TestDatabase::new().await;
    let fleet = Fleet::start(Spec::on(db.url()).patient()).await;
    let rounds = scaled(4, 40);
    for round in 0..rounds {
        let mut create = fleet.customers.draft(round % 20);
        create.key = Some(format!("shared-{round}"));
        let calls = (0..50).map(|caller| {
            let (mut create, customers) = (create.clone(), &fleet.customers);
            async move {
                customers.send(&mut create, caller % 3).await;
                create.attempts
            }
        });
        create.attempts = join_all(calls).await.concat();
        let replies = create.attempts.iter().map(|attempt| &attempt.reply);
        let (accepted, rest): (Vec<_>, Vec<_>) =
            replies.partition(|reply| matches!(reply, Reply::Accepted(_)));
        assert!(!accepted.is_empty() && accepted.iter().all(|reply| *reply == accepted[0]), "{accepted:?}");
        // A gateway that the machine gives no time says so, and has done nothing.
        let waits = |reply: &&Reply| matches!(reply, Reply::Refused { status: IN_PROGRESS | 503, .. });
        assert!(rest.iter().all(waits), "{rest:?}");
        fleet.customers.note(create);
    }
    let verdict = fleet.conclude(Instant::now()).await;
    let fault = "one idempotency key from 50 callers at once".into();
    report(&Row { fault, tried: rounds, verdict: verdict.clone(), served: None });
    verdict.must_be_clean();
}

/// The vendor has taken the task, the gateway dies before it hears of it; its customer asks another gateway with the
/// same key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_survives_its_gateway() {
    let db = TestDatabase::new().await;
    let mut fleet = Fleet::start(Spec::on(db.url())).await;
    let rounds = scaled(1, 10);
    let mut last = Instant::now();
    for round in 0..rounds {
        fleet.vendor.script(json!([{"on": "create", "fault": {"kind": "hang", "accept": true}}])).await;
        let mut create = fleet.customers.draft(5);
        create.key = Some(format!("surviving-{round}"));
        let sending = {
            let (mut create, customers) = (create.clone(), fleet.customers.clone());
            tokio::spawn(async move {
                customers.send(&mut create, 0).await;
                create
            })
        };
        until("the vendor has it", async || fleet.vendor.task_of(&create.prompt).await.is_some()).await;
        last = Instant::now();
        fleet.kill(0).await;
        let mut create = sending.await.unwrap();
        assert_eq!(create.attempts[0].reply, Reply::NoAnswer);
        fleet.vendor.behave().await;
        let mut first = None;
        until("the key's task is in doubt", async || {
            let reply = fleet.customers.send(&mut create, 1).await;
            let waits = matches!(reply, Reply::Refused { status: IN_PROGRESS, .. });
            first = Some(reply);
            !waits
        })
        .await;
        assert!(matches!(first, Some(Reply::Unknown(_))), "{first:?}");
        fleet.launch_again(0).await;
        for gateway in 0..3 {
            assert_eq!(
                Some(fleet.customers.send(&mut create, gateway).await),
                first,
                "told otherwise elsewhere"
            );
        }
        fleet.customers.note(create);
    }
    let verdict = fleet.conclude(last).await;
    let fault = "gateway killed after the vendor took a task, same key elsewhere".into();
    report(&Row { fault, tried: rounds, verdict: verdict.clone(), served: None });
    verdict.must_be_clean();
    assert!(verdict.in_doubt >= rounds, "{}", verdict.in_doubt);
}
