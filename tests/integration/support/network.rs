//! A way to the database on which things go wrong, each direction by itself, switchable while it is in use.

use std::io;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::RngExt;
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use url::Url;

/// What becomes of bytes that travel in one direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Flow {
    /// They arrive.
    Clear,
    /// They arrive this much later.
    Delay(Duration),
    /// They vanish, and so does everything after them on their connection: nobody is told.
    Swallow,
    /// The same, from this chunk of each connection on.
    SwallowFrom(usize),
    /// With this probability the connection ends in their place. Its first few chunks are spared, so that it is made.
    Lose(f64),
}

/// The state of the network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weather {
    /// Towards the server.
    pub questions: Flow,
    /// Towards the client.
    pub answers: Flow,
    /// No connection stays, none is made.
    pub cut: bool,
}

impl Weather {
    pub const CLEAR: Self = Self { questions: Flow::Clear, answers: Flow::Clear, cut: false };
    pub const CUT: Self = Self { cut: true, ..Self::CLEAR };

    /// The same in both directions.
    pub const fn both(flow: Flow) -> Self {
        Self { questions: flow, answers: flow, cut: false }
    }
}

/// Ends, with its connections, when it is dropped.
pub struct Network {
    url: String,
    server: Arc<Mutex<PgConnectOptions>>,
    weather: watch::Sender<Weather>,
    lost: Arc<AtomicUsize>,
    /// How often it has forgotten its connections.
    era: watch::Sender<usize>,
    _accepting: JoinSet<()>,
}

impl Network {
    /// A way to the server of `url`.
    pub async fn to(url: &str) -> Self {
        let server = Arc::new(Mutex::new(PgConnectOptions::from_str(url).unwrap()));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let mut url = Url::parse(url).unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        url.set_query(Some("sslmode=disable"));
        let lost = Arc::new(AtomicUsize::new(0));
        let (weather, seen) = watch::channel(Weather::CLEAR);
        let (era, eras) = watch::channel(0);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, server.clone(), (seen, eras), lost.clone()));
        Self { url: url.into(), server, weather, lost, era, _accepting: accepting }
    }

    /// Forgets all connections that there are, as a NAT forgets those that are idle: what is sent on them vanishes from now
    /// on, and nobody is told. New connections are not affected.
    pub fn forget_connections(&self) {
        self.era.send_modify(|era| *era += 1);
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// New connections go to another server.
    pub fn lead_to(&self, url: &str) {
        *self.server.lock().unwrap() = PgConnectOptions::from_str(url).unwrap();
    }

    /// How many chunks were lost or swallowed so far.
    pub fn lost(&self) -> usize {
        self.lost.load(Ordering::Relaxed)
    }
}

async fn accept(
    listener: TcpListener,
    server: Arc<Mutex<PgConnectOptions>>,
    (weather, eras): (watch::Receiver<Weather>, watch::Receiver<usize>),
    lost: Arc<AtomicUsize>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let server = server.lock().unwrap().clone();
        let (mut weather, lost) = (weather.clone(), lost.clone());
        let (eras, made_in) = (eras.clone(), *eras.borrow());
        connections.spawn(async move {
            let mut ending = weather.clone();
            tokio::select! {
                // An error is the end of the connection on either side.
                _ = connect(client, &server, &mut weather, &lost, || *eras.borrow() > made_in) => {}
                _ = ending.wait_for(|weather| weather.cut) => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn connect(
    client: TcpStream,
    server: &PgConnectOptions,
    weather: &mut watch::Receiver<Weather>,
    lost: &AtomicUsize,
    forgotten: impl Fn() -> bool,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    match server.get_socket() {
        Some(directory) => {
            let path = directory.join(format!(".s.PGSQL.{}", server.get_port()));
            relay(client, UnixStream::connect(path).await?, weather, lost, forgotten).await
        }
        None => {
            let server = TcpStream::connect((server.get_host(), server.get_port())).await?;
            server.set_nodelay(true)?;
            relay(client, server, weather, lost, forgotten).await
        }
    }
}

async fn relay<S: AsyncRead + AsyncWrite>(
    client: TcpStream,
    server: S,
    weather: &watch::Receiver<Weather>,
    lost: &AtomicUsize,
    forgotten: impl Fn() -> bool,
) -> io::Result<()> {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = split(server);
    let now = |flow: Flow| if forgotten() { Flow::Swallow } else { flow };
    let questions = flow(from_client, to_server, || now(weather.borrow().questions), lost);
    let answers = flow(from_server, to_client, || now(weather.borrow().answers), lost);
    tokio::select! {
        done = questions => done,
        done = answers => done,
    }
}

async fn flow(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    now: impl Fn() -> Flow,
    lost: &AtomicUsize,
) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let mut swallowing = false;
    for chunk in 0usize.. {
        let bytes = from.read(&mut buffer).await?;
        if bytes == 0 {
            break;
        }
        match now() {
            // A gap in the stream is no network's doing: what follows a swallowed chunk is swallowed too.
            _ if swallowing => continue,
            Flow::Clear => {}
            Flow::Delay(time) => tokio::time::sleep(time).await,
            Flow::SwallowFrom(first) if chunk < first => {}
            Flow::Swallow | Flow::SwallowFrom(_) => {
                lost.fetch_add(1, Ordering::Relaxed);
                swallowing = true;
                continue;
            }
            Flow::Lose(probability) if chunk >= 4 && rand::rng().random_bool(probability) => {
                lost.fetch_add(1, Ordering::Relaxed);
                break;
            }
            Flow::Lose(_) => {}
        }
        to.write_all(&buffer[..bytes]).await?;
    }
    Ok(())
}
