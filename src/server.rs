//! Listeners: hyper with HTTP/1 and HTTP/2, with or without TLS, one task for each connection, and an orderly shutdown.
//!
//! Everything that a client can make grow has a bound, for each connection and in sum: the number of connections
//! ([`connections`]), the buffers of each, the requests in progress ([`turns`]), and the time that an answer may stay unread
//! ([`answers`]).

mod activity;
mod answers;
mod connections;
mod newcomers;
mod socket;
pub mod tls;
mod turns;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body_util::{Either, Full};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::Sleep;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use self::activity::{Answering, Heard};
use self::answers::{AnswerBody, Owed};
pub use self::connections::register;
use self::connections::{Connections, GRACE, Place, Standing};
use self::socket::Socket;
pub use self::tls::Certificate;
use self::turns::{Heads, RequestGate, RequestTurn, Taken};
use crate::access::proxies::TrustedProxies;
use crate::call::Peer;
use crate::clock::Clock;
use crate::error::GatewayError;
use crate::metrics as m;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A listener that cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another program uses the address.
    #[error(
        "{what}: {address} is in use by another program: stop it, or choose another address with {remedy}"
    )]
    InUse {
        what: &'static str,
        address: SocketAddr,
        /// The setting or flag that changes the address.
        remedy: &'static str,
    },
    /// The address cannot be bound for another reason.
    #[error("{what}: cannot listen on {address} ({reason}): choose another address with {remedy}")]
    Other {
        what: &'static str,
        address: SocketAddr,
        /// The operating system's error.
        reason: std::io::Error,
        /// The setting or flag that changes the address.
        remedy: &'static str,
    },
}

/// Binds `address`; port 0 takes a free one.
pub fn bind(what: &'static str, address: SocketAddr, remedy: &'static str) -> Result<TcpListener, BindError> {
    listen(address).map_err(|reason| match reason.kind() {
        std::io::ErrorKind::AddrInUse => BindError::InUse { what, address, remedy },
        _ => BindError::Other { what, address, reason, remedy },
    })
}

/// How many connections may wait to be accepted; the system may allow fewer. Of a burst that is larger than this, clients try again
/// after a second.
const BACKLOG: u32 = 4096;

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart does not wait for connections of before.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The largest head of a request, in bytes.
const MAX_HEAD: usize = 32 << 10;

/// How many requests a client may have in progress on one HTTP/2 connection.
const STREAMS: u32 = 100;

/// How many streams of an HTTP/2 connection may break the protocol before the connection ends.
const BROKEN: usize = 128;

/// How much of the bodies of an HTTP/2 connection's requests may have arrived and not been read.
const CONNECTION_WINDOW: u32 = 96 << 10;

/// How much of an answer a connection takes over before the client has read what comes before it.
const SEND_BUFFER: usize = 32 << 10;

/// The most memory that a connection needs besides bodies and answers, in bytes.
pub const CONNECTION_MEMORY: usize = CONNECTION_WINDOW as usize + SEND_BUFFER + MAX_HEAD;

/// The most memory that the heads of strangers' requests in progress, and answers that strangers have not read, need on one listener,
/// in bytes.
pub const STRANGERS_MEMORY: usize = turns::STRANGERS_HEADS + turns::STRANGERS_ANSWERS;

/// How a listener serves, and until when.
#[derive(Clone)]
pub struct ServeOptions {
    /// The listener's name in metrics.
    pub listener: &'static str,
    /// The most connections at a time.
    pub max_connections: usize,
    /// The most bytes in the heads of requests in progress whose callers are known.
    pub max_heads: usize,
    /// The time a client has from connecting to the head of its first request, and between two requests.
    pub header_timeout: Duration,
    /// The time a client has to read a piece of an answer.
    pub write_timeout: Duration,
    /// The proxies whose connections stand for many clients.
    pub proxies: TrustedProxies,
    /// The certificate and its settings; none: plain HTTP.
    pub tls: Option<Arc<Certificate>>,
    /// When this is cancelled, clients are asked to send their next requests elsewhere.
    pub drain: CancellationToken,
    /// When this is cancelled, no more connections are accepted.
    pub stop: CancellationToken,
}

