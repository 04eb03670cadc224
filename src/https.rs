//! The only HTTP client of this program. It decides on connections, trust, proxies, time-outs, content codings and the
//! largest answer, for the vendor, identity providers, trace collectors and the command line alike.
//!
//! No redirect is followed, so that only configured addresses are asked. The environment is not read (there are no
//! proxy variables), except that [`Trust::Machine`] reads `SSL_CERT_FILE` and `SSL_CERT_DIR`, as other programs on the
//! machine do.
//!
//! Every request asks for an answer without a content coding. An answer that has one all the same, because a CDN on the
//! way compresses whatever it likes, is decoded; the bounds of answers count decoded bytes.

mod route;
mod trust;
mod unreached;
mod unverified;

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderValue, USER_AGENT};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower::ServiceExt;
use tower::util::MapResponse;
use tower_http::decompression::{Decompression, DecompressionBody};

use self::route::Connector;
pub use self::route::Proxy;
pub use self::trust::{Authorities, BadTrust, Trust, unread};
pub use self::unreached::{Unreached, reasons, untrusted};

/// TCP keepalive: after this time of silence the system checks whether the peer of a connection still exists. Something
/// on the way may forget a connection that is silent for minutes, as that of a create that takes long is.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// How long after a check without an answer the next one is made, and after how many of them the connection has failed.
const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const TCP_KEEPALIVE_RETRIES: u32 = 3;

/// HTTP/2 only: after this time without an answer to a call, the server is pinged, and the connection is closed if the
/// ping is not answered within the same time. Otherwise one dead connection would fail every later call, because all
/// calls share it.
const PING: Duration = Duration::from_secs(2);

/// The most bytes that are read from a connection at a time; the head of an answer has no more.
const MOST_READ_AT_ONCE: usize = 64 << 10;

/// The HTTP version that a client speaks; there is no negotiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1: one call at a time on a connection.
    Http1,
    /// HTTP/2, also without TLS: all calls share a connection.
    Http2,
}

/// How connections are opened and kept.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    pub trust: Trust,
    /// The proxy on the way to the internet; none: every server is asked directly.
    pub proxy: Option<Proxy>,
    pub version: HttpVersion,
    /// Time-out of the TCP connection to each address, without TLS, and of the way through the proxy.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept. Zero: each call opens its own.
    pub idle_timeout: Duration,
}

/// What the configuration says about connections to servers on the internet.
#[derive(Debug, Clone, Default)]
pub struct Egress {
    /// Authorities that are trusted besides those of the machine.
    pub authorities: Option<Authorities>,
    /// The proxy on the way to the internet.
    pub proxy: Option<Proxy>,
}

/// Connections to any number of servers, for requests with bodies of type `B`. A clone shares the connections.
pub type Connections<B> =
    Decompression<MapResponse<legacy::Client<HttpsConnector<Connector>, B>, Normalised>>;

/// The body of an answer, decoded.
pub type Decoded = DecompressionBody<Incoming>;

type Normalised = fn(Response<Incoming>) -> Response<Incoming>;

/// Writes the names of content codings as the decoder below expects them: RFC 9110 has them in any case, `x-gzip` too, and
/// `identity` beside another one, which means nothing.
fn normalised(mut answer: Response<Incoming>) -> Response<Incoming> {
    if answer.body().is_end_stream() {
        // Nothing is no text of any coding.
        answer.headers_mut().remove(CONTENT_ENCODING);
    }
    let given = answer.headers().get_all(CONTENT_ENCODING).iter();
    let names = given.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let names = names.map(|name| name.trim_ascii().to_ascii_lowercase());
    let names: Vec<Vec<u8>> = names.filter(|name| !name.is_empty() && name != b"identity").collect();
    let names: Vec<&[u8]> = names
        .iter()
        .map(|name| if name == b"x-gzip" { b"gzip".as_slice() } else { name.as_slice() })
        .collect();
    if names.is_empty() {
        answer.headers_mut().remove(CONTENT_ENCODING);
    } else if let Ok(all) = HeaderValue::from_maybe_shared(Bytes::from(names.join(&b", "[..]))) {
        answer.headers_mut().insert(CONTENT_ENCODING, all);
    }
    answer
}

/// Headers of all our requests: who we are, and that no content coding is wanted.
pub fn introduce(headers: &mut HeaderMap) {
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("tollgate/", env!("CARGO_PKG_VERSION"))));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

/// A client that opens connections when they are first needed. This call opens none.
pub fn connections<B>(settings: &ClientSettings) -> Result<Connections<B>, BadTrust>
where
    B: Body + Send + 'static + Unpin,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(settings.connect_timeout));
    tcp.set_keepalive(Some(TCP_KEEPALIVE));
    tcp.set_keepalive_interval(Some(TCP_KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(TCP_KEEPALIVE_RETRIES));
    let route = Connector::new(tcp, settings.proxy.clone(), settings.connect_timeout);
    let https = HttpsConnectorBuilder::new().with_tls_config(trust::tls(&settings.trust)?).https_or_http();
    let https = match settings.version {
        HttpVersion::Http1 => https.enable_http1().wrap_connector(route),
        HttpVersion::Http2 => https.enable_http2().wrap_connector(route),
    };
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    builder.pool_timer(TokioTimer::new()).pool_idle_timeout(settings.idle_timeout);
    // Each idle connection keeps as much memory as it was ever allowed to read at a time.
    builder.http1_max_buf_size(MOST_READ_AT_ONCE);
    if settings.idle_timeout.is_zero() {
        builder.pool_max_idle_per_host(0);
    }
    if settings.version == HttpVersion::Http2 {
        builder.http2_only(true).timer(TokioTimer::new());
        builder.http2_keep_alive_interval(PING).http2_keep_alive_timeout(PING);
    }
    Ok(Decompression::new(MapResponse::new(builder.build(https), normalised as Normalised)))
}

