//! What one caller may take of connections and of requests in progress, directly or through a proxy, and what others find then.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::database::until;
use crate::support::gateway::TestGateway;

/// A gateway with 64 connections: 8 for strangers from unknown networks, 8 for those who return, 48 for those who are known.
const CONNECTIONS: usize = 64;

/// A connection from 127.0.1.`host`.
async fn connect(gateway: &TestGateway, host: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((IpAddr::V4(Ipv4Addr::new(127, 0, 1, host)), 0).into()).unwrap();
    socket.connect(gateway.address()).await.unwrap()
}

/// The head of a price request whose body does not come.
fn slow(key: Option<&str>, client: &str) -> String {
    let key = key.map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
    format!(
        "POST /api/quote HTTP/1.1\r\nhost: x\r\nx-forwarded-for: {client}\r\n{key}content-length: 1000\r\n\r\n{{"
    )
}

fn credits(key: &str, client: &str) -> String {
    format!(
        "GET /api/credits HTTP/1.1\r\nhost: x\r\nx-forwarded-for: {client}\r\nauthorization: Bearer {key}\r\n\r\n"
    )
}

/// What is answered; nothing, if the body is waited for.
async fn answered(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = vec![0; 4096];
    let read = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut bytes)).await.ok()?.unwrap();
    Some(String::from_utf8_lossy(&bytes[..read]).into_owned())
}

/// Sends this on so many connections, one after the other, and waits until all but `most` of them are answered: what is answered.
/// All are kept open.
async fn ask(
    count: usize,
    most: usize,
    mut connect: impl AsyncFnMut() -> TcpStream,
    sent: &str,
) -> (Vec<TcpStream>, Vec<String>) {
    let (mut open, mut kept, mut said) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..count {
        let mut stream = connect().await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        match answered(&mut stream).await {
            None => open.push(stream),
            Some(answer) => {
                said.push(answer);
                kept.push(stream);
            }
        }
    }
    until("all others are answered", async || {
        let mut still = Vec::new();
        for mut stream in std::mem::take(&mut open) {
            match answered(&mut stream).await {
                None => still.push(stream),
                Some(answer) => {
                    said.push(answer);
                    kept.push(stream);
                }
            }
        }
        open = still;
        open.len() <= most
    })
    .await;
    open.append(&mut kept);
    (open, said)
}

/// A refusal that says when to come again, and that the connection is not kept.
fn is_refusal(said: &str) {
    let head = said.to_lowercase();
    assert!(head.starts_with("http/1.1 503 "), "{said}");
    assert!(head.contains("retry-after: 1\r\n") && head.contains("connection: close\r\n"), "{said}");
    let body: Value = serde_json::from_str(said.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body["error"], "UNAVAILABLE", "{said}");
}

/// Whether another organisation's calls are answered, from this address or for this client.
async fn serves(gateway: &TestGateway, key: &str, host: u8, client: &str) -> bool {
    let mut stream = connect(gateway, host).await;
    stream.write_all(credits(key, client).as_bytes()).await.unwrap();
    let mut bytes = vec![0; 4096];
    let read = stream.read(&mut bytes).await.unwrap_or_default();
    bytes[..read].starts_with(b"HTTP/1.1 200 ")
}

#[tokio::test]
async fn one_key_from_many_addresses_leaves_connections_to_others() {
    let gateway =
        TestGateway::builder().config(|config| config.server.max_connections = CONNECTIONS).start().await;
    let other = gateway.another_org("another customer", 1_000).await;
    let key = &gateway.caller.text;
    let mut hosts = 1..;
    let from_anywhere = async || connect(&gateway, hosts.next().unwrap()).await;
    // One organisation has half of 48.
    let (open, refused) = ask(40, 24, from_anywhere, &slow(Some(key), "x")).await;
    refused.iter().for_each(|said| is_refusal(said));
    assert!(serves(&gateway, &other.text, 50, "x").await);

    // Idle ones are closed for new ones of the same caller.
    drop(open);
    let mut idle = Vec::new();
    for host in 51..=90 {
        let mut stream = connect(&gateway, host).await;
        until("an idle connection was closed for this one", async || {
            let asked = stream.write_all(credits(key, "x").as_bytes()).await;
            let mut bytes = vec![0; 4096];
            let read = stream.read(&mut bytes).await.unwrap_or_default();
            let served = asked.is_ok() && bytes[..read].starts_with(b"HTTP/1.1 200 ");
            if !served {
                stream = connect(&gateway, host).await;
            }
            served
        })
        .await;
        idle.push(stream);
    }
    assert!(serves(&gateway, &other.text, 91, "x").await);
}

#[tokio::test]
async fn one_client_of_a_proxy_leaves_its_connections_to_others() {
    let gateway = TestGateway::builder()
        .config(|config| {
            config.server.max_connections = CONNECTIONS;
            config.server.trusted_proxies = vec!["127.0.1.1/32".parse().unwrap()];
        })
        .start()
        .await;
    let other = gateway.another_org("another customer", 1_000).await;
    for key in [Some(gateway.caller.text.as_str()), None] {
        let through_the_proxy = async || connect(&gateway, 1).await;
        let (_open, said) = ask(90, 24, through_the_proxy, &slow(key, "192.0.2.1")).await;
        let refused = said.iter().filter(|said| !said.starts_with("HTTP/1.1 401 "));
        assert!(refused.clone().count() >= 26, "{said:?}");
        refused.for_each(|said| is_refusal(said));
        // Another client of the proxy, and one without it.
        assert!(serves(&gateway, &other.text, 1, "192.0.2.2").await);
        assert!(serves(&gateway, &other.text, 2, "x").await);
    }
}
