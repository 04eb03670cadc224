//! Organisations that send megabytes.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use http_body_util::StreamBody;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Frame;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::street::{ATTACKER, LARGE, Street, Target, with_image};
use crate::support::faults::load::{Attempt, Reply};
use crate::support::faults::scaled;
use crate::support::http;

/// Sends this body to be priced, over and over, on so many connections.
async fn price(target: &Target, connections: usize, body: String) {
    let body = Bytes::from(body);
    for _ in 0..connections {
        let (each, body) = (target.clone(), body.clone());
        target.tasks.spawn(async move {
            let client = http::client();
            let url = format!("http://{}/api/quote", each.data);
            let asking = async {
                loop {
                    each.sent.fetch_add(1, Ordering::Relaxed);
                    let _ = client.post(&url).bearer_auth(&each.key).body(body.clone()).send().await;
                }
            };
            tokio::select! {
                () = each.over.cancelled() => {}
                () = asking => {}
            }
        });
    }
    target.over.cancelled().await;
}

async fn send_a_million_fields(target: Target) {
    let mut body = String::from("{\"type\":\"pro-text-to-video\",\"prompt\":\"x\"");
    let mut number = 0;
    while body.len() < LARGE - 20 {
        body.push_str(&format!(",\"{number}a\":1"));
        number += 1;
    }
    body.push('}');
    price(&target, 4, body).await;
}

async fn send_images(target: Target) {
    let image = "A".repeat(LARGE);
    let body = format!(
        "{{\"type\":\"pro-image-to-video\",\"prompt\":\"x\",\"image\":\"data:image/png;base64,{image}\"}}"
    );
    price(&target, 64, body).await;
}

/// 200 connections, each with a body of which the last byte does not come.
async fn send_and_do_not_end(target: Target) {
    for _ in 0..200 {
        let each = target.clone();
        target.run(async move {
            let head = format!(
                "POST /api/generate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: {LARGE}\r\n\r\n",
                each.key
            );
            loop {
                let Ok(mut stream) = TcpStream::connect(each.data).await else {
                    tokio::task::yield_now().await;
                    continue;
                };
                each.sent.fetch_add(1, Ordering::Relaxed);
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(&vec![b' '; LARGE - 1]).await;
                let _ = stream.peek(&mut [0]).await;
            }
        });
    }
    target.over.cancelled().await;
}

/// A body of spaces of which the last byte does not come.
type Unfinished = UnsyncBoxBody<Bytes, Infallible>;

fn unfinished() -> Unfinished {
    const PIECE: usize = 16 << 10;
    let piece = Bytes::from_static(&[b' '; PIECE]);
    let pieces = stream::repeat(piece).take(LARGE / PIECE).map(|piece| Ok(Frame::data(piece)));
    UnsyncBoxBody::new(StreamBody::new(pieces.chain(stream::pending())))
}

/// One HTTP/2 connection with sixty such bodies. Each that is refused comes again, and so does the connection.
async fn send_sixty_on_one_connection(target: Target) {
    let each = target.clone();
    target.run(async move {
        loop {
            let Some(stream) = each.connect().await else {
                tokio::task::yield_now().await;
                continue;
            };
            let client = hyper::client::conn::http2::handshake::<_, _, Unfinished>(
                TokioExecutor::new(),
                TokioIo::new(stream),
            );
            let Ok((sender, connection)) = client.await else { continue };
            let sending = (0..60).map(|_| send_again_and_again(&each, sender.clone()));
            tokio::select! {
                _ = connection => {}
                _ = join_all(sending) => {}
            }
        }
    });
    target.over.cancelled().await;
}

/// Until the connection has ended.
async fn send_again_and_again(target: &Target, mut sender: SendRequest<Unfinished>) {
    while sender.ready().await.is_ok() {
        let request = hyper::Request::post("http://x/api/generate");
        let request = request.header("authorization", format!("Bearer {}", target.key));
        let request = request.header("content-length", LARGE).body(unfinished()).unwrap();
        target.sent.fetch_add(1, Ordering::Relaxed);
        let _ = sender.send_request(request).await;
    }
}

