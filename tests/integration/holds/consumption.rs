//! What a task costs is what the vendor says it consumed, unless that cannot be.

use serde_json::{Value, json};
use tollgate::credits::PriceFactor;
use tollgate::store::OrgChange;

use crate::support::database::until;
use crate::support::gateway::{ENDLESS, TestGateway, body};

/// A figure as the vendor reports it: nothing, or this value.
fn reports(value: Option<Value>) -> Value {
    match value {
        None => json!({"kind": "consumed"}),
        Some(value) => json!({"kind": "consumed", "value": value}),
    }
}

/// Runs a task of 400 credits whose vendor reports these figures; the answer is what was charged.
async fn charged(gateway: &TestGateway, on_create: Option<Value>, on_status: Option<Value>) -> i64 {
    let rule = |on: &str, value| json!({"on": on, "fault": reports(value)});
    gateway.script(json!({"rules": [rule("create", on_create), rule("status", on_status)]})).await;
    let [available, _, consumed] = gateway.balance().await;
    let created = gateway.create(&body("x")).await;
    assert_eq!(created.data()["consumed_credits"], 400, "a create never changes the hold");
    let task = created.task_id();
    let shown = gateway.finished(&task).await.data();
    let [available_now, held, consumed_now] = gateway.balance().await;
    let charged = consumed_now - consumed;
    assert_eq!((available - available_now, held), (charged, 0));
    assert_eq!((&shown["status"], &shown["consumed_credits"]), (&json!("SUCCESS"), &json!(charged)));
    charged
}

#[tokio::test]
async fn the_final_figure_counts_if_it_can_be_true() {
    let mut gateway = TestGateway::start().await;
    let mut lies = 0;
    let valid = |figure: i64| (Some(json!(figure)), figure);
    // What the final status says, and what is charged if the create said 390, said 400, said nothing usable.
    for (reported, expected) in
        [valid(400), valid(350), valid(460), valid(0), valid(40_000), (Some(json!(400.0)), 400)]
    {
        for first in [Some(json!(390)), Some(json!(400)), None, Some(json!(-7))] {
            assert_eq!(
                charged(&gateway, first.clone(), reported.clone()).await,
                expected,
                "{first:?} {reported:?}"
            );
            lies += 400 - expected;
        }
    }
    gateway.expect_difference(lies);
}

#[tokio::test]
async fn an_impossible_figure_is_never_taken_for_nothing() {
    let mut gateway = TestGateway::start().await;
    let mut lies = 0;
    for reported in [
        None,
        Some(Value::Null),
        Some(json!(-1)),
        Some(json!(400.5)),
        Some(json!("380")),
        Some(json!(true)),
        Some(json!([380])),
        Some(json!({"credits": 380})),
        Some(json!(40_001)),
        Some(json!(i64::MAX)),
        Some(json!(u64::MAX)),
        Some(json!(1e300)),
    ] {
        assert_eq!(charged(&gateway, Some(json!(390)), reported.clone()).await, 390, "{reported:?}");
        assert_eq!(charged(&gateway, reported.clone(), reported.clone()).await, 400, "{reported:?}");
        lies += 10;
    }
    gateway.expect_difference(lies);
}

#[tokio::test]
async fn a_failed_task_is_free_and_what_it_consumed_is_the_platforms_loss() {
    let gateway = TestGateway::start().await;
    for (consumed, loss) in [(None, 0), (Some(0), 0), (Some(90), 90), (Some(400), 400)] {
        gateway.fault_on_create(json!({"kind": "outcome", "status": "FAILED", "consumed": consumed})).await;
        let task = gateway.task("doomed").await;
        let shown = gateway.finished(&task).await.data();
        assert_eq!((&shown["status"], &shown["consumed_credits"]), (&json!("FAILED"), &json!(0)));
        assert!(shown["error_message"].is_string(), "{shown}");
        let hold = gateway.last_hold().await;
        assert_eq!((hold.state.as_str(), hold.loss, hold.possible_loss), ("RELEASED", loss, 0));
        assert_eq!(gateway.balance().await, [1_000_000, 0, 0]);
    }
}

