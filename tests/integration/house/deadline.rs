//! Every test has a time-out, and none can forget it: cargo starts the tests through `.cargo/deadline`.

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::thread;

const HANG: &str = "TOLLGATE_TEST_HANG";

#[test]
fn a_test_that_hangs_is_ended_and_named() {
    if env::var_os(HANG).is_some() {
        loop {
            thread::park();
        }
    }
    let runner = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cargo/deadline");
    let mut hanging = Command::new(runner);
    hanging
        .arg(env::current_exe().unwrap())
        .args(["--exact", "house::deadline::a_test_that_hangs_is_ended_and_named"]);
    let hanging = hanging.env(HANG, "1").env("TOLLGATE_TEST_DEADLINE", "1").env_remove("NEXTEST");
    let ended = hanging.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.signal(), Some(9), "{said}");
    assert!(said.contains("begins with 'house::deadline' has taken longer than 1 seconds"), "{said}");
}

#[test]
fn cargo_starts_these_tests_with_a_deadline() {
    let by_cargo = env::var_os("CARGO").is_some();
    let with_deadline = env::var_os("TOLLGATE_TEST_DEADLINE").is_some() || env::var_os("NEXTEST").is_some();
    assert!(!by_cargo || with_deadline, "another runner than that of .cargo/config.toml is configured");
}
