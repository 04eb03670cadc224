//! Listeners: hyper with HTTP/1 and HTTP/2, with or without TLS, one task for each connection, and an orderly shutdown.

pub mod tls;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

pub use self::tls::Certificate;
use crate::access::peer::Peer;

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
pub async fn bind(
    what: &'static str,
    address: SocketAddr,
    remedy: &'static str,
) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|reason| match reason.kind() {
        std::io::ErrorKind::AddrInUse => BindError::InUse { what, address, remedy },
        _ => BindError::Other { what, address, reason, remedy },
    })
}

/// How a listener serves, and until when.
#[derive(Clone)]
pub struct ServeOptions {
    /// The time a client has from connecting to the head of its first request, and between two requests.
    pub header_timeout: Duration,
    /// The certificate and its settings; none: plain HTTP.
    pub tls: Option<Arc<Certificate>>,
    /// When this is cancelled, clients are asked to send their next requests elsewhere.
    pub drain: CancellationToken,
    /// When this is cancelled, no more connections are accepted.
    pub stop: CancellationToken,
}

/// Serves until `options.stop` is cancelled, then lets every connection finish its current requests.
pub async fn serve<S, B>(listener: TcpListener, service: S, options: ServeOptions)
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let connections = TaskTracker::new();
    let mut builder = Builder::new(TokioExecutor::new());
    let http1 = &mut builder.http1();
    http1.timer(TokioTimer::new()).header_read_timeout(options.header_timeout).max_headers(100);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(100)
        .keep_alive_interval(Duration::from_secs(20));
    loop {
        let accepted = tokio::select! {
            biased;
            () = options.stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (service, builder) = (service.clone(), builder.clone());
                connections.spawn(connection(stream, peer.ip(), service, builder, options.clone()));
            }
            Err(error) => {
                // Most likely out of file descriptors: some connections must end first.
                tracing::error!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn connection<S, B>(
    stream: TcpStream,
    peer: IpAddr,
    service: S,
    builder: Builder<TokioExecutor>,
    options: ServeOptions,
) where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    drop(stream.set_nodelay(true));
    let late = std::pin::pin!(tokio::time::sleep(options.header_timeout));
    let Some(certificate) = &options.tls else {
        return serve_requests(stream, peer, service, builder, &options, late).await;
    };
    let mut late = late;
    // Port probes and idle pre-connects that close before a request are not TLS handshake failures.
    let mut first = [0];
    tokio::select! {
        peeked = stream.peek(&mut first) => {
            if !matches!(peeked, Ok(1..)) {
                return;
            }
        }
        () = late.as_mut() => return,
        () = options.stop.cancelled() => return,
    }
    tokio::select! {
        shaken = certificate.accept(stream) => match shaken {
            Ok(stream) => serve_requests(stream, peer, service, builder, &options, late).await,
            Err(error) => certificate.failed(error),
        },
        () = late.as_mut() => certificate.failed("it took too long"),
        () = options.stop.cancelled() => {}
    }
}

/// The activity on a connection.
#[derive(Default)]
struct Activity {
    /// None before the first request.
    version: Option<Version>,
    requests: usize,
}

/// A request in flight; counted until it is dropped.
struct Answering(Arc<watch::Sender<Activity>>);

impl Answering {
    fn of(activity: &Arc<watch::Sender<Activity>>, version: Version) -> Self {
        activity.send_modify(|activity| {
            activity.version = Some(version);
            activity.requests += 1;
        });
        Self(activity.clone())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.send_modify(|activity| activity.requests -= 1);
    }
}

/// Serves the requests of one connection.
async fn serve_requests<I, S, B>(
    io: I,
    peer: IpAddr,
    service: S,
    builder: Builder<TokioExecutor>,
    options: &ServeOptions,
    late: Pin<&mut Sleep>,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let (activity, mut heard) = watch::channel(Activity::default());
    let activity = Arc::new(activity);
    let drain = options.drain.clone();
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let version = request.version();
        let answering = Answering::of(&activity, version);
        let (mut service, drain) = (service.clone(), drain.clone());
        async move {
            let _answering = answering;
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Peer(peer));
            std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
            let mut answer = service.call(request).await?;
            if version < Version::HTTP_2 && drain.is_cancelled() {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let begun = heard.clone();
    let mute = async {
        late.await;
        // hyper's own time-out begins with the first byte of HTTP/1, and does not exist for HTTP/2.
        if begun.borrow().version.is_some() {
            std::future::pending().await
        }
    };
    let mut quiet = heard.clone();
    let idle = async {
        drop(quiet.wait_for(|activity| activity.version == Some(Version::HTTP_2)).await);
        loop {
            let busy = quiet.borrow_and_update().requests > 0;
            let change = quiet.changed();
            // Each change is a request that began or ended.
            let changed = if busy {
                Ok(change.await)
            } else {
                tokio::time::timeout(options.header_timeout, change).await
            };
            if !matches!(changed, Ok(Ok(()))) {
                return;
            }
        }
    };
    let over = async {
        let leaving = async {
            options.drain.cancelled().await;
            // An HTTP/2 client can be told to send nothing new without losing requests in flight. An idle HTTP/1
            // connection would be closed, perhaps while the next request is on its way: its client learns of the drain
            // from its next answer.
            drop(heard.wait_for(|activity| activity.version == Some(Version::HTTP_2)).await);
        };
        tokio::select! {
            () = options.stop.cancelled() => {}
            () = leaving => {}
            () = idle => {}
        }
    };
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(io), service));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = mute => return,
        () = over => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended badly");
    }
}
