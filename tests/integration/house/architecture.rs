//! The house rules of `src/lib.rs`, read from the sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::sources::{NamedPath, Source};

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
        "https",
        "shares",
    ],
    &["wire", "pricing", "quote", "order", "api_key", "bulk", "encryption"],
    &["config"],
    &["store", "upstream", "telemetry", "postgres", "simulator"],
    &["error", "call"],
    &["access", "price_cache", "rate_limits"],
    &["poll", "layers", "handlers"],
    &["stack", "server", "admin", "background", "console"],
    &["app"],
    &["cli"],
];

/// Imports within a floor that are meant: what a module builds on beside itself.
const BESIDE: &[(&str, &str)] = &[
    ("fail_point", "log_queue"),
    ("quote", "pricing"),
    ("order", "wire"),
    ("order", "pricing"),
    ("rate_limits", "access"),
    ("upstream", "telemetry"),
    ("layers", "poll"),
    ("handlers", "poll"),
    ("handlers", "layers"),
];

/// The floors of the store, lowest first.
const STORE: &[&[&str]] =
    &[&["db"], &["ledger"], &["content", "credits", "budgets", "prices"], &["books", "directory"]];

/// Rooms with statements for the database.
const SQL: &[&str] = &["store"];

/// Files that open a transaction which lasts for more than one statement.
const TRANSACTIONS: &[&str] = &[
    "store/books/archive.rs",
    "store/books/archive/detach.rs",
    "store/db/definitions.rs",
    "store/db/migrate.rs",
];

/// What only the application builds.
const PARTS: &[&str] = &[
    "Ledger::start",
    "Poller::new",
    "Upstream::new",
    "Tracing::new",
    "Authenticator::new",
    "KeySets::new",
    "SignInClient::new",
    "RateLimits::new",
    "stack::data_plane",
];

/// Rooms in which credits are reckoned with.
const CREDITS: &[&str] = &["credits", "pricing"];

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|modules| modules.contains(&module))
}

/// The rooms that a file names.
fn imports(source: &Source) -> BTreeSet<&str> {
    let ours = source.seen.paths.iter().filter(|path| path.ours);
    ours.filter_map(|path| path.segments.first()).map(String::as_str).collect()
}

