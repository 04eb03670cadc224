//! Faults of the connection and of whole answers, as a caller sees them, and what the books say afterwards.

use super::*;

fn on_create(fault: Value) -> Value {
    json!({"on": "create", "fault": fault})
}

#[tokio::test]
async fn delay() {
    const HOUR: u64 = 3_600_000;
    let rig = Rig::with_rule(instant(), on_create(json!({"kind": "delay", "ms": 20}))).await;
    assert_eq!(rig.create(body("a")).await.0, StatusCode::OK);

    // Whoever gives up has bought nothing, unless the script says so.
    rig.script(json!({"rules": [on_create(json!({"kind": "delay", "ms": HOUR}))]})).await;
    tokio::select! {
        _ = rig.create(body("a")) => panic!("answered too early"),
        () = eventually(async || rig.account().await["creates_received"] == 2) => {}
    }
    assert_eq!(rig.totals().await, (400, 1));
    rig.script(json!({"rules": [on_create(json!({"kind": "delay", "ms": HOUR, "accept": true}))]})).await;
    tokio::select! {
        _ = rig.create(body("a")) => panic!("answered too early"),
        () = eventually(async || rig.totals().await == (800, 2)) => {}
    }
    rig.stop().await;
}

#[tokio::test]
async fn hang() {
    for (accept, expected) in [(false, (0, 0)), (true, (400, 1))] {
        let rig = Rig::with_rule(instant(), on_create(json!({"kind": "hang", "accept": accept}))).await;
        tokio::select! {
            _ = rig.send_create(body("a")) => panic!("answered"),
            () = eventually(async || rig.account().await["creates_received"] == 1) => {}
        }
        eventually(async || rig.totals().await == expected).await;
        within(rig.stop()).await;
    }
}

#[tokio::test]
async fn a_hanging_call_does_not_outlive_the_simulator() {
    let rig = Rig::with_rule(instant(), on_create(json!({"kind": "hang"}))).await;
    let (answer, ()) = tokio::join!(rig.raw_create("a"), async {
        eventually(async || rig.account().await["creates_received"] == 1).await;
        rig.stop.cancel();
    });
    assert_eq!(answer, "");
    within(rig.stop()).await;
}

#[tokio::test]
async fn cuts() {
    let rig = Rig::with_rule(instant(), on_create(json!({"kind": "cut_before"}))).await;
    assert_eq!(rig.raw_create("a").await, "");
    assert_eq!(rig.totals().await, (0, 0));

    rig.script(json!({"rules": [on_create(json!({"kind": "cut_after"}))]})).await;
    assert_eq!(rig.raw_create("a").await, "");
    assert_eq!(rig.totals().await, (400, 1));

    rig.script(json!({"rules": [on_create(json!({"kind": "cut_after", "partial": true}))]})).await;
    let half = rig.raw_create("a").await;
    assert_eq!(rig.totals().await, (800, 2));
    let (head, sent) = half.split_once("\r\n\r\n").unwrap();
    let announced: usize =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    assert_eq!(sent.len(), announced / 2);
    assert!(sent.starts_with("{\"code\":200"), "{sent}");
    assert!(rig.send_create(body("a")).await.unwrap().bytes().await.is_err());
    rig.stop().await;
}

#[tokio::test]
async fn http_errors() {
    let rule = on_create(json!({"kind": "http_error", "status": 429, "retry_after": 7}));
    let rig = Rig::with_rule(instant(), rule).await;
    let response = rig.send_create(body("a")).await.unwrap();
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(response.headers()["retry-after"], "7");
    let answer: Value = response.json().await.unwrap();
    assert_eq!((&answer["code"], &answer["error"]), (&json!(429), &json!("RATE_LIMITED")));
    assert_eq!(rig.totals().await, (0, 0));

    let fault = json!({"kind": "http_error", "status": 500, "error": "E", "message": "M", "accept": true});
    rig.script(json!({"rules": [on_create(fault)]})).await;
    let answer = rig.create(body("a")).await;
    assert_eq!(
        answer,
        (StatusCode::INTERNAL_SERVER_ERROR, json!({"code": 500, "error": "E", "message": "M"}))
    );
    assert_eq!(rig.totals().await, (400, 1));

    let fault = json!({"kind": "http_error", "status": 524, "envelope": false});
    rig.script(json!({"rules": [on_create(fault)]})).await;
    let response = rig.send_create(body("a")).await.unwrap();
    assert_eq!(response.status().as_u16(), 524);
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    assert!(response.text().await.unwrap().contains("<html>"));
    rig.stop().await;
}

