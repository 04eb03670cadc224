//! What a statement answers must not depend on columns that a later migration may add: the columns of a table are named
//! wherever they are read. A connection that has prepared `select *` fails once a column is added ("cached plan must not
//! change result type"). Test `columns` shows that on a running gateway.
//!
//! `*` is allowed over a subquery, a common table expression or a function, whose columns are named where they are made.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A token of SQL; words in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Symbol(char),
    /// A text, a number, a parameter.
    Value,
    /// Something that is filled in when the statement is put together.
    Hole,
}

impl Token {
    fn is(&self, word: &str) -> bool {
        matches!(self, Self::Word(own) if own == word)
    }

    fn is_any(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.is(word))
    }
}

/// The tokens of some SQL; those of a function's body follow what stands before it, each statement after a `;`.
fn tokens(sql: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let skip = if rest.starts_with("--") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if first == '\'' {
            found.push(Token::Value);
            rest[1..].find('\'').map_or(rest.len(), |end| end + 2)
        } else if first == '"' {
            let end = rest[1..].find('"').unwrap_or(rest.len() - 1);
            found.push(Token::Word(rest[1..=end].to_lowercase()));
            end + 2
        } else if let Some(tag) = dollar_tag(rest) {
            found.push(Token::Symbol(';'));
            tag.len()
        } else if first == '{' {
            found.push(Token::Hole);
            rest.find('}').map_or(rest.len(), |end| end + 1)
        } else if first.is_ascii_digit() || first == '$' {
            found.push(Token::Value);
            1 + rest[1..].find(|c| !word(c)).unwrap_or(rest.len() - 1)
        } else if word(first) {
            let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
            found.push(Token::Word(rest[..end].to_lowercase()));
            end
        } else {
            if !first.is_whitespace() {
                found.push(Token::Symbol(first));
            }
            first.len_utf8()
        };
        rest = &rest[skip.min(rest.len())..];
    }
    found
}

/// `$$`, `$body$`: where a function's body begins or ends.
fn dollar_tag(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('$')?;
    let end = inner.find(|c: char| !(c.is_ascii_alphabetic() || c == '_'))?;
    inner[end..].starts_with('$').then(|| &text[..end + 2])
}

/// Where the group that is open before `at` ends, or the statement.
fn end_of_group(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token {
            Token::Symbol('(') => depth += 1,
            Token::Symbol(')') if depth == 0 => return index,
            Token::Symbol(')') => depth -= 1,
            Token::Symbol(';') if depth == 0 => return index,
            Token::Word(_) | Token::Symbol(_) | Token::Value | Token::Hole => {}
        }
    }
    tokens.len()
}

/// What a query reads from.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    /// None: a subquery, a function, or something that is filled in.
    name: Option<String>,
    /// Whether nobody here can know what it is.
    unknown: bool,
    alias: Option<String>,
}

const ENDS_FROM: &[&str] = &[
    "where",
    "group",
    "order",
    "limit",
    "having",
    "window",
    "for",
    "union",
    "intersect",
    "except",
    "returning",
    "offset",
    "loop",
    "on",
    "then",
];
const JOINS: &[&str] =
    &["join", "left", "right", "full", "inner", "outer", "cross", "natural", "lateral", "only"];

