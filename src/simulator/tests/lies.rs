//! Answers that come in good shape and are not true, and tasks that go their own way.

use super::*;

fn on_create(fault: Value) -> Value {
    json!({"on": "create", "fault": fault})
}

/// `data` of a create under one rule, and the totals in the books.
async fn create_with(fault: Value) -> (Value, (i64, usize)) {
    let rig = Rig::with_rule(endless(), on_create(fault)).await;
    let (status, answer) = rig.create(body("a")).await;
    assert_eq!((status, &answer["code"]), (StatusCode::OK, &json!(200)));
    let totals = rig.totals().await;
    rig.stop().await;
    (answer["data"].clone(), totals)
}

#[tokio::test]
async fn consumed_on_create() {
    for value in [json!(1), json!(-5), json!(null), json!("400"), json!(400.0), json!(0.5), json!({"n": 1})] {
        let (data, totals) = create_with(json!({"kind": "consumed", "value": value})).await;
        assert_eq!(data.get("consumed_credits"), Some(&value));
        assert_eq!(totals, (400, 1));
    }
    let (data, totals) = create_with(json!({"kind": "consumed"})).await;
    assert_eq!(data.get("consumed_credits"), None);
    assert_eq!(totals, (400, 1));
    let (data, totals) = create_with(json!({"kind": "consumed", "value": 350, "charge": 350})).await;
    assert_eq!(data["consumed_credits"], 350);
    assert_eq!(totals, (350, 1));
}

#[tokio::test]
async fn consumed_on_status() {
    let rule = json!({"on": "status", "fault": {"kind": "consumed", "value": 999}});
    let rig = Rig::with_rule(instant(), rule).await;
    let task_id = rig.task("a").await;
    assert_eq!(rig.status(&task_id).await["consumed_credits"], 999);
    assert_eq!(rig.totals().await, (400, 1));
    rig.stop().await;
}

#[tokio::test]
async fn task_ids() {
    let (data, totals) = create_with(json!({"kind": "no_task_id"})).await;
    assert_eq!(data.get("task_id"), None);
    assert_eq!(totals, (400, 1));
    let (data, totals) = create_with(json!({"kind": "task_id", "value": 17})).await;
    assert_eq!(data["task_id"], 17);
    assert_eq!(totals, (400, 1));

    let rig =
        Rig::with_rule(endless(), on_create(json!({"kind": "task_id", "value": "n75samekling3"}))).await;
    assert_eq!(rig.task("a").await, "n75samekling3");
    assert_eq!(rig.task("b").await, "n75samekling3");
    assert_eq!(rig.status("n75samekling3").await["request"]["prompt"], "a");
    assert_eq!(rig.totals().await, (800, 2));
    rig.stop().await;
}

#[tokio::test]
async fn creates_that_have_already_ended() {
    for (word, consumed) in [("SUCCESS", 400), ("FAILED", 0)] {
        let (data, totals) = create_with(json!({"kind": "create_status", "status": word})).await;
        assert_eq!((&data["status"], &data["consumed_credits"]), (&json!(word), &json!(consumed)));
        assert_eq!(totals, (consumed, 1));
    }
    // With an outcome beside it the word is a lie.
    let fault =
        json!([{"kind": "create_status", "status": "FAILED"}, {"kind": "outcome", "status": "SUCCESS"}]);
    let (data, totals) = create_with(fault).await;
    assert_eq!(data["status"], "FAILED");
    assert_eq!(totals, (400, 1));
}

#[tokio::test]
async fn outcomes() {
    for (fault, consumed) in [
        (json!({"kind": "outcome", "status": "FAILED"}), 0),
        (json!({"kind": "outcome", "status": "FAILED", "consumed": 90}), 90),
        (json!({"kind": "outcome", "status": "SUCCESS"}), 400),
        (json!({"kind": "outcome", "status": "SUCCESS", "consumed": 460}), 460),
    ] {
        let rig = Rig::with_rule(instant(), on_create(fault.clone())).await;
        let task_id = rig.task("a").await;
        let ended = rig.status(&task_id).await;
        assert_eq!((&ended["status"], &ended["consumed_credits"]), (&fault["status"], &json!(consumed)));
        assert_eq!(rig.totals().await, (consumed, 1));
        rig.stop().await;
    }
}

