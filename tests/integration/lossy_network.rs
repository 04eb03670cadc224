//! A way to the database on which answers get lost: the server has acted, and its client never hears of it.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::RngExt;
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinSet;
use url::Url;

/// Ends, with its connections, when it is dropped.
pub struct LossyNetwork {
    url: String,
    lost: Arc<AtomicUsize>,
    _accepting: JoinSet<()>,
}

impl LossyNetwork {
    pub async fn to(url: &str) -> Self {
        let server = PgConnectOptions::from_str(url).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let mut url = Url::parse(url).unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        url.set_query(Some("sslmode=disable"));
        let lost = Arc::new(AtomicUsize::new(0));
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, server, lost.clone()));
        Self { url: url.into(), lost, _accepting: accepting }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// How many answers were lost so far.
    pub fn lost(&self) -> usize {
        self.lost.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, server: PgConnectOptions, lost: Arc<AtomicUsize>) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let (server, lost) = (server.clone(), lost.clone());
        connections.spawn(async move {
            // An error is the end of the connection on either side.
            let _ = match server.get_socket() {
                Some(directory) => {
                    let path = directory.join(format!(".s.PGSQL.{}", server.get_port()));
                    relay(client, UnixStream::connect(path).await.unwrap(), &lost).await
                }
                None => {
                    let address = (server.get_host(), server.get_port());
                    relay(client, TcpStream::connect(address).await.unwrap(), &lost).await
                }
            };
        });
    }
}

async fn relay<S>(client: TcpStream, server: S, lost: &AtomicUsize) -> std::io::Result<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite,
{
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = split(server);
    let questions = tokio::io::copy(&mut from_client, &mut to_server);
    let answers = async {
        let mut buffer = vec![0; 1 << 16];
        // The first few make the connection.
        for n in 0.. {
            let bytes = from_server.read(&mut buffer).await?;
            if n >= 4 && rand::rng().random_bool(0.25) {
                lost.fetch_add(1, Ordering::Relaxed);
                break;
            }
            if bytes == 0 {
                break;
            }
            to_client.write_all(&buffer[..bytes]).await?;
        }
        Ok(())
    };
    tokio::select! {
        done = questions => done.map(drop),
        done = answers => done,
    }
}
