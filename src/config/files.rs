//! Files that other users of the machine may read, write or replace.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The mode of a file that every user of the machine may write.
pub(super) fn written_by_others(path: &Path) -> Option<u32> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o002 != 0).then_some(mode)
}

/// Whether every user of the machine may read a file. Files below `/run/secrets` are a container's own.
pub(super) fn read_by_others(path: &Path) -> bool {
    let in_container = ["/run/secrets", "/var/run/secrets"].iter().any(|place| path.starts_with(place));
    !in_container && std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o004 != 0)
}

/// Why others than its owner may put something else in the place of a file: for a warning. What everybody may write of secrets is
/// an error.
pub(super) fn changeable(field: &str, path: &Path) -> Option<String> {
    let mode = |path: &Path| Some(std::fs::metadata(path).ok()?.permissions().mode() & 0o7777);
    let (shown, own) = (path.display(), mode(path)?);
    let directory =
        path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
    let around = directory.and_then(mode).unwrap_or_default();
    if own & 0o022 != 0 {
        return Some(format!(
            "{field}: {shown} may be written by others (mode {:03o}): chmod go-w it",
            own & 0o777
        ));
    }
    // In a directory with the sticky bit, such as /tmp, each removes only what is its own.
    (around & 0o002 != 0 && around & 0o1000 == 0).then(|| {
        format!(
            "{field}: every user of this machine may put another file in the place of {shown} (its directory has mode \
             {:03o}): chmod o-w the directory",
            around & 0o777
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::tests::LEAST;

    #[test]
    fn key_files_that_everybody_may_change_are_refused() {
        let file = std::env::temp_dir().join(format!("tollgate-mode-{}", std::process::id()));
        std::fs::write(&file, "k").unwrap();
        let config = format!(
            "[database]\nurl = \"postgres://x@127.0.0.1/x\"\n[upstream.kling_3]\nbase_url = \"https://x\"\n\
             master_key_file = \"{}\"\n",
            file.display()
        );
        let with = |mode: u32| {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            Config::from_toml(&config).map(|config| config.warnings).map_err(|error| error.to_string())
        };
        assert_eq!(with(0o600).unwrap(), [""; 0]);
        let warned = with(0o644).unwrap();
        assert!(warned.len() == 1 && warned[0].contains("chmod o-r"), "{warned:?}");
        let warned = with(0o660).unwrap();
        assert!(warned.len() == 1 && warned[0].contains("chmod go-w"), "{warned:?}");
        let told = with(0o602).unwrap_err();
        std::fs::remove_file(&file).unwrap();
        assert!(
            told.contains("master_key_file") && told.contains("602") && told.contains("chmod o-w"),
            "{told}"
        );
    }

    #[test]
    fn what_others_may_put_in_the_place_of_a_file_is_warned_of() {
        let directory = std::env::temp_dir().join(format!("tollgate-open-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let file = directory.join("tollgate.toml");
        std::fs::write(&file, LEAST).unwrap();
        let with = |of_file: u32, of_directory: u32| {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(of_file)).unwrap();
            std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(of_directory)).unwrap();
            changeable("the configuration", &file).unwrap_or_default()
        };
        assert_eq!(with(0o644, 0o755), "");
        assert_eq!(with(0o644, 0o1777), "");
        let (by_all, by_group, directory_open) = (with(0o666, 0o755), with(0o664, 0o755), with(0o644, 0o777));
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(by_all.contains("mode 666") && by_group.contains("mode 664"), "{by_all} {by_group}");
        assert!(directory_open.contains("put another file in the place of"), "{directory_open}");
    }
}
