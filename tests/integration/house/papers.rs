//! The documents say what is there: links lead somewhere, and the paths, commands, settings, metrics, calls and error codes
//! that they name exist.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use tollgate::admin::api::Audience;
use tollgate::wire::Code;

/// Directories that a path in a document may begin with.
const ROOTS: &[&str] = &[
    "src",
    "tests",
    "benches",
    "migrations",
    "config",
    "deploy",
    "docs",
    ".ci",
    ".cargo",
    ".config",
    ".github",
];

/// A Markdown file of the repository.
struct Paper {
    name: String,
    path: PathBuf,
    /// The text outside fences.
    prose: String,
    /// The lines of fences marked as shell.
    shell: Vec<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn papers() -> Vec<Paper> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && ![".git", "target"].contains(&name.as_str()) {
                folders.push(path);
            } else if name.ends_with(".md") {
                found.push(paper(path));
            }
        }
    }
    assert!(found.len() > 10, "where are the documents?");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn paper(path: PathBuf) -> Paper {
    let name = path.strip_prefix(root()).unwrap().display().to_string();
    let (mut prose, mut shell, mut fence) = (String::new(), Vec::new(), None::<String>);
    for line in fs::read_to_string(&path).unwrap().lines() {
        match (line.trim_start().strip_prefix("```"), &fence) {
            (Some(language), None) => fence = Some(language.to_owned()),
            (Some(_), Some(_)) => fence = None,
            (None, Some(language)) if language == "sh" => shell.push(line.to_owned()),
            (None, Some(_)) => {}
            (None, None) => {
                prose.push_str(line);
                prose.push('\n');
            }
        }
    }
    assert!(fence.is_none(), "{name}: a fence is not closed");
    Paper { name, path, prose, shell }
}

impl Paper {
    /// What stands between back-ticks, a line at a time and across lines.
    fn code(&self) -> impl Iterator<Item = String> {
        let pieces =
            self.prose.split('`').map(|piece| piece.split_whitespace().collect::<Vec<_>>().join(" "));
        pieces.skip(1).step_by(2).collect::<Vec<_>>().into_iter()
    }

    /// The prose without what stands between back-ticks.
    fn words(&self) -> String {
        self.prose.split('`').step_by(2).collect::<Vec<_>>().join("`")
    }

    /// Where its links lead.
    fn links(&self) -> Vec<String> {
        let words = self.words();
        let ends = words.match_indices("](").map(|(at, _)| &words[at + 2..]);
        ends.map(|rest| rest.split(')').next().unwrap().to_owned()).collect()
    }

    /// The anchors that its headings make, as code hosts make them.
    fn anchors(&self) -> Vec<String> {
        let mut seen = HashMap::<String, usize>::new();
        let headings = self.prose.lines().filter(|line| line.starts_with('#'));
        headings
            .map(|heading| {
                let text = heading.trim_start_matches('#').trim().to_lowercase();
                let kept = text.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
                let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
                let times = seen.entry(anchor.clone()).or_default();
                *times += 1;
                if *times == 1 { anchor } else { format!("{anchor}-{}", *times - 1) }
            })
            .collect()
    }
}

/// Fails with every line that was found, each with its document.
fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_link_leads_somewhere() {
    let papers = papers();
    let anchors: BTreeMap<&Path, Vec<String>> =
        papers.iter().map(|paper| (paper.path.as_path(), paper.anchors())).collect();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for paper in &papers {
        for link in paper.links() {
            if link.starts_with("https://") {
                continue;
            }
            seen += 1;
            let (file, anchor) = link.split_once('#').map_or((link.as_str(), None), |(f, a)| (f, Some(a)));
            let target =
                if file.is_empty() { paper.path.clone() } else { paper.path.parent().unwrap().join(file) };
            let Ok(target) = target.canonicalize() else {
                wrong.push(format!("{}: there is no {link}", paper.name));
                continue;
            };
            let known = |anchor: &str| {
                anchors.get(target.as_path()).is_some_and(|all| all.iter().any(|known| known == anchor))
            };
            if anchor.is_some_and(|anchor| !known(anchor)) {
                wrong.push(format!("{}: no heading makes {link}", paper.name));
            }
        }
    }
    none(wrong);
    assert!(seen > 50, "only {seen} links were found");
}

#[test]
fn the_readme_can_be_read_at_one_sitting() {
    let lines = fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines <= 150, "README.md has {lines} lines; move what only some readers need to docs");
}

