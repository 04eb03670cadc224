//! Starts the server, waits until it is ready, and stops it.

use super::ClusterConfig;
use super::binaries::Binaries;
use super::data_dir::DataDir;
use super::error::PostgresError;
use super::identity::OsUser;
use super::leftover::{LastStop, PidFile, settle};
use super::log_tail;
use super::process::{Launch, OwnedChild};
use super::sockets::Sockets;
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Time-out for the start. Recovery replays at most `max_wal_size`, which takes less than a minute.
const READY_SECONDS: u64 = 60;
const READY_STEP: Duration = Duration::from_millis(5);
const READY_STEPS: u64 = READY_SECONDS * 200;
/// Time-out for a fast shutdown, which writes a checkpoint.
const FAST_SECONDS: u64 = 30;
const IMMEDIATE_SECONDS: u64 = 5;

/// The inputs of one start of the server.
pub(super) struct ServerStart<'a> {
    pub config: &'a ClusterConfig,
    pub data: &'a DataDir,
    pub binaries: &'a Binaries,
    pub identity: &'a OsUser,
    pub sockets: &'a Sockets,
}

impl ServerStart<'_> {
    /// Starts the server and waits until it accepts connections.
    pub fn start(&self, progress: &mut dyn FnMut(&str)) -> Result<OwnedChild, PostgresError> {
        let last = settle(self.data, self.sockets, progress)?;
        let version = &self.binaries.version;
        match last {
            LastStop::Clean => progress(&format!("starting PostgreSQL {version}")),
            LastStop::Crashed => progress(&format!(
                "starting PostgreSQL {version}, which recovers first because it was not stopped cleanly"
            )),
        }
        let from = log_tail::position(&self.data.log);
        let child = OwnedChild::spawn(Launch {
            launcher: &self.config.launcher,
            identity: self.identity,
            program: self.binaries.dir.join("postgres"),
            args: self.args(),
            log: &self.data.log,
        })?;
        for _ in 0..READY_STEPS {
            // The wait ends at once when the child does.
            if let Some(status) = child.wait(READY_STEP) {
                let (log, tail) = self.log_end(from);
                return Err(PostgresError::Died { status: status.to_string(), log, tail });
            }
            if self.is_ready(&child) {
                return Ok(child);
            }
        }
        // A stopped server starts its recovery over next time; a server that is not stopped would keep running.
        drop(stop(&child));
        let (log, tail) = self.log_end(from);
        Err(PostgresError::NotReady { seconds: READY_SECONDS, log, tail })
    }

    fn log_end(&self, from: u64) -> (std::path::PathBuf, String) {
        (self.data.log_path.clone(), log_tail::read(&self.data.log_path, from))
    }

    /// Whether the pid file reports a ready server, the file is our server's, and the socket accepts connections.
    fn is_ready(&self, child: &OwnedChild) -> bool {
        // A cluster that was made a standby accepts connections too, for reading.
        let accepts = |status: &str| matches!(status, "ready" | "standby");
        PidFile::read(&self.data.pgdata).is_some_and(|file| file.pid == child.pid() && accepts(&file.status))
            && UnixStream::connect(self.sockets.path()).is_ok()
    }

    fn args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["-D".into(), self.data.pgdata.clone().into()];
        args.extend(["-k".into(), self.sockets.dir.clone().into()]);
        let mut set = |setting: &str| args.extend(["-c".into(), OsString::from(setting)]);
        set(&format!("port={}", self.sockets.port));
        set(if self.sockets.tcp { "listen_addresses=127.0.0.1" } else { "listen_addresses=" });
        set("unix_socket_permissions=0700");
        set(&format!("max_connections={}", self.config.max_connections));
        set("shared_buffers=256MB");
        set("max_wal_size=2GB");
        set("wal_compression=off");
        // Our queries are short, and containers have little of the shared memory that parallel queries need.
        set("max_parallel_workers_per_gather=0");
        set("log_min_messages=warning");
        set("timezone=UTC");
        set("log_timezone=UTC");
        if !self.config.durable {
            for setting in ["fsync=off", "synchronous_commit=off", "full_page_writes=off"] {
                set(setting);
            }
            // The ledger refuses such a server unless the server says this.
            set("tollgate.data_may_be_lost=on");
        }
        args
    }
}

/// Stops the server: a fast shutdown, then one without a checkpoint, then SIGKILL. The child has ended afterwards.
pub(super) fn stop(child: &OwnedChild) -> Result<(), PostgresError> {
    child.signal(Signal::SIGINT);
    if child.wait(Duration::from_secs(FAST_SECONDS)).is_some() {
        return Ok(());
    }
    child.signal(Signal::SIGQUIT);
    if child.wait(Duration::from_secs(IMMEDIATE_SECONDS)).is_none() {
        kill(child);
    }
    Err(PostgresError::Killed { seconds: FAST_SECONDS })
}

/// Kills the server as a crash would, and reaps it.
pub(super) fn kill(child: &OwnedChild) {
    child.signal(Signal::SIGKILL);
    if child.wait(Duration::from_secs(IMMEDIATE_SECONDS)).is_none() {
        tracing::error!(
            pid = child.pid(),
            "the PostgreSQL process does not die; it may be stuck in the kernel"
        );
    }
}
