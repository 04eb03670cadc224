//! Clears what an earlier owner of the data directory may have left behind.
//!
//! The lock of the data directory shows that no other owner lives. But an earlier owner's server may still run: it got the
//! parent-death signal a moment ago and is writing its last checkpoint. And after a crash, lock files may name processes
//! that have ended, or whose ids now belong to other programs.

use super::data_dir::DataDir;
use super::error::PostgresError;
use super::sockets::Sockets;
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

const STEP: Duration = Duration::from_millis(20);
/// 30 s in all. A fast shutdown takes less than 1 s, unless its checkpoint has much to write.
const STEPS: u32 = 1500;

/// How the last server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastStop {
    /// There was no server, or it was stopped in order.
    Clean,
    /// The server was killed; the next one recovers from the write-ahead log.
    Crashed,
}

/// The process id and the status of a server in `postmaster.pid`.
pub(super) struct PidFile {
    pub pid: i32,
    pub status: String,
}

impl PidFile {
    /// Reads the file; `None` if it does not exist or is still being written.
    pub fn read(pgdata: &Path) -> Option<Self> {
        let text = fs::read_to_string(pgdata.join("postmaster.pid")).ok()?;
        let pid = text.lines().next()?.trim().parse().ok()?;
        let status = text.lines().nth(7).unwrap_or_default().trim().to_owned();
        Some(Self { pid, status })
    }
}

/// Waits for an earlier server to end, then removes stale files that would keep the next one from starting.
pub(super) fn settle(
    data: &DataDir,
    sockets: &Sockets,
    progress: &mut dyn FnMut(&str),
) -> Result<LastStop, PostgresError> {
    let Some(first) = PidFile::read(&data.pgdata) else { return Ok(LastStop::Clean) };
    let mut announced = false;
    for _ in 0..STEPS {
        let Some(pid) = server_process(&data.pgdata) else {
            let Some(left) = PidFile::read(&data.pgdata) else { return Ok(LastStop::Clean) };
            clear_recycled(data, sockets, left.pid)?;
            return Ok(LastStop::Crashed);
        };
        if !announced {
            progress(&format!("waiting for the previous PostgreSQL (process {pid}) to finish"));
            announced = true;
        }
        thread::sleep(STEP);
    }
    // Not killed, because somebody may have started this server by hand.
    let pid = server_process(&data.pgdata).unwrap_or(first.pid);
    Err(PostgresError::StillRunning { path: data.pgdata.clone(), pid })
}

/// A PostgreSQL process that works in `pgdata`: the server, or after its death a backend that has yet to notice.
fn server_process(pgdata: &Path) -> Option<i32> {
    let identify = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let wanted = identify(pgdata)?;
    // Entries that we may not read belong to other users, who cannot run a server on our files.
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.into_iter().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let command = fs::read_to_string(entry.path().join("comm")).ok()?;
        // A shell may have the same working directory.
        let is_server = command.starts_with("postgres") || command.starts_with("postmaster");
        (is_server && identify(&entry.path().join("cwd")) == Some(wanted)).then_some(pid)
    })
}

/// Removes the lock files of a dead server if another program has its process id now: PostgreSQL would refuse to start.
///
/// The caller has checked that no server works in the data directory, so such a file is stale. If the id is free, the file
/// stays, because PostgreSQL takes it over and learns from it about shared memory that is still in use.
fn clear_recycled(data: &DataDir, sockets: &Sockets, pid: i32) -> Result<(), PostgresError> {
    if kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) {
        return Ok(());
    }
    tracing::debug!(pid, "removing the lock files of a server whose process id is in use by another program");
    for path in [data.pgdata.join("postmaster.pid"), sockets.lock_path(), sockets.path()] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(PostgresError::io("remove", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}