/// The sources of the `from` that follows `at` in the same query.
fn sources(tokens: &[Token], at: usize) -> Vec<Source> {
    let end = end_of_group(tokens, at);
    let mut index = at;
    let mut depth = 0;
    // The `from` of this query, not one inside of it (a subquery, `extract(… from …)`).
    while index < end && (depth > 0 || !tokens[index].is("from")) {
        match tokens[index] {
            Token::Symbol('(') => depth += 1,
            Token::Symbol(')') => depth -= 1,
            _ if depth == 0 && tokens[index].is_any(&["union", "intersect", "except"]) => return Vec::new(),
            _ => {}
        }
        index += 1;
    }
    let mut found = Vec::new();
    let mut expects_one = false;
    while index < end {
        let token = &tokens[index];
        index += 1;
        if token.is("from") || token.is("join") || *token == Token::Symbol(',') {
            expects_one = true;
        } else if token.is("on") || token.is("using") {
            // A condition ends where the next source begins.
            expects_one = false;
        } else if *token == Token::Symbol('(') && !expects_one {
            index = end_of_group(tokens, index) + 1;
        } else if expects_one && token.is_any(JOINS) {
        } else if expects_one {
            let (name, unknown) = match token {
                Token::Word(name) => (Some(name.clone()), false),
                Token::Symbol('(') => {
                    index = end_of_group(tokens, index) + 1;
                    (None, false)
                }
                Token::Symbol(_) | Token::Value | Token::Hole => (None, true),
            };
            let mut source = Source { name, unknown, alias: None };
            if tokens.get(index) == Some(&Token::Symbol('.')) {
                source.name = tokens.get(index + 1).and_then(word);
                index += 2;
            }
            if tokens.get(index) == Some(&Token::Symbol('(')) {
                source.name = None;
                index = end_of_group(tokens, index + 1) + 1;
            }
            while tokens
                .get(index)
                .is_some_and(|token| token.is_any(&["with", "ordinality", "as", "materialized"]))
            {
                index += 1;
            }
            let ends = |token: &Token| {
                token.is_any(ENDS_FROM) || token.is_any(JOINS) || token.is("using") || token.is("set")
            };
            if let Some(Token::Word(alias)) = tokens.get(index).filter(|token| !ends(token)) {
                source.alias = Some(alias.clone());
                index += 1;
            }
            found.push(source);
            expects_one = false;
        } else if token.is_any(ENDS_FROM) {
            break;
        }
    }
    found
}

fn word(token: &Token) -> Option<String> {
    match token {
        Token::Word(word) => Some(word.clone()),
        Token::Symbol(_) | Token::Value | Token::Hole => None,
    }
}

/// Each `*` that stands for the columns of one of `tables`, or of nobody knows what; `deep`: also inside of subqueries.
fn wildcards(sql: &str, tables: &BTreeSet<String>, deep: bool) -> Vec<String> {
    let tokens = tokens(sql);
    let mut wrong = Vec::new();
    let mut depth: usize = 0;
    for (index, token) in tokens.iter().enumerate() {
        match token {
            Token::Symbol('(') => depth += 1,
            Token::Symbol(')') => depth = depth.saturating_sub(1),
            Token::Symbol(';') => depth = 0,
            Token::Symbol('*') if deep || depth == 0 => {
                if let Some(why) = judge(&tokens, index, tables) {
                    wrong.push(why);
                }
            }
            Token::Word(_) | Token::Symbol(_) | Token::Value | Token::Hole => {}
        }
    }
    wrong
}

/// Why the `*` at `at` is none that may stand there; nothing if it multiplies, counts, or stands for named columns.
fn judge(tokens: &[Token], at: usize, tables: &BTreeSet<String>) -> Option<String> {
    let before = &tokens[at.checked_sub(1)?];
    let qualifier =
        (*before == Token::Symbol('.')).then(|| tokens.get(at.checked_sub(2)?).and_then(word)).flatten();
    let begins = match &qualifier {
        Some(_) => at.checked_sub(3).map(|index| &tokens[index])?,
        None => before,
    };
    let stands_in_list = begins.is_any(&["select", "returning", "distinct", "all"])
        || *begins == Token::Symbol(',')
        // `distinct on (…) *`
        || (*begins == Token::Symbol(')') && tokens.get(at + 1).is_some_and(|after| after.is("from")));
    if qualifier.is_none() && !stands_in_list {
        return None;
    }
    let text = qualifier.as_ref().map_or("*".to_owned(), |alias| format!("{alias}.*"));
    // Back to what this list belongs to.
    let mut depth = 0;
    let owner = tokens[..at].iter().rev().find(|token| {
        match token {
            Token::Symbol(')') => depth += 1,
            Token::Symbol('(') if depth > 0 => depth -= 1,
            Token::Word(_) | Token::Symbol(_) | Token::Value | Token::Hole => {}
        }
        depth == 0 && token.is_any(&["select", "returning"])
    });
    if owner.is_some_and(|owner| owner.is("returning")) {
        return Some(format!("returning {text}"));
    }
    let sources = sources(tokens, at);
    let meant: Vec<&Source> = match &qualifier {
        None => sources.iter().collect(),
        Some(alias) => {
            let named = |source: &&Source| source.alias.as_ref().or(source.name.as_ref()) == Some(alias);
            sources.iter().filter(named).collect()
        }
    };
    if meant.is_empty() {
        return Some(format!("{text} of something unknown"));
    }
    let of = meant
        .iter()
        .find(|source| source.unknown || source.name.as_ref().is_some_and(|name| tables.contains(name)))?;
    Some(format!("{text} of {}", of.name.as_deref().unwrap_or("something unknown")))
}

