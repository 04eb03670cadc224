//! The sockets of the server, and the URLs of its databases.

use super::data_dir::DataDir;
use super::error::PostgresError;
use super::identity::{OsUser, user_name};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The kernel's limit for the path of a socket, in bytes, without the closing zero.
const PATH_BYTES_MAX: usize = 107;
/// The port in the socket's name when there is no TCP port.
const DEFAULT_PORT: u16 = 5432;

/// The addresses that the server listens on.
#[derive(Clone, Debug)]
pub(super) struct Sockets {
    pub dir: PathBuf,
    pub port: u16,
    pub tcp: bool,
    /// Whether `dir` lies outside the data directory and is removed on stop.
    elsewhere: bool,
}

impl Sockets {
    /// Creates the private socket directory: in the data directory, or in `/tmp` if the path would be too long.
    pub fn prepare(data: &DataDir, identity: &OsUser, tcp_port: Option<u16>) -> Result<Self, PostgresError> {
        let port = tcp_port.unwrap_or(DEFAULT_PORT);
        let usual = data.root.join("run");
        // A path that is not UTF-8 cannot be written in a URL either.
        let elsewhere =
            usual.to_str().is_none() || socket_path(&usual, port).as_os_str().len() > PATH_BYTES_MAX;
        let dir = if elsewhere { short_dir(&data.root, identity) } else { usual };
        let created = DirBuilder::new().mode(0o700).create(&dir);
        match created {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(PostgresError::io("create", &dir)(error)),
        }
        let found = fs::symlink_metadata(&dir).map_err(PostgresError::io("read", &dir))?;
        let owners = [identity.uid, nix::unistd::geteuid().as_raw()];
        let private = owners.contains(&found.uid()) && found.mode() & 0o077 == 0;
        // Another user may have created this directory in /tmp first, to lead our clients to another server.
        if !found.is_dir() || (elsewhere && !private) {
            return Err(PostgresError::UnsafeSocketDir { path: dir, user: user_name(identity.uid) });
        }
        fs::set_permissions(&dir, Permissions::from_mode(0o700))
            .map_err(PostgresError::io("set permissions on", &dir))?;
        identity.own(&dir)?;
        Ok(Self { dir, port, tcp: tcp_port.is_some(), elsewhere })
    }

    /// The socket a client connects to.
    pub fn path(&self) -> PathBuf {
        socket_path(&self.dir, self.port)
    }

    /// The lock file that the server keeps beside its socket.
    pub fn lock_path(&self) -> PathBuf {
        self.dir.join(format!(".s.PGSQL.{}.lock", self.port))
    }

    /// A URL for `database` over the socket.
    ///
    /// Port and TLS mode are given because clients would take missing ones from `PGPORT` and `PGSSLMODE`.
    pub fn url(&self, database: &str) -> String {
        let (port, database) = (self.port, percent_encode(database.as_bytes()));
        let host = percent_encode(self.dir.as_os_str().as_bytes());
        format!("postgres://gw@localhost:{port}/{database}?host={host}&sslmode=disable")
    }

    /// A URL for `database` over TCP, if the server listens there.
    pub fn tcp_url(&self, database: &str) -> Option<String> {
        let (port, database) = (self.port, percent_encode(database.as_bytes()));
        self.tcp.then(|| format!("postgres://gw@127.0.0.1:{port}/{database}?sslmode=disable"))
    }

    /// Removes a socket directory outside the data directory, after the server has removed its sockets.
    pub fn clean_up(&self) {
        if self.elsewhere
            && let Err(error) = fs::remove_dir(&self.dir)
        {
            tracing::debug!(dir = %self.dir.display(), %error, "the socket directory stays");
        }
    }
}

fn socket_path(dir: &Path, port: u16) -> PathBuf {
    dir.join(format!(".s.PGSQL.{port}"))
}

/// The same name for each user and data directory, so that a leftover directory is used again.
fn short_dir(root: &Path, identity: &OsUser) -> PathBuf {
    let mut name = format!("/tmp/tollgate-{}-", identity.uid);
    for byte in Sha256::digest(root.as_os_str().as_bytes()).iter().take(8) {
        push_hex(&mut name, *byte);
    }
    name.into()
}

fn percent_encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 3);
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push('%');
            push_hex(&mut text, byte);
        }
    }
    text
}

fn push_hex(text: &mut String, byte: u8) {
    // Writing to a String cannot fail.
    let _ = write!(text, "{byte:02X}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_encodes_all_that_could_end_a_part() {
        let sockets = Sockets { dir: "/tmp/a b+c&d/run".into(), port: 5432, tcp: false, elsewhere: false };
        let expected = "postgres://gw@localhost:5432/x%3Fy?host=%2Ftmp%2Fa%20b%2Bc%26d%2Frun&sslmode=disable";
        assert_eq!(sockets.url("x?y"), expected);
        assert_eq!(sockets.tcp_url("x"), None);
    }
}
