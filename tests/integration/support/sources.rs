//! The crate's own sources, read as the compiler reads them: which paths, calls and texts a file holds, without what only
//! looks like them in comments and strings.

mod lexer;

use std::fs;
use std::path::{Path, PathBuf};

pub use self::lexer::Token;
use Token::{Float, Group, Sign, Text, Word};

/// One file.
pub struct Source {
    /// Below the directory that was read.
    pub path: PathBuf,
    /// The first part of its module's path: `store` of `store/db/page.rs`.
    pub room: String,
    pub tokens: Vec<Token>,
    pub seen: Seen,
}

/// What stands in a file, macros' arguments included.
#[derive(Default)]
pub struct Seen {
    pub paths: Vec<NamedPath>,
    /// Names of attributes.
    pub attributes: Vec<String>,
    /// Modules that it declares.
    pub modules: Vec<String>,
    /// Names of methods that are called.
    pub methods: Vec<String>,
    /// String literals, escapes as they are written.
    pub strings: Vec<String>,
    /// Float literals outside of modules for tests.
    pub floats: Vec<String>,
}

/// A path as it is written, or from the crate's root.
pub struct NamedPath {
    /// Whether it leads into this crate: it began with `crate`, `self` or `super`, which are resolved.
    pub ours: bool,
    pub segments: Vec<String>,
    /// Within a module for tests.
    pub in_tests: bool,
}

impl NamedPath {
    pub fn ends_with(&self, end: &str) -> bool {
        let end: Vec<&str> = end.split("::").collect();
        self.segments.len() >= end.len() && self.segments[self.segments.len() - end.len()..] == end[..]
    }
}

impl Source {
    /// Every Rust file below this directory of the repository.
    pub fn all(directory: &str) -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        let mut sources = Vec::new();
        let mut directories = vec![root.clone()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let inside = path.strip_prefix(&root).unwrap().to_owned();
                    sources.push(Self::parse(inside, &fs::read_to_string(&path).unwrap()));
                }
            }
        }
        sources
    }

    /// A file at this path below the crate's root module.
    pub fn parse(path: PathBuf, text: &str) -> Self {
        let tokens = lexer::tokens(text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let parts = path.with_extension("");
        let mut module: Vec<String> =
            parts.components().map(|part| part.as_os_str().to_str().unwrap().to_owned()).collect();
        let room = module[0].clone();
        if ["lib", "main"].contains(&room.as_str()) {
            module.clear();
        }
        let mut look = Look { module, in_tests: 0, seen: Seen::default() };
        look.at(&tokens);
        Self { path, room, tokens, seen: look.seen }
    }
}

struct Look {
    module: Vec<String>,
    /// How many modules for tests we are in.
    in_tests: usize,
    seen: Seen,
}

/// The names that are joined by `::` from here on.
fn joined(tokens: &[Token]) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = tokens;
    while let [Word(name), after @ ..] = rest {
        names.push(name.clone());
        let [Sign(':'), Sign(':'), next @ ..] = after else { break };
        rest = next;
    }
    names
}

impl Look {
    fn path(&mut self, written: Vec<String>) {
        let Some(first) = written.first() else { return };
        let (ours, segments) = match first.as_str() {
            "crate" => (true, written[1..].to_vec()),
            "self" => (true, [&self.module, &written[1..]].concat()),
            "super" => {
                let ups = written.iter().take_while(|segment| *segment == "super").count();
                let above = &self.module[..self.module.len().saturating_sub(ups)];
                (true, [above, &written[ups..]].concat())
            }
            _ => (false, written),
        };
        self.seen.paths.push(NamedPath { ours, segments, in_tests: self.in_tests > 0 });
    }

    /// What an import names: `a::{b, c::d}` is two paths.
    fn tree(&mut self, before: &[String], tokens: &[Token]) {
        for tree in tokens.split(|token| *token == Sign(',')) {
            // A leading `::` is another crate, as is a name without it.
            let tree = if let [Sign(':'), Sign(':'), rest @ ..] = tree { rest } else { tree };
            let names = joined(tree);
            let path = [before, &names].concat();
            match tree.get(names.len() * 3..).or_else(|| tree.get(tree.len()..)) {
                Some([Group('{', inner), ..]) => self.tree(&path, inner),
                _ => self.path(path),
            }
        }
    }

