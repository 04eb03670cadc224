//! The house rules of `src/lib.rs`, read from the sources.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules by floor, lowest first; one may import from lower floors only.
const FLOORS: &[&[&str]] = &[
    &[
        "ids",
        "credits",
        "clock",
        "secret",
        "metrics",
        "fail_point",
        "docs_page",
        "log_queue",
        "safe_url",
        "strict",
    ],
    &["wire", "pricing", "quote", "order", "api_key"],
    &["config"],
    &["store", "upstream", "telemetry", "postgres", "simulator"],
    &["error", "call"],
    &["access", "price_cache", "rate_limits"],
    &["poll", "layers", "handlers"],
    &["stack", "server", "admin", "background"],
    &["app"],
    &["cli"],
];

/// Imports within a floor that are meant: what a module builds on beside itself.
const BESIDE: &[(&str, &str)] = &[
    ("fail_point", "log_queue"),
    ("pricing", "credits"),
    ("quote", "pricing"),
    ("order", "wire"),
    ("order", "pricing"),
    ("upstream", "telemetry"),
    ("call", "error"),
    ("error", "call"),
    ("layers", "poll"),
    ("handlers", "poll"),
    ("handlers", "layers"),
];

fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut dirs = vec![root.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let inside = path.strip_prefix(&root).unwrap();
                let first = inside.components().next().unwrap().as_os_str().to_string_lossy();
                let module = first.trim_end_matches(".rs").to_owned();
                let text = fs::read_to_string(&path).unwrap();
                files.push((module, path, text));
            }
        }
    }
    files
}

fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|modules| modules.contains(&module))
}

/// Modules that a line names as `crate::module`.
fn imports(line: &str) -> impl Iterator<Item = String> {
    line.split("crate::")
        .skip(1)
        .map(|rest| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>())
}

#[test]
fn every_module_has_a_floor_and_no_import_goes_up() {
    let mut wrong = Vec::new();
    for (module, path, text) in sources() {
        if ["lib", "main"].contains(&module.as_str()) {
            continue;
        }
        let own = floor(&module).unwrap_or_else(|| panic!("{module} stands on no floor"));
        for import in code(&text).flat_map(imports) {
            let Some(other) = floor(&import) else { continue };
            let beside = BESIDE.contains(&(module.as_str(), import.as_str()));
            if import != module && (other > own || (other == own && !beside)) {
                wrong.push(format!("{}: {module} imports {import}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn sql_lives_in_the_store_only() {
    for (module, path, text) in sources() {
        if module != "store" {
            assert!(
                !code(&text).any(|line| line.contains("sqlx::")),
                "{} talks to the database",
                path.display()
            );
        }
    }
}

#[test]
fn no_transaction_stays_open_across_anything_but_statements() {
    let meant = ["store/books/audit.rs", "store/db/definitions.rs"];
    for (_, path, text) in sources() {
        if !meant.iter().any(|file| path.ends_with(file)) {
            let opens = |line: &str| {
                [".begin()", ".begin_with(", "\"begin\"", "\"begin "].iter().any(|open| line.contains(open))
            };
            assert!(!code(&text).any(opens), "{} opens a transaction", path.display());
        }
    }
}

#[test]
fn the_simulator_knows_nothing_of_us() {
    for (module, path, text) in sources() {
        if module == "simulator" {
            for import in code(&text).flat_map(imports) {
                assert_eq!(import, "simulator", "{}", path.display());
            }
        }
    }
}

#[test]
fn only_the_app_builds_parts() {
    let parts = [
        "Ledger::start(",
        "Poller::new(",
        "Upstream::new(",
        "Tracing::new(",
        "Authenticator::new(",
        "KeySets::new(",
        "RateLimits::new(",
        "data_plane(parts",
    ];
    for (module, path, text) in sources() {
        if module != "app" {
            for part in parts {
                assert!(!code(&text).any(|line| line.contains(part)), "{} builds {part}…)", path.display());
            }
        }
    }
}

#[test]
fn no_float_touches_credits() {
    let guarded = ["credits", "pricing"];
    for (module, path, text) in sources() {
        if guarded.contains(&module.as_str()) {
            assert!(text.contains("clippy::float_arithmetic"), "{} has lost its lint", path.display());
            let mut before_tests = code(&text).take_while(|line| !line.contains("mod tests"));
            let float = |line: &str| line.contains("f64") || line.contains("f32");
            assert!(!before_tests.any(float), "{} names a float", path.display());
        }
    }
}

/// `resource!` puts a handler behind the rule of its description; a route that is added in another way would have none.
#[test]
fn every_management_operation_stands_behind_its_rule() {
    let documents = ["/openapi.json", "/docs", "/docs/", "/docs/{*file}"];
    for (module, path, text) in sources() {
        if module == "admin" && !path.ends_with("admin/operations.rs") {
            let mut before_tests = code(&text).take_while(|line| !line.contains("mod tests"));
            let open = before_tests.find(|line| {
                let of_document = documents.iter().any(|path| line.contains(&format!(".route(\"{path}\"")));
                line.contains("routes!(") && !line.contains("@resolve_types")
                    || line.contains(".route(") && !of_document
            });
            assert!(open.is_none(), "{}: {open:?}", path.display());
        }
    }
}