/// Adds what holds for every answer: nobody on the way keeps it, because it is for one caller, and no browser takes it for
/// anything else than it says.
fn guard(headers: &mut HeaderMap) {
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// A service that a listener can serve.
pub trait Answerer<B>:
    Service<Request<Body>, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

impl<S, B> Answerer<B> for S where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static
{
}

/// The body of an answer of such a service.
pub trait AnswerOf: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static {}

impl<B> AnswerOf for B where B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static {}

/// What the connections of a listener share.
#[derive(Clone)]
struct Serving {
    options: ServeOptions,
    connections: Arc<Connections>,
    heads: Arc<Heads>,
    builder: Builder<TokioExecutor>,
}

impl Serving {
    fn new(options: ServeOptions) -> Self {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            // A client that closes its direction after its request waits for the answer. One that has left is noticed by
            // `Socket`.
            .half_close(true)
            .timer(TokioTimer::new())
            .header_read_timeout(options.header_timeout)
            .max_headers(100)
            .max_buf_size(MAX_HEAD);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(MAX_HEAD as u32)
            .initial_stream_window_size(CONNECTION_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_local_error_reset_streams(BROKEN)
            .keep_alive_interval(Duration::from_secs(20));
        let connections = Connections::new(options.listener, options.max_connections, GRACE);
        let heads = Heads::new(options.listener, options.max_heads);
        Self { options, connections, heads, builder }
    }
}

/// Serves until `options.stop` is cancelled, then lets every connection finish its current requests.
pub async fn serve<S, B>(listener: TcpListener, service: S, options: ServeOptions)
where
    S: Answerer<B>,
    B: AnswerOf,
{
    let tasks = TaskTracker::new();
    let serving = Serving::new(options);
    loop {
        let accepted = tokio::select! {
            biased;
            () = serving.options.stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (service, serving) = (service.clone(), serving.clone());
                tasks.spawn(connection(stream, peer.ip(), service, serving));
            }
            Err(error) => {
                // Most likely out of file descriptors: some connections must end first.
                tracing::error!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

async fn connection<S, B>(stream: TcpStream, address: IpAddr, service: S, serving: Serving)
where
    S: Answerer<B>,
    B: AnswerOf,
{
    let options = &serving.options;
    let (standing, accepted) = (Standing::default(), Clock.now());
    let place = if options.proxies.trusts(address) {
        serving.connections.enter_as_proxy(address)
    } else {
        serving.connections.enter(address, &standing).await
    };
    let Some(place) = place else { return };
    let socket = Socket::new(stream);
    let peer = Peer::at(address, socket.weak());
    let client = FarEnd { peer: &peer, standing: &standing, place: &place, accepted };
    let serving_it = std::pin::pin!(async {
        tokio::select! {
            biased;
            () = serve_connection(socket.clone(), client, service, &serving) => {}
            // Ends the requests in progress: nobody can be answered.
            () = socket.broken(&peer) => {}
        }
    });
    tokio::select! {
        // First, so that a request that has arrived is seen before the connection may be closed.
        biased;
        () = serving_it => {}
        () = place.wanted(&standing) => {}
    }
}

/// Who is at the other end of a connection, and what the listener knows of it.
#[derive(Clone, Copy)]
struct FarEnd<'a> {
    peer: &'a Peer,
    standing: &'a Standing,
    place: &'a Place,
    accepted: Instant,
}

async fn serve_connection<S, B>(stream: Socket, client: FarEnd<'_>, service: S, serving: &Serving)
where
    S: Answerer<B>,
    B: AnswerOf,
{
    let options = &serving.options;
    let late = std::pin::pin!(tokio::time::sleep(options.header_timeout));
    let Some(certificate) = &options.tls else {
        return serve_requests(stream, client, service, serving, late).await;
    };
    let mut late = late;
    // Port probes and idle pre-connects that close before a request are not TLS handshake failures.
    tokio::select! {
        begun = stream.has_bytes() => {
            if !begun {
                return;
            }
        }
        () = late.as_mut() => return,
        () = options.stop.cancelled() => return,
    }
    tokio::select! {
        shaken = certificate.accept(stream) => match shaken {
            Ok(stream) => serve_requests(stream, client, service, serving, late).await,
            Err(error) => certificate.failed(error),
        },
        () = late.as_mut() => certificate.failed("it took too long"),
        () = options.stop.cancelled() => {}
    }
}

/// The answer to a request, and the turn that it had; none: there was no room for the request.
async fn answer<S, B>(
    request: Request<hyper::body::Incoming>,
    mut service: S,
    gate: &RequestGate,
    accepted: Option<Instant>,
) -> (Response<Either<B, Full<Bytes>>>, Option<Arc<RequestTurn>>)
where
    S: Answerer<B>,
    B: AnswerOf,
{
    let close = (request.version() < Version::HTTP_2).then(|| HeaderValue::from_static("close"));
    let Ok(turn) = gate.pass(&request).await else {
        // The body is not read: who sends it has what is its share already.
        let mut answer = GatewayError::NoRoom.into_answer().map(Either::Right);
        answer.headers_mut().extend(close.map(|close| (CONNECTION, close)));
        return (answer, None);
    };
    // A body that is refused may be read for some more seconds, and keeps the turn for as long.
    let mut request = request.map(|body| Body::new(Taken::new(body, turn.clone())));
    let peer = turn.peer();
    request.extensions_mut().insert(match accepted {
        Some(accepted) => peer.first_since(accepted),
        None => peer,
    });
    let Ok(()) = std::future::poll_fn(|cx| service.poll_ready(cx)).await;
    // Boxed, so that a request that waits for its turn, or is refused, has no room for it.
    let Ok(answer) = Box::pin(service.call(request)).await;
    let mut answer = answer.map(Either::Left);
    if turn.was_refused() {
        answer.headers_mut().extend(close.map(|close| (CONNECTION, close)));
    }
    (answer, Some(turn))
}

/// Until no further request of a connection is wanted.
async fn over(heard: &Heard, options: &ServeOptions) {
    let leaving = async {
        options.drain.cancelled().await;
        // An HTTP/2 client can be told to send nothing new without losing requests in flight. An idle HTTP/1
        // connection would be closed, perhaps while the next request is on its way: its client learns of the drain
        // from its next answer.
        heard.http2().await;
    };
    tokio::select! {
        () = options.stop.cancelled() => {}
        () = leaving => {}
        () = heard.idle(options.header_timeout) => {}
    }
}

/// Why a stream ends without an answer: its client has too many that it does not read. Where nothing was done, it may send the request
/// again.
fn no_answer(nothing_was_done: bool) -> h2::Error {
    let reason = if nothing_was_done { h2::Reason::REFUSED_STREAM } else { h2::Reason::ENHANCE_YOUR_CALM };
    reason.into()
}

/// Serves the requests of one connection.
async fn serve_requests<I, S, B>(
    io: I,
    client: FarEnd<'_>,
    service: S,
    serving: &Serving,
    late: Pin<&mut Sleep>,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Answerer<B>,
    B: AnswerOf,
{
    let options = &serving.options;
    let (activity, heard) = activity::channel();
    let owed = Arc::new(Owed::default());
    let (drain, owing) = (options.drain.clone(), owed.clone());
    let (connections, id) = (&serving.connections, client.place.id());
    let gate = RequestGate::new(client.peer, &options.proxies, connections, id, &serving.heads);
    let standing = client.standing.clone();
    let (accepted, is_first) = (client.accepted, AtomicBool::new(true));
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let mut answering = Answering::of(&activity, request.version(), standing.request());
        let (service, drain, gate, owed) = (service.clone(), drain.clone(), gate.clone(), owing.clone());
        let accepted = is_first.swap(false, Ordering::Relaxed).then_some(accepted);
        // Boxed, so that a stream whose answer is not read yet has no room for what has made it.
        Box::pin(async move {
            let version = request.version();
            let reader = (version == Version::HTTP_2).then(|| gate.reader(&request));
            let (mut answer, turn) = answer(request, service, &gate, accepted).await;
            let untouched = turn.is_none();
            let turn = turn.filter(|turn| turn.lasts_until_written());
            let unread = match reader.filter(|_| turn.is_none()) {
                Some(reader) => Some(gate.unread(reader).ok_or_else(|| no_answer(untouched))?),
                None => None,
            };
            if turn.is_none() {
                // A stranger that does not read its answer may be put out.
                answering.in_progress = None;
            }
            guard(answer.headers_mut());
            if version < Version::HTTP_2 && drain.is_cancelled() {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, h2::Error>(answer.map(|body| AnswerBody::new(body, &owed, (turn, answering, unread))))
        })
    });
    // Ends a write that the client's side does not take.
    let mut io = TimeoutStream::new(io);
    io.set_write_timeout(Some(options.write_timeout));
    let io = TokioIo::new(Box::pin(io));
    let mut connection = std::pin::pin!(serving.builder.serve_connection(io, service));
    let mut stalled = std::pin::pin!(owed.stalled(options.write_timeout));
    let result = tokio::select! {
        result = connection.as_mut() => Some(result),
        () = heard.silent(late) => return,
        () = stalled.as_mut() => None,
        () = over(&heard, options) => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                result = connection => Some(result),
                () = stalled => None,
            }
        }
    };
    match result {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%error, "a connection ended badly"),
        None => {
            metrics::counter!(m::CONNECTIONS_STALLED, "listener" => options.listener).increment(1);
            tracing::debug!("a connection was closed: its client did not read an answer");
        }
    }
}
