//! What goes over the wire in both directions: paths, methods, headers, bodies.

use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::gateway::{Answer, MASTER_KEY, RawClient, TestGateway, body};
use crate::support::http;

const MAX_BODY: usize = 16 << 20;

#[tokio::test]
async fn duplicate_slashes_are_collapsed() {
    let gateway = TestGateway::start().await;
    let create = gateway.call(Method::POST, "//api///generate").body(body("x").to_string());
    let task = Answer::to(create).await.task_id();
    let status = gateway.get(&format!("//api//status?task_id={task}")).await;
    assert_eq!(status.data()["task_id"], task.as_str());
    gateway.finished(&task).await;
}

#[tokio::test]
async fn what_is_not_offered_is_refused_and_reaches_nobody() {
    let gateway = TestGateway::start().await;
    for path in
        ["/console-x", "/api", "/api/", "/api/generate/x", "/API/generate", "/v1/videos", "/_sim/books"]
    {
        for call in [gateway.call(Method::GET, path), gateway.request(Method::POST, path)] {
            Answer::to(call.body(body("x").to_string())).await.refused(404, "NOT_FOUND");
        }
    }
    for (path, allowed, wrong) in [
        ("/api/generate", "POST", [Method::GET, Method::PUT, Method::DELETE]),
        ("/api/quote", "POST", [Method::GET, Method::PATCH, Method::OPTIONS]),
        ("/api/status", "GET, HEAD", [Method::POST, Method::PUT, Method::DELETE]),
        ("/api/credits", "GET, HEAD", [Method::POST, Method::PUT, Method::DELETE]),
        ("/api/tasks", "GET, HEAD", [Method::POST, Method::PATCH, Method::OPTIONS]),
    ] {
        for method in wrong {
            let answer = Answer::to(gateway.call(method, path).body(body("x").to_string())).await;
            answer.refused(405, "METHOD_NOT_ALLOWED");
            assert_eq!(answer.header("allow"), allowed);
        }
    }
    assert_eq!(gateway.upstream_creates().await, (0, 0));
    assert_eq!(gateway.holds().await.len(), 0);
}

#[tokio::test]
async fn every_answer_has_a_request_id_of_ours() {
    let gateway = TestGateway::start().await;
    let mut seen = std::collections::HashSet::new();
    let calls = [
        gateway.creating(body("x").to_string()),
        gateway.creating("{}"),
        gateway.request(Method::POST, "/api/generate"),
        gateway.call(Method::GET, "/api/credits"),
        gateway.call(Method::GET, "/nowhere"),
        gateway.call(Method::DELETE, "/api/tasks"),
    ];
    for call in calls {
        let answer = Answer::to(call.header("x-request-id", "req_of-the-caller")).await;
        let id = answer.header("x-request-id").to_owned();
        assert_ne!(id, "req_of-the-caller");
        assert!(seen.insert(id), "used twice");
    }
}

#[tokio::test]
async fn headers_pass_by_allow_list_in_both_directions() {
    let gateway = TestGateway::start().await;
    gateway.script(json!({"record": true})).await;
    let create = gateway
        .creating(body("x").to_string())
        .header("cookie", "session=secret")
        .header("idempotency-key", "mine")
        .header("x-request-id", "mine")
        .header("x-forwarded-for", "10.1.2.3")
        .header("forwarded", "for=10.1.2.3")
        .header("x-custom", "mine")
        .header("user-agent", "the caller's")
        .header("accept", "text/html")
        .header("content-type", "text/plain");
    let answer = Answer::to(create).await;
    gateway.finished(&answer.task_id()).await;

    let requests = gateway.upstream_requests().await;
    assert!(requests.len() >= 2, "a create and a status call");
    for request in requests {
        let mut headers: Vec<(String, String)> = serde_json::from_value(request["headers"].clone()).unwrap();
        headers.sort();
        let value = |wanted: &str| &headers.iter().find(|(name, _)| name == wanted).unwrap().1;
        assert_eq!(value("authorization"), &format!("Bearer {MASTER_KEY}"));
        assert_eq!(value("content-type"), "application/json");
        assert_eq!(value("accept"), "application/json");
        assert!(value("user-agent").starts_with("tollgate/"), "{headers:?}");
        assert!(!["mine", ""].contains(&value("x-request-id").as_str()));
        let names: Vec<&str> = headers
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| !["host", "content-length"].contains(name))
            .collect();
        assert_eq!(value("accept-encoding"), "identity");
        assert_eq!(
            names,
            ["accept", "accept-encoding", "authorization", "content-type", "user-agent", "x-request-id"]
        );
    }

    // The vendor's headers stay with us: this answer carries one that ours does not use.
    gateway.fault_on_create(json!({"kind": "http_error", "status": 400, "retry_after": 7})).await;
    let refused = gateway.create(&body("y")).await;
    refused.expect(400);
    for answer in [answer, refused] {
        let mut names: Vec<&str> = answer.headers.keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "cache-control",
                "content-length",
                "content-type",
                "date",
                "x-content-type-options",
                "x-request-id"
            ]
        );
    }
}

