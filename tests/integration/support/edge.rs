//! A CDN's edge before the simulated vendor: it encodes answers as it likes, whatever it was asked for.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use async_compression::tokio::bufread::{BrotliEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::http;

/// What the edge does with an answer.
#[derive(Debug, Clone, Copy)]
pub struct Coding {
    /// What it says that the coding is.
    pub name: &'static str,
    /// What it really is.
    pub encode: Encode,
    /// It says only the first half.
    pub cut: bool,
}

#[derive(Debug, Clone, Copy)]
pub enum Encode {
    Gzip,
    Deflate,
    /// Deflate without the zlib format around it, as some old servers send it.
    RawDeflate,
    Brotli,
    Zstd,
    Nothing,
}

impl Coding {
    pub const fn of(name: &'static str, encode: Encode) -> Self {
        Self { name, encode, cut: false }
    }

    async fn of_text(self, text: &[u8]) -> Vec<u8> {
        let mut encoded = Vec::new();
        let read = match self.encode {
            Encode::Gzip => GzipEncoder::new(text).read_to_end(&mut encoded).await,
            Encode::Deflate | Encode::RawDeflate => ZlibEncoder::new(text).read_to_end(&mut encoded).await,
            Encode::Brotli => BrotliEncoder::new(text).read_to_end(&mut encoded).await,
            Encode::Zstd => ZstdEncoder::new(text).read_to_end(&mut encoded).await,
            Encode::Nothing => {
                encoded.extend_from_slice(text);
                Ok(encoded.len())
            }
        };
        read.unwrap();
        if matches!(self.encode, Encode::RawDeflate) {
            // The format has two bytes before it, and four behind it.
            encoded.drain(..2);
            encoded.truncate(encoded.len() - 4);
        }
        if self.cut {
            encoded.truncate(encoded.len() / 2);
        }
        encoded
    }
}

/// What requests and the test share.
#[derive(Debug, Default)]
struct State {
    vendor: Option<SocketAddr>,
    coding: Option<Coding>,
    asked: Vec<String>,
}

/// The edge. Ends when it is dropped.
pub struct Edge {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    serving: JoinHandle<()>,
}

impl Edge {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let client = http::client();
        let answer = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let (shared, client) = (shared.clone(), client.clone());
            async move { pass_on(&shared, &client, method, &uri, headers, body).await }
        };
        let router = Router::new().fallback(answer);
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, state, serving }
    }

    pub fn lead_to(&self, vendor: SocketAddr) {
        self.state.lock().unwrap().vendor = Some(vendor);
    }

    pub fn set(&self, coding: Coding) {
        self.state.lock().unwrap().coding = Some(coding);
    }

    /// The `Accept-Encoding` of every request.
    pub fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn pass_on(
    state: &Mutex<State>,
    client: &reqwest::Client,
    method: Method,
    uri: &Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let (vendor, coding) = {
        let mut state = state.lock().unwrap();
        let asked = headers.get("accept-encoding").map(|value| value.to_str().unwrap().to_owned());
        state.asked.push(asked.unwrap_or_default());
        (state.vendor.unwrap(), state.coding)
    };
    let call = client.request(method, format!("http://{vendor}{uri}")).body(body);
    let said = call.header("authorization", headers["authorization"].clone()).send().await.unwrap();
    let (status, text) = (said.status().as_u16(), said.bytes().await.unwrap());
    let answer = Response::builder().status(StatusCode::from_u16(status).unwrap());
    match coding {
        Some(coding) => {
            let body = coding.of_text(&text).await;
            answer.header("content-encoding", coding.name).body(body.into()).unwrap()
        }
        None => answer.body(text.into()).unwrap(),
    }
}
