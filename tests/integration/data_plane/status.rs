//! Status: answered from our own table, whatever the vendor does.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::database::until;
use crate::support::gateway::{Answer, ENDLESS, TestGateway, body};

const MINUTE_MS: u64 = 60_000;

/// Sets the clock of every task back, so that what is known of it is old.
async fn age(gateway: &TestGateway) {
    sqlx::query("update hold set created_at = created_at - interval '1 hour'")
        .execute(gateway.db.pool())
        .await
        .unwrap();
}

/// A gateway that asks the vendor at most once a minute for each task, and only when a client asks.
async fn lazy() -> TestGateway {
    TestGateway::builder()
        .config(|config| {
            config.status.min_interval_ms = MINUTE_MS;
            config.reconciler.interval_ms = MINUTE_MS;
        })
        .start()
        .await
}

#[tokio::test]
async fn unknown_and_foreign_tasks_look_the_same() {
    let gateway = TestGateway::start().await;
    let task = gateway.task("mine").await;
    let reference = gateway.last_hold().await.reference();
    let stranger = gateway.another_org("another customer", 0).await;
    let unknown = gateway.status("n75unknownkling3").await;
    unknown.refused(404, "TASK_NOT_FOUND");
    let long = "n".repeat(300);
    for id in [
        &task,
        &reference,
        "n75unknownkling3",
        "hold_00000000000000000000000000000000",
        "%00",
        "%F0%9F%A6%85",
        "a%20b",
        &long,
    ] {
        let path = format!("/api/status?task_id={id}");
        let answer = Answer::to(gateway.request(Method::GET, &path).bearer_auth(&stranger.text)).await;
        assert_eq!((answer.status, &answer.text), (404, &unknown.text), "{id}");
        // Keys are probed with made-up ids.
        Answer::to(gateway.request(Method::GET, &path).bearer_auth("made-up"))
            .await
            .refused(401, "INVALID_API_KEY");
    }
    for path in ["/api/status", "/api/status?task_id=", "/api/status?id=n75x"] {
        gateway.get(path).await.refused(400, "INVALID_REQUEST");
    }
    // A 404 is not remembered.
    gateway.fault_on_create(json!({"kind": "task_id", "value": "n75unknownkling3"})).await;
    gateway.task("mine too").await;
    assert_eq!(gateway.finished("n75unknownkling3").await.data()["status"], "SUCCESS");
    gateway.finished(&task).await;
}

#[tokio::test]
async fn whatever_the_vendor_does_the_owner_gets_the_last_known_state() {
    let gateway = TestGateway::builder()
        .task_time(ENDLESS)
        .config(|config| {
            config.status.min_interval_ms = 0;
            // Nobody else asks: a status call joins a poll that is under way.
            config.reconciler.interval_ms = MINUTE_MS;
            config.upstream.kling_3.connect_timeout_ms = 100;
            config.upstream.kling_3.status_timeout_ms = 200;
        })
        .start()
        .await;
    let task = gateway.task("steady").await;
    let error =
        |status: u16, envelope: bool| json!({"kind": "http_error", "status": status, "envelope": envelope});
    let mut scripts = vec![json!({"rejected_keys": ["sim-master-key"]})];
    for fault in [
        error(500, true),
        error(502, false),
        error(503, true),
        error(404, true),
        error(404, false),
        error(429, true),
        error(401, true),
        error(402, true),
        json!({"kind": "body_code", "code": 404}),
        json!({"kind": "body_code", "code": 500}),
        json!({"kind": "forget"}),
        json!({"kind": "html"}),
        json!({"kind": "garbage"}),
        json!({"kind": "truncated"}),
        json!({"kind": "cut_before"}),
        json!({"kind": "cut_after", "partial": true}),
        json!({"kind": "redirect", "location": "/api/status"}),
        json!({"kind": "hang"}),
        json!({"kind": "huge", "bytes": 30_000_000}),
        json!([{"kind": "task_id", "value": "n75another"}, {"kind": "status_word", "value": "SUCCESS"}]),
    ] {
        scripts.push(json!({"rules": [{"on": "status", "fault": fault}]}));
    }
    for script in scripts {
        gateway.script(script.clone()).await;
        let before = gateway.upstream_polls(&task).await;
        let answer = gateway.status(&task).await;
        assert!(
            gateway.upstream_polls(&task).await > before || script["rejected_keys"].is_array(),
            "{script}"
        );
        let data = answer.data();
        assert_eq!(
            (&data["status"], &data["consumed_credits"]),
            (&json!("IN_PROGRESS"), &json!(400)),
            "{script}"
        );
        assert!(answer.header("x-tollgate-stale-seconds").parse::<u64>().is_ok(), "{script}: {answer:?}");
        assert_eq!(gateway.last_hold().await.state, "RUNNING", "{script}");
    }
    assert_eq!(gateway.balance().await, [999_600, 400, 0]);
}

