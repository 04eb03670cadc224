//! What the benchmarks share: a private Postgres, processes that end with the benchmark, percentiles.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tollgate::postgres::{Cluster, ClusterConfig};
use tollgate::secret::Secret;
use tollgate::store::Database;

/// The binary under test.
pub const TOLLGATE: &str = env!("CARGO_BIN_EXE_tollgate");

/// A directory that is removed at the end; below the system's temporary directory, where any user can look.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A fresh one.
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("tollgate-bench-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary directory");
        Self(dir)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A durable Postgres of its own, migrated. Start it from the main thread: it ends with the thread that started it.
pub fn postgres(scratch: &Scratch) -> (Cluster, String) {
    let config = ClusterConfig {
        data_dir: scratch.path().join("postgres"),
        launcher: TOLLGATE.into(),
        durable: true,
        max_connections: 100,
        download_dir: None,
        tcp_port: None,
    };
    let cluster = Cluster::start(config, &mut |line| eprintln!("{line}")).expect("a cluster");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        Database::create_database(&Secret::new(cluster.url("postgres")), "bench").await.expect("a database");
    });
    let url = cluster.url("bench");
    let done = Command::new(TOLLGATE).arg("migrate").env("DATABASE_URL", &url).stdout(Stdio::null()).status();
    assert!(done.expect("tollgate migrate").success());
    (cluster, url)
}

/// The value below which `share` of the sorted `values` lie.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    sorted.get(((sorted.len().saturating_sub(1)) as f64 * share) as usize).copied().unwrap_or(f64::NAN)
}
