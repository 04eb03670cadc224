//! Errors of the embedded PostgreSQL, each with what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// Why the embedded PostgreSQL could not be started, stopped or found.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// A file operation on one of our own paths failed.
    #[error("cannot {action} {path}: make sure that this user may do so and that the disk is not full")]
    Io {
        /// What was attempted, as a verb phrase.
        action: &'static str,
        /// The path it was attempted on.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The data directory, or the cluster in it, belongs to someone else.
    #[error(
        "the data directory {path} cannot be used by {user} (it belongs to {owner}): run as {owner}, or choose \
         another directory"
    )]
    NotOurs {
        /// The path in question.
        path: PathBuf,
        /// The user that PostgreSQL runs as.
        user: String,
        /// The user who owns the path.
        owner: String,
    },
    /// This process is root, and the user that PostgreSQL runs as instead cannot reach a path.
    #[error(
        "PostgreSQL runs as user {user} because tollgate runs as root, and user {user} cannot enter {blocked}: choose a \
         directory outside it, such as /var/lib/tollgate, instead of {path}"
    )]
    NotTraversable {
        /// The path that is needed.
        path: PathBuf,
        /// The directory that the user cannot enter.
        blocked: PathBuf,
        /// The user PostgreSQL runs as.
        user: String,
    },
    /// This process runs as root, and there is no other user to run the server as.
    #[error(
        "PostgreSQL refuses to run as root and there is no user `postgres` or `nobody`: create one, or run as a normal user"
    )]
    NoUser,
    /// Neither `XDG_DATA_HOME` nor `HOME` is set to an absolute path.
    #[error("there is no home directory for data: set HOME or XDG_DATA_HOME, or give a data directory")]
    NoHome,
    /// The directory for PGDATA holds files that are not a cluster.
    #[error(
        "{path} is not empty and holds no PostgreSQL cluster: move its content away, or choose another data directory"
    )]
    Foreign {
        /// The directory in question.
        path: PathBuf,
    },
    /// Another process holds the data directory.
    #[error(
        "another tollgate process ({owner}) is using {path}: stop it first, or choose another data directory"
    )]
    InUse {
        path: PathBuf,
        /// The other process, as it is named in the lock file.
        owner: String,
    },
    /// A PostgreSQL server of another process still runs on the data directory.
    #[error(
        "PostgreSQL process {pid} still runs on {path} and did not end: stop it with `kill -INT {pid}` and start again"
    )]
    StillRunning { path: PathBuf, pid: i32 },
    /// The cluster was created by another major version than that of the server that was found.
    #[error(
        "the cluster in {path} was created by PostgreSQL {cluster}, but the server found in {bin_dir} is version {server}: \
         set TOLLGATE_POSTGRES_BIN to the binaries of version {cluster}, or choose another data directory"
    )]
    WrongMajor {
        path: PathBuf,
        /// The major version that created the cluster.
        cluster: u32,
        /// The major version of the server that was found.
        server: u32,
        /// The directory of that server.
        bin_dir: PathBuf,
    },
    /// `TOLLGATE_POSTGRES_BIN` names an unusable directory.
    #[error(
        "TOLLGATE_POSTGRES_BIN names {path}, where {problem}: set it to a directory with `postgres` and `initdb`, version 15 or later"
    )]
    BadBinDir {
        /// The directory that the variable names.
        path: PathBuf,
        /// What is wrong with that directory.
        problem: String,
    },
    /// No server was found, and none could be installed.
    #[error(
        "no PostgreSQL server (version 15 or later) was found, and none could be installed ({attempts}): install the package \
         `postgresql`, or set TOLLGATE_POSTGRES_BIN to a directory with `postgres` and `initdb`, or give --database-url an \
         empty database of a running server"
    )]
    NoBinaries {
        /// The attempts to install a server, and why each failed.
        attempts: String,
    },
    /// A socket directory outside our data directory is not safe to use.
    #[error(
        "{path} exists but is not a private directory of user {user}: remove it, or choose a shorter data directory path"
    )]
    UnsafeSocketDir {
        path: PathBuf,
        /// The user who must own it.
        user: String,
    },
    /// The launcher, or the program that it starts, could not be run.
    #[error("cannot run {program}: make sure that it exists and is executable")]
    Spawn {
        /// The program that was to be run.
        program: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// initdb ended with an error.
    #[error("initdb could not create the cluster ({status}): see {log}, which ends with:\n{tail}")]
    Initdb {
        status: String,
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// The server ended before it accepted connections.
    #[error("PostgreSQL ended while starting ({status}): see {log}, which ends with:\n{tail}")]
    Died {
        status: String,
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// The server neither became ready nor ended in time.
    #[error(
        "PostgreSQL did not accept connections within {seconds} s and was stopped: see {log}, which ends with:\n{tail}"
    )]
    NotReady {
        /// The time-out, in seconds.
        seconds: u64,
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// The server had to be killed; committed data is safe.
    #[error(
        "PostgreSQL did not stop within {seconds} s and was killed: no committed data is lost, and the next start recovers it"
    )]
    Killed {
        /// The time-out, in seconds.
        seconds: u64,
    },
}

impl PostgresError {
    /// For `map_err`: wraps the error of a file operation, with the action (a verb phrase) and the path.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
