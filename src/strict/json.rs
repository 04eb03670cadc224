//! JSON without duplicate keys. Depending on the type, serde keeps the last of two values, or the first; so the text is
//! scanned for duplicate keys before it is parsed.

use std::borrow::Cow;
use std::collections::HashSet;

use memchr::memchr2;
use serde::de::DeserializeOwned;

use super::diagnosis::{Position, object_text};
use super::fold::is_ignorable;

/// Maximum depth of nested objects and lists, the same as in serde_json.
pub const MAX_DEPTH: usize = 128;

/// Maximum number of values in a text, at all levels together. Each of them costs far more time and memory than its bytes.
pub const MAX_VALUES: usize = 20_000;

/// Maximum number of characters of a key that an error shows.
const SHOWN: usize = 100;

/// Why a JSON text is refused.
#[derive(Debug, thiserror::Error)]
pub enum BadJson {
    /// An object has a key twice; the path of the key.
    #[error("the key '{0}' is given twice")]
    GivenTwice(String),
    /// Objects and lists are nested too deeply.
    #[error("objects and lists are nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
    /// There are too many values.
    #[error("it has more than {MAX_VALUES} values")]
    TooMany,
    /// The bytes are not UTF-8, from this place on.
    #[error(
        "it is not UTF-8 at {at}, where {found}. If it is text in Latin-1, Latin-5 or another one-byte encoding, convert it"
    )]
    NotText { at: Position, found: String },
    /// The bytes are something else than a JSON object; what they are, and what would be right.
    #[error("{0}")]
    Foreign(&'static str),
    /// The bytes are not JSON from their beginning on.
    #[error("it is not JSON at {0}; it must be a JSON object")]
    NoObject(Position),
    /// The text is not JSON, or not of the wanted type.
    #[error("{}", said(.0))]
    Parse(#[from] serde_json::Error),
}

impl BadJson {
    pub(super) fn not_text(bytes: &[u8], error: std::str::Utf8Error) -> Self {
        let at = Position::of(bytes, error.valid_up_to());
        let found = match (error.error_len(), bytes.get(at.byte)) {
            (Some(_), Some(byte)) => format!("0x{byte:02X} begins no character"),
            _ => "it ends in the middle of a character".into(),
        };
        Self::NotText { at, found }
    }
}

/// What is wrong with a JSON text, and where.
fn said(error: &serde_json::Error) -> String {
    let (line, column, told) = (error.line(), error.column(), error.to_string());
    if error.is_eof() {
        return format!("it ends at line {line}, column {column}, before the object is complete");
    }
    if told.contains("surrogate") || told.contains("hex escape") {
        return format!(
            "it has half of a surrogate pair (an emoji or another character that was cut in two) before line {line}, column \
             {column}: send both halves, or neither"
        );
    }
    if error.is_syntax() { format!("it is not JSON: {told}") } else { told }
}

/// Parses a JSON text; an error if any object has a key twice.
pub fn read_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadJson> {
    let text = std::str::from_utf8(bytes).map_err(|error| BadJson::not_text(bytes, error))?;
    parse(text)
}

/// Parses a JSON object from a caller, as [`read_json`]. Of other bytes the error says what they are.
pub fn read_object<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadJson> {
    parse(object_text(bytes)?)
}

/// The text of a JSON object from a caller, checked as by [`check_json`]. Of other bytes the error says what they are.
pub fn check_object(bytes: &[u8]) -> Result<&str, BadJson> {
    let text = object_text(bytes)?;
    check_json(text)?;
    Ok(text)
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, BadJson> {
    check_json(text)?;
    #[expect(clippy::disallowed_methods, reason = "the text has just been checked")]
    Ok(serde_json::from_str(text)?)
}

/// Refuses a text in which an object has a key twice, at any depth and even if the keys are escaped differently, and one that is
/// nested too deeply or has too many values. It does not check that the text is JSON.
pub fn check_json(text: &str) -> Result<(), BadJson> {
    let bytes = text.as_bytes();
    let mut within: Vec<Nesting<'_>> = Vec::new();
    let (mut at, mut values) = (0, 0);
    while let Some(byte) = bytes.get(at) {
        if matches!(byte, b'{' | b'[' | b',') {
            values += 1;
            if values > MAX_VALUES {
                return Err(BadJson::TooMany);
            }
        }
        match byte {
            b'{' | b'[' if within.len() == MAX_DEPTH => return Err(BadJson::TooDeep),
            b'{' => within.push(Nesting::object()),
            b'[' => within.push(Nesting::List { index: 0 }),
            b'}' | b']' => drop(within.pop()),
            b',' => {
                if let Some(level) = within.last_mut() {
                    level.next();
                }
            }
            b'"' => {
                let Some(end) = string_end(bytes, at) else { return Ok(()) };
                if let Some(Nesting::Object { seen, key, key_follows }) = within.last_mut()
                    && *key_follows
                {
                    *key = unescaped(&text[at..end]);
                    *key_follows = false;
                    if !seen.insert(key.clone()) {
                        return Err(BadJson::GivenTwice(path(&within)));
                    }
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// An object or a list whose end has not been reached.
enum Nesting<'a> {
    Object { seen: HashSet<Cow<'a, str>>, key: Cow<'a, str>, key_follows: bool },
    List { index: usize },
}

impl Nesting<'_> {
    fn object() -> Self {
        Self::Object { seen: HashSet::new(), key: Cow::Borrowed(""), key_follows: true }
    }

    fn next(&mut self) {
        match self {
            Self::Object { key_follows, .. } => *key_follows = true,
            Self::List { index } => *index += 1,
        }
    }
}

/// The position after the closing quotation mark of the string that begins at `start`.
fn string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        at += memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// The text of a string literal; its raw text if it has no meaning (half a surrogate pair).
fn unescaped(literal: &str) -> Cow<'_, str> {
    let inside = &literal[1..literal.len() - 1];
    if !inside.contains('\\') {
        return Cow::Borrowed(inside);
    }
    #[expect(clippy::disallowed_methods, reason = "a string has no keys")]
    let text = serde_json::from_str::<String>(literal);
    text.map_or(Cow::Borrowed(inside), Cow::Owned)
}

fn path(within: &[Nesting<'_>]) -> String {
    let mut path = String::new();
    for level in within {
        match level {
            Nesting::Object { key, .. } => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(&shown(key));
            }
            Nesting::List { index } => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

/// A name from the input as errors show it: shortened, and with invisible characters escaped.
pub(crate) fn shown(name: &str) -> String {
    let mut shown: String = name.chars().take(SHOWN).flat_map(visible).collect();
    if name.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

fn visible(c: char) -> impl Iterator<Item = char> {
    let unseen = c.is_control() || is_ignorable(c);
    let escaped = unseen.then(|| c.escape_default());
    let plain = (!unseen).then_some(c);
    escaped.into_iter().flatten().chain(plain)
}

#[cfg(test)]
mod tests;