#[test]
fn every_path_that_is_named_exists() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for paper in papers() {
        let words: Vec<String> =
            paper.shell.iter().flat_map(|line| line.split_whitespace()).map(ToOwned::to_owned).collect();
        for text in paper.code().chain(words) {
            let path = text.trim_end_matches('/');
            let plain = path.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
            let below = path.split_once('/').is_some_and(|(first, _)| ROOTS.contains(&first));
            let top = !path.contains('/') && (path.ends_with(".toml") || path.ends_with(".md"));
            // `my.toml` and the like are the reader's own.
            let ours = below || (top && !text.starts_with("my.") && !text.starts_with("book."));
            if plain && ours {
                seen += 1;
                if !root().join(path).exists() {
                    wrong.push(format!("{}: there is no {path}", paper.name));
                }
            }
        }
    }
    none(wrong);
    assert!(seen > 20, "only {seen} paths were found");
}

/// The commands of a document: whole lines of shell, and what stands between back-ticks.
fn commands(paper: &Paper) -> Vec<(String, bool)> {
    let joined = paper.shell.join("\n").replace("\\\n", " ");
    let whole = joined.lines().map(|line| (line.split(" #").next().unwrap_or_default().to_owned(), true));
    whole.chain(paper.code().map(|text| (text, false))).collect()
}

/// The arguments of `tollgate` in a line; none if it runs something else.
fn arguments(line: &str) -> Option<Vec<String>> {
    let words = words(line);
    let words: Vec<&str> =
        words.iter().map(String::as_str).take_while(|word| !["|", ">", "&&"].contains(word)).collect();
    match words.as_slice() {
        ["tollgate", rest @ ..] => Some(rest.iter().map(|word| (*word).to_owned()).collect()),
        ["cargo", "run", rest @ ..] => {
            let own = rest.iter().position(|word| *word == "--")?;
            Some(rest[own + 1..].iter().map(|word| (*word).to_owned()).collect())
        }
        _ => None,
    }
}

/// A line's words; what stands between single quotes is one.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quoted) = (Vec::new(), false);
    for piece in line.split('\'') {
        if quoted {
            words.push(piece.to_owned());
        } else {
            words.extend(piece.split_whitespace().map(ToOwned::to_owned));
        }
        quoted = !quoted;
    }
    words
}

/// What is wrong with a command; `whole` if nothing that it needs may be left out.
fn mistake(arguments: &[String], whole: bool) -> Option<String> {
    let mut command = tollgate::cli::Cli::command();
    command.build();
    let (mut at, mut given, mut plain) = (&command, Vec::new(), 0);
    let mut rest = arguments.iter().map(String::as_str);
    while let Some(word) = rest.next() {
        if let Some(option) = word.strip_prefix("--") {
            let (name, value) = option.split_once('=').map_or((option, None), |(n, v)| (n, Some(v)));
            let Some(arg) = at.get_arguments().find(|arg| arg.get_long() == Some(name)) else {
                return (name != "help").then(|| format!("'{}' has no --{name}", at.get_name()));
            };
            if arg.get_action().takes_values() && value.is_none() && rest.next().is_none() && whole {
                return Some(format!("--{name} has no value"));
            }
            given.push(arg.get_id().clone());
        } else if let Some(below) = at.find_subcommand(word) {
            at = below;
        } else if at.has_subcommands() {
            // A word in capitals stands for whatever one wants to know of.
            let stands_for_any = word.chars().all(|c| c.is_ascii_uppercase());
            return (!stands_for_any).then(|| format!("'{}' has no command {word}", at.get_name()));
        } else {
            plain += 1;
        }
    }
    let places = at.get_positionals().count();
    if plain > places {
        return Some(format!("'{}' takes {places} plain arguments, not {plain}", at.get_name()));
    }
    let needed = at.get_positionals().filter(|arg| arg.is_required_set()).count();
    if whole && plain < needed {
        return Some(format!("'{}' needs {needed} plain arguments", at.get_name()));
    }
    let missing = at
        .get_arguments()
        .filter(|arg| !arg.is_positional() && arg.is_required_set() && !given.contains(arg.get_id()))
        .find_map(|arg| arg.get_long());
    missing.filter(|_| whole).map(|name| format!("'{}' needs --{name}", at.get_name()))
}

#[test]
fn every_command_that_is_named_can_be_given() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for paper in papers() {
        for (line, whole) in commands(&paper) {
            let Some(arguments) = arguments(&line) else { continue };
            seen += 1;
            if let Some(mistake) = mistake(&arguments, whole) {
                wrong.push(format!("{}: {line}: {mistake}", paper.name));
            }
        }
    }
    none(wrong);
    assert!(seen > 50, "only {seen} commands were found");
}

#[test]
fn wrong_commands_are_noticed() {
    for (line, whole) in [
        ("tollgate serv --config FILE", false),
        ("tollgate serve --conf FILE", false),
        ("tollgate serve", true),
        ("tollgate serve --config", true),
        ("tollgate admin credit grant --org org_…", true),
        ("tollgate admin key revoke key_… now", true),
        ("tollgate admin key revoke", true),
        ("cargo run --release -- dem", true),
    ] {
        assert!(mistake(&arguments(line).unwrap(), whole).is_some(), "{line}");
    }
}