/// Thirty creates with the largest bodies, which the vendor leaves unanswered, and whose callers leave.
async fn send_and_leave(target: Target) {
    if let Some(real) = target.real.clone() {
        let image = "A".repeat(LARGE - 1_000);
        for _ in 0..30 {
            let (each, customers) = (target.clone(), real.customers.clone());
            let mut create = customers.draft(ATTACKER);
            create.body = with_image(&create.body, &image);
            target.tasks.spawn(async move {
                each.sent.fetch_add(1, Ordering::Relaxed);
                let sending = customers.send(&mut create, 0);
                if tokio::time::timeout(PATIENCE_OF_A_CALLER, sending).await.is_err() {
                    let (took, reply) = (PATIENCE_OF_A_CALLER, Reply::NoAnswer);
                    create.attempts.push(Attempt { gateway: 0, took, reply });
                }
                customers.note(create);
            });
        }
    }
    target.over.cancelled().await;
}

/// Shorter than the gateways' for the vendor.
const PATIENCE_OF_A_CALLER: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_bodies_all_at_once() {
    let street = Street::new().await;
    street.stands("1.3 million fields", 8, send_a_million_fields).await;
    street.stands("64 bodies of 16 MiB", 128, send_images).await;
    street.stands("200 unfinished bodies of 16 MiB", 200, send_and_do_not_end).await;
    street.stands("60 unfinished bodies on an HTTP/2 connection", 60, send_sixty_on_one_connection).await;
    let street = street.vendor_does("create", json!({"kind": "hang"})).await;
    street.bears("30 creates of 16 MiB that hang, callers gone", 30, send_and_leave).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_killed_under_large_bodies_comes_back() {
    async fn attack(target: Target) {
        tokio::join!(send_and_do_not_end(target.clone()), send_sixty_on_one_connection(target));
    }
    Street::with_an_address().await.comes_back("killed under 260 bodies of 16 MiB", 260, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_bodies_and_answers_get_through() {
    /// With the body, which the vendor repeats; nearly as large as an answer that is kept whole.
    const ANSWER: usize = 23 << 20;
    let more = json!({"kind": "huge", "bytes": ANSWER - LARGE});
    let street = Street::new().await.vendor_does("status", more).await;
    street.lets_through(scaled(4, 100), LARGE, ANSWER).await;
}

/// Tasks whose status repeats an image all the while, and how many bytes it has.
fn repeating() -> (usize, usize) {
    scaled((5, 3 << 20), (20, 12 << 20))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_vendor_repeats_is_written_once() {
    async fn attack(target: Target) {
        let (tasks, bytes) = repeating();
        if let Some(real) = target.real.clone() {
            // The database cannot compress it.
            let bytes: Vec<u8> = (0..bytes / 4 * 3).map(|_| rand::random()).collect();
            let image = BASE64_STANDARD.encode(bytes);
            for _ in 0..tasks {
                real.create_large(&image).await;
                target.sent.fetch_add(1, Ordering::Relaxed);
            }
        }
        target.over.cancelled().await;
    }
    let (tasks, bytes) = repeating();
    let goes_on = json!({"kind": "status_word", "value": "IN_PROGRESS"});
    let street = Street::on_its_own_server().await.vendor_does("status", goes_on).await;
    let before = street.written().await;
    let name = "tasks whose status repeats an image";
    let at_first = street.withstands(name, tasks, attack).await;
    // Until then the vendor goes on, and the gateway asks it.
    street.until_ended().await;
    street.gives_back(name, at_first).await;
    let after = street.written().await;
    let (log, table) = (after.0 - before.0, after.1 - before.1);
    let once = i64::try_from(tasks * bytes).unwrap();
    println!("of {once} bytes of content: {log} bytes of the server's log, {table} of the table");
    // And its index, and what the neighbours and the gateway write meanwhile.
    let most = once + once / 4 + (16 << 20);
    assert!(log <= most && table <= most, "of {once} bytes: {log} of the log, {table} of the table");
    assert!(table >= once, "of {once} bytes: {table} are kept");
    street.concludes().await;
}
