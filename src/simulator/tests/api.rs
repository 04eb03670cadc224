//! The vendor's API as documented.

use super::*;

#[tokio::test]
async fn a_task_runs_from_create_to_its_video() {
    let rig = Rig::start(SimulatorConfig { task_time: Duration::from_millis(150), ..instant() }).await;
    let request =
        json!({"type": "pro-text-to-video", "prompt": "A majestic eagle", "duration": 5, "x": [1.50]});
    let (status, created) = rig.create(&request).await;
    assert_eq!(status, StatusCode::OK);
    let task_id = created["data"]["task_id"].as_str().unwrap();
    assert_eq!(
        created,
        json!({"code": 200, "message": "success", "data":
            {"task_id": task_id, "status": "IN_PROGRESS", "consumed_credits": 400}})
    );

    let running = rig.status(task_id).await;
    assert_eq!(running["status"], "IN_PROGRESS");
    assert_eq!(running["response"], Value::Null);
    eventually(async || rig.status(task_id).await["status"] == "SUCCESS").await;

    let done = rig.status(task_id).await;
    let url = format!("http://{}/videos/{task_id}.mp4", rig.address);
    let created_at = done["created_at"].as_str().unwrap();
    assert_eq!(
        done,
        json!({"task_id": task_id, "status": "SUCCESS", "consumed_credits": 400, "created_at": created_at,
            "request": request, "response": [url], "error_message": null, "type": "pro-text-to-video"})
    );
    assert!(created_at.ends_with('Z') && created_at.len() == 20, "{created_at}");

    let video = rig.client.get(&url).send().await.unwrap();
    assert_eq!(video.headers()["content-type"], "video/mp4");
    assert_eq!(&video.bytes().await.unwrap()[4..8], b"ftyp");
    let part = rig.client.get(&url).header("range", "bytes=4-7").send().await.unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(&part.bytes().await.unwrap()[..], b"ftyp");
    rig.stop().await;
}

