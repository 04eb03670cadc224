//! A private PostgreSQL cluster, owned by this process.
//!
//! `tollgate demo` and the tests need a database and must not ask for one to be set up. [`Cluster::start`] finds a
//! PostgreSQL server (or installs one), creates a cluster in a directory of its own, and runs the server as a child
//! that listens on a Unix socket only its user can reach. The child ends when its owner ends, even by SIGKILL.
//!
//! Two environment variables are read: `TOLLGATE_POSTGRES_BIN` names the directory of the server's binaries;
//! `TOLLGATE_POSTGRES_IGNORE_SYSTEM=1`, meant for tests, has a server downloaded even where the system has one.
//!
//! Linux only: that nothing is left running relies on the kernel's parent-death signal and on `/proc`.

mod binaries;
pub mod child;
mod data_dir;
mod error;
mod identity;
mod initdb;
mod leftover;
mod log_tail;
mod obtain;
mod process;
mod server;
mod sockets;
mod version;

use binaries::{Binaries, Requirements};
use data_dir::DataDir;
pub use data_dir::default_demo_data_dir;
pub use error::PostgresError;
use identity::OsUser;
use obtain::Downloads;
use process::OwnedChild;
use server::ServerStart;
use sockets::Sockets;
use std::fmt;
use std::path::{Path, PathBuf};

/// The settings of a private cluster.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// The directory that holds the cluster, its sockets and its log; created if missing, used by one process at a time.
    pub data_dir: PathBuf,
    /// The `tollgate` binary, whose hidden subcommand `postgres-child` runs [`child::run`].
    pub launcher: PathBuf,
    /// Whether a commit survives a power cut; false is faster and enough for tests.
    pub durable: bool,
    /// Maximum number of connections to the server.
    pub max_connections: u32,
    /// The directory of downloaded servers; by default beside the demo's data directory.
    pub download_dir: Option<PathBuf>,
    /// A port of 127.0.0.1 to listen on too. It needs no password, so every user of this machine gets in: for tests only.
    pub tcp_port: Option<u16>,
}

/// A running cluster. The server stops when this value is dropped, or when this process ends, even by SIGKILL.
pub struct Cluster {
    // Dropped before `data`, whose lock must be released last.
    server: Option<OwnedChild>,
    sockets: Sockets,
    identity: OsUser,
    binaries: Binaries,
    config: ClusterConfig,
    data: DataDir,
}

impl Cluster {
    /// Starts the cluster, creates it first if there is none, and returns when it accepts connections.
    ///
    /// Blocks; in asynchronous code call it through `spawn_blocking`. `progress` gets one line for each slow step
    /// before the step begins.
    ///
    /// # Errors
    ///
    /// Any [`PostgresError`] of finding, installing, creating or starting; its text says what to do about it.
    pub fn start(config: ClusterConfig, progress: &mut dyn FnMut(&str)) -> Result<Self, PostgresError> {
        let launcher = std::path::absolute(&config.launcher);
        let launcher = launcher.map_err(PostgresError::io("resolve", &config.launcher))?;
        let config = ClusterConfig { launcher, ..config };
        let downloads = Downloads::new(config.download_dir.as_deref())?;
        let data = DataDir::open(&config.data_dir)?;
        let major = data.cluster_major()?;
        // Before the search, so that an unusable directory is refused before anything is installed for it.
        data.check_access(&OsUser::choose(data.cluster_owner())?)?;
        let cluster = major.map(|major| (data.pgdata.as_path(), major));
        let need = Requirements { cluster, cluster_owner: major.and_then(|_| data.cluster_owner()) };
        let binaries = binaries::locate(&need, &downloads, progress)?;
        // Chosen again, because the installed package may have created the user `postgres`.
        let identity = OsUser::choose(need.cluster_owner)?;
        let sockets = Sockets::prepare(&data, &identity, config.tcp_port)?;
        initdb::remove_unfinished(&data, progress)?;
        if major.is_none() {
            let (version, path) = (&binaries.version, data.root.display());
            let user = if identity.dropped { format!(" as user {}", identity.name) } else { String::new() };
            progress(&format!("creating a PostgreSQL {version} cluster in {path}{user}"));
            initdb::create(&data, &binaries, &identity, &config.launcher, config.durable)?;
        }
        let mut cluster = Self { server: None, sockets, identity, binaries, config, data };
        cluster.restart(progress)?;
        Ok(cluster)
    }

    /// A URL for one database of the cluster, over its socket, as the superuser `gw`.
    pub fn url(&self, database: &str) -> String {
        self.sockets.url(database)
    }

    /// The same over TCP; `None` unless [`ClusterConfig::tcp_port`] was set.
    pub fn tcp_url(&self, database: &str) -> Option<String> {
        self.sockets.tcp_url(database)
    }

    /// The server's process id, or that of the last server if none runs.
    pub fn pid(&self) -> u32 {
        self.server.as_ref().map_or(0, |server| server.pid().unsigned_abs())
    }

    /// The directory of the server's programs.
    pub fn bin_dir(&self) -> &Path {
        &self.binaries.dir
    }

    /// The server's version, such as `15.18`.
    pub fn version(&self) -> String {
        self.binaries.version.to_string()
    }

    /// Kills the server without warning, as a crash would; for tests.
    pub fn kill(&mut self) {
        if let Some(server) = &self.server {
            server::kill(server);
        }
    }

    /// Starts the server again, after stopping it if it still runs.
    ///
    /// # Errors
    ///
    /// When the server does not start.
    pub fn restart(&mut self, progress: &mut dyn FnMut(&str)) -> Result<(), PostgresError> {
        if let Some(server) = self.server.take()
            && let Err(error) = server::stop(&server)
        {
            tracing::warn!(%error, "PostgreSQL was stopped by force");
        }
        let Self { config, data, binaries, identity, sockets, .. } = self;
        self.server = Some(ServerStart { config, data, binaries, identity, sockets }.start(progress)?);
        Ok(())
    }

    /// Stops the server. Dropping the cluster does the same, but cannot report an error.
    ///
    /// # Errors
    ///
    /// When the server had to be killed. It has ended then too, and no committed data is lost.
    pub fn stop(mut self) -> Result<(), PostgresError> {
        self.shut_down()
    }

    fn shut_down(&mut self) -> Result<(), PostgresError> {
        let stopped = self.server.take().map_or(Ok(()), |server| server::stop(&server));
        self.sockets.clean_up();
        stopped
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.shut_down() {
            tracing::warn!(%error, "PostgreSQL was stopped by force");
        }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("data_dir", &self.data.root)
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}
