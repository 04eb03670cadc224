//! HTTP/2 frame by frame: clients that do not read, give up, or break the protocol.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::database::{PATIENCE, until};
use crate::support::gateway::TestGateway;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const ENHANCE_YOUR_CALM: [u8; 4] = [0, 0, 0, 11];

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

struct Peer(TcpStream);

impl Peer {
    /// A connection from 127.0.1.`host`.
    async fn from(host: u8, gateway: &TestGateway) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((IpAddr::V4(Ipv4Addr::new(127, 0, 1, host)), 0).into()).unwrap();
        Self::over(socket.connect(gateway.address()).await.unwrap()).await
    }

    /// A connection whose streams may be sent no byte of a body.
    async fn new(gateway: &TestGateway) -> Self {
        Self::over(TcpStream::connect(gateway.address()).await.unwrap()).await
    }

    async fn over(mut stream: TcpStream) -> Self {
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut peer = Self(stream);
        // SETTINGS_INITIAL_WINDOW_SIZE = 0
        peer.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]).await;
        peer
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame).await.unwrap();
    }

    /// A GET on a stream of its own.
    async fn get(&mut self, stream: u32, path: &str) {
        // :method GET
        self.ask(0x82, END_STREAM, stream, path).await;
    }

    async fn ask(&mut self, method: u8, flags: u8, stream: u32, path: &str) {
        // :scheme http, :authority x, :path as a literal
        let mut block = vec![method, 0x86, 0x01, 1, b'x', 0x04, u8::try_from(path.len()).unwrap()];
        block.extend(path.as_bytes());
        self.send(HEADERS, END_HEADERS | flags, stream, &block).await;
    }

    /// Whether the first request begins to be answered; otherwise its stream is reset.
    async fn is_answered(&mut self, path: &str) -> bool {
        self.get(1, path).await;
        loop {
            match self.receive().await.kind {
                HEADERS => return true,
                RST_STREAM => return false,
                _ => {}
            }
        }
    }

    async fn receive(&mut self) -> Frame {
        let reading = async {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            self.0.read_exact(&mut payload).await.unwrap();
            let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
            Frame { kind: head[3], flags: head[4], stream, payload }
        };
        tokio::time::timeout(PATIENCE, reading).await.unwrap()
    }

    /// What comes until a ping of ours is answered: by then the server has seen all that was sent before.
    async fn until_pinged(&mut self, number: u8) -> Vec<Frame> {
        self.send(PING, 0, 0, &[number; 8]).await;
        let mut frames = Vec::new();
        loop {
            let frame = self.receive().await;
            if frame.kind == PING && frame.flags & ACK != 0 && frame.payload == [number; 8] {
                return frames;
            }
            frames.push(frame);
        }
    }
}

#[tokio::test]
async fn streams_whose_answers_are_not_read_get_no_byte_and_the_connection_lives() {
    let gateway = TestGateway::start().await;
    let mut peer = Peer::new(&gateway).await;
    let streams: BTreeSet<u32> = (0..20).map(|number| 2 * number + 1).collect();
    for stream in &streams {
        peer.get(*stream, "/openapi.json").await;
    }
    let mut begun = BTreeSet::new();
    let mut pings = 0;
    while begun.len() < streams.len() {
        pings = if pings < 99 { pings + 1 } else { 1 };
        for frame in peer.until_pinged(pings).await {
            assert!(![RST_STREAM, GOAWAY, DATA].contains(&frame.kind), "{frame:?}");
            if frame.kind == HEADERS {
                assert_eq!(frame.flags & END_STREAM, 0, "{frame:?}");
                begun.insert(frame.stream);
            }
        }
    }
    assert_eq!(begun, streams);
    // A frame of a kind that nobody knows changes nothing, and one stream that is given up nothing for the others.
    peer.send(0xfa, 0, 0, b"?").await;
    peer.send(RST_STREAM, 0, 3, &8u32.to_be_bytes()).await;
    assert!(peer.until_pinged(100).await.iter().all(|frame| frame.kind == SETTINGS), "nothing else comes");
    // Whoever is read gets its answer, and nobody else.
    peer.send(WINDOW_UPDATE, 0, 0, &(1u32 << 30).to_be_bytes()).await;
    peer.send(WINDOW_UPDATE, 0, 5, &(1u32 << 30).to_be_bytes()).await;
    let mut answer = Vec::new();
    loop {
        let frame = peer.receive().await;
        assert_eq!((frame.kind, frame.stream), (DATA, 5), "{frame:?}");
        answer.extend(frame.payload);
        if frame.flags & END_STREAM != 0 {
            break;
        }
    }
    assert!(serde_json::from_slice::<serde_json::Value>(&answer).unwrap()["openapi"].is_string());
    // What breaks the protocol ends this connection, with the reason, and no other.
    peer.get(2, "/openapi.json").await;
    let goaway = peer.receive().await;
    assert_eq!((goaway.kind, &goaway.payload[4..8]), (GOAWAY, &1u32.to_be_bytes()[..]), "PROTOCOL_ERROR");
    gateway.get("/api/credits").await.expect(200);
}

/// Answers to strangers that are not read take room, however many connections they are on: without room, streams end without one.
#[tokio::test]
async fn answers_that_strangers_do_not_read_are_bounded_over_all_connections() {
    let gateway = TestGateway::start().await;
    let mut peers = Vec::new();
    let mut ended = None;
    // One network has room for 512.
    while ended.is_none() {
        assert!(peers.len() < 6, "nothing is bounded");
        let mut peer = Peer::from(1, &gateway).await;
        for number in 0..100 {
            peer.get(2 * number + 1, "/api/credits").await;
        }
        let mut answered = BTreeSet::new();
        let mut pings = 0;
        while answered.len() < 100 {
            pings = if pings < 99 { pings + 1 } else { 1 };
            for frame in peer.until_pinged(pings).await {
                assert_ne!(frame.kind, GOAWAY);
                if frame.kind == RST_STREAM {
                    ended = Some(frame.payload);
                    answered.insert(frame.stream);
                } else if frame.kind == HEADERS {
                    answered.insert(frame.stream);
                }
            }
        }
        peers.push(peer);
    }
    assert_eq!(ended.unwrap(), ENHANCE_YOUR_CALM);
    // Other networks have their own share, and so has whoever is known.
    let mut other = Peer::from(2, &gateway).await;
    assert!(other.is_answered("/api/credits").await);
    gateway.get("/api/credits").await.expect(200);
    drop(peers);
    until("there is room again", async || Peer::from(1, &gateway).await.is_answered("/api/credits").await)
        .await;
}
