//! A database of its own for every test, and an audit of its books at the end of every test.
//!
//! The tests of one process share a server: a private cluster, or the one that `TOLLGATE_TEST_DATABASE_URL` names (its user must be
//! allowed to create databases). Databases are copies of a template that is migrated once.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use time::OffsetDateTime;
use tollgate::postgres::{Cluster, ClusterConfig};
use tollgate::secret::Secret;
use tollgate::store::{Acting, AuditReport, Database, Fingerprint, StoreError};
use url::Url;
use uuid::Uuid;

use super::seed::acting;
use super::{leaks, schema};

/// How long a test waits for what must come: far longer than it takes on a busy machine, and shorter than a test's
/// deadline, so that the test itself can say what did not come.
pub const PATIENCE: Duration = Duration::from_secs(120);
const DIR_PREFIX: &str = "tollgate-tests-";
/// A file system in memory, where there is one.
const MEMORY: &str = "/dev/shm";

/// Never dropped: the private cluster ends with this process, and the next one removes its directory.
static SERVER: LazyLock<Server> = LazyLock::new(Server::start);

struct Server {
    url: Url,
    template: String,
    _cluster: Option<Cluster>,
}

impl Server {
    fn start() -> Self {
        let (url, cluster) = match std::env::var("TOLLGATE_TEST_DATABASE_URL") {
            Ok(url) => (url, None),
            Err(_) => {
                let cluster = private_cluster();
                (cluster.url("postgres"), Some(cluster))
            }
        };
        let url = Url::parse(&url).unwrap();
        let template = block_on(make_template(&url));
        Self { url, template, _cluster: cluster }
    }
}

fn private_cluster() -> Cluster {
    remove_leftovers(&std::env::temp_dir());
    remove_leftovers(Path::new(MEMORY));
    // Making and dropping hundreds of databases is mostly the file system's work.
    let base = if has_room(MEMORY) { MEMORY.into() } else { std::env::temp_dir() };
    let data_dir = base.join(format!("{DIR_PREFIX}{}", Uuid::now_v7().simple()));
    // The server's user, who is not root, must be able to pass.
    DirBuilder::new().mode(0o755).create(&data_dir).unwrap();
    let config = ClusterConfig {
        data_dir,
        launcher: env!("CARGO_BIN_EXE_tollgate").into(),
        durable: false,
        max_connections: 500,
        download_dir: None,
        tcp_port: None,
    };
    Cluster::start(config, &mut |_| {}).unwrap()
}

/// Whether a server fits there, with the databases of as many tests as run at once.
fn has_room(directory: &str) -> bool {
    const ROOM: u64 = 3 << 30;
    statvfs(directory).is_ok_and(|found| found.blocks_available() * found.fragment_size() >= ROOM)
}

/// Removes the clusters of test processes that are gone.
fn remove_leftovers(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(DIR_PREFIX));
        // A living owner holds the lock. What we may not open is another user's.
        if ours
            && let Ok(lock) = File::open(entry.path().join("lock"))
            && lock.try_lock().is_ok()
        {
            // Another process may be doing the same, or its server still be dying.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn at(server: &Url, database: &str) -> String {
    let mut url = server.clone();
    url.set_path(database);
    url.into()
}

/// Makes the template of this schema, unless an earlier process has left it on the server.
async fn make_template(server: &Url) -> String {
    let digest = Fingerprint::of(schema::text().as_bytes());
    let hex: String = digest.as_bytes().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let template = format!("tollgate_template_{hex}");

    let mut admin = PgConnection::connect(server.as_str()).await.unwrap();
    admin.execute("select pg_advisory_lock(7116011)").await.unwrap();
    let found: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
        .bind(&template)
        .fetch_one(&mut admin)
        .await
        .unwrap();
    if !found {
        let draft = format!("tollgate_draft_{}", Uuid::now_v7().simple());
        admin.execute(AssertSqlSafe(format!("create database {draft}"))).await.unwrap();
        let database = Database::connect(&Secret::new(at(server, &draft)), 1, PATIENCE).unwrap();
        database.migrate().await.unwrap();
        drop(database);
        until_unused(&mut admin, &draft).await;
        // It gets its name only now that it is complete.
        admin.execute(AssertSqlSafe(format!("alter database {draft} rename to {template}"))).await.unwrap();
    }
    admin.close().await.unwrap();
    template
}

async fn until_unused(admin: &mut PgConnection, database: &str) {
    until("nobody uses the template any more", async || {
        sqlx::query_scalar("select not exists (select from pg_stat_activity where datname = $1)")
            .bind(database)
            .fetch_one(&mut *admin)
            .await
            .unwrap()
    })
    .await;
}

/// Waits until the condition holds, for at most as long as our patience lasts.
pub async fn until(what: &str, holds: impl AsyncFnMut() -> bool) {
    until_within(PATIENCE, what, holds).await;
}

/// The same with another patience, for what has a pace of its own.
pub async fn until_within(patience: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let looking = async {
        let began = Instant::now();
        while !holds().await {
            // Often at first. Who waits for seconds looks seldom, and leaves the processor to what it waits for.
            let pause = began.elapsed() / 20;
            tokio::time::sleep(pause.clamp(Duration::from_millis(5), Duration::from_millis(50))).await;
        }
    };
    // A look that hangs counts too.
    assert!(tokio::time::timeout(patience, looking).await.is_ok(), "{what}: not within {patience:?}");
}