#[test]
fn every_module_has_a_floor_and_no_import_goes_up() {
    let sources = Source::all("src");
    let root = sources.iter().find(|source| source.room == "lib").unwrap();
    let modules: BTreeSet<String> = root.seen.modules.iter().cloned().collect();
    let on_floors: BTreeSet<String> =
        FLOORS.iter().flat_map(|floor| floor.iter()).map(|module| (*module).to_owned()).collect();
    assert_eq!(modules, on_floors, "the modules of the crate, and those that stand on a floor");

    let (mut wrong, mut beside) = (Vec::new(), BTreeSet::new());
    for source in sources.iter().filter(|source| !["lib", "main"].contains(&source.room.as_str())) {
        let room = source.room.as_str();
        for import in imports(source).into_iter().filter(|import| *import != room) {
            let Some(other) = floor(import) else { continue };
            let own = floor(room).unwrap();
            if other == own {
                beside.insert((room, import));
            }
            if other > own || (other == own && !BESIDE.contains(&(room, import))) {
                wrong.push(format!("{}: {room} imports {import}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let idle: Vec<_> = BESIDE.iter().filter(|pair| !beside.contains(*pair)).collect();
    assert!(idle.is_empty(), "no longer needed: {idle:?}");
}

#[test]
fn the_rooms_of_the_store_stand_on_floors_too() {
    let floor = |room: &str| STORE.iter().position(|rooms| rooms.contains(&room));
    let sources = Source::all("src");
    let mut wrong = Vec::new();
    for source in sources.iter().filter(|source| source.path.starts_with("store/")) {
        let within = source.path.strip_prefix("store").unwrap();
        let room = within.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        let own = floor(room).unwrap_or_else(|| panic!("the room {room} stands on no floor"));
        for path in source.seen.paths.iter().filter(|path| path.ours) {
            let [store, other, ..] = &path.segments[..] else { continue };
            if store == "store" && other != room && floor(other).is_some_and(|other| other >= own) {
                wrong.push(format!("{}: {room} imports {other}", within.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn sql_lives_in_the_store_only() {
    for source in Source::all("src").iter().filter(|source| !SQL.contains(&source.room.as_str())) {
        let sqlx = |path: &NamedPath| path.segments[..].first().is_some_and(|first| first == "sqlx");
        assert!(!source.seen.paths.iter().any(sqlx), "{} talks to the database", source.path.display());
    }
}

#[test]
fn no_transaction_stays_open_across_anything_but_statements() {
    for source in Source::all("src") {
        if TRANSACTIONS.iter().any(|file| source.path.ends_with(file)) {
            continue;
        }
        let opens = |method: &String| ["begin", "begin_with"].contains(&method.as_str());
        let begins = |text: &String| {
            ["begin", "begin;"].contains(&text.trim().to_ascii_lowercase().as_str())
                || text.trim_start().to_ascii_lowercase().starts_with("begin ")
        };
        let any = source.seen.methods.iter().any(opens) || source.seen.strings.iter().any(begins);
        assert!(!any, "{} opens a transaction", source.path.display());
    }
}

/// PostgreSQL lets every login take advisory locks, also the dashboards' that may only read: it could keep everybody waiting.
#[test]
fn no_advisory_lock_is_taken() {
    let mut texts: Vec<(String, String)> = Vec::new();
    for source in Source::all("src") {
        texts
            .extend(source.seen.strings.iter().map(|text| (source.path.display().to_string(), text.clone())));
    }
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "sql") {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.lines().map(|line| line.split("--").next().unwrap());
                texts.push((path.display().to_string(), code.collect::<Vec<_>>().join("\n")));
            }
        }
    }
    assert!(texts.len() > 100, "where are the statements?");
    let taken: Vec<_> =
        texts.iter().filter(|(_, text)| text.contains("advisory_")).map(|(path, _)| path).collect();
    assert!(taken.is_empty(), "{taken:?}");
    let migrate =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/db/migrate.rs")).unwrap();
    assert!(
        migrate.contains("set_locking(false)"),
        "the library's own lock of migrations is an advisory one"
    );
}

#[test]
fn the_simulator_knows_nothing_of_us() {
    for source in Source::all("src").iter().filter(|source| source.room == "simulator") {
        let others: Vec<_> = imports(source).into_iter().filter(|room| *room != "simulator").collect();
        assert!(others.is_empty(), "{} imports {others:?}", source.path.display());
    }
}

#[test]
fn only_the_app_builds_parts() {
    let mut built = BTreeSet::new();
    for source in Source::all("src") {
        for part in PARTS {
            let names = source.seen.paths.iter().any(|path| path.ends_with(part));
            if names && source.room == "app" {
                built.insert(*part);
            }
            assert!(!names || source.room == "app", "{} builds {part}", source.path.display());
        }
    }
    assert_eq!(built, PARTS.iter().copied().collect(), "what the application builds, under these names");
}

#[test]
fn there_is_one_http_client() {
    let mut clients = BTreeSet::new();
    for source in Source::all("src") {
        let makes_one = |path: &&NamedPath| {
            path.segments
                .iter()
                .any(|name| ["hyper_rustls", "legacy", "ClientConfig"].contains(&name.as_str()))
        };
        clients.extend(source.seen.paths.iter().find(makes_one).map(|_| source.room.clone()));
    }
    assert_eq!(clients, BTreeSet::from(["https".to_owned()]), "rooms that make clients or TLS for them");
}

#[test]
fn no_float_touches_credits() {
    let sources = Source::all("src");
    let guarded: Vec<_> = sources.iter().filter(|source| CREDITS.contains(&source.room.as_str())).collect();
    assert!(guarded.len() >= CREDITS.len());
    for source in guarded {
        let lint = source.seen.paths.iter().any(|path| path.ends_with("clippy::float_arithmetic"));
        assert!(lint, "{} has lost its lint", source.path.display());
        let float = |path: &&NamedPath| {
            !path.in_tests && path.segments.iter().any(|name| ["f32", "f64"].contains(&name.as_str()))
        };
        let named = source.seen.paths.iter().find(float).map(|path| path.segments.join("::"));
        assert_eq!((named, &source.seen.floats), (None, &vec![]), "{}", source.path.display());
    }
}

/// `resource!` puts a handler behind the rule of its description; a route that is added in another way would have none.
#[test]
fn every_management_operation_stands_behind_its_rule() {
    let documents = ["/admin/v1/openapi.json", "/openapi.json", "/docs", "/docs/", "/docs/{*file}"];
    for Source { path, room, .. } in Source::all("src") {
        if room == "admin" && !path.ends_with("admin/operations.rs") {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
            let text = fs::read_to_string(root.join(&path)).unwrap();
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let mut before_tests = code.take_while(|line| !line.contains("mod tests"));
            let open = before_tests.find(|line| {
                let of_document = documents.iter().any(|path| line.contains(&format!(".route(\"{path}\"")));
                line.contains("routes!(") && !line.contains("@resolve_types")
                    || line.contains(".route(") && !of_document
            });
            assert!(open.is_none(), "{}: {open:?}", path.display());
        }
    }
}