#[tokio::test]
async fn response_shapes() {
    let rig = Rig::start(instant()).await;
    let task_id = rig.task("a").await;
    let url = rig.url(&format!("/videos/{task_id}.mp4"));
    for (value, expected) in [
        (json!("list"), Some(json!([url]))),
        (json!("string"), Some(json!(url))),
        (json!("object"), Some(json!({"url": url}))),
        (json!("null"), Some(Value::Null)),
        (json!(null), Some(Value::Null)),
        (json!("missing"), None),
        (json!([{"a": 1}, 2]), Some(json!([{"a": 1}, 2]))),
    ] {
        let fault = json!({"kind": "response_shape", "value": value});
        rig.script(json!({"rules": [{"on": "status", "fault": fault}, on_create(fault)]})).await;
        assert_eq!(rig.status(&task_id).await.get("response"), expected.as_ref(), "{value}");
        let own = rig.task("b").await;
        rig.script(json!({})).await;
        let shown =
            rig.status(&own).await.get("response").map(|shown| shown.to_string().replace(&own, &task_id));
        assert_eq!(shown, expected.map(|expected| expected.to_string()), "{value}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn status_words() {
    let rule = on_create(json!([{"kind": "status_word", "value": "QUEUED"}, {"kind": "task_ms", "ms": 200}]));
    let rig = Rig::with_rule(endless(), rule).await;
    let (_, answer) = rig.create(body("a")).await;
    assert_eq!(answer["data"]["status"], "QUEUED");
    let task_id = answer["data"]["task_id"].as_str().unwrap();
    assert_eq!(rig.status(task_id).await["status"], "QUEUED");
    eventually(async || rig.status(task_id).await["status"] == "SUCCESS").await;

    let rule = json!({"on": "status", "times": 2, "fault": {"kind": "status_word", "value": "RENDERING"}});
    rig.script(json!({ "rules": [rule] })).await;
    for word in ["RENDERING", "RENDERING", "SUCCESS"] {
        let data = rig.status(task_id).await;
        assert_eq!(data["status"], word);
        assert_eq!(data["response"].is_null(), word != "SUCCESS");
    }
    rig.stop().await;
}

#[tokio::test]
async fn forgotten_tasks_stay_in_the_books() {
    let rig = Rig::with_rule(instant(), on_create(json!({"kind": "forget"}))).await;
    let task_id = rig.task("a").await;
    assert_eq!(rig.send_status(&task_id).await.unwrap().status(), StatusCode::NOT_FOUND);
    let account = rig.account().await;
    assert_eq!((&account["consumed"], &account["tasks"][0]["polls"]), (&json!(400), &json!(1)));
    rig.stop().await;
}

#[tokio::test]
async fn rules_choose_their_calls() {
    let error = |status: u16| json!({"kind": "http_error", "status": status});
    let rig = Rig::start(instant()).await;
    let plain = rig.task("plain").await;
    rig.script(json!({"rules": [
        {"on": "create", "match": {"prompt_contains": "eagle"}, "skip": 1, "times": 2, "fault": error(501)},
        {"on": "create", "match": {"type": "o3-pro-video-edit"}, "fault": error(502)},
        {"on": "create", "match": {"account": "somebody else"}, "fault": error(503)},
        {"on": "create", "probability": 0, "fault": error(504)},
        {"on": "status", "match": {"task_id": plain}, "times": 1, "fault": error(505)},
        {"on": "status", "match": {"prompt_contains": "eagle", "type": "pro-text-to-video"}, "fault": error(506)},
    ]}))
    .await;
    let eagle = rig.task("an eagle").await;
    for expected in [501, 501, 200] {
        assert_eq!(rig.create(body("an eagle")).await.0.as_u16(), expected);
    }
    // Rules strike before the body is judged: this one lacks its video.
    assert_eq!(rig.create(json!({"type": "o3-pro-video-edit", "prompt": "a"})).await.0.as_u16(), 502);
    assert_eq!(rig.create(body("plain")).await.0.as_u16(), 200);
    for (task_id, expected) in [(&plain, 505), (&plain, 200), (&eagle, 506)] {
        assert_eq!(rig.send_status(task_id).await.unwrap().status().as_u16(), expected);
    }
    let shown = rig.get_json("/_sim/script").await;
    assert_eq!(shown["script"]["rules"][0]["times"], 2);
    assert_eq!(shown["rules"][0], json!({"matched": 4, "applied": 2}));
    assert_eq!(shown["rules"][1], json!({"matched": 1, "applied": 1}));
    assert_eq!(shown["rules"][2], json!({"matched": 0, "applied": 0}));
    rig.stop().await;
}

#[tokio::test]
async fn one_strike_hits_one_of_many_parallel_calls() {
    let rule = json!({"on": "create", "times": 3, "fault": {"kind": "http_error", "status": 429}});
    let rig = Rig::with_rule(instant(), rule).await;
    let request = body("a");
    let answers = futures_util::future::join_all((0..50).map(|_| rig.create(&request))).await;
    let refused = answers.iter().filter(|(status, _)| *status == StatusCode::TOO_MANY_REQUESTS).count();
    assert_eq!(refused, 3);
    rig.stop().await;
}
