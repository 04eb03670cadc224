//! One connection to a gateway at a time, with or without TLS, HTTP/1.1 or HTTP/2: what libraries with pools hide.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::Method;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::gateway::Answer;

/// What a client accepts.
pub struct Trust {
    roots: RootCertStore,
    pub versions: &'static [&'static SupportedProtocolVersion],
}

impl Trust {
    /// Whoever has one of these certificates, or has one signed by theirs.
    pub fn of(certificates: &[CertificateDer<'static>]) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate.clone()).unwrap();
        }
        Self { roots, versions: rustls::ALL_VERSIONS }
    }

    /// A connection with TLS, for bytes as a test writes them.
    pub async fn connect(&self, address: SocketAddr) -> TlsStream<TcpStream> {
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        self.connector(b"http/1.1").connect(name, stream).await.unwrap()
    }

    /// TLS over a connection; for this protocol.
    pub async fn over(&self, stream: TcpStream, alpn: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost").unwrap();
        self.connector(alpn).connect(name, stream).await
    }

    fn connector(&self, alpn: &[u8]) -> TlsConnector {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider).with_protocol_versions(self.versions).unwrap();
        let mut config = config.with_root_certificates(self.roots.clone()).with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

/// How requests are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Http {
    One,
    Two,
}

enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

/// A connection.
pub struct Connection {
    sender: Sender,
    /// The certificate the gateway showed.
    pub certificate: Option<CertificateDer<'static>>,
    ended: JoinHandle<hyper::Result<()>>,
}

impl Connection {
    /// Connects; with TLS, the gateway must agree to the version of HTTP.
    pub async fn open(address: SocketAddr, trust: Option<&Trust>, http: Http) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        let Some(trust) = trust else { return Ok(Self::over(stream, None, http).await) };
        let alpn: &[u8] = if http == Http::Two { b"h2" } else { b"http/1.1" };
        let name = ServerName::try_from("localhost").unwrap();
        let stream = trust.connector(alpn).connect(name, stream).await?;
        let session: &ClientConnection = stream.get_ref().1;
        assert_eq!(session.alpn_protocol(), Some(alpn));
        let certificate = session.peer_certificates().unwrap()[0].clone().into_owned();
        Ok(Self::over(stream, Some(certificate), http).await)
    }

    async fn over(
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        certificate: Option<CertificateDer<'static>>,
        http: Http,
    ) -> Self {
        let io = TokioIo::new(io);
        let (sender, ended) = match http {
            Http::One => {
                let (sender, connection) = http1::handshake(io).await.unwrap();
                (Sender::One(sender), tokio::spawn(connection))
            }
            Http::Two => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
                (Sender::Two(sender), tokio::spawn(connection))
            }
        };
        Self { sender, certificate, ended }
    }

    /// The body of something that is no answer of the data plane.
    pub async fn get_text(&mut self, path: &str) -> String {
        let answer = self.ask(Method::GET, path, "", "").await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.text
    }

    pub async fn send(&mut self, method: Method, path: &str, key: &str, body: &str) -> hyper::Result<Answer> {
        let answer = self.ask(method, path, key, body).await?;
        answer.check();
        Ok(answer)
    }

    async fn ask(&mut self, method: Method, path: &str, key: &str, body: &str) -> hyper::Result<Answer> {
        let request = http::Request::builder()
            .method(method)
            .uri(match self.sender {
                Sender::One(_) => path.to_owned(),
                Sender::Two(_) => format!("https://localhost{path}"),
            })
            .header("host", "localhost")
            .header("authorization", format!("Bearer {key}"))
            .body(Full::from(body.to_owned()))
            .unwrap();
        let answer = match &mut self.sender {
            Sender::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Two(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let (head, body) = answer.into_parts();
        let text = String::from_utf8(body.collect().await?.to_bytes().to_vec()).unwrap();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, text })
    }

    pub async fn get(&mut self, path: &str, key: &str) -> hyper::Result<Answer> {
        self.send(Method::GET, path, key, "").await
    }

    /// Waits until the gateway has ended it, in order.
    pub async fn ended(self) {
        drop(self.sender);
        self.ended.await.unwrap().unwrap();
    }

    /// Waits until the gateway takes no more requests on it.
    pub async fn closed(&self) {
        super::database::until("the gateway takes nothing more on it", async || match &self.sender {
            Sender::One(sender) => sender.is_closed(),
            Sender::Two(sender) => sender.is_closed(),
        })
        .await;
    }
}
