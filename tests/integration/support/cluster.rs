//! A PostgreSQL server of a test's own: to be killed, frozen, replicated, promoted.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tollgate::postgres::{Cluster, ClusterConfig};
use tollgate::secret::Secret;
use tollgate::store::{Acting, Database};
use url::Url;

use super::database::until;
use super::process::Scratch;
use crate::support::seed::acting;

/// What every such server's database is called.
const NAME: &str = "ledger";

/// Dropping it stops the server.
pub struct TestCluster {
    cluster: Cluster,
    frozen: Vec<Pid>,
    scratch: Scratch,
}

async fn start(scratch: Scratch) -> TestCluster {
    let config = ClusterConfig {
        data_dir: scratch.0.clone(),
        launcher: env!("CARGO_BIN_EXE_tollgate").into(),
        durable: true,
        max_connections: 200,
        download_dir: None,
        tcp_port: None,
    };
    let starting = tokio::task::spawn_blocking(move || Cluster::start(config, &mut |_| {}).unwrap());
    TestCluster { cluster: starting.await.unwrap(), frozen: Vec::new(), scratch }
}

impl TestCluster {
    /// A durable server with a migrated database.
    pub async fn new() -> Self {
        let server = start(Scratch::new()).await;
        Database::create_database(&Secret::new(server.cluster.url("postgres")), NAME).await.unwrap();
        server.database().migrate().await.unwrap();
        server
    }

    /// A durable server without a database of ours.
    pub async fn empty() -> Self {
        let server = start(Scratch::new()).await;
        Database::create_database(&Secret::new(server.cluster.url("postgres")), NAME).await.unwrap();
        server
    }

    /// A program of the server's version.
    pub fn program(&self, name: &str) -> PathBuf {
        self.cluster.bin_dir().join(name)
    }

    pub fn url(&self) -> String {
        self.cluster.url(NAME)
    }

    /// One of its databases, as the administrator.
    pub fn url_of(&self, database: &str) -> String {
        self.cluster.url(database)
    }

    /// One of its databases, as a role.
    pub fn url_as(&self, role: &str, database: &str) -> String {
        let mut url = Url::parse(&self.cluster.url(database)).unwrap();
        url.set_username(role).unwrap();
        url.into()
    }

    pub fn secret(&self) -> Secret {
        Secret::new(self.url())
    }

    /// A pool on this very server.
    pub fn database(&self) -> Acting {
        acting(&Database::connect(&self.secret(), 4, Duration::from_secs(30)).unwrap())
    }

    /// Runs a statement; the only row's only column, as text, if there is one.
    pub async fn run(&self, statement: &str) -> Option<String> {
        let mut connection = PgConnection::connect(&self.url()).await.unwrap();
        let row = connection.fetch_optional(AssertSqlSafe(statement.to_owned())).await.unwrap();
        connection.close().await.unwrap();
        row.map(|row| sqlx::Row::get(&row, 0))
    }

    /// Changes a setting of the server and waits until it is in force.
    pub async fn set(&self, name: &str, value: &str) {
        self.run(&format!("alter system set {name} = '{value}'")).await;
        self.run("select pg_reload_conf()::text").await;
        until("the setting is in force", async || {
            self.run(&format!("select current_setting('{name}')")).await.as_deref() == Some(value)
        })
        .await;
    }

    /// A streaming standby of it, which this server waits for with every commit.
    pub async fn synchronous_standby(&self) -> Self {
        let scratch = Scratch::new();
        let pgdata = scratch.0.join("pg");
        fs::create_dir(&pgdata).unwrap();
        fs::set_permissions(&pgdata, fs::Permissions::from_mode(0o700)).unwrap();
        let owner = fs::metadata(self.scratch.0.join("pg")).unwrap();
        let mut backup = Command::new(self.cluster.bin_dir().join("pg_basebackup"));
        backup.args(["-R", "-X", "stream", "-c", "fast", "-D"]).arg(&pgdata);
        backup.arg("-d").arg(self.cluster.url("postgres")).current_dir("/");
        if geteuid().is_root() {
            chown(&pgdata, Some(owner.uid()), Some(owner.gid())).unwrap();
            backup.uid(owner.uid()).gid(owner.gid());
        }
        let done = tokio::task::spawn_blocking(move || backup.output().unwrap()).await.unwrap();
        assert!(done.status.success(), "{done:?}");
        let standby = start(scratch).await;
        self.set("synchronous_standby_names", "*").await;
        until("the standby is synchronous", async || {
            let state = "select coalesce(max(sync_state), '') from pg_stat_replication";
            self.run(state).await.as_deref() == Some("sync")
        })
        .await;
        standby
    }

    /// Makes a standby the primary.
    pub async fn promote(&self) {
        assert_eq!(self.run("select pg_promote(true, 30)::text").await.as_deref(), Some("true"));
    }

    /// Kills the server without warning.
    pub fn kill(&mut self) {
        self.cluster.kill();
    }

    /// Starts a server that was killed.
    pub fn restart(&mut self) {
        tokio::task::block_in_place(|| self.cluster.restart(&mut |_| {}).unwrap());
    }

    /// Freezes every process of the server: it neither answers nor goes away.
    pub fn freeze(&mut self) {
        let server = self.cluster.pid().to_string();
        kill(Pid::from_raw(self.cluster.pid().cast_signed()), Signal::SIGSTOP).unwrap();
        self.frozen.push(Pid::from_raw(self.cluster.pid().cast_signed()));
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
            // After the name, which is in parentheses: state, parent.
            let parent = stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap();
            if parent == server {
                let process = Pid::from_raw(entry.file_name().to_str().unwrap().parse().unwrap());
                // It may just have ended.
                if kill(process, Signal::SIGSTOP).is_ok() {
                    self.frozen.push(process);
                }
            }
        }
    }

    pub fn thaw(&mut self) {
        for process in self.frozen.drain(..) {
            let _ = kill(process, Signal::SIGCONT);
        }
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        self.thaw();
    }
}
