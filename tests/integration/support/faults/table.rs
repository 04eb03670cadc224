//! The table of what was tried and what came of it.

use std::fmt;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::long;
use super::oracle::Verdict;

/// One fault.
#[derive(Debug, Clone)]
pub struct Row {
    pub fault: String,
    pub tried: usize,
    pub verdict: Verdict,
    /// From the last fault until every gateway takes creates again.
    pub served: Option<Duration>,
}

const HEAD: &str = "| fault | times tried | creates during it | credits lost | credits double-charged | holds left open | in doubt | serving again after | all ended after |\n\
                    |---|---|---|---|---|---|---|---|---|";

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { creates, lost, doubled, open, in_doubt, ended, .. } = &self.verdict;
        let time = |time: &Option<Duration>| {
            time.map_or_else(|| "–".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()))
        };
        let (fault, tried) = (&self.fault, self.tried);
        write!(
            f,
            "| {fault} | {tried} | {creates} | {lost} | {doubled} | {open} | {in_doubt} | {} | {} |",
            time(&self.served),
            time(ended)
        )
    }
}

/// Adds a row: to the run's output, which the test runner must not keep to itself, and to `faults.md` (long form:
/// `faults-long.md`) in cargo's directory for files of tests.
pub fn report(row: &Row) {
    static ROWS: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut lines = if rows.is_empty() { format!("{HEAD}\n") } else { String::new() };
    lines.push_str(&format!("{row}\n"));
    rows.push(row.to_string());
    std::io::stderr().write_all(lines.as_bytes()).unwrap();
    let form = if long() { "-long" } else { "" };
    // The tests are also run with the ledger's other profile, at the same time.
    let profile =
        std::env::var("TOLLGATE_LEDGER__PROFILE").map(|name| format!("-{name}")).unwrap_or_default();
    let name = format!("faults{form}{profile}.md");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(path, format!("{HEAD}\n{}\n", rows.join("\n"))).unwrap();
}

/// Says that a scenario is skipped, and why: not to the test's output, which nobody sees.
pub fn skipped(what: &str, why: &str) {
    std::io::stderr().write_all(format!("| {what} | skipped: {why} |\n").as_bytes()).unwrap();
}
