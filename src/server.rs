//! Listening: hyper, HTTP/1 and 2, with or without TLS, one task a connection, and an orderly end.

mod tls;

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

/// A listener that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has the port.
    #[error(
        "{what}: {address} is in use by another program: stop it, or choose another address with {remedy}"
    )]
    InUse {
        /// What wanted to listen.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// What to change.
        remedy: &'static str,
    },
    /// Anything else.
    #[error("{what}: cannot listen on {address} ({reason}): choose another address with {remedy}")]
    Other {
        /// What wanted to listen.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// The system's words.
        reason: std::io::Error,
        /// What to change.
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

/// How to serve, and until when.
#[derive(Clone)]
pub struct Terms {
    /// How long a client may take from its connection to the head of a request, and from one request to the next.
    pub header_timeout: Duration,
    /// TLS, unless it is plain HTTP.
    pub tls: Option<Arc<Certificate>>,
    /// From here on clients are asked to go elsewhere with what they want next.
    pub drain: CancellationToken,
    /// From here on nobody is let in.
    pub stop: CancellationToken,
}

/// Serves until it is to stop, then lets every connection finish the request it is at.
pub async fn serve<S, B>(listener: TcpListener, service: S, terms: Terms)
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
    http1.timer(TokioTimer::new()).header_read_timeout(terms.header_timeout).max_headers(100);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(100)
        .keep_alive_interval(Duration::from_secs(20));
    loop {
        let accepted = tokio::select! {
            biased;
            () = terms.stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (service, builder) = (service.clone(), builder.clone());
                connections.spawn(connection(stream, peer.ip(), service, builder, terms.clone()));
            }
            Err(error) => {
                // Out of file descriptors, most likely: existing connections must end first.
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
    terms: Terms,
) where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    drop(stream.set_nodelay(true));
    let late = std::pin::pin!(tokio::time::sleep(terms.header_timeout));
    let Some(certificate) = &terms.tls else {
        return converse(stream, peer, service, builder, &terms, late).await;
    };
    let mut late = late;
    // Whoever only looks whether somebody listens, or connects in advance, is no failure.
    let mut first = [0];
    tokio::select! {
        peeked = stream.peek(&mut first) => {
            if !matches!(peeked, Ok(1..)) {
                return;
            }
        }
        () = late.as_mut() => return,
        () = terms.stop.cancelled() => return,
    }
    tokio::select! {
        shaken = certificate.accept(stream) => match shaken {
            Ok(stream) => converse(stream, peer, service, builder, &terms, late).await,
            Err(error) => certificate.failed(error),
        },
        () = late.as_mut() => certificate.failed("it took too long"),
        () = terms.stop.cancelled() => {}
    }
}

/// What is said on a connection.
#[derive(Default)]
struct Talk {
    /// None: no request yet.
    version: Option<Version>,
    /// Requests that are being answered.
    requests: usize,
}

/// A request that is being answered.
struct Answering(Arc<watch::Sender<Talk>>);

impl Answering {
    fn of(talk: &Arc<watch::Sender<Talk>>, version: Version) -> Self {
        talk.send_modify(|talk| {
            talk.version = Some(version);
            talk.requests += 1;
        });
        Self(talk.clone())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.send_modify(|talk| talk.requests -= 1);
    }
}

/// Answers the requests of one connection.
async fn converse<I, S, B>(
    io: I,
    peer: IpAddr,
    service: S,
    builder: Builder<TokioExecutor>,
    terms: &Terms,
    late: Pin<&mut Sleep>,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let (talk, mut heard) = watch::channel(Talk::default());
    let talk = Arc::new(talk);
    let drain = terms.drain.clone();
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let version = request.version();
        let answering = Answering::of(&talk, version);
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
        // hyper's own timeout begins with the first byte of HTTP/1, and has no say in HTTP/2.
        if begun.borrow().version.is_some() {
            std::future::pending().await
        }
    };
    let mut quiet = heard.clone();
    let idle = async {
        drop(quiet.wait_for(|talk| talk.version == Some(Version::HTTP_2)).await);
        loop {
            let busy = quiet.borrow_and_update().requests > 0;
            let change = quiet.changed();
            // Each change is a request that begins or ends.
            let changed = if busy {
                Ok(change.await)
            } else {
                tokio::time::timeout(terms.header_timeout, change).await
            };
            if !matches!(changed, Ok(Ok(()))) {
                return;
            }
        }
    };
    let over = async {
        let leaving = async {
            terms.drain.cancelled().await;
            // HTTP/2 can be told to send nothing new without losing what is under way. An idle connection of HTTP/1
            // would be closed, perhaps while the next request travels: it learns it from its next answer.
            drop(heard.wait_for(|talk| talk.version == Some(Version::HTTP_2)).await);
        };
        tokio::select! {
            () = terms.stop.cancelled() => {}
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
