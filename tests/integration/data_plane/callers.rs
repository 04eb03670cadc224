//! What clients of all kinds send: bodies that are no JSON, other spellings of fields, half-closed connections, HEAD, pages of
//! browsers.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::database::until;
use crate::support::gateway::{Answer, RawClient, TestGateway, body};

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn post(gateway: &TestGateway, path: &str, body: &str) -> String {
    let (key, length) = (&gateway.caller.text, body.len());
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn a_client_that_closes_its_side_gets_its_answer() {
    let gateway = TestGateway::start().await;
    gateway.fault_on_create(json!({"kind": "delay", "ms": 1500, "accept": true})).await;
    for path in ["/api/quote", "/api/generate"] {
        let mut client = RawClient::connect(gateway.address()).await;
        client.write(post(&gateway, path, &body("half").to_string()).as_bytes()).await;
        client.half_close().await;
        client.read().await.expect(200);
    }
    assert_eq!(gateway.upstream_creates().await, (1, 1));
    let task = gateway.last_hold().await.reference();
    gateway.finished(&task).await;

    // What is cut off in the middle is no request.
    let mut client = RawClient::connect(gateway.address()).await;
    let whole = post(&gateway, "/api/generate", &body("cut").to_string());
    client.write(&whole.as_bytes()[..whole.len() - 1]).await;
    client.half_close().await;
    client.ended().await;
    assert_eq!(gateway.upstream_creates().await, (1, 1));
}

#[tokio::test]
async fn a_client_that_has_left_is_noticed_and_one_that_may_have_is_not_tried_again_for() {
    let gateway =
        TestGateway::builder().config(|config| config.upstream.kling_3.retry_429_ms = 60_000).start().await;
    gateway.fault_on_create(json!({"kind": "http_error", "status": 429, "retry_after": 30})).await;
    let request = post(&gateway, "/api/generate", &body("x").to_string());
    for reset in [true, false] {
        let (before, _) = gateway.upstream_creates().await;
        let mut client = RawClient::connect(gateway.address()).await;
        client.write(request.as_bytes()).await;
        until("it was tried", async || gateway.upstream_creates().await.0 == before + 1).await;
        if reset {
            client.reset();
        } else {
            client.half_close().await;
            client.read().await.refused(429, "RATE_LIMITED");
        }
        until("the hold is released", async || gateway.balance().await == [1_000_000, 0, 0]).await;
        assert_eq!(gateway.upstream_creates().await.0, before + 1);
    }
}

#[tokio::test]
async fn a_refusal_says_what_is_wrong_and_where() {
    let gateway = TestGateway::start().await;
    let utf16: Vec<u8> = body("x").to_string().encode_utf16().flat_map(u16::to_le_bytes).collect();
    let twice = Value::from(body("x").to_string()).to_string();
    for (sent, code, said) in [
        (b"{\"prompt\":\"G\xfcn\"}".to_vec(), "INVALID_REQUEST", "not UTF-8 at byte 12 (line 1, column 13)"),
        (utf16, "INVALID_REQUEST", "UTF-16"),
        (b"\xef\xbb\xbf{}".to_vec(), "INVALID_REQUEST", "byte order mark"),
        (b"{\"type\":\"x\",\n}".to_vec(), "INVALID_REQUEST", "trailing comma at line 2 column 1"),
        (b"type=std-text-to-video&prompt=x".to_vec(), "INVALID_REQUEST", "x-www-form-urlencoded"),
        (twice.into_bytes(), "INVALID_REQUEST", "encoded twice"),
        (gzip(&body("x").to_string()), "INVALID_REQUEST", "'Content-Encoding: gzip'"),
        (
            br#"{"type":"std-text-to-video","prompt":"eagle \ud83d"}"#.to_vec(),
            "INVALID_PROMPT",
            "half of a surrogate pair (\\ud83d) at character 7",
        ),
        (
            br#"{"type":"std-text-to-video","prompt":"x","duration":3,"Duration":15}"#.to_vec(),
            "INVALID_REQUEST",
            "'Duration' may be taken for 'duration'",
        ),
        (
            br#"{"type":"std-text-to-video","prompt":"x","callback_url":"https://example.com/"}"#.to_vec(),
            "INVALID_CALLBACK",
            "'callback_url'",
        ),
    ] {
        for path in ["/api/generate", "/api/quote"] {
            let answer = Answer::to(gateway.call(Method::POST, path).body(sent.clone())).await;
            let message = answer.refused(400, code)["message"].as_str().unwrap().to_owned();
            assert!(message.contains(said), "{message}");
        }
    }
    assert_eq!(gateway.upstream_creates().await, (0, 0));
    assert_eq!(gateway.holds().await.len(), 0);
}

#[tokio::test]
async fn a_compressed_body_is_decoded_within_the_same_limits() {
    let gateway = TestGateway::start().await;
    gateway.script(json!({"record": true})).await;
    let text = body("packed").to_string();
    let packed = |bytes: Vec<u8>, path: &str| {
        gateway.call(Method::POST, path).header("content-encoding", "gzip").body(bytes)
    };
    let keyed = |packed: reqwest::RequestBuilder| packed.header("idempotency-key", "packed");
    let task = Answer::to(keyed(packed(gzip(&text), "/api/generate"))).await.task_id();
    gateway.finished(&task).await;
    let sent = gateway.upstream_requests().await;
    let create = sent.iter().find(|request| request["path"] == "/api/generate").unwrap();
    let names: Vec<&str> =
        create["headers"].as_array().unwrap().iter().map(|header| header[0].as_str().unwrap()).collect();
    assert!(!names.contains(&"content-encoding"), "{names:?}");
    assert_eq!(create["body_bytes"], text.len() + r#","sound":true"#.len());

    // The same request again, however it is packed.
    for again in [packed(gzip(&text), "/api/generate"), gateway.creating(text.clone())] {
        let answer = Answer::to(keyed(again)).await;
        assert_eq!((answer.header("idempotent-replayed"), answer.task_id()), ("true", task.clone()));
    }
    assert_eq!(Answer::to(packed(gzip(&text), "/api/quote")).await.data()["credits"], 400);

    // 64 MiB in 64 KiB.
    let bomb = gzip(&" ".repeat(64 << 20));
    for path in ["/api/generate", "/api/quote"] {
        Answer::to(packed(bomb.clone(), path)).await.refused(413, "BODY_TOO_LARGE");
        Answer::to(packed(b"no gzip".to_vec(), path)).await.refused(400, "INVALID_REQUEST");
        for coding in ["br", "gzip, gzip", "deflate"] {
            let call = gateway.call(Method::POST, path).header("content-encoding", coding).body(text.clone());
            let answer = Answer::to(call).await;
            answer.refused(415, "INVALID_REQUEST");
            assert_eq!(answer.header("accept-encoding"), "gzip, identity");
        }
    }
    assert_eq!(gateway.upstream_creates().await, (1, 1));
}

#[tokio::test]
async fn a_request_names_one_host() {
    let gateway = TestGateway::start().await;
    for (hosts, status) in [
        ("", 400),
        ("host: a\r\nhost: a\r\n", 400),
        ("host: a b\r\n", 400),
        ("host:\r\n", 400),
        ("host: a\r\n", 200),
    ] {
        let mut client = RawClient::connect(gateway.address()).await;
        let key = &gateway.caller.text;
        let head = format!("GET /api/credits HTTP/1.1\r\n{hosts}authorization: Bearer {key}\r\n\r\n");
        client.write(head.as_bytes()).await;
        let answer = client.read().await;
        assert_eq!(answer.status, status, "{hosts:?}: {answer:?}");
        if status == 400 {
            assert!(answer.refused(400, "INVALID_REQUEST")["message"].as_str().unwrap().contains("Host"));
        }
    }
}

#[tokio::test]
async fn head_answers_wherever_get_does_and_a_slash_at_the_end_is_dropped() {
    let gateway = TestGateway::start().await;
    let task = gateway.task("x").await;
    gateway.finished(&task).await;
    for path in
        ["/api/credits", "/api/tasks", &format!("/api/status?task_id={task}"), "/healthz", "/openapi.json"]
    {
        let of = async |method: Method| gateway.call(method, path).send().await.unwrap();
        let (head, get) = (of(Method::HEAD).await, of(Method::GET).await);
        assert_eq!((head.status().as_u16(), get.status().as_u16()), (200, 200), "{path}");
        for name in ["content-length", "content-type", "cache-control"] {
            assert_eq!(head.headers().get(name), get.headers().get(name), "{path} {name}");
        }
        assert_eq!(head.text().await.unwrap(), "", "{path}");
    }
    Answer::to(gateway.call(Method::POST, "/api/quote/").body(body("x").to_string())).await.expect(200);
    gateway.get(&format!("/api/status/?task_id={task}")).await.expect(200);
}

#[tokio::test]
async fn a_key_in_another_header_is_refused_in_words_that_help() {
    let gateway = TestGateway::start().await;
    let call = gateway.request(Method::GET, "/api/credits").header("x-api-key", &gateway.caller.text);
    let refused = Answer::to(call).await.refused(401, "INVALID_API_KEY");
    assert!(refused["message"].as_str().unwrap().contains("Authorization: Bearer"));
}

#[tokio::test]
async fn pages_of_listed_origins_may_call() {
    const PAGE: &str = "https://app.example.com";
    let gateway =
        TestGateway::builder().config(|config| config.server.cors_origins = vec![PAGE.into()]).start().await;
    let preflight = |origin: &'static str| {
        gateway
            .request(Method::OPTIONS, "/api/generate")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type,idempotency-key")
    };
    let answer = preflight(PAGE).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let header =
        |name: &str| answer.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_lowercase();
    assert_eq!(header("access-control-allow-origin"), PAGE);
    assert_eq!(header("access-control-allow-credentials"), "");
    assert!(header("access-control-allow-methods").contains("post"));
    for name in ["authorization", "content-type", "idempotency-key"] {
        assert!(header("access-control-allow-headers").contains(name), "{name}");
    }
    let others = preflight("https://example.com").send().await.unwrap();
    assert!(!others.headers().contains_key("access-control-allow-origin"));

    for call in [gateway.call(Method::GET, "/api/credits"), gateway.request(Method::GET, "/api/credits")] {
        let answer = Answer::to(call.header("origin", PAGE)).await;
        assert_eq!(answer.header("access-control-allow-origin"), PAGE, "{answer:?}");
        assert!(answer.header("access-control-expose-headers").contains("x-request-id"));
    }
}
