//! The only HTTP client of this program. It decides on connections, trust, time-outs and the largest answer, for the
//! vendor, identity providers, trace collectors and the command line alike.
//!
//! No redirect is followed, so that only configured addresses are asked. The environment is not read (there are no
//! proxy variables), except that [`Trust::Machine`] reads `SSL_CERT_FILE` and `SSL_CERT_DIR`, as other programs on the
//! machine do.

mod unverified;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderValue, USER_AGENT};
use http::{HeaderMap, Request, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use self::unverified::Unverified;

/// TCP keepalive: after this time of silence the system checks whether the peer of a connection still exists.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// HTTP/2 only: after this time without an answer to a call, the server is pinged, and the connection is closed if the
/// ping is not answered within the same time. Otherwise one dead connection would fail every later call, because all
/// calls share it.
const PING: Duration = Duration::from_secs(2);

/// The server certificates that are accepted.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Certificates of the public authorities, which are built into the program: for servers on the internet.
    Public,
    /// Certificates of the authorities that this machine trusts: for servers that may be inside a private network.
    Machine,
    /// Certificates of the authorities in this PEM text, and of no others.
    Only(Vec<u8>),
    /// Every certificate. Only for a server on this machine that is sent no secret and whose answer permits nothing.
    Any,
}

/// The HTTP version that a client speaks; there is no negotiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1: one call at a time on a connection.
    Http1,
    /// HTTP/2, also without TLS: all calls share a connection.
    Http2,
}

/// How connections are opened and kept.
#[derive(Debug, Clone)]
pub struct Settings {
    pub trust: Trust,
    pub version: Version,
    /// Time-out of the TCP connection to each address, without TLS.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept. Zero: each call opens its own.
    pub idle_timeout: Duration,
}

/// The configured trust cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum BadTrust {
    /// The PEM text has no certificate, or a broken one.
    #[error("{0}")]
    Pem(String),
    /// The certificates that this machine trusts cannot be read, or there are none.
    #[error("this machine's trusted certificates cannot be read: {0}")]
    Machine(std::io::Error),
    /// The TLS library refuses its configuration.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// Connections to any number of servers, for requests with bodies of type `B`. A clone shares the connections.
pub type Connections<B> = legacy::Client<HttpsConnector<HttpConnector>, B>;

/// The `User-Agent` of all our requests.
pub fn agent() -> HeaderValue {
    HeaderValue::from_static(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
}

/// A client that opens connections when they are first needed. This call opens none.
pub fn connections<B>(settings: &Settings) -> Result<Connections<B>, BadTrust>
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
    let https = HttpsConnectorBuilder::new().with_tls_config(tls(&settings.trust)?).https_or_http();
    let https = match settings.version {
        Version::Http1 => https.enable_http1().wrap_connector(tcp),
        Version::Http2 => https.enable_http2().wrap_connector(tcp),
    };
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    builder.pool_timer(TokioTimer::new()).pool_idle_timeout(settings.idle_timeout);
    if settings.idle_timeout.is_zero() {
        builder.pool_max_idle_per_host(0);
    }
    if settings.version == Version::Http2 {
        builder.http2_only(true).timer(TokioTimer::new());
        builder.http2_keep_alive_interval(PING).http2_keep_alive_timeout(PING);
    }
    Ok(builder.build(https))
}

fn tls(trust: &Trust) -> Result<ClientConfig, BadTrust> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?;
    Ok(match trust {
        Trust::Public => config.with_webpki_roots(),
        Trust::Machine => config.with_native_roots().map_err(BadTrust::Machine)?,
        Trust::Only(pem) => config.with_root_certificates(authorities(pem)?),
        Trust::Any => config.dangerous().with_custom_certificate_verifier(Arc::new(Unverified::default())),
    }
    .with_no_client_auth())
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, BadTrust> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| BadTrust::Pem(error.to_string()))?;
        roots.add(certificate).map_err(|error| BadTrust::Pem(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(BadTrust::Pem("there is no certificate in it (PEM)".into()));
    }
    Ok(roots)
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
    pub fn new(settings: &Settings, timeout: Duration, max_answer_bytes: usize) -> Result<Self, BadTrust> {
        Ok(Self { connections: connections(settings)?, timeout, max_answer_bytes })
    }

    /// Sends a request with our `User-Agent`, and reads the whole answer. Needs a Tokio runtime.
    pub async fn call(&self, request: Request<Bytes>) -> Result<Answer, CallError> {
        tokio::time::timeout(self.timeout, self.exchange(request)).await.unwrap_or(Err(CallError::TimedOut))
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Answer, CallError> {
        let mut request = request.map(Full::new);
        request.headers_mut().insert(USER_AGENT, agent());
        let answer = self.connections.request(request).await.map_err(|error| {
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

/// The texts of an error and of its causes: the library's own text is only `client error (Connect)`.
fn reasons(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
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
        let settings = Settings {
            trust: Trust::Public,
            version: Version::Http1,
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

    #[test]
    fn a_file_without_certificates_is_refused() {
        for pem in ["", "no certificate", "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"] {
            assert!(matches!(tls(&Trust::Only(pem.into())), Err(BadTrust::Pem(_))), "{pem}");
        }
    }
}
