//! Strangers that open connections and send nothing, little, or read nothing.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::street::{Street, Target};

/// Keeps `count` connections open to `to`, on each of which `sent` is sent and nothing is read; whoever is put out comes
/// again.
fn keep_open(target: &Target, to: SocketAddr, count: usize, sent: &'static [u8]) {
    for _ in 0..count {
        let (over, sent_by_all) = (target.over.clone(), target.sent.clone());
        target.tasks.spawn(async move {
            let coming = async {
                loop {
                    let Ok(mut stream) = TcpStream::connect(to).await else {
                        tokio::task::yield_now().await;
                        continue;
                    };
                    sent_by_all.fetch_add(1, Ordering::Relaxed);
                    let _ = stream.write_all(sent).await;
                    // Readable when it is closed, or when there is an answer, which stays unread.
                    let _ = stream.peek(&mut [0]).await;
                    if matches!(stream.peek(&mut [0]).await, Ok(1..)) {
                        std::future::pending::<()>().await;
                    }
                    let mut rest = Vec::new();
                    let _ = stream.read_to_end(&mut rest).await;
                }
            };
            tokio::select! {
                () = over.cancelled() => {}
                () = coming => {}
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_silent_connections_of_strangers() {
    async fn attack(target: Target) {
        keep_open(&target, target.data, 1_024, b"");
        keep_open(&target, target.operations, 1_024, b"");
        target.over.cancelled().await;
    }
    Street::new().await.bears("1,024 silent connections", 2_048, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_never_end() {
    const HEAD: &[u8] = &{
        let mut head = [b'a'; 400 << 10];
        let start = b"GET /healthz HTTP/1.1\r\nHost: x\r\nx: ";
        let mut at = 0;
        while at < start.len() {
            head[at] = start[at];
            at += 1;
        }
        head
    };
    async fn attack(target: Target) {
        keep_open(&target, target.data, 300, HEAD);
        target.over.cancelled().await;
    }
    Street::new().await.bears("300 heads of 400 KiB without an end", 300, attack).await;
}
