//! What the vendor's answer to a create means: the contract's table, row by row.

use reqwest::header::HeaderValue;
use serde_json::{Value, json};

use crate::support::gateway::{Answer, ENDLESS, TestGateway, body, closed_port, stub_upstream};

/// What becomes of a create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client gets the task.
    Accepted,
    /// Nothing is held, the idempotency key is free again.
    Released(u16, &'static str),
    /// The same, and the platform may have lost the list price.
    PossibleLoss,
    /// Held until the outcome is known.
    InDoubt,
}

const NO_CREDITS: End = End::Released(503, "UPSTREAM_UNAVAILABLE");
const BARE: End = End::Released(502, "UPSTREAM_ERROR");
const BUSY: End = End::Released(429, "RATE_LIMITED");

fn error(status: u16, envelope: bool) -> Value {
    json!({"kind": "http_error", "status": status, "envelope": envelope})
}

fn body_code(code: i64) -> Value {
    json!({"kind": "body_code", "code": code})
}

fn rows() -> Vec<(Value, End)> {
    let refused = |status| json!({"kind": "http_error", "status": status, "error": "THEIR_CODE", "message": "in their words"});
    let accepting = |mut fault: Value| {
        fault["accept"] = true.into();
        fault
    };
    let mut rows = vec![
        (json!({"kind": "delay", "ms": 1}), End::Accepted),
        (json!({"kind": "huge", "bytes": 5_000_000}), End::Accepted),
        (json!({"kind": "slow_drip", "ms_per_byte": 1}), End::Accepted),
        (body_code(400), End::Released(400, "INVALID_PROMPT")),
        (body_code(404), BARE),
        (body_code(401), NO_CREDITS),
        (body_code(403), NO_CREDITS),
        (body_code(402), NO_CREDITS),
        (body_code(429), BUSY),
        (body_code(500), End::PossibleLoss),
        (body_code(503), End::InDoubt),
        (body_code(0), End::InDoubt),
        (error(401, true), NO_CREDITS),
        (error(403, true), NO_CREDITS),
        (error(402, true), NO_CREDITS),
        (error(402, false), NO_CREDITS),
        (error(429, true), BUSY),
        (error(429, false), BUSY),
        (error(500, true), End::PossibleLoss),
        (accepting(error(500, true)), End::PossibleLoss),
        (json!({"kind": "cut_before"}), End::InDoubt),
        (json!({"kind": "cut_after"}), End::InDoubt),
        (json!({"kind": "cut_after", "partial": true}), End::InDoubt),
        (json!({"kind": "garbage"}), End::InDoubt),
        (accepting(json!({"kind": "garbage"})), End::InDoubt),
        (json!({"kind": "html"}), End::InDoubt),
        (accepting(json!({"kind": "html"})), End::InDoubt),
        (json!({"kind": "truncated"}), End::InDoubt),
        (json!({"kind": "huge", "bytes": 30_000_000}), End::Accepted),
        (json!({"kind": "huge", "bytes": 300_000_000}), End::InDoubt),
        (json!({"kind": "no_task_id"}), End::InDoubt),
        (json!({"kind": "task_id", "value": ""}), End::InDoubt),
        (json!({"kind": "task_id", "value": {"id": 1}}), End::InDoubt),
        (json!({"kind": "redirect", "location": "http://127.0.0.1:9/"}), NO_CREDITS),
        (json!({"kind": "redirect", "status": 307, "location": "/api/generate"}), NO_CREDITS),
    ];
    rows.extend([400, 409, 413, 418, 422].map(|status| (refused(status), End::Released(400, "THEIR_CODE"))));
    rows.extend([400, 401, 403, 413].map(|status| (error(status, false), BARE)));
    // Our configuration is at fault, and never the request.
    rows.extend([404, 405, 410].map(|status| (error(status, false), BARE)));
    rows.extend([404, 405, 410].map(|status| (refused(status), BARE)));
    rows.extend([408, 500, 501, 502, 503, 504, 520, 524].map(|status| (error(status, false), End::InDoubt)));
    rows.extend([408, 502, 503].map(|status| (error(status, true), End::InDoubt)));
    rows
}

/// A create with an idempotency key.
async fn keyed(gateway: &TestGateway, key: &str) -> Answer {
    let key = HeaderValue::from_str(key).unwrap();
    Answer::to(gateway.creating(body("the same each time").to_string()).header("idempotency-key", key)).await
}