#[tokio::test]
async fn the_age_of_what_is_known_is_told() {
    let gateway = lazy().await;
    let task = gateway.task("x").await;
    age(&gateway).await;
    gateway.fault_on_status(json!({"kind": "cut_before"})).await;
    let stale = gateway.status(&task).await;
    assert!(stale.header("x-tollgate-stale-seconds").parse::<u64>().unwrap() >= 3600, "{stale:?}");
}

#[tokio::test]
async fn a_task_the_vendor_forgot_for_a_while_is_settled_in_the_end() {
    let gateway = TestGateway::start().await;
    gateway.script(json!({"rules": [{"on": "status", "times": 5, "fault": {"kind": "forget"}}]})).await;
    let task = gateway.task("lost and found").await;
    let done = gateway.finished(&task).await;
    assert_eq!(done.header("x-tollgate-stale-seconds"), "", "what is final is not stale");
    assert_eq!(gateway.balance().await, [999_600, 0, 400]);
}

#[tokio::test]
async fn what_has_ended_is_never_asked_for_again() {
    let gateway = TestGateway::start().await;
    let task = gateway.task("x").await;
    let done = gateway.finished(&task).await;
    let reference = gateway.last_hold().await.reference();
    let polls = gateway.upstream_polls(&task).await;
    gateway.fault_on_status(json!({"kind": "http_error", "status": 500})).await;
    for _ in 0..20 {
        assert_eq!(gateway.status(&task).await.text, done.text);
        assert_eq!(gateway.status(&reference).await.text, done.text);
    }
    assert_eq!(gateway.upstream_polls(&task).await, polls);
}

