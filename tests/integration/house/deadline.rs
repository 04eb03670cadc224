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
    let mut hanging = run_of("a_test_that_hangs_is_ended_and_named");
    let hanging = hanging.env(HANG, "1").env("TOLLGATE_TEST_DEADLINE", "1");
    let ended = hanging.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.signal(), Some(9), "{said}");
    assert!(said.contains("begins with 'house::deadline' has taken longer than 1 seconds"), "{said}");
}

/// Whoever reads what a run says to its end, and asks for the outcome afterwards, gets both.
#[test]
fn a_run_that_has_ended_keeps_nobody_waiting() {
    let ended =
        run_of("cargo_starts_these_tests_with_a_deadline").env("TOLLGATE_TEST_DEADLINE", "600").output();
    assert!(ended.unwrap().status.success());
}

/// A run of one test of this module.
fn run_of(test: &str) -> Command {
    let mut run = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(".cargo/deadline"));
    run.arg(env::current_exe().unwrap()).args(["--exact", &format!("house::deadline::{test}")]);
    run.env_remove("NEXTEST");
    run
}

#[test]
fn cargo_starts_these_tests_with_a_deadline() {
    let by_cargo = env::var_os("CARGO").is_some();
    let with_deadline = env::var_os("TOLLGATE_TEST_DEADLINE").is_some() || env::var_os("NEXTEST").is_some();
    assert!(!by_cargo || with_deadline, "another runner than that of .cargo/config.toml is configured");
}
