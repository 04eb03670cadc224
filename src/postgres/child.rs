//! The launcher: the first few lines of a PostgreSQL process's life, run by our own binary.
//!
//! A server that outlives its owner keeps the data directory busy for ever, so it must be told when the owner dies,
//! however it dies. The kernel does that (the parent-death signal), but only a process can ask for it for itself,
//! and only after it has dropped root, which clears the wish. Between `fork` and `exec` that would be unsafe code;
//! so the owner runs its own binary with a hidden subcommand, which asks and then becomes the server.

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
    /// Process id of the owner; the child refuses to start once this is no longer its parent.
    #[arg(long)]
    pub parent: i32,
    /// User to become before the program starts.
    #[arg(long, requires = "gid")]
    pub uid: Option<u32>,
    /// Group to become before the program starts.
    #[arg(long, requires = "uid")]
    pub gid: Option<u32>,
    /// The program, by absolute path, and its arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// Why the launcher did not become the program.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// A system call of the preparation failed.
    #[error("cannot {action}: {source}")]
    Prepare {
        /// What was attempted, as a verb phrase.
        action: &'static str,
        /// What the system answered.
        source: nix::Error,
    },
    /// The owner ended before the child could ask to be told.
    #[error("process {0} is gone or is not the parent, so the program was not started")]
    Orphaned(i32),
    /// No program was named.
    #[error("no program was named after `--`")]
    NoCommand,
    /// The program could not be executed.
    #[error("cannot execute {program} as uid {uid}: {source}")]
    Exec {
        program: PathBuf,
        /// The user it was to run as.
        uid: Uid,
        /// What the system answered.
        source: io::Error,
    },
}

/// Becomes the program named in `args`; returns only when that fails.
///
/// # Errors
///
/// When a preparation fails, the owner is already gone, or the program cannot be executed.
pub fn run(args: ChildArgs) -> Result<Infallible, ChildError> {
    let failed = |action| move |source| ChildError::Prepare { action, source };
    if let (Some(uid), Some(gid)) = (args.uid, args.gid) {
        // Groups first: after setuid we may no longer change them.
        setgroups(&[]).map_err(failed("drop supplementary groups"))?;
        setgid(Gid::from_raw(gid)).map_err(failed("change the group"))?;
        setuid(Uid::from_raw(uid)).map_err(failed("change the user"))?;
    }
    // A terminal's Ctrl-C goes to the whole foreground group. The owner must be able to finish its own shutdown, which
    // needs the database, so the database is not in that group.
    setpgid(Pid::from_raw(0), Pid::from_raw(0)).map_err(failed("leave the process group"))?;
    // SIGINT is PostgreSQL's fast shutdown. SIGTERM would wait for clients that may never leave.
    prctl::set_pdeathsig(Signal::SIGINT).map_err(failed("ask for the parent-death signal"))?;
    // Only now: had the owner died before the line above, no signal would ever come.
    if getppid() != Pid::from_raw(args.parent) {
        return Err(ChildError::Orphaned(args.parent));
    }
    let (program, rest) = args.command.split_first().ok_or(ChildError::NoCommand)?;
    let source = Command::new(program).args(rest).exec();
    Err(ChildError::Exec { program: program.into(), uid: Uid::current(), source })
}