    fn at(&mut self, tokens: &[Token]) {
        let mut for_tests = false;
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at..] {
                [Sign('#'), Group('[', attribute), ..]
                | [Sign('#'), Sign('!'), Group('[', attribute), ..] => {
                    for_tests |= *attribute == [Word("cfg".into()), Group('(', vec![Word("test".into())])];
                    self.attribute(attribute);
                    at += if tokens[at + 1] == Sign('!') { 2 } else { 1 };
                }
                [Word(word), Word(name), Group('{', inner), ..] if word == "mod" => {
                    self.seen.modules.push(name.clone());
                    self.in_tests += usize::from(for_tests);
                    self.module.push(name.clone());
                    self.at(inner);
                    self.module.pop();
                    self.in_tests -= usize::from(for_tests);
                    for_tests = false;
                    at += 2;
                }
                [Word(word), Word(name), Sign(';'), ..] if word == "mod" => {
                    self.seen.modules.push(name.clone());
                    for_tests = false;
                    at += 2;
                }
                // (Not what a type captures: `use<'a>`.)
                [Word(word), rest @ ..] if word == "use" && rest.first() != Some(&Sign('<')) => {
                    let end = rest.iter().position(|token| *token == Sign(';')).unwrap_or(rest.len());
                    self.tree(&[], &rest[..end]);
                    for_tests = false;
                    at += end;
                }
                [Sign('.'), Word(name), Group('(', _), ..] | [Sign('.'), Word(name), Sign(':'), ..] => {
                    self.seen.methods.push(name.clone());
                    at += 1;
                }
                [Sign('.'), Word(_), ..] => at += 1,
                [Word(word), ..] => {
                    // What was for tests is not a module.
                    for_tests &= word == "pub";
                    let names = joined(&tokens[at..]);
                    at += names.len() * 3 - 3;
                    self.path(names);
                }
                [Text(text), ..] => {
                    // Some derives are given paths as texts.
                    if text.starts_with("crate::") {
                        self.path(text.split("::").map(str::to_owned).collect());
                    }
                    self.seen.strings.push(text.clone());
                }
                [Float(float), ..] if self.in_tests == 0 => self.seen.floats.push(float.clone()),
                [Group(_, inner), ..] => self.at(inner),
                _ => {}
            }
            at += 1;
        }
    }

    fn attribute(&mut self, attribute: &[Token]) {
        if let [Word(name), ..] = attribute {
            self.seen.attributes.push(name.clone());
            if name != "doc" {
                self.at(attribute);
            }
        }
    }
}

#[test]
fn paths_are_found_wherever_they_stand_and_nowhere_else() {
    let text = r####"
        //! crate::comment
        #![deny(clippy::float_arithmetic)]
        use crate::{a, b::{self, c as d}, e::*};
        use super::super::f;
        /* crate::comment /* nested */ crate::comment */
        #[serde(with = "crate::g")]
        pub(super) struct S<'a>(&'a str, self::h::T);
        fn f() { let _ = ("crate::text", r#"" crate::raw"#, 'c', '\'', 1.5, x.0.begin(), vec![crate::i::J::new()]); }
        #[cfg(test)]
        mod tests { use super::k; const F: f64 = 2.5; }
    "####;
    let seen = Source::parse("room/file/deep.rs".into(), text).seen;
    let ours: Vec<String> =
        seen.paths.iter().filter(|path| path.ours).map(|path| path.segments.join("::")).collect();
    assert_eq!(
        ours,
        [
            "a",
            "b::self",
            "b::c",
            "e",
            "room::f",
            "g",
            "room::file",
            "room::file::deep::h::T",
            "text",
            "i::J::new",
            "room::file::deep::k"
        ]
    );
    assert_eq!((seen.methods, seen.floats), (vec!["begin".to_owned()], vec!["1.5".to_owned()]));
    assert_eq!(seen.attributes, ["deny", "serde", "cfg"]);
    assert_eq!(seen.strings, ["crate::g", "crate::text", "\" crate::raw"]);
}
