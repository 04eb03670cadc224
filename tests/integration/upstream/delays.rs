//! A vendor that asks for patience, takes its time, or never answers.

use serde_json::json;

use crate::support::database::until;
use crate::support::gateway::{Answer, TestGateway, body};

async fn keyed(gateway: &TestGateway, key: &str) -> Answer {
    Answer::to(gateway.creating(body("the same each time").to_string()).header("idempotency-key", key)).await
}

#[tokio::test]
async fn a_burst_of_429_is_waited_out() {
    let gateway =
        TestGateway::builder().config(|config| config.upstream.kling_3.retry_429_ms = 10_000).start().await;
    let busy = json!({"kind": "http_error", "status": 429});
    gateway.script(json!({"rules": [{"on": "create", "times": 2, "fault": busy}]})).await;
    let task = gateway.task("patient").await;
    assert_eq!(gateway.upstream_creates().await, (3, 1));
    gateway.finished(&task).await;
    assert_eq!(gateway.balance().await, [999_600, 0, 400]);

    // A pause longer than we may wait is handed on at once.
    gateway.fault_on_create(json!({"kind": "http_error", "status": 429, "retry_after": 77})).await;
    let answer = gateway.create(&body("impatient")).await;
    answer.refused(429, "RATE_LIMITED");
    assert_eq!(answer.header("retry-after"), "77");
    assert_eq!(gateway.upstream_creates().await, (4, 1));
    assert_eq!(gateway.balance().await, [999_600, 0, 400]);
}

#[tokio::test]
async fn pauses_after_a_429_without_a_word_of_when_grow() {
    let gateway =
        TestGateway::builder().config(|config| config.upstream.kling_3.retry_429_ms = 2500).start().await;
    gateway.fault_on_create(json!({"kind": "http_error", "status": 429})).await;
    gateway.create(&body("x")).await.refused(429, "RATE_LIMITED");
    // Half a second and a second at least; two more do not fit.
    assert_eq!(gateway.upstream_creates().await, (3, 0));
    assert_eq!(gateway.balance().await, [1_000_000, 0, 0]);
}

#[tokio::test]
async fn an_odd_retry_after_neither_breaks_nor_drives_us() {
    let gateway =
        TestGateway::builder().config(|config| config.upstream.kling_3.retry_429_ms = 1000).start().await;
    for odd in
        [json!(u64::MAX), json!(1u64 << 40), json!("Wed, 21 Oct 2026 07:28:00 GMT"), json!("-1"), json!(0)]
    {
        let (before, _) = gateway.upstream_creates().await;
        gateway.fault_on_create(json!({"kind": "http_error", "status": 429, "retry_after": odd})).await;
        let answer = gateway.create(&body("x")).await;
        answer.refused(429, "RATE_LIMITED");
        assert!(answer.header("retry-after").parse::<u64>().unwrap() <= 86_400, "{odd}: {answer:?}");
        let (after, _) = gateway.upstream_creates().await;
        assert!(after - before <= 3, "{odd}: tried {} times in a second", after - before);
        assert_eq!(gateway.balance().await, [1_000_000, 0, 0]);
    }
}

#[tokio::test]
async fn a_client_that_is_gone_is_not_retried_for() {
    let gateway =
        TestGateway::builder().config(|config| config.upstream.kling_3.retry_429_ms = 10_000).start().await;
    gateway.fault_on_create(json!({"kind": "http_error", "status": 429, "retry_after": 1})).await;
    let create = tokio::spawn(gateway.creating(body("x").to_string()).send());
    until("it was tried", async || gateway.upstream_creates().await.0 == 1).await;
    create.abort();
    until("the hold is released", async || gateway.balance().await == [1_000_000, 0, 0]).await;
    assert_eq!(gateway.upstream_creates().await.0, 1, "nobody is there to try again for");
}

#[tokio::test]
async fn an_answer_after_the_clients_deadline_still_counts() {
    let gateway =
        TestGateway::builder().config(|config| config.server.create_deadline_ms = 200).start().await;
    gateway.fault_on_create(json!({"kind": "delay", "ms": 2500, "accept": true})).await;
    let answer = keyed(&gateway, "late").await;
    let reference = answer.reference();
    assert_eq!(gateway.last_hold().await.state, "IN_DOUBT");
    assert_eq!(gateway.balance().await, [999_600, 400, 0]);
    assert_eq!(keyed(&gateway, "late").await.reference(), reference);

    let done = gateway.finished(&reference).await.data();
    assert_eq!((&done["status"], &done["consumed_credits"]), (&json!("SUCCESS"), &json!(400)));
    assert_eq!(gateway.balance().await, [999_600, 0, 400]);
    let replayed = keyed(&gateway, "late").await;
    assert_eq!(replayed.data()["task_id"], done["task_id"]);
    assert_eq!(gateway.upstream_creates().await, (1, 1));
}

#[tokio::test]
async fn a_vendor_that_hangs_costs_its_callers_only_their_deadline() {
    for accept in [false, true] {
        let gateway = TestGateway::builder()
            .config(|config| {
                config.server.create_deadline_ms = 200;
                config.upstream.kling_3.connect_timeout_ms = 100;
                config.upstream.kling_3.create_timeout_ms = 600;
            })
            .start()
            .await;
        let rule = json!({"on": "create", "match": {"prompt_contains": "stuck"}, "fault": {"kind": "hang", "accept": accept}});
        gateway.script(json!({"rules": [rule]})).await;
        let stuck = body("stuck");
        let (answer, fine) = tokio::join!(gateway.create(&stuck), gateway.task("fine"));
        let reference = answer.reference();
        gateway.finished(&fine).await;
        // The call is given up; nobody knows what became of it.
        let shown = gateway.status(&reference).await.data();
        assert_eq!(shown["status"], "IN_PROGRESS");
        assert_eq!(gateway.balance().await, [999_200, 400, 400]);
    }
}