/// Waits until the condition holds, for at most a hundred looks 5 ms apart: what should come at once, and not only with
/// the next regular round. A number of looks, as a time would be over too soon on a busy machine.
pub async fn soon(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..100 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what}: not at once");
}

/// Does what must be done before an instant that is still to come: soon, or later if a busy machine was not done in time.
/// `attempt` returns nothing if it was refused.
pub async fn ahead<T>(mut attempt: impl AsyncFnMut(OffsetDateTime) -> Option<T>) -> T {
    for seconds in [2, 8, 32] {
        let instant = OffsetDateTime::now_utc() + Duration::from_secs(seconds);
        if let Some(done) = attempt(instant).await {
            return done;
        }
        assert!(OffsetDateTime::now_utc() >= instant, "refused, and {instant} was still to come");
    }
    panic!("not within half a minute");
}

/// Alters tables or their triggers, all at once. It is tried again where somebody who reads two partitions and this one wait for each
/// other, which PostgreSQL ends by refusing one of them.
pub async fn alter(pool: &PgPool, script: &str) {
    loop {
        let done = sqlx::raw_sql(AssertSqlSafe(script)).execute(pool).await;
        match done.as_ref().err().and_then(|error| error.as_database_error()?.code()).as_deref() {
            Some("40P01") => {}
            _ => {
                done.unwrap();
                return;
            }
        }
    }
}

/// Begins a transaction that locks tables, given as for `lock table`. More than one of them, and one of several partitions, are locked
/// one after the other: see [`alter`].
pub async fn lock(holder: &mut PgConnection, tables: &str) {
    loop {
        let locked = holder.execute(AssertSqlSafe(format!("begin; lock table {tables}"))).await;
        match locked.as_ref().err().and_then(|error| error.as_database_error()?.code()).as_deref() {
            Some("40P01") => drop(holder.execute("rollback").await.unwrap()),
            _ => {
                locked.unwrap();
                return;
            }
        }
    }
}

/// Runs a future from where no runtime is.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// An empty, migrated database. Dropping it audits its ledger, and fails the test on any breach.
pub struct TestDatabase {
    name: String,
    url: String,
    database: Acting,
    pool: PgPool,
    expect_broken: bool,
}

impl TestDatabase {
    pub async fn new() -> Self {
        leaks::watch();
        let server = tokio::task::spawn_blocking(|| &*SERVER).await.unwrap();
        Self::like(&server.template).await
    }

    /// Another one with the same rows. Connections to this one are ended first, and it is not to be used any more.
    pub async fn copy(&self) -> Self {
        let mut admin = PgConnection::connect(SERVER.url.as_str()).await.unwrap();
        let end = sqlx::query("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1");
        end.bind(&self.name).execute(&mut admin).await.unwrap();
        until_unused(&mut admin, &self.name).await;
        admin.close().await.unwrap();
        Self::like(&self.name).await
    }

    async fn like(template: &str) -> Self {
        let name = format!("tollgate_test_{}", Uuid::now_v7().simple());
        let mut admin = PgConnection::connect(SERVER.url.as_str()).await.unwrap();
        let create = format!("create database {name} template {template} strategy file_copy");
        admin.execute(AssertSqlSafe(create)).await.unwrap();
        admin.close().await.unwrap();
        let url = at(&SERVER.url, &name);
        let database = acting(&Database::connect(&Secret::new(&url), 8, PATIENCE).unwrap());
        let pool =
            PgPoolOptions::new().max_connections(4).acquire_timeout(PATIENCE).connect_lazy(&url).unwrap();
        Self { name, url, database, pool, expect_broken: false }
    }

    /// Where it is, for another process or another pool.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Acts as a part of this program, which a test is.
    pub fn database(&self) -> &Acting {
        &self.database
    }

    /// For looking at the tables behind the ledger's back.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The test breaks the books on purpose: they are not looked at in the end.
    pub fn expect_broken(&mut self) {
        self.expect_broken = true;
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (name, url) = (self.name.clone(), (!self.expect_broken).then(|| self.url.clone()));
        // We may be inside the test's runtime, which cannot be waited for from within.
        let audit = thread::spawn(move || block_on(audit_and_remove(&name, url))).join();
        if self.expect_broken {
            return;
        }
        let complaint = match audit {
            Ok(Ok(None)) => return,
            Ok(Ok(Some(report))) if report.breaches.is_empty() => return leaks::assert_none(),
            Ok(Ok(Some(report))) => format!("the ledger's invariants are broken: {:#?}", report.breaches),
            Ok(Err(error)) => format!("the ledger cannot be audited: {error}"),
            Err(_) => "the audit panicked".into(),
        };
        // A second panic would abort, and hide the first.
        if thread::panicking() {
            eprintln!("{complaint}");
        } else {
            panic!("{complaint}");
        }
    }
}

async fn audit_and_remove(name: &str, url: Option<String>) -> Result<Option<AuditReport>, StoreError> {
    let report = match url {
        Some(url) => Some(Database::connect(&Secret::new(url), 1, PATIENCE)?.audit().await),
        None => None,
    };
    let mut admin = PgConnection::connect(SERVER.url.as_str()).await?;
    admin.execute(AssertSqlSafe(format!("drop database {name} with (force)"))).await?;
    report.transpose()
}