#[tokio::test]
async fn a_hundred_status_calls_are_one_poll() {
    let gateway = lazy().await;
    let task = gateway.task("popular").await;
    age(&gateway).await;
    let answers = futures_util::future::join_all((0..100).map(|_| gateway.status(&task))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(gateway.upstream_polls(&task).await, 1);
}

#[tokio::test]
async fn a_vendor_in_trouble_is_not_asked_more_often() {
    let gateway = lazy().await;
    let task = gateway.task("popular").await;
    age(&gateway).await;
    gateway.fault_on_status(json!({"kind": "http_error", "status": 503, "envelope": false})).await;
    for _ in 0..20 {
        gateway.status(&task).await.expect(200);
    }
    assert_eq!(gateway.upstream_polls(&task).await, 1);
}

#[tokio::test]
async fn the_vendors_data_is_shown_verbatim() {
    let gateway = TestGateway::start().await;
    for shape in [
        json!("list"),
        json!("string"),
        json!("object"),
        json!("null"),
        json!("missing"),
        json!([]),
        json!([{"url": "u", "width": 1920}, 2, null]),
        json!({"videos": {"mp4": ["u"]}, "cover": 1.5}),
        json!(17),
        json!(false),
    ] {
        gateway.fault_on_create(json!({"kind": "response_shape", "value": shape})).await;
        let task = gateway.task("é \u{1f985}").await;
        let shown = gateway.finished(&task).await;
        let url = format!("http://{}/api/status?task_id={task}", gateway.simulator());
        let told = gateway.client.get(url).bearer_auth("sim-master-key").send().await.unwrap();
        assert_eq!(shown.text, told.text().await.unwrap(), "{shape}");
    }
}

#[tokio::test]
async fn an_echo_of_many_megabytes_is_shown() {
    let gateway = TestGateway::start().await;
    let task = gateway.task("x").await;
    gateway.fault_on_status(json!({"kind": "huge", "bytes": 20_000_000})).await;
    let shown = gateway.finished(&task).await.data();
    assert_eq!(shown["padding"].as_str().unwrap().len(), 20_000_000);
}

#[tokio::test]
async fn an_unknown_word_counts_as_in_progress() {
    let gateway = TestGateway::start().await;
    for word in ["QUEUED", "success", "SUCCEEDED", "COMPLETED", "", "failed"] {
        let [available, _, consumed] = gateway.balance().await;
        // Before the task, which may otherwise end before it.
        gateway.fault_on_status(json!({"kind": "status_word", "value": word})).await;
        let task = gateway.task("odd").await;
        let polls = gateway.upstream_polls(&task).await;
        until("it was asked for", async || {
            gateway.status(&task).await.expect(200);
            gateway.upstream_polls(&task).await > polls + 2
        })
        .await;
        assert_eq!(gateway.status(&task).await.data()["status"], word, "the word itself is shown");
        assert_eq!(gateway.balance().await, [available - 400, 400, consumed]);
        gateway.script(json!({})).await;
        until("it ends", async || gateway.status(&task).await.data()["status"] == "SUCCESS").await;
    }
}

#[tokio::test]
async fn our_reference_works_like_the_vendors_id() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    let task = gateway.task("x").await;
    let reference = gateway.last_hold().await.reference();
    assert_eq!(gateway.status(&reference).await.data()["task_id"], task.as_str());
    gateway.fault_on_create(json!({"kind": "cut_after"})).await;
    let lost = gateway.create(&body("lost")).await.reference();
    let shown = gateway.status(&lost).await;
    assert!(shown.header("x-tollgate-stale-seconds").parse::<u64>().is_ok(), "{shown:?}");
    let shown = shown.data();
    assert_eq!((&shown["task_id"], &shown["status"]), (&json!(lost), &json!("IN_PROGRESS")));
    assert_eq!((&shown["consumed_credits"], &shown["response"]), (&json!(400), &Value::Null));
}

#[tokio::test]
async fn tasks_finish_although_nobody_asks() {
    let gateway = TestGateway::start().await;
    gateway.script(json!({"rules": [{"on": "create", "match": {"prompt_contains": "doomed"}, "fault": {"kind": "outcome", "status": "FAILED"}}]})).await;
    for prompt in ["fine", "doomed", "fine too"] {
        gateway.task(prompt).await;
    }
    until("all have ended", async || gateway.balance().await == [999_200, 0, 800]).await;
}

#[tokio::test]
async fn a_task_that_runs_too_long_is_in_doubt_and_can_still_end() {
    let gateway =
        TestGateway::builder().config(|config| config.reconciler.max_task_age_hours = 0).start().await;
    gateway.fault_on_status(json!({"kind": "status_word", "value": "RENDERING"})).await;
    let task = gateway.task("slow").await;
    until("it is in doubt", async || gateway.last_hold().await.state == "IN_DOUBT").await;
    assert_eq!(gateway.status(&task).await.data()["status"], "RENDERING");
    assert_eq!(gateway.balance().await, [999_600, 400, 0]);
    gateway.script(json!({})).await;
    until("it ends", async || gateway.status(&task).await.data()["status"] == "SUCCESS").await;
    assert_eq!(gateway.balance().await, [999_600, 0, 400]);
}