/// Sends a request, and completes with the head of its answer.
pub fn send<B>(
    connections: &Connections<B>,
    request: Request<B>,
) -> impl Future<Output = Result<Response<Decoded>, legacy::Error>> + Send + use<B>
where
    B: Body + Send + 'static + Unpin,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    connections.clone().oneshot(request)
}

/// Why no connection could be opened, and the same in a sentence; none: the error came later.
pub fn unreached(error: &legacy::Error) -> Option<(Unreached, String)> {
    error.is_connect().then(|| (Unreached::of(error), reasons(error)))
}

/// A call that got no complete answer. It is unknown whether the server acted on the request, except for
/// [`CallError::NotReached`].
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The whole call exceeded its time-out.
    #[error("it did not answer in time")]
    TimedOut,
    /// No connection could be opened, so nothing was sent.
    #[error("{0}")]
    NotReached(String),
    /// The connection broke after it was opened.
    #[error("{0}")]
    Broken(String),
    /// The body of the answer exceeds this number of bytes.
    #[error("its answer has more than {0} bytes")]
    TooLarge(usize),
}

/// A complete answer, whatever its status.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The trailers behind the body; gRPC puts its status there.
    pub trailers: HeaderMap,
}

/// Makes calls that are limited in time and in the size of their answers. A clone shares the connections.
#[derive(Debug, Clone)]
pub struct Client {
    connections: Connections<Full<Bytes>>,
    timeout: Duration,
    max_answer_bytes: usize,
}

impl Client {
    /// `timeout` covers a whole call, from connecting to the last byte of the answer.
    pub fn new(
        settings: &ClientSettings,
        timeout: Duration,
        max_answer_bytes: usize,
    ) -> Result<Self, BadTrust> {
        Ok(Self { connections: connections(settings)?, timeout, max_answer_bytes })
    }

    /// Sends a request with our `User-Agent`, and reads the whole answer. Needs a Tokio runtime.
    pub async fn call(&self, request: Request<Bytes>) -> Result<Answer, CallError> {
        tokio::time::timeout(self.timeout, self.exchange(request)).await.unwrap_or(Err(CallError::TimedOut))
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Answer, CallError> {
        let mut request = request.map(Full::new);
        introduce(request.headers_mut());
        let answer = send(&self.connections, request).await.map_err(|error| {
            let why = reasons(&error);
            if error.is_connect() { CallError::NotReached(why) } else { CallError::Broken(why) }
        })?;
        let (head, body) = answer.into_parts();
        let collected = Limited::new(body, self.max_answer_bytes).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                CallError::TooLarge(self.max_answer_bytes)
            } else {
                CallError::Broken(reasons(&*error))
            }
        })?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        Ok(Answer { status: head.status, headers: head.headers, body: collected.to_bytes(), trailers })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;
    use tokio_util::task::TaskTracker;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn client(timeout: Duration) -> Client {
        let settings = ClientSettings {
            trust: Trust::Any,
            proxy: None,
            version: HttpVersion::Http1,
            connect_timeout: SECOND,
            idle_timeout: Duration::ZERO,
        };
        Client::new(&settings, timeout, 10).unwrap()
    }

    /// Answers one request with these bytes and keeps the connection open; returns the request.
    async fn answering(with: &'static str) -> (Request<Bytes>, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let served = TaskTracker::new().spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            stream.write_all(with.as_bytes()).await.unwrap();
            // Waits until the client has closed the connection.
            let _ = stream.read(&mut [0; 1]).await;
            String::from_utf8(request[..read].to_vec()).unwrap()
        });
        (Request::get(url).body(Bytes::new()).unwrap(), served)
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_the_caller_is_named() {
        let redirect = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
        let (request, served) = answering(redirect).await;
        let answer = client(10 * SECOND).call(request).await.unwrap();
        assert_eq!(answer.status, StatusCode::FOUND);
        let read = served.await.unwrap();
        assert!(read.contains(concat!("user-agent: tollgate/", env!("CARGO_PKG_VERSION"))), "{read}");
    }

    #[tokio::test]
    async fn an_answer_is_read_up_to_its_bound() {
        for (answer, fits) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789", true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n01234567890", false),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n01234567\r\n8\r\n01234567\r\n",
                false,
            ),
        ] {
            let (request, _served) = answering(answer).await;
            match client(10 * SECOND).call(request).await {
                Ok(answer) => assert!(fits && answer.body.len() == 10, "{answer:?}"),
                Err(error) => assert!(!fits && matches!(error, CallError::TooLarge(10)), "{error}"),
            }
        }
    }

    #[tokio::test]
    async fn a_call_ends_in_time_also_in_the_middle_of_its_answer() {
        let (request, _served) = answering("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n01").await;
        let ended = client(Duration::from_millis(200)).call(request).await;
        assert!(matches!(ended, Err(CallError::TimedOut)), "{ended:?}");
    }

    #[tokio::test]
    async fn nobody_there_is_told_from_a_broken_connection() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let request = Request::get(format!("http://{closed}/")).body(Bytes::new()).unwrap();
        let ended = client(10 * SECOND).call(request).await;
        assert!(matches!(&ended, Err(CallError::NotReached(why)) if why.contains("refused")), "{ended:?}");
        let (request, _served) = answering("nonsense\r\n\r\n").await;
        let ended = client(10 * SECOND).call(request).await;
        assert!(matches!(ended, Err(CallError::Broken(_))), "{ended:?}");
    }
}