#[tokio::test]
async fn refusals_come_in_the_envelope() {
    let rig = Rig::start(instant()).await;
    let (status, answer) = rig.create(json!({"type": "pro-text-to-video", "prompt": ""})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(answer["code"], 400);
    assert_eq!(answer["error"], "INVALID_PROMPT");
    assert!(answer["message"].is_string());

    for path in ["/api/generate", "/api/status?task_id=n75x"] {
        for key in [None, Some("Bearer wrong"), Some("Basic sim-master-key"), Some("Bearer")] {
            let request = if path == "/api/generate" {
                rig.client.post(rig.url(path)).json(&body("a"))
            } else {
                rig.client.get(rig.url(path))
            };
            let request = match key {
                Some(key) => request.header("authorization", key),
                None => request,
            };
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
            assert_eq!(response.json::<Value>().await.unwrap()["error"], "INVALID_API_KEY");
        }
    }
    assert_eq!(rig.totals().await, (0, 0));

    let wrong = rig.get("/api/generate").await;
    assert_eq!(
        (wrong.status(), &wrong.headers()["allow"]),
        (StatusCode::METHOD_NOT_ALLOWED, &"POST".parse().unwrap())
    );
    assert_eq!(rig.get("/nowhere").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(rig.get("/healthz").await.status(), StatusCode::OK);
    assert_eq!(rig.get("/api/status").await.status(), StatusCode::BAD_REQUEST);
    rig.stop().await;
}

#[tokio::test]
async fn a_foreign_task_is_an_unknown_one() {
    let keys = vec![KEY.to_owned(), "other".to_owned()];
    let rig = Rig::start(SimulatorConfig { master_keys: keys, ..instant() }).await;
    let task_id = rig.task("mine").await;
    let url = rig.url(&format!("/api/status?task_id={task_id}"));
    let foreign = rig.client.get(url).bearer_auth("other").send().await.unwrap();
    assert_eq!(foreign.status(), StatusCode::NOT_FOUND);
    let foreign: Value = foreign.json().await.unwrap();
    let unknown: Value = rig.send_status("n75nothingkling3").await.unwrap().json().await.unwrap();
    assert_eq!(foreign, unknown);
    assert_eq!(unknown["error"], "TASK_NOT_FOUND");
    rig.stop().await;
}

#[tokio::test]
async fn the_task_id_is_url_decoded() {
    let rule = json!({"on": "create", "fault": {"kind": "task_id", "value": "a b&c=ü"}});
    let rig = Rig::with_rule(instant(), rule).await;
    assert_eq!(rig.task("a").await, "a b&c=ü");
    assert_eq!(rig.status("a+b%26c%3D%C3%BC&x=1").await["task_id"], "a b&c=ü");
    rig.stop().await;
}

#[tokio::test]
async fn large_bodies_pass_and_larger_ones_get_an_answer() {
    let rig = Rig::start(instant()).await;
    let image = |megabytes: usize| json!({"type": "pro-image-to-video", "prompt": "a", "image": "A".repeat(megabytes << 20)});
    let (status, answer) = rig.create(image(16)).await;
    assert_eq!(status, StatusCode::OK);
    let echo = rig.status(answer["data"]["task_id"].as_str().unwrap()).await;
    assert!(echo["request"]["image"] == "A".repeat(16 << 20), "the request is repeated letter by letter");
    let (status, answer) = rig.create(image(33)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer["error"], "BODY_TOO_LARGE");
    rig.stop().await;
}

#[tokio::test]
async fn the_public_url_is_the_base_of_videos() {
    let public_url = Some("https://videos.example/sim/".to_owned());
    let rig = Rig::start(SimulatorConfig { public_url, ..instant() }).await;
    let task_id = rig.task("a").await;
    let expected = format!("https://videos.example/sim/videos/{task_id}.mp4");
    assert_eq!(rig.status(&task_id).await["response"], json!([expected]));
    rig.stop().await;
}

#[tokio::test]
async fn a_taken_address_is_named() {
    let rig = Rig::start(instant()).await;
    let error = Simulator::bind(rig.address, instant()).await.err().unwrap();
    let sentence = error.to_string();
    assert!(
        sentence.contains(&rig.address.to_string()) && sentence.contains("choose another port"),
        "{sentence}"
    );
    rig.stop().await;
}

#[tokio::test]
async fn senseless_settings_are_refused() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let keyless = SimulatorConfig { master_keys: Vec::new(), ..instant() };
    assert!(matches!(Simulator::bind(any, keyless).await, Err(SimulatorError::NoMasterKey)));
    for ratio in [-0.1, 1.1, f64::NAN] {
        let config = SimulatorConfig { fail_ratio: ratio, ..instant() };
        assert!(matches!(Simulator::bind(any, config).await, Err(SimulatorError::FailRatio(_))));
    }
}

#[tokio::test]
async fn shutting_down_finishes_calls_in_flight() {
    let rule = json!({"on": "create", "fault": {"kind": "delay", "ms": 200}});
    let rig = Rig::with_rule(instant(), rule).await;
    let (answer, ()) = tokio::join!(rig.create(body("a")), async {
        eventually(async || rig.account().await["creates_received"] == 1).await;
        rig.stop.cancel();
    });
    assert_eq!(answer.0, StatusCode::OK);
    within(rig.stop()).await;
}

#[tokio::test]
async fn its_own_pages_need_the_token_if_there_is_one() {
    let rig = Rig::start(SimulatorConfig { control_token: Some("t".into()), ..instant() }).await;
    let books = |token: Option<&str>| {
        let call = rig.client.get(rig.url("/_sim/books"));
        token.map(|token| call.try_clone().unwrap().bearer_auth(token)).unwrap_or(call).send()
    };
    assert_eq!(books(None).await.unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(books(Some(KEY)).await.unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(books(Some("t")).await.unwrap().status(), StatusCode::OK);
    // The vendor's calls have their own keys.
    rig.task("x").await;
    rig.stop().await;
}
