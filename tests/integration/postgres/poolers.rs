//! Poolers between a gateway and the server: what breaks sessions is found, and refused in words.

use std::sync::Arc;

use sqlx::postgres::PgConnectOptions;
use std::str::FromStr;
use tokio::io::{self, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tollgate::secret::Secret;
use tollgate::store::{Database, Purpose, StoreError};
use url::Url;

use crate::support::database::{PATIENCE, TestDatabase};
use crate::support::process::run;

/// What a pooler does to the sessions of its clients.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pooling {
    /// All clients share one session, a statement at a time, as in PgBouncer's transaction mode with one server.
    Statements,
    /// Each client has a session of its own, without the settings that it asked for (`ignore_startup_parameters`).
    SessionsWithoutSettings,
    /// Refuses clients that ask for settings, as PgBouncer does unless it is told to ignore them.
    RefusesSettings,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A session of the server, and what it said when it began.
struct Session {
    server: Box<dyn Stream>,
    greeting: Vec<u8>,
}

struct Pooler {
    url: String,
    _serving: JoinSet<()>,
}

impl Pooler {
    async fn before(db: &TestDatabase, pooling: Pooling) -> Self {
        let options = PgConnectOptions::from_str(db.url()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut url = Url::parse(db.url()).unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        url.set_query(Some("sslmode=disable"));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let shared = Arc::new(Mutex::new(Session::begin(&options).await));
            let mut clients = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let session = match pooling {
                    Pooling::SessionsWithoutSettings => Arc::new(Mutex::new(Session::begin(&options).await)),
                    Pooling::Statements | Pooling::RefusesSettings => shared.clone(),
                };
                clients.spawn(async move {
                    // An error is the end of the client.
                    let _ = serve(client, session, pooling).await;
                });
            }
        });
        Self { url: url.into(), _serving: serving }
    }
}

impl Session {
    async fn begin(options: &PgConnectOptions) -> Self {
        let mut server: Box<dyn Stream> = match options.get_socket() {
            Some(directory) => {
                let path = directory.join(format!(".s.PGSQL.{}", options.get_port()));
                Box::new(UnixStream::connect(path).await.unwrap())
            }
            None => Box::new(TcpStream::connect((options.get_host(), options.get_port())).await.unwrap()),
        };
        let mut startup = Vec::from(196_608_u32.to_be_bytes());
        for text in ["user", options.get_username(), "database", options.get_database().unwrap(), ""] {
            startup.extend(text.as_bytes());
            startup.push(0);
        }
        let length = u32::try_from(startup.len() + 4).unwrap();
        server.write_all(&[&length.to_be_bytes(), &startup[..]].concat()).await.unwrap();
        let mut greeting = Vec::new();
        until_ready(&mut server, &mut greeting).await.unwrap();
        Self { server, greeting }
    }
}

/// Reads one message with its type.
async fn message(from: &mut (impl AsyncRead + Unpin + ?Sized)) -> io::Result<(u8, Vec<u8>)> {
    let kind = from.read_u8().await?;
    let length = from.read_u32().await?;
    let mut whole = [&[kind], &length.to_be_bytes()[..]].concat();
    let head = whole.len();
    whole.resize(head + usize::try_from(length).unwrap() - 4, 0);
    from.read_exact(&mut whole[head..]).await?;
    Ok((kind, whole))
}

/// What the server says until it is ready for the next statement.
async fn until_ready(server: &mut (impl AsyncRead + Unpin + ?Sized), said: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let (kind, whole) = message(server).await?;
        said.extend(whole);
        if kind == b'Z' {
            return Ok(());
        }
    }
}

async fn serve(mut client: TcpStream, session: Arc<Mutex<Session>>, pooling: Pooling) -> io::Result<()> {
    let length = client.read_u32().await?;
    let mut startup = vec![0; usize::try_from(length).unwrap() - 4];
    client.read_exact(&mut startup).await?;
    if pooling == Pooling::RefusesSettings {
        let asks = startup.windows(8).any(|name| name == b"options\0");
        assert!(asks, "a gateway asks for settings");
        let text = b"SFATAL\0C08P01\0Munsupported startup parameter: options\0\0";
        let length = u32::try_from(text.len() + 4).unwrap();
        client.write_all(&[b"E", &length.to_be_bytes()[..], text].concat()).await?;
        return client.shutdown().await;
    }
    let greeting = session.lock().await.greeting.clone();
    client.write_all(&greeting).await?;
    let mut asked = Vec::new();
    loop {
        let (kind, whole) = message(&mut client).await?;
        if kind == b'X' {
            return Ok(());
        }
        asked.extend(whole);
        if kind == b'Q' || kind == b'S' {
            let mut session = session.lock().await;
            session.server.write_all(&asked).await?;
            asked.clear();
            let mut said = Vec::new();
            until_ready(&mut session.server, &mut said).await?;
            drop(session);
            client.write_all(&said).await?;
        }
    }
}

#[tokio::test]
async fn a_pooler_that_breaks_sessions_is_found() {
    let db = TestDatabase::new().await;
    let direct = Database::connect(&Secret::new(db.url()), 1, PATIENCE).unwrap();
    assert_eq!(direct.shortfalls(Purpose::Serve).await.unwrap(), []);
    for (pooling, words) in [
        (Pooling::Statements, "does not keep sessions apart"),
        (Pooling::SessionsWithoutSettings, "drops the settings of a session"),
    ] {
        let pooler = Pooler::before(&db, pooling).await;
        let through = Database::connect(&Secret::new(&pooler.url), 1, PATIENCE).unwrap();
        let found = through.shortfalls(Purpose::Serve).await.unwrap();
        assert!(
            found.len() == 1 && found[0].blocking && found[0].what.contains(words),
            "{pooling:?}: {found:?}"
        );
        assert!(found[0].remedy.contains("Connect to PostgreSQL itself"), "{found:?}");
        assert!(matches!(through.migrate().await, Err(StoreError::Schema(_))));
    }
}

#[tokio::test]
async fn a_pooler_that_refuses_settings_is_called_that() {
    let db = TestDatabase::new().await;
    let pooler = Pooler::before(&db, Pooling::RefusesSettings).await;
    let said = run(&["migrate", "--database-url", &pooler.url]).await;
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.err.contains("a pooler") && said.err.contains("connect to PostgreSQL itself"), "{said:?}");
}
