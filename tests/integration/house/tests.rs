//! Rules of the tests themselves, read from their sources: a test that fails on a busy machine tells nothing.

use crate::support::sources::Source;
use crate::support::sources::Token::{self, Group, Sign, Word};

/// Files that let time pass, and why that is not waiting for a condition.
const SLEEPERS: &[(&str, &str)] = &[
    ("faults/frozen.rs", "a random instant is the fault"),
    ("faults/gateway_kills.rs", "a random instant is the fault"),
    ("postgres/embedded.rs", "between looks at a condition, where no runtime is"),
    ("support/database.rs", "between looks at a condition"),
    ("support/faults/habits.rs", "customers wait before they try again"),
    ("support/faults/load.rs", "customers wait before they try again"),
    ("support/network.rs", "a network that is slow"),
];

#[test]
fn tests_wait_for_conditions() {
    let mut sleepers = Vec::new();
    for source in Source::all("tests/integration") {
        if source.seen.paths.iter().any(|path| path.ends_with("sleep")) {
            sleepers.push(source.path.to_str().unwrap().to_owned());
        }
    }
    sleepers.sort();
    let meant: Vec<_> = SLEEPERS.iter().map(|(file, _)| (*file).to_owned()).collect();
    assert_eq!(sleepers, meant, "files that sleep, and those that may (use `until`)");
}

/// Whether the time that has passed since an instant is compared with another.
fn compares_with_the_clock(tokens: &[Token]) -> bool {
    let compares = |token: &Token| matches!(token, Sign('<' | '>'));
    let within =
        tokens.iter().any(|token| matches!(token, Group(_, inner) if compares_with_the_clock(inner)));
    within
        || (0..tokens.len()).any(|at| match &tokens[at..] {
            [Sign('.'), Word(name), Group('(', _), after @ ..] if name == "elapsed" || name == "since" => {
                let operand = |token: &&Token| matches!(token, Word(_) | Group('(', _) | Sign('.' | ':'));
                let before = tokens[..at].iter().rev().find(|token| !operand(token));
                after.first().is_some_and(compares) || before.is_some_and(compares)
            }
            _ => false,
        })
}

#[test]
fn no_test_compares_with_the_time_that_has_passed() {
    for source in Source::all("tests/integration") {
        let compares = compares_with_the_clock(&source.tokens);
        assert!(!compares, "{}: wait for a condition, or for a number of looks", source.path.display());
    }
    for (text, compares) in [
        ("assert!(began.elapsed() < LIMIT, \"slow\");", true),
        ("if LIMIT > self.clock.since(began) {}", true),
        ("let took = began.elapsed();", false),
        ("began.elapsed() / 20", false),
    ] {
        let source = Source::parse("a.rs".into(), &format!("fn f() {{ {text} }}"));
        assert_eq!(compares_with_the_clock(&source.tokens), compares, "{text}");
    }
}

#[test]
fn modules_are_where_their_names_say() {
    for directory in ["src", "tests/integration"] {
        for source in Source::all(directory) {
            let moved = source.seen.attributes.iter().any(|name| name == "path");
            assert!(!moved, "{} has a #[path]", source.path.display());
        }
    }
}
