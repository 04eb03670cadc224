//! Organisations of one gateway that share its lane and its places for polls, while the row of one of them is locked.

use futures_util::future::join_all;
use serde_json::json;

use super::lanes::{lock, unlock, within};
use crate::support::database::until;
use crate::support::gateway::{Answer, TestGateway, body};

/// A gateway with one lane for everybody, and few places for polls.
async fn crowded() -> TestGateway {
    let tune = |config: &mut tollgate::config::Config| {
        config.ledger.lanes = 1;
        config.ledger.reserve_timeout_ms = 2_000;
        config.reconciler.concurrency = 4;
    };
    TestGateway::builder().config(tune).start().await
}

#[tokio::test]
async fn with_a_locked_row_lane_mates_create_poll_and_settle_and_accepted_creates_are_answered() {
    let gateway = crowded().await;
    let other = gateway.another_org("another customer", 1_000_000).await;
    let as_other = async |prompt: &str| {
        let call = gateway.request(reqwest::Method::POST, "/api/generate").bearer_auth(&other.text);
        Answer::to(call.body(body(prompt).to_string())).await
    };
    let slow =
        json!({"on": "create", "match": {"prompt_contains": "slow"}, "fault": {"kind": "delay", "ms": 1500}});
    gateway.script(json!({"rules": [slow]})).await;
    // Tasks of the one that end while its row is locked: more than there are places for polls.
    let tasks = join_all((0..12).map(|_| gateway.task("soon"))).await;
    let slow = body("slow");
    let creating = gateway.create(&slow);
    let locking = async {
        until("the create is on its way", async || {
            gateway.holds().await.iter().filter(|hold| hold.state == "HELD").count() == 1
        })
        .await;
        lock(&gateway.db, &[gateway.caller.org]).await
    };
    let (created, somebody) = tokio::join!(creating, locking);
    let accepted = created.task_id();
    for _ in 0..3 {
        let made = within("another", as_other("meanwhile")).await;
        let task = made.task_id();
        until("it has finished", async || {
            let call = gateway.request(reqwest::Method::GET, &format!("/api/status?task_id={task}"));
            let answer = Answer::to(call.bearer_auth(&other.text)).await;
            answer.expect(200)["data"]["status"] != "IN_PROGRESS"
        })
        .await;
    }
    // Nobody asks for these.
    for _ in 0..6 {
        within("another", as_other("unasked")).await.task_id();
    }
    until("what nobody asks for is settled too", async || {
        let balance = gateway.db.database().balance(other.org).await.unwrap().unwrap();
        balance.open_tasks == 0
    })
    .await;
    gateway.create(&body("not now")).await.refused(503, "UNAVAILABLE");
    unlock(somebody).await;
    for task in tasks.iter().chain([&accepted]) {
        gateway.finished(task).await;
    }
    until("all is settled", async || gateway.balance().await[1] == 0).await;
}
