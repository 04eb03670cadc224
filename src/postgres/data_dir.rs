//! The data directory: its contents, its owner, and the lock that lets only one process use it at a time.
//!
//! It contains `lock` (held by the owner's process), `pg` (PGDATA), `run` (the sockets), `postgres.log`, and while a cluster is
//! being created `pg.init.PID`.

use super::error::PostgresError;
use super::identity::{OsUser, user_name};
use nix::fcntl::OFlag;
use nix::unistd::{User, geteuid};
use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// The directory for data of root that the dropped user must reach.
const SYSTEM_DATA: &str = "/var/lib/tollgate";
/// A log above this size is renamed to `postgres.log.1` at the next start.
const LOG_BYTES_MAX: u64 = 16 << 20;
const LOCK_STEP: Duration = Duration::from_millis(20);
const LOCK_STEPS: u32 = 15;

/// A data directory that this process has locked.
pub(super) struct DataDir {
    pub root: PathBuf,
    pub pgdata: PathBuf,
    pub log_path: PathBuf,
    pub log: File,
    /// Closing this file releases the lock, and so does the end of the process; nothing is left to clean up.
    _lock: File,
}

/// The default data directory of `tollgate demo`.
///
/// It is `$XDG_DATA_HOME/tollgate/demo` or `~/.local/share/tollgate/demo`; for root, if the user that PostgreSQL runs as
/// cannot enter that directory, `/var/lib/tollgate/demo`.
///
/// # Errors
///
/// When there is no home directory, or this process is root and there is no user to run PostgreSQL as.
pub fn default_demo_data_dir() -> Result<PathBuf, PostgresError> {
    Ok(data_home()?.join("demo"))
}

/// The default parent of the directories for demos and downloads.
pub(super) fn data_home() -> Result<PathBuf, PostgresError> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let from_accounts = || User::from_uid(geteuid()).ok().flatten().map(|user| user.dir);
    let home = || absolute("HOME").or_else(from_accounts).map(|home| home.join(".local/share"));
    let base = absolute("XDG_DATA_HOME").or_else(home).map(|base| base.join("tollgate"));
    let identity = OsUser::choose(None)?;
    if !identity.dropped {
        return base.ok_or(PostgresError::NoHome);
    }
    Ok(base.filter(|base| identity.blocked_at(base).is_none()).unwrap_or_else(|| SYSTEM_DATA.into()))
}

impl DataDir {
    /// Creates the directory if it is missing, and locks it for this process.
    pub fn open(path: &Path) -> Result<Self, PostgresError> {
        create_dirs(path)?;
        let root = path.canonicalize().map_err(PostgresError::io("resolve", path))?;
        open_to_dropped_user(&root)?;
        let lock = take_lock(&root)?;
        let log_path = root.join("postgres.log");
        if fs::metadata(&log_path).is_ok_and(|found| found.len() > LOG_BYTES_MAX) {
            let old = root.join("postgres.log.1");
            fs::rename(&log_path, &old).map_err(PostgresError::io("set aside the log as", &old))?;
        }
        let log = own_file().append(true).open(&log_path);
        let log = log.map_err(|error| refused(&root, &log_path, error))?;
        Ok(Self { pgdata: root.join("pg"), root, log_path, log, _lock: lock })
    }

    /// The owner of the existing cluster; none if the directory is empty.
    pub fn cluster_owner(&self) -> Option<u32> {
        let absent = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
        let found = fs::symlink_metadata(&self.pgdata).ok()?;
        let empty = fs::symlink_metadata(self.pgdata.join("PG_VERSION")).is_err_and(absent);
        (!empty).then(|| found.uid())
    }

