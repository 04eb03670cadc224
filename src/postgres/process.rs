//! A child process that ends with this process, is always reaped, and is never signalled by a recycled process id.

use super::error::PostgresError;
use super::identity::OsUser;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

/// The program to run, its user, and the file for its output.
pub(super) struct Launch<'a> {
    pub launcher: &'a Path,
    pub identity: &'a OsUser,
    pub program: PathBuf,
    pub args: Vec<OsString>,
    pub log: &'a File,
}

/// A child process, running or ended.
pub(super) struct OwnedChild {
    pid: i32,
    exit: Arc<Exit>,
}

#[derive(Default)]
struct Exit {
    status: Mutex<Option<ExitStatus>>,
    changed: Condvar,
}

impl Exit {
    /// Locks the status. A poisoned lock still has a valid status, which is written as a whole.
    fn lock(&self) -> MutexGuard<'_, Option<ExitStatus>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OwnedChild {
    /// Starts the program through the launcher.
    pub fn spawn(launch: Launch<'_>) -> Result<Self, PostgresError> {
        let program = launch.launcher.to_owned();
        Self::try_spawn(launch).map_err(|source| PostgresError::Spawn { program, source })
    }

    fn try_spawn(launch: Launch<'_>) -> io::Result<Self> {
        let command = launch.command()?;
        let exit = Arc::new(Exit::default());
        let (sender, receiver) = mpsc::sync_channel(1);
        let for_thread = Arc::clone(&exit);
        // The parent-death signal is sent when the *thread* that spawned the child ends, so a thread of a runtime's
        // blocking pool would end the server with itself. This thread ends only after its child.
        thread::Builder::new()
            .name("postgres-owner".into())
            .spawn(move || own(command, &sender, &for_thread))?;
        let pid = receiver.recv().map_err(io::Error::other)??;
        Ok(Self { pid, exit })
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal, unless the child was reaped: then its id may belong to another process.
    pub fn signal(&self, signal: Signal) {
        let status = self.exit.lock();
        if status.is_none()
            && let Err(error) = kill(Pid::from_raw(self.pid), signal)
        {
            tracing::warn!(pid = self.pid, %signal, %error, "cannot signal the PostgreSQL process");
        }
    }

    /// Waits for the end of the child, at most for `limit`.
    pub fn wait(&self, limit: Duration) -> Option<ExitStatus> {
        let status = self.exit.lock();
        let waited = self.exit.changed.wait_timeout_while(status, limit, |status| status.is_none());
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Launch<'_> {
    fn command(&self) -> io::Result<Command> {
        let mut command = Command::new(self.launcher);
        command.args(["postgres-child", "--parent", &std::process::id().to_string()]);
        if self.identity.dropped {
            command.args(["--uid", &self.identity.uid.to_string(), "--gid", &self.identity.gid.to_string()]);
        }
        command.arg("--").arg(&self.program).args(&self.args);
        command
            // PGDATA, PGPORT, PGOPTIONS, LANG … of the caller must not reach a private server.
            .env_clear()
            .env("LC_ALL", "C.UTF-8")
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            // The dropped user may be unable to enter the caller's directory.
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(self.log.try_clone()?)
            .stderr(self.log.try_clone()?);
        Ok(command)
    }
}

fn own(mut command: Command, sender: &mpsc::SyncSender<io::Result<i32>>, exit: &Exit) {
    let spawned = command
        .spawn()
        .and_then(|child| i32::try_from(child.id()).map(|pid| (child, pid)).map_err(io::Error::other));
    // The command's copies of the log file would otherwise stay open as long as the server runs.
    drop(command);
    let (mut child, pid) = match spawned {
        Ok(spawned) => spawned,
        Err(error) => return drop(sender.send(Err(error))),
    };
    drop(sender.send(Ok(pid)));
    // First wait without reaping: as long as the zombie exists, its id cannot be given to another process. Then
    // reap under the lock that every sender of signals takes. An unreaped child would block the next start, which finds
    // the id of its lock file still alive.
    while let Err(Errno::EINTR) =
        waitid(Id::Pid(Pid::from_raw(pid)), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
    {}
    let mut status = exit.lock();
    *status = Some(child.wait().unwrap_or_default());
    exit.changed.notify_all();
}