pub fn files(root: &str, extension: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
    let (mut found, mut folders) = (Vec::new(), vec![root]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|own| own == extension) {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty());
    found
}

/// The tables and views of the schema.
fn relations() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (_, sql) in files("migrations", "sql") {
        let tokens = tokens(&sql);
        for (index, token) in tokens.iter().enumerate() {
            if token.is_any(&["table", "view"]) && creates(&tokens[..index]) {
                let skipped = |token: &&Token| {
                    token.is_any(&["if", "not", "exists", "reporting"]) || **token == Token::Symbol('.')
                };
                let named = tokens[index + 1..].iter().find(|token| !skipped(token));
                names.extend(named.and_then(word));
            }
        }
    }
    assert!(names.contains("hold") && names.contains("identity_provider"), "{names:?}");
    names
}

/// Whether a statement that creates something ends so: `create`, `create or replace`, `create unlogged`.
fn creates(tokens: &[Token]) -> bool {
    let head = tokens.rsplit(|token| *token == Token::Symbol(';')).next().unwrap_or_default();
    let known = ["create", "or", "replace", "unlogged", "materialized"];
    head.first().is_some_and(|token| token.is("create")) && head.iter().all(|token| token.is_any(&known))
}

/// The texts of a source file as statements are made of them: those of one `concat!` are one, and comments are none.
fn texts(stream: TokenStream, found: &mut Vec<String>) {
    let mut last_word = String::new();
    for tree in stream {
        match tree {
            TokenTree::Literal(literal) => found.extend(text(literal)),
            TokenTree::Group(group) if last_word == "concat" => found.push(joined(group.stream())),
            TokenTree::Group(group) if is_comment(&group) => {}
            TokenTree::Group(group) => texts(group.stream(), found),
            TokenTree::Ident(ident) => {
                last_word = ident.to_string();
                continue;
            }
            TokenTree::Punct(punct) if punct.as_char() == '!' => continue,
            TokenTree::Punct(_) => {}
        }
        last_word.clear();
    }
}

/// `[doc = "…"]`, which is what a doc comment becomes.
fn is_comment(group: &proc_macro2::Group) -> bool {
    group.delimiter() == Delimiter::Bracket
        && group.stream().into_iter().next().is_some_and(|first| first.to_string() == "doc")
}

fn text(literal: proc_macro2::Literal) -> Option<String> {
    match syn::Lit::new(literal) {
        syn::Lit::Str(text) => Some(text.value()),
        _ => None,
    }
}

/// A `concat!`; what is no text in it is a hole.
fn joined(stream: TokenStream) -> String {
    let mut whole = String::new();
    let mut is_hole = false;
    for tree in stream {
        match tree {
            TokenTree::Literal(literal) => whole.push_str(&text(literal).unwrap_or(" {} ".into())),
            TokenTree::Punct(punct) if punct.as_char() == ',' => is_hole = false,
            TokenTree::Ident(_) | TokenTree::Group(_) | TokenTree::Punct(_) if !is_hole => {
                is_hole = true;
                whole.push_str(" {} ");
            }
            TokenTree::Ident(_) | TokenTree::Group(_) | TokenTree::Punct(_) => {}
        }
    }
    whole
}

