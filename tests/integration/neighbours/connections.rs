//! Who opens connections: strangers that send nothing, little, or read nothing, and one organisation that opens as many as it can.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::street::{Street, Target};
use crate::support::faults::scaled;

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

/// A connection from one of a hundred addresses that are nobody else's.
async fn from_elsewhere(number: usize, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let host = u8::try_from(number / 2 % 100).unwrap();
    socket.bind((IpAddr::V4(Ipv4Addr::new(127, 0, 7, host)), 0).into())?;
    socket.connect(to).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn known_connections_of_one_key() {
    async fn attack(target: Target) {
        // Half of them idle, half of them with a body that does not come.
        for number in 0..scaled(600, 3_000) {
            let each = target.clone();
            target.tasks.spawn(async move {
                let of_key = format!("Host: x\r\nAuthorization: Bearer {}\r\n", each.key);
                let idle = format!("GET /api/me HTTP/1.1\r\n{of_key}\r\n");
                let busy = format!("POST /api/quote HTTP/1.1\r\n{of_key}Content-Length: 1000\r\n\r\n{{");
                let sent = if number % 2 == 0 { idle } else { busy };
                let coming = async {
                    loop {
                        let Ok(mut stream) = from_elsewhere(number, each.data).await else {
                            tokio::task::yield_now().await;
                            continue;
                        };
                        each.sent.fetch_add(1, Ordering::Relaxed);
                        let _ = stream.write_all(sent.as_bytes()).await;
                        // Until it is put out.
                        let mut rest = Vec::new();
                        let _ = stream.read_to_end(&mut rest).await;
                    }
                };
                tokio::select! {
                    () = each.over.cancelled() => {}
                    () = coming => {}
                }
            });
        }
        target.over.cancelled().await;
    }
    Street::new().await.bears("connections of one key", 900, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_with_slow_bodies_of_one_client() {
    async fn attack(target: Target) {
        for number in 0..scaled(400, 1_000) {
            let each = target.clone();
            target.tasks.spawn(async move {
                // Half of them without a key.
                let key = if number % 2 == 0 { each.key.as_str() } else { "none" };
                let sent = format!(
                    "POST /api/quote HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.1\r\n\
                     Authorization: Bearer {key}\r\nContent-Length: 1000\r\n\r\n{{"
                );
                let coming = async {
                    loop {
                        let Ok(mut stream) = TcpStream::connect(each.data).await else {
                            tokio::task::yield_now().await;
                            continue;
                        };
                        each.sent.fetch_add(1, Ordering::Relaxed);
                        let _ = stream.write_all(sent.as_bytes()).await;
                        let mut rest = Vec::new();
                        let _ = stream.read_to_end(&mut rest).await;
                    }
                };
                tokio::select! {
                    () = each.over.cancelled() => {}
                    () = coming => {}
                }
            });
        }
        target.over.cancelled().await;
    }
    Street::behind_a_proxy().await.bears("slow bodies of one client of a proxy", 600, attack).await;
}
