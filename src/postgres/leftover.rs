//! What an earlier owner of the data directory may have left behind.
//!
//! Having locked the data directory we know that no other owner lives. Its server may still: it got the
//! parent-death signal a moment ago and is writing its last checkpoint. And after a crash there are files that name
//! processes which are gone, or whose ids now belong to others.

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
/// 30 s. A fast shutdown takes well under one, unless a checkpoint has much to write.
const STEPS: u32 = 1500;

/// How the last server went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastStop {
    /// There was none, or it stopped as it should.
    Clean,
    /// It was killed; the next one recovers from its log.
    Crashed,
}

/// What a server says about itself in `postmaster.pid`.
pub(super) struct PidFile {
    pub pid: i32,
    pub status: String,
}

impl PidFile {
    /// Reads the file; `None` while there is none or it is still being written.
    pub fn read(pgdata: &Path) -> Option<Self> {
        let text = fs::read_to_string(pgdata.join("postmaster.pid")).ok()?;
        let pid = text.lines().next()?.trim().parse().ok()?;
        let status = text.lines().nth(7).unwrap_or_default().trim().to_owned();
        Some(Self { pid, status })
    }
}

/// Waits for an earlier server to end, then clears what would wrongly keep the next one from starting.
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
    // It may have been started by hand, so it is not ours to kill.
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
        // An administrator's shell may stand in the same directory.
        let is_server = command.starts_with("postgres") || command.starts_with("postmaster");
        (is_server && identify(&entry.path().join("cwd")) == Some(wanted)).then_some(pid)
    })
}

/// PostgreSQL takes over the lock files of a dead process, but not those whose id a stranger has now.
///
/// No server works here (we looked), so such a file is stale. Where the id is free the file stays, because from it
/// PostgreSQL also learns about shared memory that is still in use.
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
