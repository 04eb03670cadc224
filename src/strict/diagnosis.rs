//! What is wrong with bytes that should be a JSON object, in words of those who sent them.

use super::json::BadJson;

/// How far the beginning is looked at to tell a form by it.
const BEGINNING: usize = 512;

/// A place in a text, as people and editors count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// How many bytes come before it.
    pub byte: usize,
    /// The number of its line; the first is 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

impl Position {
    /// The place of the byte `at`; what comes before it must be UTF-8.
    pub(super) fn of(bytes: &[u8], at: usize) -> Self {
        let before = bytes.get(..at).unwrap_or(bytes);
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let begins = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let begun = before.get(begins..).unwrap_or_default();
        // Of a character only the first byte is counted.
        let column = begun.iter().filter(|byte| **byte & 0xC0 != 0x80).count() + 1;
        Self { byte: at, line, column }
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { byte, line, column } = self;
        write!(f, "byte {byte} (line {line}, column {column})")
    }
}

/// The text of what should be a JSON object; an error that says what it is, if it is something else. It does not check that
/// the object is well-formed.
pub(super) fn object_text(bytes: &[u8]) -> Result<&str, BadJson> {
    if let Some(found) = foreign(bytes) {
        return Err(BadJson::Foreign(found));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| BadJson::not_text(bytes, error))?;
    let begun = text.trim_start_matches([' ', '\t', '\n', '\r']);
    let at = text.len() - begun.len();
    match begun.as_bytes().first() {
        Some(b'{') => Ok(text),
        None => Err(BadJson::Foreign("it is empty")),
        Some(b'"') if holds_json(begun) => Err(BadJson::Foreign(
            "it is a JSON text that holds JSON, so it was encoded twice: send the object itself",
        )),
        Some(b'"') => Err(BadJson::Foreign("it is a JSON text; it must be a JSON object")),
        Some(b'[') => Err(BadJson::Foreign("it is a JSON list; it must be a JSON object")),
        Some(b'0'..=b'9' | b'-') => Err(BadJson::Foreign("it is a number; it must be a JSON object")),
        Some(_) if ["null", "true", "false"].contains(&begun.trim_end()) => {
            Err(BadJson::Foreign("it is a JSON literal; it must be a JSON object"))
        }
        Some(_) => Err(BadJson::NoObject(Position::of(bytes, at))),
    }
}

/// What bytes are that cannot be UTF-8 JSON, as far as their beginning tells.
fn foreign(bytes: &[u8]) -> Option<&'static str> {
    Some(match bytes {
        [0xEF, 0xBB, 0xBF, ..] => {
            "it begins with a byte order mark (the bytes EF BB BF): send UTF-8 without it"
        }
        [0xFF, 0xFE, 0, 0, ..] | [0, 0, 0xFE, 0xFF, ..] | [0, 0, 0, 1..=255, ..] | [1..=255, 0, 0, 0, ..] => {
            "it is UTF-32: it must be UTF-8"
        }
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] | [0, 1..=255, 0, 1..=255, ..] | [1..=255, 0, 1..=255, 0, ..] => {
            "it is UTF-16: it must be UTF-8"
        }
        [0x1F, 0x8B, ..] => "it is compressed: say so with 'Content-Encoding: gzip'",
        [0x28, 0xB5, 0x2F, 0xFD, ..] => "it is compressed with zstd: send it as it is, or with gzip",
        [b'-', b'-', ..] if contains(bytes, b"content-disposition") => {
            "it is a form (multipart/form-data): it must be a JSON object"
        }
        _ if is_form(bytes) => "it is a form (application/x-www-form-urlencoded): it must be a JSON object",
        _ => return None,
    })
}

fn contains(bytes: &[u8], lower_case: &[u8]) -> bool {
    let beginning = bytes.get(..BEGINNING).unwrap_or(bytes);
    beginning.windows(lower_case.len()).any(|window| window.eq_ignore_ascii_case(lower_case))
}

/// Whether bytes begin with a name and an equals sign, as `type=…&prompt=…` does.
fn is_form(bytes: &[u8]) -> bool {
    let beginning = bytes.get(..BEGINNING).unwrap_or(bytes);
    let name = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.-%+[]*".contains(byte);
    let length = beginning.iter().take_while(|byte| name(byte)).count();
    length > 0 && beginning.get(length) == Some(&b'=') && beginning.first() != Some(&b'[')
}

/// Whether a JSON text holds a JSON object or list.
fn holds_json(literal: &str) -> bool {
    #[expect(clippy::disallowed_methods, reason = "a string has no keys")]
    let text = serde_json::from_str::<String>(literal).unwrap_or_default();
    text.trim_start().starts_with(['{', '['])
}