#[tokio::test]
async fn a_create_that_comes_back_finished_is_ended_at_once() {
    // On a busy machine a poll might be due before the end is written.
    let gateway =
        TestGateway::builder().task_time(ENDLESS).config(|config| config.reconciler.interval_ms = 60_000);
    let gateway = gateway.start().await;
    for (word, charged) in [("SUCCESS", 400), ("FAILED", 0)] {
        gateway.fault_on_create(json!({"kind": "create_status", "status": word})).await;
        let [_, _, consumed] = gateway.balance().await;
        let created = gateway.create(&body("quick")).await;
        assert_eq!(
            created.data()["status"],
            "IN_PROGRESS",
            "an end is shown by status calls, once it has settled"
        );
        assert_eq!(gateway.balance().await, [1_000_000 - consumed - charged, 0, consumed + charged]);
        let shown = gateway.status(&created.task_id()).await.data();
        assert_eq!((&shown["status"], &shown["consumed_credits"]), (&json!(word), &json!(charged)));
        assert_eq!(gateway.upstream_polls(&created.task_id()).await, 0, "terminal states never ask");
    }
}

#[tokio::test]
async fn a_price_factor_rounds_hold_and_charge_up() {
    let gateway = TestGateway::start().await;
    let factor = |bp| OrgChange { price_factor: PriceFactor::new(bp), ..OrgChange::default() };
    let db = gateway.db.database();
    db.update_org(gateway.caller.org, factor(8_333), None).await.unwrap();
    let quote = || async {
        crate::support::gateway::Answer::to(
            gateway.call(reqwest::Method::POST, "/api/quote").body(body("x").to_string()),
        )
        .await
        .data()["credits"]
            .clone()
    };
    until("the factor is in force", async || quote().await == 334).await;

    // 400 x 0.8333 = 333.32, 351 x 0.8333 = 292.4883
    let fault =
        json!([{"kind": "outcome", "status": "SUCCESS", "consumed": 351}, {"kind": "task_ms", "ms": 1500}]);
    gateway.fault_on_create(fault).await;
    let created = gateway.create(&body("x")).await;
    assert_eq!(created.data()["consumed_credits"], 334);
    assert_eq!(gateway.balance().await, [999_666, 334, 0]);
    // A factor is used to the end of the task it was priced with.
    db.update_org(gateway.caller.org, factor(20_000), None).await.unwrap();
    until("the next factor is in force", async || quote().await == 800).await;
    assert_eq!(gateway.finished(&created.task_id()).await.data()["consumed_credits"], 293);
    assert_eq!(gateway.balance().await, [999_707, 0, 293]);
    let hold = gateway.last_hold().await;
    assert_eq!((hold.list_price, hold.raw_consumed, hold.charged), (400, Some(351), Some(293)));

    db.update_org(gateway.caller.org, factor(0), None).await.unwrap();
    until("it is free", async || quote().await == 0).await;
    gateway.script(json!({})).await;
    let free = gateway.task("free").await;
    assert_eq!(gateway.finished(&free).await.data()["consumed_credits"], 0);
    assert_eq!(gateway.balance().await, [999_707, 0, 293]);
}

#[tokio::test]
async fn an_overrun_is_charged_in_full_below_zero_and_marked() {
    let gateway = TestGateway::builder().credits(400).start().await;
    gateway.fault_on_create(json!({"kind": "outcome", "status": "SUCCESS", "consumed": 460})).await;
    let task = gateway.task("dear").await;
    gateway.finished(&task).await;
    assert_eq!(gateway.balance().await, [-60, 0, 460]);
    let overrun: i64 = sqlx::query_scalar("select overrun from entry where kind = 'consume'")
        .fetch_one(gateway.db.pool())
        .await
        .unwrap();
    assert_eq!(overrun, 60);
    let refused = gateway.create(&body("next")).await.refused(402, "INSUFFICIENT_CREDITS");
    assert_eq!(refused["data"], json!({"required": 400, "available": -60}));
}