#[tokio::test]
async fn answers_that_are_none() {
    let rig = Rig::with_rule(instant(), on_create(json!({"kind": "body_code", "code": 402}))).await;
    let (status, answer) = rig.create(body("a")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((&answer["code"], &answer["error"]), (&json!(402), &json!("INSUFFICIENT_CREDITS")));

    rig.script(json!({"rules": [on_create(json!({"kind": "html"}))]})).await;
    let response = rig.send_create(body("a")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.text().await.unwrap().starts_with("<!DOCTYPE html>"));

    rig.script(json!({"rules": [on_create(json!({"kind": "redirect", "location": "http://x.example/"}))]}))
        .await;
    let response = rig.send_create(body("a")).await.unwrap();
    assert_eq!(response.status(), StatusCode::FOUND);
    assert_eq!(response.headers()["location"], "http://x.example/");

    rig.script(json!({"rules": [on_create(json!({"kind": "garbage", "accept": true}))]})).await;
    let response = rig.send_create(body("a")).await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/json");
    assert!(response.json::<Value>().await.is_err());
    assert_eq!(rig.totals().await, (400, 1));

    rig.script(json!({"rules": [on_create(json!({"kind": "truncated"}))]})).await;
    let half = rig.send_create(body("a")).await.unwrap().text().await.unwrap();
    assert!(half.starts_with("{\"code\":200") && serde_json::from_str::<Value>(&half).is_err(), "{half}");
    assert_eq!(rig.totals().await, (800, 2));
    rig.stop().await;
}

#[tokio::test]
async fn bodies_too_large_and_too_slow() {
    let rig = Rig::start(instant()).await;
    let task_id = rig.task("a").await;
    rig.script(json!({"rules": [{"on": "status", "fault": {"kind": "huge", "bytes": 5_000_000}}]})).await;
    let huge = rig.send_status(&task_id).await.unwrap().bytes().await.unwrap();
    let answer: Value = serde_json::from_slice(&huge).unwrap();
    assert_eq!(answer["data"]["task_id"], task_id.as_str());
    assert_eq!(answer["data"]["padding"].as_str().unwrap().len(), 5_000_000);
    let url = rig.url("/api/status?task_id=unknown");
    let padded = rig.client.get(url).bearer_auth(KEY).send().await.unwrap().bytes().await.unwrap();
    assert!(padded.len() > 5_000_000);

    rig.script(json!({"rules": [{"on": "status", "fault": {"kind": "slow_drip", "ms_per_byte": 1}}]})).await;
    let mut slow = rig.send_status(&task_id).await.unwrap();
    let mut chunks = 0;
    let mut text = Vec::new();
    while let Some(chunk) = slow.chunk().await.unwrap() {
        chunks += 1;
        text.extend_from_slice(&chunk);
    }
    assert_eq!(serde_json::from_slice::<Value>(&text).unwrap()["data"]["task_id"], task_id.as_str());
    assert!(chunks > 10, "{} bytes in {chunks} pieces", text.len());
    rig.stop().await;
}

#[tokio::test]
async fn status_calls_suffer_too() {
    let rig = Rig::start(instant()).await;
    let task_id = rig.task("a").await;
    let on_status = |fault: Value| json!({"rules": [{"on": "status", "fault": fault}]});
    rig.script(on_status(json!({"kind": "cut_before"}))).await;
    assert!(rig.send_status(&task_id).await.is_err());
    rig.script(on_status(json!({"kind": "http_error", "status": 503, "envelope": false}))).await;
    assert_eq!(rig.send_status(&task_id).await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    rig.script(on_status(json!({"kind": "forget"}))).await;
    assert_eq!(rig.send_status(&task_id).await.unwrap().status(), StatusCode::NOT_FOUND);
    rig.script(on_status(json!({"kind": "hang"}))).await;
    let polls = async || rig.account().await["tasks"][0]["polls"].as_u64().unwrap();
    let before = polls().await;
    // Each of the calls counts, answered or not (a client may try a cut one again).
    assert!(before >= 3);
    tokio::select! {
        _ = rig.send_status(&task_id) => panic!("answered"),
        () = eventually(async || polls().await == before + 1) => {}
    }
    rig.stop().await;
}

#[tokio::test]
async fn accounts_and_keys() {
    let rig = Rig::start(instant()).await;
    let task_id = rig.task("a").await;
    rig.script(json!({"exhausted_accounts": [KEY]})).await;
    let (status, answer) = rig.create(body("a")).await;
    assert_eq!((status, &answer["error"]), (StatusCode::PAYMENT_REQUIRED, &json!("INSUFFICIENT_CREDITS")));
    assert_eq!(rig.status(&task_id).await["status"], "SUCCESS");

    rig.script(json!({"rejected_keys": [KEY]})).await;
    assert_eq!(rig.create(body("a")).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(rig.send_status(&task_id).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(rig.account().await["creates_received"], 3);

    let cleared = rig.client.delete(rig.url("/_sim/script")).send().await.unwrap();
    assert_eq!(cleared.json::<Value>().await.unwrap(), json!({"script": {}, "rules": []}));
    assert_eq!(rig.create(body("a")).await.0, StatusCode::OK);
    rig.stop().await;
}

#[tokio::test]
async fn requests_are_recorded_when_asked() {
    let rig = Rig::start(instant()).await;
    rig.task("unseen").await;
    assert_eq!(rig.get_json("/_sim/requests").await, json!({"recording": false, "requests": []}));

    rig.script(json!({"record": true})).await;
    let request = body("seen").to_string();
    let create = rig.client.post(rig.url("/api/generate?a=b")).bearer_auth(KEY).header("x-odd", "1");
    create.body(request.clone()).send().await.unwrap();
    let recorded = rig.get_json("/_sim/requests").await["requests"][0].clone();
    assert_eq!(recorded["method"], "POST");
    assert_eq!(recorded["path"], "/api/generate?a=b");
    assert_eq!(recorded["body_bytes"], request.len());
    assert_eq!(recorded["body"], request);
    let headers = recorded["headers"].as_array().unwrap();
    assert!(headers.contains(&json!(["x-odd", "1"])), "{headers:?}");
    assert!(headers.contains(&json!(["authorization", format!("Bearer {KEY}")])), "{headers:?}");

    let long = body(&"x".repeat(64 * 1024));
    assert_eq!(rig.create(&long).await.0, StatusCode::BAD_REQUEST);
    let recorded = rig.get_json("/_sim/requests").await["requests"][1].clone();
    assert_eq!(recorded["body_bytes"], long.to_string().len());
    assert_eq!(recorded.get("body"), None);

    for _ in 0..70 {
        rig.send_status("n75x").await.unwrap();
    }
    assert_eq!(rig.get_json("/_sim/requests").await["requests"].as_array().unwrap().len(), 64);
    rig.stop().await;
}