/// Half of a surrogate pair in a JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HalfPair {
    /// As it is written, such as `\ud83d`.
    pub escape: String,
    /// The position within the text, in characters, from 1.
    pub position: usize,
}

impl std::fmt::Display for HalfPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { escape, position } = self;
        write!(
            f,
            "half of a surrogate pair ({escape}) at character {position}: an emoji or another character was cut in two. Send \
             both halves, or neither"
        )
    }
}

/// The first half of a surrogate pair in the source of JSON strings, whose other half is missing. Such a text has no meaning:
/// the two halves of `\ud83e\udd85` are one character, and each alone is none.
pub fn half_pair(source: &str) -> Option<HalfPair> {
    if !source.contains("\\u") {
        return None;
    }
    let unit = |at: usize| {
        let hex =
            source.get(at..).and_then(|rest| rest.strip_prefix("\\u")).and_then(|rest| rest.get(..4))?;
        u16::from_str_radix(hex, 16).ok()
    };
    let (mut at, mut position) = (0, 1);
    // The quotation mark at the beginning is no character of the text.
    for (here, c) in source.char_indices().skip(usize::from(source.starts_with('"'))) {
        if here < at {
            continue;
        }
        if c == '\\' {
            at = here + 2;
            match unit(here) {
                Some(0xD800..=0xDBFF) if matches!(unit(here + 6), Some(0xDC00..=0xDFFF)) => at = here + 12,
                Some(0xD800..=0xDFFF) => {
                    let escape = source.get(here..here + 6).unwrap_or_default().to_owned();
                    return Some(HalfPair { escape, position });
                }
                Some(_) => at = here + 6,
                None => {}
            }
        }
        position += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(bytes: &[u8]) -> String {
        object_text(bytes).map_or_else(|error| error.to_string(), |_| "an object".into())
    }

    #[test]
    fn what_is_sent_instead_of_an_object_is_named() {
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        for (bytes, named) in [
            (&b""[..], "it is empty"),
            (b" \n", "it is empty"),
            (b"\xef\xbb\xbf{}", "byte order mark"),
            (&utf16("{\"a\":1}"), "UTF-16"),
            (&utf16("\u{feff}{}"), "UTF-16"),
            (b"\0{\0}", "UTF-16"),
            (b"\0\0\0{\0\0\0}", "UTF-32"),
            (b"\x1f\x8b\x08\0", "'Content-Encoding: gzip'"),
            (b"type=std-text-to-video&prompt=x", "x-www-form-urlencoded"),
            (b"prompt=%7B", "x-www-form-urlencoded"),
            (
                b"--x\r\nContent-Disposition: form-data; name=\"type\"\r\n\r\nx\r\n--x--",
                "multipart/form-data",
            ),
            (br#""{\"type\":1}""#, "encoded twice"),
            (br#""text""#, "it is a JSON text; it must be a JSON object"),
            (b"[1]", "list"),
            (b"-5", "number"),
            (b"null", "literal"),
            (b"\n<html>", "line 2, column 1"),
            (b"G\xfcn", "byte 1 (line 1, column 2)"),
        ] {
            assert!(said(bytes).contains(named), "{}: {}", String::from_utf8_lossy(bytes), said(bytes));
        }
        for object in [&b"{}"[..], b" \r\n\t{", b"{\"a=b\":1}"] {
            assert_eq!(said(object), "an object");
        }
    }

    #[test]
    fn a_place_counts_lines_and_characters() {
        assert_eq!(
            Position::of("a\ngün\u{1f985}x".as_bytes(), 10),
            Position { byte: 10, line: 2, column: 5 }
        );
        assert_eq!(Position::of(b"", 0), Position { byte: 0, line: 1, column: 1 });
        assert_eq!(Position::of(b"\n", 1).to_string(), "byte 1 (line 2, column 1)");
    }

    #[test]
    fn half_a_pair_is_found_and_placed() {
        let found = |source: &str| half_pair(source).map(|half| (half.escape, half.position));
        assert_eq!(found(r#""eagle \ud83d""#), Some(("\\ud83d".into(), 7)));
        assert_eq!(found(r#""\ud83d\ud83d\udc4d""#), Some(("\\ud83d".into(), 1)));
        assert_eq!(found(r#""\ud83d\udc4d\udc4d""#), Some(("\\udc4d".into(), 2)));
        assert_eq!(found(r#""\n\\\uDC4D""#), Some(("\\uDC4D".into(), 3)));
        assert_eq!(found(r#"["a","\ud83e"]"#).map(|(escape, _)| escape), Some("\\ud83e".into()));
        for whole in [r#""""#, r#""\ud83e\udd85""#, r#""\\ud83d""#, r#""ü\u00fc\"\u""#, "\"🦅\"", r"\u12"]
        {
            assert_eq!(found(whole), None, "{whole}");
        }
    }
}
