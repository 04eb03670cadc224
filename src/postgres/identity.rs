//! The user that PostgreSQL runs as. PostgreSQL refuses root, so root runs it as another user.

use super::error::PostgresError;
use nix::unistd::{Uid, User, getegid, geteuid};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};

/// The user that runs PostgreSQL and owns its files.
#[derive(Clone, Debug)]
pub(super) struct OsUser {
    pub uid: u32,
    pub gid: u32,
    pub name: String,
    /// Whether this is another user than that of this process, so that processes and files must be handed over.
    pub dropped: bool,
}

impl OsUser {
    /// The user of this process; for root, the owner of an existing cluster, or `postgres`, or `nobody`.
    pub fn choose(cluster_owner: Option<u32>) -> Result<Self, PostgresError> {
        if !geteuid().is_root() {
            let uid = geteuid().as_raw();
            return Ok(Self { uid, gid: getegid().as_raw(), name: user_name(uid), dropped: false });
        }
        // The existing owner wins: a cluster that was created as `nobody` must still start after a package has
        // created the user `postgres`.
        let existing = cluster_owner.filter(|uid| *uid != 0).map(|uid| User::from_uid(Uid::from_raw(uid)));
        let candidates = existing.into_iter().chain(["postgres", "nobody"].map(User::from_name));
        let user = candidates.filter_map(|found| found.ok().flatten()).find(|user| !user.uid.is_root());
        let user = user.ok_or(PostgresError::NoUser)?;
        Ok(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw(), name: user.name, dropped: true })
    }

    /// Makes this user the owner of `path`, if it is not the user of this process.
    pub fn own(&self, path: &Path) -> Result<(), PostgresError> {
        if !self.dropped {
            return Ok(());
        }
        lchown(path, Some(self.uid), Some(self.gid)).map_err(PostgresError::io("hand over", path))
    }

    /// The topmost existing directory of `path`, itself included, that this user cannot enter.
    ///
    /// For a dropped user only, who has no supplementary groups. Only mode bits are checked; access lists show at the start
    /// of the server.
    pub fn blocked_at(&self, path: &Path) -> Option<PathBuf> {
        let mut ancestors: Vec<&Path> = path.ancestors().collect();
        ancestors.reverse();
        ancestors.into_iter().find(|dir| !self.may_enter(dir)).map(Path::to_owned)
    }

    fn may_enter(&self, dir: &Path) -> bool {
        match fs::metadata(dir) {
            Ok(found) if found.uid() == self.uid => found.mode() & 0o100 != 0,
            Ok(found) if found.gid() == self.gid => found.mode() & 0o010 != 0,
            Ok(found) => found.mode() & 0o001 != 0,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}

/// The name of a user for messages, or its number if it has no name.
pub(super) fn user_name(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        _ => format!("uid {uid}"),
    }
}
