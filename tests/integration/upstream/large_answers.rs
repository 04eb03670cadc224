//! Answers of megabytes: the vendor repeats what it was sent, and more.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::database::until;
use crate::support::gateway::{Answer, TestGateway, body};
use crate::support::leaks::PROMPT;

const FORTY_MEGABYTES: usize = 40 << 20;
/// A little more than is kept whole.
const TOO_LARGE: usize = 25 << 20;

/// The length of the longest text that is stored about a task.
async fn stored(gateway: &TestGateway) -> i32 {
    let longest = "select max(greatest(length(first), length(last))) from content";
    sqlx::query_scalar(longest).fetch_one(gateway.db.pool()).await.unwrap()
}

#[tokio::test]
async fn what_the_vendor_repeats_is_shown_as_it_says_it() {
    let gateway = TestGateway::start().await;
    let image = format!("data:image/png;base64,{}", "A".repeat(12 << 20));
    let create = json!({"type": "pro-image-to-video", "prompt": "large", "image": image});
    let task = gateway.create(&create).await.task_id();
    for _ in 0..2 {
        let told = gateway.finished(&task).await.data();
        assert_eq!((&told["status"], &told["consumed_credits"]), (&json!("SUCCESS"), &json!(400)));
        assert!(told["request"]["image"] == image, "all of the image is there");
        assert_eq!(told.get("gateway_note"), None);
    }
}

/// A gateway that may have fewer bytes in memory than the answers have. What is not optimised takes its time to read them.
async fn with_little_room() -> TestGateway {
    TestGateway::builder()
        .config(|config| {
            config.server.max_bytes_under_way = 16 << 20;
            config.upstream.kling_3.status_timeout_ms = 300_000;
        })
        .start()
        .await
}

#[tokio::test]
async fn a_status_of_forty_megabytes_settles_its_task() {
    let gateway = with_little_room().await;
    gateway.fault_on_status(json!({"kind": "huge", "bytes": FORTY_MEGABYTES})).await;
    let task = gateway.task("too large").await;
    let told = gateway.finished(&task).await.data();
    assert_eq!((&told["status"], &told["consumed_credits"]), (&json!("SUCCESS"), &json!(400)));
    assert_eq!(gateway.balance().await, [999_600, 0, 400]);
    assert_eq!(told["response"].as_array().map(Vec::len), Some(1), "{told}");
    assert!(told["request"]["prompt"].as_str().unwrap().contains(PROMPT), "{told}");
    assert_eq!(told["padding"], "[41943040 bytes left out]");
    let note = told["gateway_note"].as_str().unwrap();
    assert!(note.contains("long values are left out"), "{note}");
    assert!(stored(&gateway).await < 1 << 20);
    assert_eq!(gateway.last_hold().await.state, "SETTLED");
}

#[tokio::test]
async fn a_task_that_failed_in_too_many_megabytes_is_released() {
    let gateway = with_little_room().await;
    let rules = json!([
        {"on": "create", "fault": {"kind": "outcome", "status": "FAILED"}},
        {"on": "status", "fault": {"kind": "huge", "bytes": TOO_LARGE}},
    ]);
    gateway.script(json!({ "rules": rules })).await;
    let task = gateway.task("too large, and failed").await;
    let told = gateway.finished(&task).await.data();
    assert_eq!((&told["status"], &told["consumed_credits"]), (&json!("FAILED"), &json!(0)));
    assert_ne!(told["error_message"], Value::Null, "the vendor's words are kept");
    assert_eq!(gateway.balance().await, [1_000_000, 0, 0]);
}

/// It was bought: without its id it would be in doubt.
#[tokio::test]
async fn a_create_that_is_answered_with_too_many_megabytes_has_its_task() {
    let gateway = with_little_room().await;
    gateway.fault_on_create(json!({"kind": "huge", "bytes": TOO_LARGE})).await;
    let created = gateway.create(&body("answered at length")).await;
    let data = created.data();
    assert_eq!((&data["consumed_credits"], &data["status"]), (&json!(400), &json!("IN_PROGRESS")));
    assert_eq!(data["padding"], format!("[{TOO_LARGE} bytes left out]"));
    gateway.finished(&created.task_id()).await;
    assert_eq!(gateway.balance().await, [999_600, 0, 400]);
    assert!(stored(&gateway).await < 1 << 20);
}

/// They stand in the database, and are read where there is room for them.
#[tokio::test]
async fn long_answers_that_nothing_caches_are_shown_and_replayed() {
    let gateway = TestGateway::builder()
        .config(|config| {
            config.server.max_bytes_under_way = 16 << 20;
            config.status.cache_bytes = 1;
        })
        .start()
        .await;
    let long = json!({"kind": "huge", "bytes": 1 << 20});
    gateway
        .script(json!({"rules": [{"on": "create", "fault": long}, {"on": "status", "fault": long}]}))
        .await;
    let create = async || {
        let request = gateway.request(Method::POST, "/api/generate").bearer_auth(&gateway.caller.text);
        Answer::to(request.header("Idempotency-Key", "long").body(body("long").to_string())).await
    };
    let first = create().await;
    assert!(first.data()["padding"].as_str().is_some_and(|padding| padding.len() == 1 << 20));
    let again = create().await;
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_eq!(again.data()["padding"], first.data()["padding"]);
    let ended = gateway.finished(&first.task_id()).await.data();
    assert!(ended["padding"].as_str().is_some_and(|padding| padding.len() == 1 << 20));
    assert_eq!(gateway.finished(&first.task_id()).await.data(), ended, "it is read again");
}

/// What megabytes cost is everybody's time: an organisation that gets too many waits, and nobody else.
#[tokio::test]
async fn whoever_gets_too_many_megabytes_is_told_less_often() {
    let gateway = TestGateway::builder()
        .config(|config| {
            // One of them is enough for the longest wait.
            config.limits.org_answer_bytes_per_second = (1 << 20) / 60;
            config.limits.max_open_tasks = 0;
        })
        .start()
        .await;
    let other = gateway.another_org("somebody else", 1_000).await;
    let creating = gateway.request(Method::POST, "/api/generate").bearer_auth(&other.text);
    let theirs = Answer::to(creating.body(body("of somebody else").to_string())).await.task_id();
    gateway.fault_on_create(json!({"kind": "huge", "bytes": 1 << 20})).await;
    let waits = gateway.task("asked for later").await;
    let path = format!("/api/status?task_id={theirs}");
    until("it ends for somebody else", async || {
        // However long this takes, it is far ahead.
        gateway.create(&body("its answer is long")).await.expect(200);
        let told = gateway.request(Method::GET, &path).bearer_auth(&other.text);
        Answer::to(told).await.data()["status"] == "SUCCESS"
    })
    .await;
    assert_eq!(gateway.status(&waits).await.data()["status"], "IN_PROGRESS", "what is known is told");
    assert_eq!(gateway.upstream_polls(&waits).await, 0);
}
