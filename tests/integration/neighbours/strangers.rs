//! Strangers that ask for what is public and do not read it, and strangers with wrong keys.

use std::sync::atomic::Ordering;

use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tollgate::api_key::NewKey;

use super::street::{Street, Target};
use crate::support::faults::table::skipped;
use crate::support::http;

/// One HTTP/2 connection that asks for a page a hundred times and lets the server send nothing of the bodies; again, if it is
/// put out.
async fn ask_and_do_not_read(target: &Target, path: &'static str) {
    loop {
        let Some(stream) = target.connect().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let client = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(0)
            .handshake::<_, Empty<bytes::Bytes>>(TokioIo::new(stream))
            .await;
        let Ok((mut sender, connection)) = client else { continue };
        let connection = target.tasks.spawn(connection);
        let mut answers = Vec::new();
        for _ in 0..100 {
            let request = hyper::Request::get(format!("http://x{path}")).body(Empty::new()).unwrap();
            match sender.send_request(request).await {
                Ok(answer) => answers.push(answer),
                Err(_) => break,
            }
            target.sent.fetch_add(1, Ordering::Relaxed);
        }
        let _ = connection.await;
    }
}

/// A thousand answers, of megabytes in sum, that nobody reads.
async fn ask_for_pages(target: Target) {
    for connection in 0..10 {
        let path = ["/docs/swagger-ui-bundle.js", "/openapi.json"][connection % 2];
        let each = target.clone();
        target.run(async move { ask_and_do_not_read(&each, path).await });
    }
    target.over.cancelled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn public_pages_that_nobody_reads() {
    Street::new().await.bears("1,000 public pages unread", 500, ask_for_pages).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn public_pages_that_nobody_reads_behind_haproxy() {
    const NAME: &str = "1,000 public pages unread behind HAProxy";
    let Some(street) = Street::behind_haproxy().await else {
        assert!(std::env::var_os("TOLLGATE_TEST_HAPROXY").is_none(), "this machine has no haproxy");
        return skipped(NAME, "this machine has no haproxy");
    };
    street.bears(NAME, 200, ask_for_pages).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_nobody_made() {
    async fn attack(target: Target) {
        for _ in 0..crate::support::faults::scaled(100, 2_500) {
            let each = target.clone();
            target.tasks.spawn(async move {
                let client = http::client();
                let trying = async {
                    loop {
                        let key = NewKey::generate("live").unwrap().text;
                        let url = format!("http://{}/api/credits", each.data);
                        each.sent.fetch_add(1, Ordering::Relaxed);
                        let _ = client.get(url).bearer_auth(key.expose()).send().await;
                    }
                };
                tokio::select! {
                    () = each.over.cancelled() => {}
                    () = trying => {}
                }
            });
        }
        target.over.cancelled().await;
    }
    Street::new().await.bears("wrong keys", 200, attack).await;
}