#[test]
fn every_setting_that_is_named_exists() {
    let reference = tollgate::config::reference();
    let sections: Vec<&str> =
        reference.lines().filter_map(|line| line.strip_prefix("## `")?.strip_suffix('`')).collect();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for paper in papers() {
        for text in paper.code() {
            let setting = text.split(" = ").next().unwrap_or_default();
            let first = setting.split('.').next().unwrap_or_default();
            let plain = setting.contains('.')
                && setting.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.".contains(c));
            let files = [".rs", ".md", ".toml", ".json"];
            if !plain || !sections.contains(&first) || files.iter().any(|end| setting.ends_with(end)) {
                continue;
            }
            seen += 1;
            if !sections.contains(&setting) && !reference.contains(&format!("`{setting}`")) {
                wrong.push(format!("{}: there is no setting {setting}", paper.name));
            }
        }
    }
    none(wrong);
    assert!(seen > 30, "only {seen} settings were found");
}

/// What `is_part` makes words of, where they begin with `prefix`.
fn named(text: &str, prefix: &str, is_part: impl Fn(char) -> bool) -> Vec<String> {
    let words = text.split(|c: char| !is_part(c));
    words
        .filter(|word| word.starts_with(prefix) && word.len() > prefix.len())
        .map(ToOwned::to_owned)
        .collect()
}

#[test]
fn every_metric_and_variable_that_is_named_exists() {
    let mut sources = tollgate::config::reference();
    for folder in ["src", "tests", "migrations"] {
        read_all(&root().join(folder), &mut sources);
    }
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for paper in papers() {
        let text = format!("{}\n{}", paper.prose, paper.shell.join("\n"));
        let metrics = named(&text, "tollgate_", |c| c.is_ascii_lowercase() || c == '_');
        let variables =
            named(&text, "TOLLGATE_", |c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
        for name in metrics.into_iter().chain(variables) {
            seen += 1;
            // The database's own role is called like a metric.
            let known = tollgate::metrics::ALL.iter().any(|metric| metric.name == name)
                || (name != name.to_lowercase()
                    || ["tollgate_reader", "tollgate_app"].contains(&name.as_str()))
                    && sources.contains(&name);
            if !known {
                wrong.push(format!("{}: there is no {name}", paper.name));
            }
        }
    }
    none(wrong);
    assert!(seen > 100, "only {seen} names were found");
}

fn read_all(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, into);
        } else if let Ok(text) = fs::read_to_string(&path) {
            into.push_str(&text);
        }
    }
}

#[test]
fn every_call_that_is_named_exists() {
    let documents = [tollgate::handlers::document(), tollgate::admin::api::document(Audience::Everybody)]
        .map(|document| serde_json::to_value(document).unwrap());
    let unlisted = ["/admin/v1/openapi.json", "/openapi.json", "/docs", "/console", "/readyz", "/metrics"];
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for paper in papers() {
        for text in paper.code() {
            let Some((method, rest)) = text.split_once(' ') else { continue };
            if !["GET", "POST", "PUT", "PATCH", "DELETE"].contains(&method) || !rest.starts_with('/') {
                continue;
            }
            seen += 1;
            let path = rest.split(['?', ' ']).next().unwrap_or_default();
            let known =
                documents.iter().any(|document| document["paths"][path].get(method.to_lowercase()).is_some());
            if !known && !unlisted.contains(&path) {
                wrong.push(format!("{}: there is no {text}", paper.name));
            }
        }
    }
    none(wrong);
    assert!(seen > 10, "only {seen} calls were found");
}

#[test]
fn the_contract_has_every_error_code_beside_its_status() {
    let contract = papers().into_iter().find(|paper| paper.name == "docs/contract.md").unwrap();
    let (before, rest) = contract.prose.split_once("## Answers and error codes").unwrap();
    let table = rest.split("\n## ").next().unwrap();
    for code in Code::ALL {
        let named = format!("`{}`", code.as_str());
        let row = format!("| {} |", code.status().as_u16());
        let rows = table.lines().filter(|line| line.starts_with(&row) && line.contains(&named)).count();
        let checks = before.lines().filter(|line| line.starts_with('|') && line.contains(&named)).count();
        let expected = if code.status().as_u16() == 400 { rows == 0 && checks > 0 } else { rows == 1 };
        assert!(expected, "docs/contract.md: {named} must stand once in the row of {}", code.status());
    }
}

#[test]
fn the_parts_of_the_architecture_exist() {
    let architecture = papers().into_iter().find(|paper| paper.name == "docs/architecture.md").unwrap();
    let rows = architecture.prose.lines().filter(|line| line.starts_with("| `"));
    let mut seen = 0;
    for row in rows {
        for part in row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2) {
            seen += 1;
            assert!(
                root().join(format!("src/{part}.rs")).exists(),
                "docs/architecture.md: there is no {part}"
            );
        }
    }
    assert!(seen > 10, "only {seen} parts were found");
}