#[test]
fn no_statement_of_the_store_reads_columns_that_it_does_not_name() {
    let tables = relations();
    let mut wrong = Vec::new();
    let mut statements = 0;
    for (path, source) in files("src/store", "rs") {
        let mut found = Vec::new();
        texts(source.parse().unwrap(), &mut found);
        for sql in found {
            statements += usize::from(sql.contains("select ") || sql.contains("returning "));
            for why in wildcards(&sql, &tables, true) {
                wrong.push(format!("{}: {why}: {sql}", path.display()));
            }
        }
    }
    assert!(statements > 100, "only {statements} statements were found");
    assert!(wrong.is_empty(), "name the columns: {wrong:#?}");
}

#[test]
fn no_function_and_no_view_answers_whole_rows_of_a_table() {
    let tables = relations();
    let mut wrong = Vec::new();
    for (path, sql) in files("migrations", "sql") {
        let at = path.display();
        wrong.extend(wildcards(&sql, &tables, false).into_iter().map(|why| format!("{at}: {why}")));
        let tokens = tokens(&sql);
        for (index, _) in tokens.iter().enumerate().filter(|(_, token)| token.is("returns")) {
            let returned = tokens[index + 1..].iter().find(|token| !token.is("setof")).and_then(word);
            if let Some(table) = returned.filter(|name| tables.contains(name)) {
                wrong.push(format!("{at}: a function returns rows of {table}"));
            }
        }
        let rows = tokens.windows(2).filter(|pair| pair[0] == Token::Symbol('%') && pair[1].is("rowtype"));
        wrong.extend(rows.map(|_| format!("{at}: a variable of a table's row type")));
        // A table's name is the name of its row type too.
        let declared = tokens.iter().filter(|token| !token.is("constant")).collect::<Vec<_>>();
        for three in declared.windows(3) {
            let is_variable = word(three[0]).is_some_and(|name| name.starts_with("v_"));
            let of_table = word(three[1]).is_some_and(|name| tables.contains(&name));
            if is_variable && of_table && matches!(three[2], Token::Symbol(';' | ':')) {
                wrong.push(format!("{at}: a variable of a table's row type"));
            }
        }
    }
    assert!(wrong.is_empty(), "name the columns: {wrong:#?}");
}

#[test]
fn the_rule_tells_tables_from_what_names_its_columns() {
    let tables = BTreeSet::from(["hold".to_owned(), "entry".to_owned()]);
    let deep = |sql| wildcards(sql, &tables, true);
    for sql in [
        "select * from hold",
        "select h.* from hold h where h.hold_id = $1",
        "select distinct on (h.org_id) * from hold h",
        "select x, extract(epoch from now()) as age, h.* from hold as h",
        "with due as (select 1) select d.*, e.* from due d join entry e using (org_id)",
        "select x.* from (select * from entry where kind = 'consume') x",
        "insert into hold (a) values (1) returning *",
        "update hold h set a = 2 * b from (select 1) x returning h.*",
        "select a from t union all select * from public.hold",
        "select {COLUMNS}, b.*",
        "select * from {TABLES}",
        "SELECT * FROM \"hold\"",
    ] {
        assert!(!deep(sql).is_empty(), "{sql}");
    }
    for sql in [
        "select count(*) from hold",
        "select a * 2, 3 * b, f(c) * (d * e) from hold",
        "select * from (select a, b from hold) h order by a",
        "select h.*, e.a from (select a from hold) h, entry e",
        "with due as (select a from hold) select * from due",
        "select d.* from draw_budgets($1) d",
        "select d.* from unnest($1::text[]) with ordinality d(a, b) join hold h on h.a = d.a",
        "a log message with * and nothing else",
    ] {
        assert_eq!(deep(sql), [""; 0], "{sql}");
    }
    let shallow = |sql| wildcards(sql, &tables, false);
    assert!(
        shallow("create function f() returns void as $$ begin select * into v from hold; end $$").len() == 1
    );
    assert!(
        shallow("create function f() returns int as $$ select a from (select * from hold) h $$").is_empty()
    );
}
