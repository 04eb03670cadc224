//! What clients can make grow has a bound, and within it a share for each: bytes, and the time to read an answer.

use std::time::Duration;

use http_body::Frame;
use http_body_util::{Empty, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::database::{PATIENCE, lock, until};
use crate::support::gateway::{Answer, TestGateway};

/// A body of 256 KiB: with its copy it takes half of the bytes that the gateway here may have in memory.
fn large() -> String {
    let body = json!({"type": "pro-text-to-video", "prompt": "an eagle"}).to_string();
    body.clone() + &" ".repeat((256 << 10) - body.len())
}

/// Sends the head of a call with a large body, and of the body only so much.
async fn begin(gateway: &TestGateway, key: &str, sent: &str) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    let head = format!(
        "POST /api/quote HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n{sent}",
        large().len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// The beginning of an answer that comes although the body has not; nothing, if the body is waited for.
async fn early(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = vec![0; 4096];
    let read = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut bytes)).await.ok()?.unwrap();
    Some(String::from_utf8_lossy(&bytes[..read]).into_owned())
}

#[tokio::test]
async fn what_finds_no_room_is_refused_before_a_byte_of_it_is_read() {
    let gateway =
        TestGateway::builder().config(|config| config.server.max_bytes_under_way = 1 << 20).start().await;
    let other = gateway.another_org("another customer", 1_000).await;
    let key = &gateway.caller.text;
    let mut found = None;
    until("the first body has taken its room before the second", async || {
        let mut first = begin(&gateway, key, "{").await;
        let mut second = begin(&gateway, key, "").await;
        let said = early(&mut second).await;
        if let (None, Some(said)) = (early(&mut first).await, said) {
            found = Some((first, said));
        }
        found.is_some()
    })
    .await;
    let (mut first, said) = found.unwrap();
    let said = said.to_lowercase();
    assert!(said.starts_with("http/1.1 503 "), "{said}");
    assert!(said.contains("retry-after: 1\r\n") && said.contains("\"unavailable\""), "{said}");

    // There is room for another organisation.
    let url = format!("http://{}/api/quote", gateway.address());
    let quote = async |key: &str, body: String| {
        Answer::to(gateway.client.post(&url).bearer_auth(key).body(body)).await
    };
    quote(&other.text, large()).await.expect(200);
    quote(key, large()).await.refused(503, "UNAVAILABLE");

    // What was admitted is served, and gives its room back.
    first.write_all(&large().as_bytes()[1..]).await.unwrap();
    until("the first is answered", async || {
        early(&mut first).await.is_some_and(|said| said.contains(" 200 "))
    })
    .await;
    quote(key, large()).await.expect(200);
}

#[tokio::test]
async fn a_body_without_a_length_is_refused_when_it_outgrows_its_room() {
    let gateway =
        TestGateway::builder().config(|config| config.server.max_bytes_under_way = 1 << 20).start().await;
    let url = format!("http://{}/api/quote", gateway.address());
    let pieces = async |count: usize| {
        let piece = || Ok::<_, std::io::Error>(Frame::data(bytes::Bytes::from(vec![b' '; 64 << 10])));
        let pieces: Vec<_> = (0..count).map(|_| piece()).collect();
        let body = reqwest::Body::wrap(StreamBody::new(futures_util::stream::iter(pieces)));
        Answer::to(gateway.client.post(&url).bearer_auth(&gateway.caller.text).body(body)).await
    };
    // Spaces are no JSON; with their copy four pieces are half of the bytes.
    pieces(4).await.refused(400, "INVALID_REQUEST");
    pieces(5).await.refused(503, "UNAVAILABLE");
    pieces(4).await.refused(400, "INVALID_REQUEST");
}

#[tokio::test]
async fn who_does_not_read_an_answer_is_disconnected() {
    let gateway = TestGateway::builder().config(|config| config.server.write_timeout_ms = 300).start().await;
    // HTTP/1.1: far more than the buffers on the way take.
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    let ask = "GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nhost: x\r\n\r\n".repeat(50);
    stream.write_all(ask.as_bytes()).await.unwrap();
    until("the connection is closed", async || stream.write_all(b"\r\n").await.is_err()).await;

    // HTTP/2: a window of nothing, whatever buffers there are.
    let stream = TcpStream::connect(gateway.address()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake::<_, Empty<bytes::Bytes>>(TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get("http://x/openapi.json").body(Empty::new()).unwrap();
    let unread = sender.send_request(request).await.unwrap();
    assert_eq!(unread.status(), 200);
    drop(tokio::time::timeout(PATIENCE, connection).await.expect("it is closed"));
}

#[tokio::test]
async fn who_hangs_up_has_no_other_turn_before_its_statement_has_ended() {
    let gateway = TestGateway::builder().config(|config| config.database.max_connections = 4).start().await;
    let other = gateway.another_org("another customer", 1_000).await;
    let list = async || {
        let call = gateway.request(reqwest::Method::GET, "/api/tasks").bearer_auth(&other.text);
        Answer::to(call).await.expect(200);
    };
    list().await;
    gateway.get("/api/credits").await.expect(200);
    let mut holder = PgConnection::connect(gateway.db.url()).await.unwrap();
    lock(&mut holder, "budget, budget_window in access exclusive mode").await;
    let hanging = async || {
        let waiting = "select count(*) from pg_stat_activity where datname = current_database() \
                       and wait_event_type = 'Lock' and query like '%from org o, draw_budgets%'";
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(gateway.db.pool()).await.unwrap()
    };
    let ask = async || {
        let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
        let key = &gateway.caller.text;
        let head = format!("GET /api/credits HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    };
    let mut asked = vec![ask().await, ask().await];
    until("as many hang as may", async || hanging().await >= 2).await;
    for _ in 0..10 {
        // The former ones hang up.
        asked = vec![ask().await, ask().await];
        list().await;
        assert!(hanging().await <= 2, "half of the pool is the most for one organisation");
    }
    drop(asked);
    holder.execute("rollback").await.unwrap();
}
