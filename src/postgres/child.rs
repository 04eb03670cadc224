//! The launcher of a PostgreSQL process: our own binary prepares the process and then becomes the program.
//!
//! A server that outlives its owner would keep the data directory busy for ever, so it must be told when the owner dies,
//! even by SIGKILL. The kernel can do that with the parent-death signal. But a process must request this signal itself, and
//! only after it has dropped root, which clears the request. Between `fork` and `exec` this would be unsafe code; so the
//! owner runs its own binary with a hidden subcommand, which requests the signal and then becomes the server.

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Pid, Uid, getppid, setgid, setgroups, setpgid, setuid};
use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// Arguments of the hidden subcommand that becomes a PostgreSQL process.
#[derive(Debug, clap::Args)]
pub struct ChildArgs {
    /// Process id of the owner; the child does not start the program if its parent is another process.
    #[arg(long)]
    pub parent: i32,
    /// User id to switch to before the program starts.
    #[arg(long, requires = "gid")]
    pub uid: Option<u32>,
    /// Group id to switch to before the program starts.
    #[arg(long, requires = "uid")]
    pub gid: Option<u32>,
    /// Absolute path of the program, and its arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// Why the launcher did not become the program.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// A system call before the start of the program failed.
    #[error("cannot {action}: {source}")]
    Prepare {
        /// What was attempted, as a verb phrase.
        action: &'static str,
        /// The error of the operating system.
        source: nix::Error,
    },
    /// The owner ended before the child could request the parent-death signal.
    #[error("process {0} is gone or is not the parent, so the program was not started")]
    Orphaned(i32),
    /// No program was named.
    #[error("no program was named after `--`")]
    NoCommand,
    /// The program could not be executed.
    #[error("cannot execute {program} as uid {uid}: {source}")]
    Exec {
        program: PathBuf,
        /// The user that the program was to run as.
        uid: Uid,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// Becomes the program named in `args`; returns only when that fails.
///
/// # Errors
///
/// When a system call fails, the owner has already ended, or the program cannot be executed.
pub fn run(args: ChildArgs) -> Result<Infallible, ChildError> {
    let failed = |action| move |source| ChildError::Prepare { action, source };
    if let (Some(uid), Some(gid)) = (args.uid, args.gid) {
        // Groups first: after setuid the process may no longer change them.
        setgroups(&[]).map_err(failed("drop supplementary groups"))?;
        setgid(Gid::from_raw(gid)).map_err(failed("change the group"))?;
        setuid(Uid::from_raw(uid)).map_err(failed("change the user"))?;
    }
    // A terminal's Ctrl-C goes to the whole foreground group. The owner must be able to finish its own shutdown, which
    // needs the database, so the database is not in that group.
    setpgid(Pid::from_raw(0), Pid::from_raw(0)).map_err(failed("leave the process group"))?;
    // SIGINT is PostgreSQL's fast shutdown. SIGTERM would wait for clients that may never leave.
    prctl::set_pdeathsig(Signal::SIGINT).map_err(failed("ask for the parent-death signal"))?;
    // After the request: if the owner died before it, no signal would ever come.
    if getppid() != Pid::from_raw(args.parent) {
        return Err(ChildError::Orphaned(args.parent));
    }
    let (program, rest) = args.command.split_first().ok_or(ChildError::NoCommand)?;
    let source = Command::new(program).args(rest).exec();
    Err(ChildError::Exec { program: program.into(), uid: Uid::current(), source })
}
