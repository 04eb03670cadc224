//! A limit of memory for a process: a control group below that of the tests, where one can be made.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "tollgate-test-";

/// A control group of its own. Dropping it removes it, once its processes have ended.
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// A group whose processes may have so many bytes of memory in sum; none where this process may not make one, which takes root
    /// and control groups that can be written.
    pub fn with_memory(bytes: u64) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let parent = own(&fs::read_to_string("/proc/self/cgroup").ok()?)?;
        remove_leftovers(&parent);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
        fs::create_dir(&path).ok()?;
        let group = Self(path);
        // The names of version 1 and of version 2. What is swapped out must not get around the limit, where there is a swap.
        let limited = ["memory.limit_in_bytes", "memory.max"].map(|name| group.set(name, bytes).is_ok());
        let _ = group.set("memory.memsw.limit_in_bytes", bytes);
        let _ = group.set("memory.swap.max", 0);
        limited.contains(&true).then_some(group)
    }

    /// Only what the system has put there is written: elsewhere this is an ordinary directory.
    fn set(&self, name: &str, value: u64) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(self.0.join(name))?;
        file.write_all(value.to_string().as_bytes())
    }

    /// The file to which a process writes its id to become one of the group.
    pub fn entrance(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }

    /// How many processes of the group were killed because it had no memory left.
    pub fn killed(&self) -> u64 {
        let files = ["memory.oom_control", "memory.events"].map(|name| fs::read_to_string(self.0.join(name)));
        let text = files.into_iter().flatten().collect::<String>();
        let figure = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        figure.map_or(0, |figure| figure.parse().unwrap())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// The directory of the group that this process is in, by what the system says about it.
fn own(groups: &str) -> Option<PathBuf> {
    let mut lines = groups.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        Some((controllers, path.trim_start_matches('/')))
    });
    let first = lines.clone().find(|(controllers, _)| controllers.split(',').any(|name| name == "memory"));
    let (root, path) = match first {
        Some((_, path)) => ("/sys/fs/cgroup/memory", path),
        None => ("/sys/fs/cgroup", lines.find(|(controllers, _)| controllers.is_empty())?.1),
    };
    Some(Path::new(root).join(path))
}

/// Removes the groups of tests that were killed. A group that has a process stays.
fn remove_leftovers(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let of_a_test = entry
            .file_name()
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        if of_a_test.is_some_and(|test| !Path::new("/proc").join(test.to_string()).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[test]
fn the_group_of_a_process_is_found_in_either_version() {
    let first = "9:name=systemd:/\n4:memory,x:/a/b\n0::/c\n";
    assert_eq!(own(first).unwrap(), Path::new("/sys/fs/cgroup/memory/a/b"));
    assert_eq!(own("0::/c\n").unwrap(), Path::new("/sys/fs/cgroup/c"));
    assert_eq!(own("1:cpu:/\n"), None);
}
