//! A doc comment says what a caller must know, or it is not there.

use std::fs;
use std::path::{Path, PathBuf};

/// Fewer words than this say no more than the name below them does.
const LEAST_WORDS: usize = 4;

/// Doc comments of a file: line, text, and the first line of what they describe.
fn doc_comments(text: &str) -> Vec<(usize, String, &str)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let mark = |line: &str| ["///", "//!"].into_iter().find(|mark| line.trim_start().starts_with(mark));
        let Some(kind) = mark(lines[at]) else {
            at += 1;
            continue;
        };
        let rest = &lines[at..];
        let length = rest.iter().take_while(|line| mark(line) == Some(kind)).count();
        let words = rest[..length].iter().map(|line| line.trim_start().trim_start_matches(kind).trim());
        let below = rest[length..].iter().find(|line| !line.trim().is_empty()).copied().unwrap_or_default();
        found.push((at + 1, words.collect::<Vec<_>>().join(" "), below.trim()));
        at += length;
    }
    found
}

fn says_something(doc: &str) -> bool {
    doc.split_whitespace().filter(|word| word.contains(char::is_alphanumeric)).count() >= LEAST_WORDS
}

#[test]
fn a_doc_comment_says_more_than_the_name_below_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut directories = vec![root.clone()];
    let mut read = 0;
    let mut short = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let inside = path.strip_prefix(&root).unwrap().with_extension("");
            let help = inside.starts_with("cli");
            for (line, doc, below) in doc_comments(&fs::read_to_string(&path).unwrap_or_default()) {
                read += 1;
                // The summary of an operation and the help of a command are names that people read.
                let is_a_title = below.starts_with("#[utoipa::path") || help;
                if !says_something(&doc) && !is_a_title {
                    short.push(format!("{}:{line}: {doc}", path.display()));
                }
            }
        }
    }
    assert!(read > 1000, "these are not all doc comments: {read}");
    assert!(short.is_empty(), "say what a caller must know, or nothing: {short:#?}");
}

#[test]
fn a_short_doc_comment_is_found() {
    let text = "/// Which one.\nfn which() {}\n\n//! Two lines\n//! of one text.\n";
    let docs = doc_comments(text);
    assert_eq!(docs.len(), 2);
    assert!(!says_something(&docs[0].1) && docs[0].2 == "fn which() {}");
    assert!(says_something(&docs[1].1));
}
