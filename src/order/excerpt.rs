//! What is kept of a create while it is unfinished: a short excerpt for the operators' eyes, and digests of its fields, by
//! which what the vendor echoes can be compared with it.

use base64::Engine as _;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::wire::RawObject;

/// The most characters of a prompt, and of any other text.
const PROMPT: usize = 400;
const TEXT: usize = 100;

/// Of so many fields there are digests, and of so many bytes a name may be.
const DIGESTS: usize = 64;
const NAME: usize = 64;

/// The most pictures that an excerpt names.
const PICTURES: usize = 7;

/// An excerpt of a create's body, and digests of its fields. Both are JSON, and small however large the body is.
#[derive(Debug)]
pub struct Excerpt {
    /// The fields that the gateway knows, with long texts cut. Of links there is no query, and of data no byte.
    pub fields: String,
    /// The SHA-256 of each field's value; see [`digest`].
    pub digests: String,
}

impl Excerpt {
    /// The excerpt of a body that is a JSON object.
    pub fn of(body: &[u8]) -> Box<Self> {
        let object = std::str::from_utf8(body).ok().and_then(RawObject::parse);
        let (mut fields, mut digests) = (Map::new(), Map::new());
        for (name, json) in object.iter().flat_map(RawObject::fields) {
            if let Some(shown) = shown(name, json) {
                fields.insert(name.to_owned(), shown);
            }
            // The database takes no NUL in a name.
            if name.len() <= NAME && !name.contains(char::is_control) && digests.len() < DIGESTS {
                digests.insert(name.to_owned(), digest(json).into());
            }
        }
        Self { fields: Value::from(fields).to_string(), digests: Value::from(digests).to_string() }.into()
    }
}

/// What an excerpt shows of a field.
fn shown(name: &str, json: &str) -> Option<Value> {
    match name {
        "prompt" => text(json).map(|prompt| cut(&prompt, PROMPT).into()),
        "type"
        | "negative_prompt"
        | "aspect_ratio"
        | "duration"
        | "sound"
        | "keep_original_sound"
        | "cfg_scale" => match text(json) {
            Some(text) => Some(cut(&text, TEXT).into()),
            None if json.len() <= TEXT => read(json),
            None => None,
        },
        "image" | "end_image" | "video" => text(json).map(|media| without_secrets(&media).into()),
        "images" => {
            let images = read::<Vec<&RawValue>>(json)?.into_iter().take(PICTURES);
            Some(images.filter_map(|image| Some(without_secrets(&text(image.get())?))).collect())
        }
        _ => None,
    }
}

/// A link without its query, or the kind and length of data.
fn without_secrets(media: &str) -> String {
    if media.starts_with("data:") {
        let kind = media.split([',', ';']).next().unwrap_or_default();
        return format!("{} … {} characters", cut(kind, TEXT), media.len());
    }
    cut(media.split(['?', '#']).next().unwrap_or_default(), TEXT)
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn text(json: &str) -> Option<String> {
    if json.starts_with('"') { read(json) } else { None }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the body was checked before, and an echo is compared as it is"
)]
fn read<'a, T: serde::Deserialize<'a>>(json: &'a str) -> Option<T> {
    serde_json::from_str(json).ok()
}

/// A digest of a JSON value that does not depend on how it is written: the SHA-256, in URL-safe base64, of a text's
/// characters, of a number in its shortest form (`5.0` is `5`), of the word of a truth value; of a list, of the digests of its
/// elements one after the other; of an object, of its names and digests in the order of the names.
pub fn digest(json: &str) -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hash(json))
}

fn hash(json: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    match json.as_bytes().first() {
        Some(b'"') if !json.contains('\\') => {
            hash.update(json.get(1..json.len().saturating_sub(1)).unwrap_or_default());
        }
        Some(b'"') => hash.update(text(json).unwrap_or_default()),
        Some(b'[') => {
            for element in read::<Vec<&RawValue>>(json).unwrap_or_default() {
                hash.update(self::hash(element.get()));
            }
        }
        Some(b'{') => {
            let object = RawObject::parse(json);
            let mut fields: Vec<_> = object.iter().flat_map(RawObject::fields).collect();
            fields.sort_unstable();
            for (name, value) in fields {
                hash.update(name);
                hash.update(self::hash(value));
            }
        }
        _ => hash.update(number(json)),
    }
    hash.finalize().into()
}

/// A number without a fraction of zeros.
fn number(json: &str) -> &str {
    match json.split_once('.') {
        Some((whole, fraction)) if fraction.bytes().all(|digit| digit == b'0') => whole,
        _ => json,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(body: &str) -> Value {
        read(&Excerpt::of(body.as_bytes()).fields).unwrap()
    }

    #[test]
    fn an_excerpt_is_short_and_has_no_upload_and_no_query() {
        let data = format!("data:image/png;base64,{}", "A".repeat(1 << 20));
        let body = json!({
            "type": "o3-pro-reference-to-video", "prompt": "ü".repeat(2_000), "duration": 5, "sound": false,
            "image": "https://example.com/a.png?token=secret#x", "images": [data, "https://example.com/b.png", 7],
            "metadata": {"project": "x"}, "watermark": "w".repeat(10_000), "negative_prompt": "n".repeat(1_000),
        });
        let length = data.len();
        let expected = json!({
            "type": "o3-pro-reference-to-video", "prompt": format!("{}…", "ü".repeat(400)), "duration": 5, "sound": false,
            "image": "https://example.com/a.png",
            "images": [format!("data:image/png … {length} characters"), "https://example.com/b.png"],
            "negative_prompt": format!("{}…", "n".repeat(100)),
        });
        assert_eq!(fields(&body.to_string()), expected);
    }

    #[test]
    fn of_a_million_fields_few_are_kept() {
        let many: Vec<String> = (0..100_000).map(|number| format!("\"{number}\":1")).collect();
        let excerpt = Excerpt::of(format!("{{{}}}", many.join(",")).as_bytes());
        assert_eq!(excerpt.fields, "{}");
        assert!(excerpt.digests.len() < 8 << 10, "{}", excerpt.digests.len());
        let long = format!("{{\"{}\":1}}", "x".repeat(100_000));
        assert_eq!(Excerpt::of(long.as_bytes()).digests, "{}");
        assert_eq!(Excerpt::of(br#"{"a\u0000":1}"#).digests, "{}");
    }

    #[test]
    fn a_digest_does_not_depend_on_how_a_value_is_written() {
        for (one, other) in [
            (r#""\u00fc""#, "\"ü\""),
            ("5.0", "5"),
            ("[ 1, \"a\" ]", r#"[1.00,"\u0061"]"#),
            (r#"{"a":1,"b":[2]}"#, r#"{ "b": [2], "a": 1 }"#),
        ] {
            assert_eq!(digest(one), digest(other), "{one} {other}");
        }
        let different =
            ["5", "\"6\"", "50", "[5]", "[[5]]", "{}", "true", "\"\\u00fc\"", r#"{"a":1}"#, r#"{"a":2}"#];
        let digests: std::collections::BTreeSet<String> = different.into_iter().map(digest).collect();
        assert_eq!(digests.len(), different.len());
        // echo -n abc | sha256sum | xxd -r -p | basenc --base64url
        assert_eq!(digest("\"abc\""), "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0");
    }
}
