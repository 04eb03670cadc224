//! Creates a cluster, completely or not at all.
//!
//! The cluster is created in a directory whose name marks it as unfinished and has the creator's process id, and renamed to
//! PGDATA when it is complete. The leavings of an interrupted attempt are recognised by that name and removed; PGDATA itself
//! is never deleted. An interrupted initdb that still runs cannot disturb its successor, because it has another directory.

use super::binaries::Binaries;
use super::data_dir::DataDir;
use super::error::PostgresError;
use super::identity::OsUser;
use super::log_tail;
use super::process::{Launch, OwnedChild};
use nix::sys::signal::Signal;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

const UNFINISHED: &str = "pg.init.";
const LIMIT: Duration = Duration::from_secs(180);

/// Creates the cluster in `data`, which must not have one.
pub(super) fn create(
    data: &DataDir,
    binaries: &Binaries,
    identity: &OsUser,
    launcher: &Path,
    durable: bool,
) -> Result<(), PostgresError> {
    let made = data.root.join(format!("{UNFINISHED}{}", std::process::id()));
    DirBuilder::new().mode(0o700).create(&made).map_err(PostgresError::io("create", &made))?;
    identity.own(&made)?;
    let fixed = ["-U", "gw", "-A", "trust", "-E", "UTF8", "--locale=C", "--data-checksums", "-D"];
    let mut args: Vec<_> = fixed.into_iter().map(Into::into).collect();
    args.push(made.clone().into());
    if !durable {
        args.push("--no-sync".into());
    }
    let from = log_tail::position(&data.log);
    let program = binaries.dir.join("initdb");
    let child = OwnedChild::spawn(Launch { launcher, identity, program, args, log: &data.log })?;
    let status = child.wait(LIMIT);
    if status.is_none() {
        child.signal(Signal::SIGKILL);
    }
    if !status.is_some_and(|status| status.success()) {
        let status = status.map_or_else(|| "it took too long".into(), |status| status.to_string());
        let tail = log_tail::read(&data.log_path, from);
        return Err(PostgresError::Initdb { status, log: data.log_path.clone(), tail });
    }
    fs::rename(&made, &data.pgdata).map_err(PostgresError::io("put the new cluster at", &data.pgdata))?;
    File::open(&data.root).and_then(|dir| dir.sync_all()).map_err(PostgresError::io("sync", &data.root))
}

/// Removes the directories of interrupted attempts.
pub(super) fn remove_unfinished(data: &DataDir, progress: &mut dyn FnMut(&str)) -> Result<(), PostgresError> {
    let entries = fs::read_dir(&data.root).map_err(PostgresError::io("read", &data.root))?;
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            progress("removing an unfinished cluster of an interrupted start");
            remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a directory in which a dying initdb may still add or remove files.
fn remove_tree(path: &Path) -> Result<(), PostgresError> {
    let mut last = None;
    for _ in 0..50 {
        match fs::remove_dir_all(path) {
            Err(error) if path.exists() => last = Some(error),
            _ => return Ok(()),
        }
        thread::sleep(Duration::from_millis(20));
    }
    let error = last.unwrap_or_else(|| io::Error::other("it is still there"));
    Err(PostgresError::io("remove", path)(error))
}