#[tokio::test]
async fn order_number_text_and_unknown_fields_are_kept() {
    let gateway = TestGateway::start().await;
    gateway.script(json!({"record": true})).await;
    for (sent, expected) in [
        (
            r#"{ "cfg_scale": 0.50, "type":"pro-text-to-video","z":1E3, "prompt":"é\u00e9 \ud83e\udd85", "duration": "7", "a":[1.0,{"b":null}] }"#,
            r#"{"cfg_scale":0.50,"type":"pro-text-to-video","z":1E3,"prompt":"é\u00e9 \ud83e\udd85","duration":7,"a":[1.0,{"b":null}],"sound":true}"#,
        ),
        (
            r#"{"prompt":"x","type":"o3-std-text-to-video","n":123456789012345678901234567890,"sound":false,"model":"m"}"#,
            r#"{"prompt":"x","type":"o3-std-text-to-video","n":123456789012345678901234567890,"sound":false,"model":"m","duration":5}"#,
        ),
        (
            r#"{"type":"o3-std-video-edit","prompt":"x","video":"u","watermark":false}"#,
            r#"{"type":"o3-std-video-edit","prompt":"x","video":"u","watermark":false}"#,
        ),
    ] {
        let task = Answer::to(gateway.creating(sent)).await.task_id();
        let requests = gateway.upstream_requests().await;
        let create = requests.iter().rfind(|request| request["path"] == "/api/generate").unwrap();
        assert_eq!(create["body"].as_str().unwrap(), expected);
        gateway.finished(&task).await;
    }
}

/// A create with an image that makes its body exactly this long.
fn of_length(bytes: usize) -> String {
    let start = r#"{"type":"pro-image-to-video","prompt":"x","image":"data:image/png;base64,"#;
    format!("{start}{}\"}}", "A".repeat(bytes - start.len() - 2))
}

fn in_chunks(text: String) -> reqwest::Body {
    let frame = |chunk: &[u8]| Ok::<_, std::io::Error>(Frame::data(Bytes::copy_from_slice(chunk)));
    let frames: Vec<_> = text.as_bytes().chunks(1 << 20).map(frame).collect();
    reqwest::Body::wrap(StreamBody::new(futures_util::stream::iter(frames)))
}

#[tokio::test]
async fn a_body_of_16_mib_is_accepted_and_one_byte_more_is_not() {
    let gateway = TestGateway::start().await;
    gateway.script(json!({"record": true})).await;
    for text in [reqwest::Body::from(of_length(MAX_BODY)), in_chunks(of_length(MAX_BODY))] {
        let task = Answer::to(gateway.creating(text)).await.task_id();
        gateway.finished(&task).await;
    }
    let sent: Vec<Value> = gateway.upstream_requests().await;
    let creates = sent.iter().filter(|request| request["path"] == "/api/generate");
    // What the price depends on was added.
    let added = r#","duration":5,"sound":true"#.len();
    assert!(creates.clone().all(|request| request["body_bytes"] == MAX_BODY + added));
    assert_eq!(creates.count(), 2);
    let before = gateway.balance().await;
    for text in [reqwest::Body::from(of_length(MAX_BODY + 1)), in_chunks(of_length(MAX_BODY + 1))] {
        Answer::to(gateway.creating(text)).await.refused(413, "BODY_TOO_LARGE");
    }
    for text in [reqwest::Body::from(of_length(MAX_BODY + 1)), in_chunks(of_length(2 * MAX_BODY))] {
        Answer::to(gateway.call(Method::POST, "/api/quote").body(text)).await.refused(413, "BODY_TOO_LARGE");
    }
    assert_eq!(gateway.balance().await, before);
    assert_eq!(gateway.upstream_creates().await, (2, 2));
}

#[tokio::test]
async fn a_client_that_dawdles_does_not_hold_up_the_orderly_end() {
    let gateway = TestGateway::builder().config(|config| config.server.shutdown_grace_ms = 500).start().await;
    let mut dawdler = RawClient::connect(gateway.address()).await;
    let head = format!(
        "POST /api/generate HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 1000\r\n\r\n{{",
        gateway.caller.text
    );
    dawdler.write(head.as_bytes()).await;
    let task = gateway.task("meanwhile").await;
    gateway.finished(&task).await;
    // The harness fails the test if the gateway was not done in time.
    drop(gateway);
    drop(dawdler);
}

#[tokio::test]
async fn an_upload_that_is_refused_early_gets_its_answer() {
    let gateway = TestGateway::start().await;
    let upload = async |connection: &mut RawClient, path: &str, parts: usize| {
        let part = vec![b'x'; 1 << 20];
        let length = parts * part.len();
        let head = format!(
            "POST /api/{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer wrong\r\ncontent-length: {length}\r\n\r\n"
        );
        connection.write(head.as_bytes()).await;
        for _ in 0..parts {
            connection.write(&part).await;
        }
        let answer = connection.read().await;
        let closes = answer.headers.get("connection").is_some_and(|word| word == "close");
        (answer.status, closes)
    };
    let mut connection = RawClient::connect(gateway.address()).await;
    // The second answer shows that the first request's body was read to its end.
    assert_eq!(upload(&mut connection, "generate", 1).await, (401, false));
    assert_eq!(upload(&mut connection, "nothing", 1).await, (404, false));
    // Whether all of this one arrives in time nobody knows: the client must not use the connection again.
    assert_eq!(upload(&mut connection, "generate", 12).await, (401, true));
}

#[tokio::test]
async fn a_wrong_key_is_refused_before_the_body_is_read() {
    let gateway = TestGateway::start().await;
    let mut connection = RawClient::connect(gateway.address()).await;
    let head = "POST /api/generate HTTP/1.1\r\nhost: x\r\nauthorization: Bearer wrong\r\ncontent-length: 1000000\r\n\r\n";
    connection.write(head.as_bytes()).await;
    connection.read().await.refused(401, "INVALID_API_KEY");
}

// Two threads: an HTTP/2 client takes part in the gateway's orderly end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_data_plane_speaks_http_2() {
    let gateway = TestGateway::start().await;
    let client = http::builder().http2_prior_knowledge().build().unwrap();
    let url = format!("http://{}/api/generate", gateway.address());
    let create = client.post(url).bearer_auth(&gateway.caller.text).body(body("x").to_string());
    let answer = Answer::to(create).await;
    gateway.finished(&answer.task_id()).await;
}
