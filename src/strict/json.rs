//! JSON without duplicate keys. serde keeps the last of two values, or the first, as the type has it; so the text is looked
//! through before it is parsed, whatever it is parsed into.

use std::borrow::Cow;
use std::collections::HashSet;

use memchr::memchr2;
use serde::de::DeserializeOwned;

/// Objects and lists that may stand within one another: as many as serde_json reads into values.
pub const MAX_DEPTH: usize = 128;

/// Characters of a key that an error shows.
const SHOWN: usize = 100;

/// A JSON text that is not read.
#[derive(Debug, thiserror::Error)]
pub enum BadJson {
    /// A key stands twice in one object. The key's path.
    #[error("the key '{0}' is given twice")]
    GivenTwice(String),
    /// It is nested too deeply to be looked through.
    #[error("objects and lists are nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
    /// It is no text.
    #[error("it is not UTF-8 at byte {0}")]
    NotText(usize),
    /// It is no JSON, or not what is wanted; where.
    #[error(transparent)]
    Parse(#[from] serde_json::Error),
}

/// Reads a JSON text in which no object has a key twice.
pub fn read_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadJson> {
    let text = std::str::from_utf8(bytes).map_err(|error| BadJson::NotText(error.valid_up_to()))?;
    check_json(text)?;
    #[expect(clippy::disallowed_methods, reason = "the text has just been checked")]
    Ok(serde_json::from_str(text)?)
}

/// Refuses a text in which an object has a key twice, in whatever spelling and at whatever depth. It is not parsed: of a
/// text that is no JSON, nothing is said here.
pub fn check_json(text: &str) -> Result<(), BadJson> {
    let bytes = text.as_bytes();
    let mut within: Vec<Level<'_>> = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'{' | b'[' if within.len() == MAX_DEPTH => return Err(BadJson::TooDeep),
            b'{' => within.push(Level::object()),
            b'[' => within.push(Level::List { index: 0 }),
            b'}' | b']' => drop(within.pop()),
            b',' => {
                if let Some(level) = within.last_mut() {
                    level.next();
                }
            }
            b'"' => {
                let Some(end) = string_end(bytes, at) else { return Ok(()) };
                if let Some(Level::Object { seen, key, key_follows }) = within.last_mut()
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

/// An object or a list that has not ended yet.
enum Level<'a> {
    Object { seen: HashSet<Cow<'a, str>>, key: Cow<'a, str>, key_follows: bool },
    List { index: usize },
}

impl Level<'_> {
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

/// Behind the quotation mark that ends the string which begins at `start`.
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

/// What a string literal means. One that means nothing (half a surrogate pair) stands for itself.
fn unescaped(literal: &str) -> Cow<'_, str> {
    let inside = &literal[1..literal.len() - 1];
    if !inside.contains('\\') {
        return Cow::Borrowed(inside);
    }
    #[expect(clippy::disallowed_methods, reason = "a string has no keys")]
    let text = serde_json::from_str::<String>(literal);
    text.map_or(Cow::Borrowed(inside), Cow::Owned)
}

fn path(within: &[Level<'_>]) -> String {
    let mut path = String::new();
    for level in within {
        match level {
            Level::Object { key, .. } => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(&shown(key));
            }
            Level::List { index } => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

/// A name that a caller wrote, as errors show it: cut off, and without control characters.
pub(super) fn shown(name: &str) -> String {
    let mut shown: String = name.chars().take(SHOWN).flat_map(visible).collect();
    if name.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

fn visible(c: char) -> impl Iterator<Item = char> {
    let escaped = c.is_control().then(|| c.escape_default());
    let plain = (!c.is_control()).then_some(c);
    escaped.into_iter().flatten().chain(plain)
}

#[cfg(test)]
mod tests;
