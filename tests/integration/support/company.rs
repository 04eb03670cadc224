//! What stands between a gateway and the internet in a company: certificates of the company's own authority, and a proxy.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::process::Scratch;

/// An authority that nobody else trusts.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    scratch: Scratch,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let scratch = Scratch::new();
        scratch.file("ca.crt", &pem);
        Self { issuer: Issuer::new(params, key), scratch }
    }

    /// The file with its certificate.
    pub fn file(&self) -> PathBuf {
        self.scratch.0.join("ca.crt")
    }

    fn acceptor(&self, names: &[&str]) -> TlsAcceptor {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_no_client_auth();
        TlsAcceptor::from(Arc::new(config.with_single_cert(vec![certificate.into()], key).unwrap()))
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// What is behind a front.
#[derive(Debug, Clone)]
enum Behind {
    Server(SocketAddr),
    Database(Box<PgConnectOptions>),
}

impl Behind {
    async fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Server(address) => Box::new(TcpStream::connect(address).await?),
            Self::Database(options) => match options.get_socket() {
                Some(directory) => {
                    let path = directory.join(format!(".s.PGSQL.{}", options.get_port()));
                    Box::new(UnixStream::connect(path).await?)
                }
                None => Box::new(TcpStream::connect((options.get_host(), options.get_port())).await?),
            },
        })
    }
}

/// TLS in front of a plain server. Ends, with its connections, when it is dropped.
pub struct TlsFront {
    pub address: SocketAddr,
    behind: Arc<Mutex<Option<Behind>>>,
    _accepting: JoinSet<()>,
}

impl TlsFront {
    /// A front with a certificate for these names.
    pub async fn start(authority: &Authority, names: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let behind: Arc<Mutex<Option<Behind>>> = Arc::default();
        let (acceptor, found) = (authority.acceptor(names), behind.clone());
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, behind) = (acceptor.clone(), found.lock().unwrap().clone());
                // An error is the end of the connection on either side.
                connections.spawn(async move { drop(front(stream, acceptor, behind).await) });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, behind, _accepting: accepting }
    }

    pub fn lead_to(&self, server: SocketAddr) {
        *self.behind.lock().unwrap() = Some(Behind::Server(server));
    }

    pub fn lead_to_database(&self, url: &str) {
        let options = PgConnectOptions::from_str(url).unwrap();
        *self.behind.lock().unwrap() = Some(Behind::Database(options.into()));
    }
}

async fn front(mut stream: TcpStream, acceptor: TlsAcceptor, behind: Option<Behind>) -> std::io::Result<()> {
    let behind = behind.unwrap();
    if matches!(behind, Behind::Database(_)) {
        // A client of PostgreSQL asks first whether the server speaks TLS: eight bytes, and one in answer.
        stream.read_exact(&mut [0; 8]).await?;
        stream.write_all(b"S").await?;
    }
    let mut stream = acceptor.accept(stream).await?;
    let mut server = behind.connect().await?;
    copy_bidirectional(&mut stream, &mut server).await?;
    Ok(())
}

/// An egress proxy, which opens tunnels to the hosts that it knows. Ends, with its connections, when it is dropped.
pub struct Proxy {
    pub address: SocketAddr,
    opened: Arc<Mutex<Vec<String>>>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// A proxy for whoever has this `Proxy-Authorization`.
    pub async fn start(authorization: &'static str, hosts: &[(&'static str, SocketAddr)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let opened: Arc<Mutex<Vec<String>>> = Arc::default();
        let (hosts, noted) = (Arc::new(HashMap::from_iter(hosts.iter().copied())), opened.clone());
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (hosts, noted) = (Arc::clone(&hosts), noted.clone());
                connections.spawn(async move { drop(tunnel(stream, authorization, &hosts, &noted).await) });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, opened, _accepting: accepting }
    }

    /// The servers of the tunnels that it opened.
    pub fn opened(&self) -> Vec<String> {
        self.opened.lock().unwrap().clone()
    }
}

async fn tunnel(
    mut stream: TcpStream,
    authorization: &str,
    hosts: &HashMap<&'static str, SocketAddr>,
    opened: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let Some(server) = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()) else {
        return stream.write_all(b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n").await;
    };
    if !head.contains(&format!("Proxy-Authorization: {authorization}\r\n")) {
        return stream
            .write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
            .await;
    }
    let Some(address) = hosts.get(server) else {
        return stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await;
    };
    opened.lock().unwrap().push(server.to_owned());
    let mut behind = TcpStream::connect(address).await?;
    stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    copy_bidirectional(&mut stream, &mut behind).await?;
    Ok(())
}