#[tokio::test]
async fn every_row_of_the_table() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    let [mut available, mut held, _] = gateway.balance().await;
    for (index, (fault, end)) in rows().into_iter().enumerate() {
        let key = format!("row-{index}");
        gateway.fault_on_create(fault.clone()).await;
        let (before, _) = gateway.upstream_creates().await;
        let answer = keyed(&gateway, &key).await;
        let (after, _) = gateway.upstream_creates().await;
        assert!(after == before + 1 || end == BUSY, "sent {} times: {fault}", after - before);
        let hold = gateway.last_hold().await;
        let (status, code) = match end {
            End::Accepted => (200, Value::Null),
            End::Released(status, code) => (status, code.into()),
            End::PossibleLoss => (502, "UPSTREAM_ERROR".into()),
            End::InDoubt => (504, "OUTCOME_UNKNOWN".into()),
        };
        assert_eq!((answer.status, &answer.json()["error"]), (status, &code), "{fault}: {answer:?}");
        let state = match end {
            End::Accepted => "RUNNING",
            End::InDoubt => "IN_DOUBT",
            End::Released(..) | End::PossibleLoss => "RELEASED",
        };
        assert_eq!(hold.state, state, "{fault}");
        assert_eq!(hold.possible_loss, if end == End::PossibleLoss { 400 } else { 0 }, "{fault}");
        if code == "THEIR_CODE" {
            assert_eq!(answer.json()["message"], "in their words");
        }
        if state != "RELEASED" {
            available -= 400;
            held += 400;
        }
        assert_eq!(gateway.balance().await, [available, held, 0], "{fault}");

        // The same key again, now that the vendor behaves.
        gateway.script(json!({})).await;
        let (before, _) = gateway.upstream_creates().await;
        let again = keyed(&gateway, &key).await;
        let (after, _) = gateway.upstream_creates().await;
        match end {
            End::Accepted => {
                assert_eq!(again.text, answer.text);
                assert_eq!(again.header("idempotent-replayed"), "true");
            }
            End::InDoubt => {
                assert_eq!(answer.reference(), hold.reference());
                assert_eq!(again.reference(), hold.reference());
                let shown = gateway.status(&hold.reference()).await.data();
                assert_eq!(
                    (&shown["status"], &shown["consumed_credits"]),
                    (&json!("IN_PROGRESS"), &json!(400))
                );
            }
            End::Released(..) | End::PossibleLoss => {
                again.expect(200);
                assert_eq!(again.header("idempotent-replayed"), "", "{fault}");
                available -= 400;
                held += 400;
            }
        }
        assert_eq!(after - before, u64::from(state == "RELEASED"), "{fault}");
        assert_eq!(gateway.balance().await, [available, held, 0], "{fault}");
    }
}

#[tokio::test]
async fn an_answer_that_is_no_http_or_has_no_body() {
    for (said, state, status) in [
        (&b""[..], "IN_DOUBT", 504),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "IN_DOUBT", 504),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "IN_DOUBT", 504),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{}", "IN_DOUBT", 504),
        (b"not HTTP at all\r\n\r\n", "IN_DOUBT", 504),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnull", "IN_DOUBT", 504),
        (b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n", "IN_DOUBT", 504),
        (b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", "RELEASED", 502),
        (b"HTTP/1.1 400 Bad Request\r\ncontent-encoding: gzip\r\ncontent-length: 0\r\n\r\n", "RELEASED", 502),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", "RELEASED", 503),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "RELEASED", 502),
    ] {
        let (address, connections) = stub_upstream(said).await;
        let gateway = TestGateway::builder()
            .config(move |config| {
                config.upstream.kling_3.base_url = format!("http://{address}").parse().unwrap();
            })
            .start()
            .await;
        let answer = gateway.create(&body("to a stub")).await;
        let said = String::from_utf8_lossy(said);
        assert_eq!(answer.status, status, "{said}: {answer:?}");
        assert_eq!(gateway.last_hold().await.state, state, "{said}");
        assert_eq!(*connections.borrow(), 1, "sent once and never again: {said}");
    }
}

#[tokio::test]
async fn what_cannot_be_sent_is_released_and_the_other_backend_works() {
    let closed = closed_port().await;
    let gateway = TestGateway::builder()
        .config(move |config| {
            let working = config.upstream.kling_3.clone();
            config.upstream.kling_o3 = Some(working);
            config.upstream.kling_3.base_url = format!("http://{closed}").parse().unwrap();
        })
        .start()
        .await;
    let answer = keyed(&gateway, "k").await;
    answer.refused(503, "UPSTREAM_UNAVAILABLE");
    assert_eq!(gateway.last_hold().await.state, "RELEASED");
    assert_eq!(gateway.balance().await, [1_000_000, 0, 0]);
    keyed(&gateway, "k").await.refused(503, "UPSTREAM_UNAVAILABLE");

    let o3 = json!({"type": "o3-std-text-to-video", "prompt": "x"});
    let task = gateway.create(&o3).await.task_id();
    gateway.finished(&task).await;
    assert_eq!(gateway.balance().await, [1_000_000 - 180, 0, 180]);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_and_a_server_without_tls_are_not_sent_to() {
    let (plain, _) = stub_upstream(b"this is no TLS").await;
    for url in ["http://nowhere.invalid".to_owned(), format!("https://{plain}")] {
        let gateway = TestGateway::builder()
            .config(move |config| config.upstream.kling_3.base_url = url.parse().unwrap())
            .start()
            .await;
        gateway.create(&body("x")).await.refused(503, "UPSTREAM_UNAVAILABLE");
        assert_eq!(gateway.last_hold().await.state, "RELEASED");
        assert_eq!(gateway.balance().await, [1_000_000, 0, 0]);
    }
}

#[tokio::test]
async fn two_creates_never_share_a_task() {
    let gateway = TestGateway::start().await;
    gateway.fault_on_create(json!({"kind": "task_id", "value": "n75twicekling3"})).await;
    let first = gateway.create(&body("first")).await;
    assert_eq!(first.task_id(), "n75twicekling3");
    let second = gateway.create(&body("second")).await.reference();
    gateway.finished("n75twicekling3").await;
    assert_eq!(gateway.status(&second).await.data()["status"], "IN_PROGRESS");
    assert_eq!(gateway.balance().await, [999_200, 400, 400]);
    let states: Vec<String> = gateway.holds().await.into_iter().map(|hold| hold.state).collect();
    assert_eq!(states, ["SETTLED", "IN_DOUBT"]);
}
