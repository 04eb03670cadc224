//! The embedded PostgreSQL, against the real server: what it survives and what it refuses.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use sqlx::{Connection, Executor, PgConnection, Row};
use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;
use tollgate::postgres::{Cluster, ClusterConfig, PostgresError};

/// A data directory that is gone after the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("tollgate-test-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    fn config(&self) -> ClusterConfig {
        config(&self.0)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn config(data_dir: &Path) -> ClusterConfig {
    ClusterConfig {
        data_dir: data_dir.to_owned(),
        launcher: env!("CARGO_BIN_EXE_tollgate").into(),
        durable: false,
        max_connections: 20,
        download_dir: None,
        tcp_port: None,
    }
}

fn start(config: ClusterConfig) -> Result<(Cluster, String), PostgresError> {
    let mut lines = Vec::new();
    let cluster = Cluster::start(config, &mut |line| lines.push(line.to_owned()))?;
    Ok((cluster, lines.join("\n")))
}

fn refusal(config: ClusterConfig) -> String {
    start(config).map(|_| ()).unwrap_err().to_string()
}

/// Connects, runs the statements to their end, and returns the only row's first column, as text.
fn ask(url: &str, statement: &'static str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connection = PgConnection::connect(url).await.unwrap();
        // All rows, not one: a row may arrive before the commit.
        let rows = connection.fetch_all(statement).await.unwrap();
        rows[0].get::<String, _>(0)
    })
}

/// Waits, for at most 30 s, until the condition holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}: not within 30 s");
}

fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// PostgreSQL processes that work in the cluster of `data_dir`.
fn processes(data_dir: &Path) -> usize {
    let identify = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let wanted = identify(&data_dir.join("pg"));
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter(|entry| wanted.is_some() && identify(&entry.path().join("cwd")) == wanted).count()
}

#[test]
fn cold_then_warm_and_nothing_stays_behind() {
    let scratch = Scratch::new();
    let (cluster, lines) = start(scratch.config()).unwrap();
    assert!(lines.contains("creating a PostgreSQL"), "{lines}");
    let made = ask(&cluster.url("postgres"), "create table kept as select 7 as n; select current_user::text");
    assert_eq!(made, "gw");
    assert_eq!(ask(&cluster.url("postgres"), "show listen_addresses"), "");
    assert_eq!(ask(&cluster.url("postgres"), "show data_checksums"), "on");
    for private in ["pg", "run"].map(|name| fs::metadata(scratch.0.join(name)).unwrap()) {
        assert!(private.mode() & 0o777 == 0o700 && private.uid() != 0);
    }
    cluster.stop().unwrap();
    assert_eq!(processes(&scratch.0), 0);

    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let (cluster, lines) = start(ClusterConfig { tcp_port: Some(port), ..scratch.config() }).unwrap();
    assert!(!lines.contains("creating") && !lines.contains("recovers"), "{lines}");
    assert_eq!(ask(&cluster.url("postgres"), "select n::text from kept"), "7");
    assert_eq!(ask(&cluster.tcp_url("postgres").unwrap(), "select n::text from kept"), "7");
    drop(cluster);
    assert_eq!(processes(&scratch.0), 0);
}

#[test]
fn two_clusters_live_side_by_side_and_a_second_owner_is_refused() {
    let (one, two) = (Scratch::new(), Scratch::new());
    let (first, second) = thread::scope(|scope| {
        let other = scope.spawn(|| start(two.config()).unwrap().0);
        (start(one.config()).unwrap().0, other.join().unwrap())
    });
    assert_ne!(first.pid(), second.pid());
    let refused = refusal(one.config());
    let named = format!("another tollgate process (process {})", std::process::id());
    assert!(refused.contains(&named), "{refused}");
    assert_eq!(ask(&first.url("postgres"), "select 'unharmed'"), "unharmed");
}

#[test]
fn a_killed_server_is_started_again_and_keeps_what_was_committed() {
    let scratch = Scratch::new();
    let (mut cluster, _) = start(ClusterConfig { durable: true, ..scratch.config() }).unwrap();
    ask(&cluster.url("postgres"), "create table kept as select 7 as n; select ''");
    let killed = cluster.pid();
    cluster.kill();
    assert!(!is_alive(killed));
    let mut lines = String::new();
    cluster.restart(&mut |line| lines.push_str(line)).unwrap();
    assert!(lines.contains("recovers first"), "{lines}");
    assert_eq!(ask(&cluster.url("postgres"), "select n::text from kept"), "7");
}

/// An owner in a process of its own: the demo. Its cluster is in `postgres` below `dir`.
fn owner_command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(["demo", "--json", "--listen", "127.0.0.1:0", "--data-dir"]).arg(dir);
    command.env_remove("DATABASE_URL").stderr(Stdio::null());
    command
}

fn spawn_owner(dir: &Path) -> (Child, u32) {
    let mut owner = owner_command(dir).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let ready = lines.next().unwrap().unwrap();
    assert!(ready.contains("base_url"), "{ready}");
    let lock = fs::read_to_string(dir.join("postgres/pg/postmaster.pid")).unwrap();
    (owner, lock.lines().next().unwrap().parse().unwrap())
}

