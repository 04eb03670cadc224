//! The copy of a create's body that status answers repeat as `request`.
//!
//! Small bodies are kept letter by letter. Images arrive as `data:` URIs of many megabytes; keeping those would
//! make the simulator the largest process of a load test, so long strings are replaced by a short marker.

use serde_json::value::RawValue;

/// The longest string that is kept. A prompt of 2,000 four-byte characters still fits.
const LONGEST_STRING: usize = 8 * 1024;

/// Copies `json`, which must be valid, with every overlong string replaced. Key order and the text of numbers
/// stay as they were.
pub(super) fn keep(json: &RawValue) -> Box<RawValue> {
    let text = json.get();
    if text.len() <= LONGEST_STRING {
        return json.to_owned();
    }
    let shortened = shorten(text);
    // A failure would mean that the scan below broke the document; an empty echo is then the honest one.
    RawValue::from_string(shortened).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

fn shorten(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(open) = rest.find('"') {
        let inside = &rest[open + 1..];
        let Some(length) = string_length(inside) else { break };
        if length > LONGEST_STRING {
            kept.push_str(&rest[..open]);
            kept.push_str(&format!("\"[{length} bytes dropped by the simulator]\""));
        } else {
            kept.push_str(&rest[..open + 1 + length + 1]);
        }
        rest = &inside[length + 1..];
    }
    kept.push_str(rest);
    kept
}

/// Bytes up to the quote that closes a string.
fn string_length(inside: &str) -> Option<usize> {
    let mut escaped = false;
    inside.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(text: &str) -> String {
        keep(&RawValue::from_string(text.to_owned()).unwrap()).get().to_owned()
    }

    #[test]
    fn small_bodies_stay_verbatim() {
        let text = r#"{ "prompt" : "a \"b\" \\", "duration": 5.0, "type":"x" }"#;
        assert_eq!(kept(text), text);
    }

    #[test]
    fn only_long_strings_go() {
        let long = format!("data:image/png;base64,{}", "A".repeat(20_000));
        let text =
            format!(r#"{{"prompt":"a \"b\" \\","image":"{long}","n":1.50,"images":["{long}\\\"","k"]}}"#);
        let marker = |bytes: usize| format!("[{bytes} bytes dropped by the simulator]");
        let expected = format!(
            r#"{{"prompt":"a \"b\" \\","image":"{}","n":1.50,"images":["{}","k"]}}"#,
            marker(long.len()),
            marker(long.len() + 4)
        );
        assert_eq!(kept(&text), expected);
    }

    #[test]
    fn the_longest_prompt_is_kept() {
        let text = format!(r#"{{"prompt":"{}"}}"#, "\u{1F3AC}".repeat(2000));
        assert_eq!(kept(&text), text);
        // An escaped prompt is longer on the wire (12 bytes a character) and may go; the price does not need it.
    }
}
