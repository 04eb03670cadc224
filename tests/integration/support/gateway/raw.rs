//! Connections below HTTP libraries: exact bytes, early ends, servers that are none.

use std::net::SocketAddr;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::Answer;

/// A connection on which a test writes bytes.
pub struct RawClient(TcpStream);

impl RawClient {
    pub async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// Closes its own direction: it sends nothing more, and can still read.
    pub async fn half_close(&mut self) {
        self.0.shutdown().await.unwrap();
    }

    /// Leaves so that the other side is told.
    pub fn reset(self) {
        self.0.set_zero_linger().unwrap();
    }

    /// Waits until the other side has closed the connection,. What it says before is not looked at.
    pub async fn ended(mut self) {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).await.unwrap();
    }

    /// The next answer, which must announce its length.
    pub async fn read(&mut self) -> Answer {
        let answer = self.read_any().await;
        answer.check();
        answer
    }

    /// The next answer of any plane, which must announce its length.
    pub async fn read_any(&mut self) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: HeaderMap = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect();
        let length = headers["content-length"].to_str().unwrap().parse().unwrap();
        let mut text = vec![0; length];
        self.0.read_exact(&mut text).await.unwrap();
        Answer { status, headers, text: String::from_utf8(text).unwrap() }
    }
}

/// A port on which nobody listens.
pub async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// A server that reads a request's head, says these bytes and hangs up. It counts as many connections as it gets.
pub async fn stub_upstream(answer: &'static [u8]) -> (SocketAddr, tokio::sync::watch::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (count, counted) = tokio::sync::watch::channel(0);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.send_modify(|count| *count += 1);
            let mut bytes = vec![0; 64 * 1024];
            // One read: what the tests send fits into a packet.
            if stream.read(&mut bytes).await.is_ok() {
                drop(stream.write_all(answer).await);
            }
        }
    });
    (address, counted)
}