    /// The major version of the existing cluster; `None` if there is none yet.
    pub fn cluster_major(&self) -> Result<Option<u32>, PostgresError> {
        let version = self.pgdata.join("PG_VERSION");
        match fs::read_to_string(&version) {
            Ok(text) => match text.trim().split('.').next().unwrap_or_default().parse() {
                Ok(major) => Ok(Some(major)),
                Err(_) => Err(PostgresError::Foreign { path: self.pgdata.clone() }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Never deleted: we give a cluster this name only when it is complete, so other content is not ours.
                let content = fs::read_dir(&self.pgdata).ok().and_then(|mut entries| entries.next());
                content.map_or(Ok(None), |_| Err(PostgresError::Foreign { path: self.pgdata.clone() }))
            }
            Err(error) => Err(refused(&self.pgdata, &version, error)),
        }
    }

    /// Refuses a cluster that belongs to another user, and a directory that PostgreSQL's user cannot enter.
    pub fn check_access(&self, identity: &OsUser) -> Result<(), PostgresError> {
        if identity.dropped
            && let Some(blocked) = identity.blocked_at(&self.root)
        {
            return Err(PostgresError::NotTraversable {
                path: self.root.clone(),
                blocked,
                user: identity.name.clone(),
            });
        }
        match self.cluster_owner() {
            Some(owner) if owner != identity.uid => Err(PostgresError::NotOurs {
                path: self.pgdata.clone(),
                user: identity.name.clone(),
                owner: user_name(owner),
            }),
            _ => Ok(()),
        }
    }
}

/// Creates `path` and its missing ancestors for this user alone; for root, so that the dropped user can enter them.
pub(super) fn create_dirs(path: &Path) -> Result<(), PostgresError> {
    let mode = if geteuid().is_root() { 0o711 } else { 0o700 };
    let mut missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.as_os_str().is_empty()).collect();
    missing.retain(|dir| !dir.exists());
    for dir in missing.into_iter().rev() {
        match DirBuilder::new().mode(mode).create(dir) {
            // Set again, because the umask may have removed bits that the dropped user needs.
            Ok(()) => fs::set_permissions(dir, Permissions::from_mode(mode))
                .map_err(PostgresError::io("set permissions on", dir))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            Err(error) => return Err(PostgresError::io("create", dir)(error)),
        }
    }
    Ok(())
}

/// Lets the dropped user enter an empty directory of root; a directory with content is not changed.
fn open_to_dropped_user(root: &Path) -> Result<(), PostgresError> {
    let found = fs::metadata(root).map_err(PostgresError::io("read", root))?;
    let empty = fs::read_dir(root).map_err(|error| refused(root, root, error))?.next().is_none();
    if geteuid().is_root() && found.uid() == 0 && empty {
        let mode = (found.mode() & 0o7777) | 0o011;
        fs::set_permissions(root, Permissions::from_mode(mode))
            .map_err(PostgresError::io("set permissions on", root))?;
    }
    Ok(())
}

fn take_lock(root: &Path) -> Result<File, PostgresError> {
    let path = root.join("lock");
    let opened = own_file().read(true).write(true).open(&path);
    let mut file = opened.map_err(|error| refused(root, &path, error))?;
    // If the last owner was killed while it started a child, that child holds the lock for a moment, until its exec.
    for _ in 0..LOCK_STEPS {
        match file.try_lock() {
            Ok(()) => {
                let named = file.set_len(0).and_then(|()| write!(file, "process {}", std::process::id()));
                named.map_err(PostgresError::io("write", &path))?;
                return Ok(file);
            }
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_STEP),
            Err(TryLockError::Error(error)) => return Err(PostgresError::io("lock", &path)(error)),
        }
    }
    let mut owner = String::new();
    // The name only improves the message.
    if file.read_to_string(&mut owner).is_err() || owner.is_empty() {
        owner = "of unknown id".into();
    }
    Err(PostgresError::InUse { path: root.to_owned(), owner })
}

/// Options to create one of our own files. Links are not followed, because they could lead root to write elsewhere.
fn own_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
    options
}

/// The error of opening `path`; it names the owner of `root` if that is why the permission is missing.
fn refused(root: &Path, path: &Path, error: io::Error) -> PostgresError {
    match fs::metadata(root) {
        Ok(found) if error.kind() == io::ErrorKind::PermissionDenied && found.uid() != geteuid().as_raw() => {
            PostgresError::NotOurs {
                path: root.to_owned(),
                user: user_name(geteuid().as_raw()),
                owner: user_name(found.uid()),
            }
        }
        _ => PostgresError::io("open", path)(error),
    }
}
