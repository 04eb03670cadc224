//! The tests of what the ledger's profiles decide run under both of them.
//!
//! Tests start in the order of their names, and this one's comes early: the other run is under way while the rest of this
//! one is.

use std::env;
use std::path::Path;
use std::process::Command;

const VARIABLE: &str = "TOLLGATE_LEDGER__PROFILE";

/// What a profile decides: in which order a batch is committed and made durable, what a repetition finds, what a crash
/// leaves. Left out are the tests of what the same functions decide under either profile, of what no batch carries, and of
/// how a gateway finds its server.
const MONEY: &[&str] = &[
    "faults::failover::",
    "faults::gateway_kills::",
    "faults::idempotency::",
    "faults::postgres_kills::",
    "holds::faults::",
    "holds::lane_mates::",
    "holds::lanes::",
    "holds::reserve::",
];

#[test]
fn every_test_in_which_money_moves_passes_with_two_commits_too() {
    if env::var_os(VARIABLE).is_some() {
        // We are the other run, or somebody asks for one profile only.
        return;
    }
    // Each of them has a deadline there too.
    let mut tests = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(".cargo/deadline"));
    tests.arg(env::current_exe().unwrap());
    // They wait more than they work.
    tests.arg("--test-threads=3").args(MONEY).env(VARIABLE, "two-commit");
    let done = tests.output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}\n{}", String::from_utf8_lossy(&done.stderr));
    for module in MONEY {
        let ran = said.lines().any(|line| line.starts_with(&format!("test {module}")));
        assert!(ran, "no test is in {module}: the list is out of date");
    }
}