#[test]
fn a_server_dies_with_its_killed_owner() {
    let scratch = Scratch::new();
    let owned = config(&scratch.0.join("postgres"));
    let (mut owner, server) = spawn_owner(&scratch.0);
    assert!(is_alive(server));
    assert!(refusal(owned.clone()).contains(&format!("(process {})", owner.id())));
    owner.kill().unwrap();
    owner.wait().unwrap();
    // At once, while the old server is still busy with its shutdown.
    let (cluster, lines) = start(owned.clone()).unwrap();
    assert!(!is_alive(server));
    assert!(!lines.contains("recovers"), "the orphan shut down cleanly: {lines}");
    drop(cluster);
    assert_eq!(processes(&scratch.0), 0);

    let (mut owner, server) = spawn_owner(&scratch.0);
    owner.kill().unwrap();
    owner.wait().unwrap();
    until("the orphan ends by itself", || !is_alive(server) && processes(&scratch.0) == 0);
    // Both at once, as when a container runs out of memory: the dead server may still be waiting to be reaped.
    let (mut owner, server) = spawn_owner(&scratch.0);
    kill(Pid::from_raw(server.cast_signed()), Signal::SIGKILL).unwrap();
    owner.kill().unwrap();
    owner.wait().unwrap();
    let (_cluster, lines) = start(owned.clone()).unwrap();
    assert!(lines.contains("recovers first"), "{lines}");
}

#[test]
fn an_interrupted_creation_is_done_again() {
    let scratch = Scratch::new();
    let owned = config(&scratch.0.join("postgres"));
    // The owner dies in the middle of initdb, which then has to die too.
    let mut owner = owner_command(&scratch.0).stdout(Stdio::null()).spawn().unwrap();
    let half_made = owned.data_dir.join(format!("pg.init.{}", owner.id()));
    until("initdb has begun", || half_made.join("PG_VERSION").exists());
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert!(!owned.data_dir.join("pg").exists());

    let leftover = owned.data_dir.join("pg.init.1");
    fs::create_dir(&leftover).unwrap();
    fs::write(leftover.join("PG_VERSION"), "15").unwrap();
    let (cluster, lines) = start(owned.clone()).unwrap();
    assert!(lines.contains("unfinished") && lines.contains("creating"), "{lines}");
    assert_eq!(ask(&cluster.url("postgres"), "select 'whole'"), "whole");
    assert!(!half_made.exists() && !leftover.exists());
}

#[test]
fn foreign_data_is_refused_and_left_alone() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.0.join("pg")).unwrap();
    fs::write(scratch.0.join("pg/thesis.txt"), "five years of work").unwrap();
    assert!(refusal(scratch.config()).contains("holds no PostgreSQL cluster"));
    assert!(scratch.0.join("pg/thesis.txt").exists());
}

#[test]
fn a_cluster_of_another_version_or_with_bad_settings_is_refused_with_the_reason() {
    let scratch = Scratch::new();
    let (cluster, _) = start(scratch.config()).unwrap();
    let major = cluster.version().split('.').next().unwrap().to_owned();
    drop(cluster);
    fs::write(scratch.0.join("pg/PG_VERSION"), "14\n").unwrap();
    let refused = refusal(scratch.config());
    assert!(refused.contains("created by PostgreSQL 14"), "{refused}");
    assert!(refused.contains(&format!("is version {major}")), "{refused}");

    fs::write(scratch.0.join("pg/PG_VERSION"), major).unwrap();
    fs::write(scratch.0.join("pg/postgresql.conf"), "no_such_setting = 1\n").unwrap();
    let refused = refusal(scratch.config());
    assert!(refused.contains("ended while starting") && refused.contains("no_such_setting"), "{refused}");
    assert_eq!(processes(&scratch.0), 0);
}

#[test]
fn a_path_too_long_for_a_socket_gets_its_sockets_elsewhere() {
    let scratch = Scratch::new();
    let long = scratch.0.join("d".repeat(120));
    let (cluster, _) = start(config(&long)).unwrap();
    assert!(cluster.url("postgres").contains("host=%2Ftmp%2Ftollgate-"), "{}", cluster.url("postgres"));
    assert_eq!(ask(&cluster.url("postgres"), "select 'reached'"), "reached");
    let sockets = ask(&cluster.url("postgres"), "show unix_socket_directories");
    drop(cluster);
    assert!(!Path::new(&sockets).exists());
}

#[test]
fn a_stale_lock_file_with_a_recycled_process_id_does_not_block() {
    let scratch = Scratch::new();
    let (cluster, _) = start(scratch.config()).unwrap();
    drop(cluster);
    let pgdata = scratch.0.join("pg");
    let owner = fs::metadata(&pgdata).unwrap();
    // A living process of the server's user, which PostgreSQL itself would take for a running server.
    let mut stranger = Command::new("sleep");
    stranger.arg("1000");
    if geteuid().is_root() {
        std::os::unix::process::CommandExt::uid(&mut stranger, owner.uid());
    }
    let mut stranger = stranger.spawn().unwrap();
    let stale = pgdata.join("postmaster.pid");
    fs::write(&stale, format!("{}\n{}\n", stranger.id(), pgdata.display())).unwrap();
    chown(&stale, Some(owner.uid()), Some(owner.gid())).unwrap();
    let started = start(scratch.config());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert_eq!(ask(&started.unwrap().0.url("postgres"), "select 'started'"), "started");
}

#[test]
fn a_child_whose_parent_is_gone_does_not_start() {
    // Process 1 is never the parent of what this test spawns, unless the test runs as process 1.
    let output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(["postgres-child", "--parent", "1", "--", "/bin/echo", "started"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(output.stdout.is_empty());
}
