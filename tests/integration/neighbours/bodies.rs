//! Organisations that send megabytes.

use std::sync::atomic::Ordering;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::street::{LARGE, Street, Target};
use crate::support::faults::scaled;
use crate::support::http;

/// Sends this body to be priced, over and over, on so many connections.
async fn price(target: &Target, connections: usize, body: String) {
    let body = bytes::Bytes::from(body);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_fields_in_one_body() {
    async fn attack(target: Target) {
        let mut body = String::from("{\"type\":\"pro-text-to-video\",\"prompt\":\"x\"");
        let mut number = 0;
        while body.len() < LARGE - 20 {
            body.push_str(&format!(",\"{number}a\":1"));
            number += 1;
        }
        body.push('}');
        price(&target, 4, body).await;
    }
    Street::new().await.bears("1.3 million fields", 8, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_bodies_all_at_once() {
    async fn attack(target: Target) {
        let image = "A".repeat(LARGE);
        let body = format!(
            "{{\"type\":\"pro-image-to-video\",\"prompt\":\"x\",\"image\":\"data:image/png;base64,{image}\"}}"
        );
        price(&target, 64, body).await;
    }
    Street::new().await.bears("64 bodies of 16 MiB", 128, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_bodies_and_answers_get_through() {
    /// With the body, which the vendor repeats; nearly as large as an answer that is kept whole.
    const ANSWER: usize = 23 << 20;
    let more = json!({"kind": "huge", "bytes": ANSWER - LARGE});
    let street = Street::new().await.vendor_does("status", more).await;
    street.lets_through(scaled(4, 100), LARGE, ANSWER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_that_do_not_end() {
    async fn attack(target: Target) {
        for _ in 0..200 {
            let each = target.clone();
            target.tasks.spawn(async move {
                let head = format!(
                    "POST /api/generate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: {LARGE}\r\n\r\n",
                    each.key
                );
                let sending = async {
                    loop {
                        let Ok(mut stream) = TcpStream::connect(each.data).await else { continue };
                        each.sent.fetch_add(1, Ordering::Relaxed);
                        let _ = stream.write_all(head.as_bytes()).await;
                        let _ = stream.write_all(&vec![b' '; LARGE - 1]).await;
                        let _ = stream.peek(&mut [0]).await;
                    }
                };
                tokio::select! {
                    () = each.over.cancelled() => {}
                    () = sending => {}
                }
            });
        }
        target.over.cancelled().await;
    }
    Street::new().await.bears("200 unfinished bodies of 16 MiB", 200, attack).await;
}
