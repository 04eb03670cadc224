//! Rules of the tests themselves, read from their sources: a test that fails on a busy machine tells nothing.

use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{BinOp, Expr, ExprBinary, ExprMethodCall, Macro, Token};

use crate::support::sources::Source;

/// Files that let time pass, and why that is not waiting for a condition.
const SLEEPERS: &[(&str, &str)] = &[
    ("faults/gateway_kills.rs", "a random instant is the fault"),
    ("postgres/embedded.rs", "between looks at a condition, where no runtime is"),
    ("support/database.rs", "between looks at a condition"),
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

/// Comparisons with the time that has passed since an instant.
#[derive(Default)]
struct Clockwatcher {
    found: bool,
    /// How many comparisons we are in.
    within: usize,
}

impl<'ast> Visit<'ast> for Clockwatcher {
    fn visit_expr_binary(&mut self, binary: &'ast ExprBinary) {
        let compares = matches!(binary.op, BinOp::Lt(_) | BinOp::Le(_) | BinOp::Gt(_) | BinOp::Ge(_));
        self.within += usize::from(compares);
        visit::visit_expr_binary(self, binary);
        self.within -= usize::from(compares);
    }

    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        self.found |= self.within > 0 && ["elapsed", "since"].iter().any(|name| call.method == name);
        visit::visit_expr_method_call(self, call);
    }

    fn visit_macro(&mut self, item: &'ast Macro) {
        let arguments = item.parse_body_with(Punctuated::<Expr, Token![,]>::parse_terminated);
        for argument in arguments.iter().flatten() {
            self.visit_expr(argument);
        }
    }
}

#[test]
fn no_test_compares_with_the_time_that_has_passed() {
    for source in Source::all("tests/integration") {
        let mut watcher = Clockwatcher::default();
        watcher.visit_file(&source.file);
        assert!(!watcher.found, "{}: wait for a condition, or for a number of looks", source.path.display());
    }
    let mut control = Clockwatcher::default();
    control.visit_file(&syn::parse_quote! { fn f() { assert!(1 + began.elapsed() < LIMIT, "slow"); } });
    assert!(control.found);
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
