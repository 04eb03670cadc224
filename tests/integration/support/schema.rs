//! The texts that the schema is made from, as they are on disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// All SQL files below `migrations/`, by their path below it without the ending.
pub fn files() -> BTreeMap<String, String> {
    let root = Path::new(ROOT).join("migrations");
    let mut dirs = vec![root.clone()];
    let mut found = BTreeMap::new();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "sql") {
                let name = path.strip_prefix(&root).unwrap().with_extension("");
                found.insert(name.to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}

/// Everything that a migrated database depends on.
pub fn text() -> String {
    let sql: String = files().into_iter().flat_map(|(name, text)| [name, text]).collect();
    // it says in which order, and as which revision
    sql + &fs::read_to_string(Path::new(ROOT).join("src/store/db/definitions.rs")).unwrap()
}
