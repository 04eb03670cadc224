//! The files below `migrations/`: complete, called what they define, and listed with their callers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// Paths below the crate's root of all files in `folder`, with their texts.
fn files(folder: &str, ending: &str) -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut dirs: Vec<PathBuf> = vec![root.join(folder)];
    let mut found = BTreeMap::new();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.to_str().unwrap().ends_with(ending) {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}

fn code(text: &str, comment: &str) -> String {
    text.lines().map(|line| line.split(comment).next().unwrap_or_default().to_owned() + "\n").collect()
}

#[test]
fn every_file_is_embedded_once() {
    let on_disk: Vec<String> = files("migrations", ".sql")
        .into_keys()
        .map(|path| path.trim_start_matches("migrations/").trim_end_matches(".sql").to_owned())
        .filter(|name| name.contains('/'))
        .collect();
    let mut embedded: Vec<&str> = DEFINITIONS.iter().map(|definition| definition.name).collect();
    embedded.sort_unstable();
    assert_eq!(embedded, on_disk);
}

#[test]
fn a_change_of_a_definition_raises_the_revision() {
    let all = DEFINITIONS.iter().fold(Sha256::new(), |all, definition| {
        all.chain_update(definition.name).chain_update(definition.digest())
    });
    let digest: String = all.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        digest, DIGEST,
        "a definition has changed: raise REVISION by one (once in a landing), and set DIGEST to the left side"
    );
}

/// `migrate` applies definitions after all migrations, and only those that have changed.
#[test]
fn migrations_are_numbered_and_make_nothing_that_is_defined_elsewhere() {
    let migrations =
        files("migrations", ".sql").into_iter().filter(|(path, _)| path.matches('/').count() == 1);
    for ((path, text), number) in migrations.zip(1..) {
        assert!(path.starts_with(&format!("migrations/{number:04}_")), "{path}: {number} is missing");
        let words = code(&text, "--").to_lowercase().replace("or replace ", "");
        for kind in ["function", "procedure", "trigger", "view"] {
            assert!(!words.contains(&format!("create {kind} ")), "{path} makes a {kind}");
        }
    }
}

/// A reader finds a definition by its name, and `migrate` what it replaces.
#[test]
fn a_file_defines_what_it_is_called_after() {
    for definition in DEFINITIONS {
        let made: Vec<String> = definition
            .text
            .lines()
            .filter_map(|line| line.strip_prefix("create or replace "))
            .map(|line| line.replace('(', " "))
            .collect();
        let made: Vec<Vec<&str>> = made.iter().map(|line| line.split_whitespace().collect()).collect();
        let last = definition.name.rsplit('/').next().unwrap();
        if let Some((schema, function)) = definition.function() {
            let called = if schema == "public" { function.into() } else { format!("{schema}.{function}") };
            let fits = |words: &[&str]| ["function", "procedure"].contains(&words[0]) && words[1] == called;
            assert!(matches!(&made[..], [words] if fits(words)), "{}: {made:?}", definition.name);
            assert_eq!(definition.text.matches("$$").count(), 2, "{}", definition.name);
        } else if definition.name.starts_with("views/") {
            let ours = definition.name.starts_with("views/public/");
            let called = if ours { last.into() } else { format!("reporting.{last}") };
            assert!(
                matches!(&made[..], [words] if words[..2] == ["view", &called]),
                "{}: {made:?}",
                definition.name
            );
        } else {
            assert!(!made.is_empty(), "{}", definition.name);
            for words in made {
                let table = words.iter().position(|word| *word == "on").map(|on| words[on + 1]);
                assert_eq!((words[0], table), ("trigger", Some(last)), "{}: {words:?}", definition.name);
            }
        }
    }
}

#[test]
fn names_in_long_definitions_are_words() {
    for definition in DEFINITIONS.iter().filter(|definition| definition.text.lines().count() > 20) {
        // Every other part is outside of quotation marks.
        let code = code(definition.text, "--");
        let unquoted = code.split('\'').step_by(2).collect::<Vec<_>>().join(" ");
        let short: Vec<&str> = unquoted
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .filter(|word| word.len() == 1 && word.chars().all(char::is_alphabetic))
            .collect();
        assert!(short.is_empty(), "{}: {short:?}", definition.name);
    }
}

/// Whether a text calls a function; methods and functions of Rust that are called the same do not count.
fn calls(code: &str, function: &str) -> bool {
    code.match_indices(&format!("{function}(")).any(|(at, _)| {
        let before = code[..at].trim_end_matches("reporting.");
        let inside_of_a_name = before.ends_with(|c: char| c.is_alphanumeric() || "_.:".contains(c));
        let word = before.split_whitespace().next_back().unwrap_or_default();
        let defined = ["fn", "procedure"].contains(&word) || before.ends_with("create or replace function ");
        !inside_of_a_name && !defined
    })
}

/// For each function, the Rust files and definitions that call it.
fn callers() -> BTreeMap<&'static str, Vec<String>> {
    let mut texts = files("src", ".rs");
    texts.retain(|path, _| !path.starts_with("src/store/db/definitions"));
    let rust = texts.into_iter().map(|(path, text)| (path, code(&text, "//")));
    let sql = DEFINITIONS.iter().map(|definition| (definition.name.to_owned(), code(definition.text, "--")));
    let texts: BTreeMap<String, String> = rust.chain(sql).collect();
    let functions =
        DEFINITIONS.iter().filter_map(|definition| Some((definition.name, definition.function()?.1)));
    functions
        .map(|(name, function)| {
            let callers = texts.iter().filter(|(caller, text)| *caller != name && calls(text, function));
            (name, callers.map(|(caller, _)| caller.clone()).collect())
        })
        .collect()
}

#[test]
fn the_table_of_functions_names_their_callers() {
    let table = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/functions/README.md"));
    let mut listed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        assert!(!cells[1].is_empty(), "{row}");
        listed.insert(format!("functions/{}", quoted(cells[0])[0]), quoted(cells[2]));
    }
    for (function, callers) in callers() {
        assert!(!callers.is_empty(), "nobody calls {function}: drop it");
        assert_eq!(listed.remove(function), Some(callers), "callers of {function}");
    }
    assert!(listed.is_empty(), "no such function: {listed:?}");
}

#[test]
fn functions_that_gateways_call_are_known_as_such() {
    let called: Vec<&str> = callers()
        .into_iter()
        .filter(|(_, callers)| callers.iter().any(|caller| caller.starts_with("src/")))
        .map(|(function, _)| function)
        .collect();
    assert_eq!(CALLED_BY_GATEWAYS, called);
}
