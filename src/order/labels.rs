//! Labels of a create: short names and values that callers find and count their tasks by. They come in the header
//! `X-Tollgate-Labels`, or as the body's `metadata`.

use std::collections::BTreeMap;
use std::sync::Arc;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use super::Invalid;
use crate::strict::is_ignorable;
use crate::wire::RawObject;

/// The most labels of a task.
const LABELS: usize = 16;
/// The most characters of a name, and of a value.
const NAME: usize = 64;
const VALUE: usize = 128;

/// What is written as `%XX` in a header, beside what is not ASCII: what separates labels, and spaces at the ends of a text could not
/// be told from those between labels.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%').add(b',').add(b' ');

/// At most 16 labels, each with a name of its own. Cheap to clone; a create without labels allocates nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(Option<Arc<BTreeMap<String, String>>>);

impl Labels {
    /// The labels of a header such as `project=x, shot=12`; `%XX` stands for a byte, as in a URL.
    pub fn of_header(header: &[u8]) -> Result<Self, Invalid> {
        let refused = |why: String| Invalid::request(format!("X-Tollgate-Labels: {why}"));
        let text = std::str::from_utf8(header).map_err(|_| refused("write it in UTF-8, or as %XX".into()))?;
        let mut labels = BTreeMap::new();
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        for part in text.split(',') {
            let (name, value) = split(part).map_err(refused)?;
            let decoded = |text: &str| decoded(text).map(|text| text.trim().to_owned());
            let (name, value) = (decoded(name).map_err(refused)?, decoded(value).map_err(refused)?);
            check(&name, &value).map_err(refused)?;
            add(&mut labels, name, value).map_err(refused)?;
        }
        Ok(Self::of(labels))
    }

    /// The labels of a text that people have typed, such as `project=x, shot=12`. Nothing in it is written as `%XX`.
    pub fn of_text(text: &str) -> Result<Self, String> {
        let mut labels = BTreeMap::new();
        for part in text.split([',', '\n']).filter(|part| !part.trim().is_empty()) {
            let (name, value) = split(part)?;
            check(name, value)?;
            add(&mut labels, name.to_owned(), value.to_owned())?;
        }
        Ok(Self::of(labels))
    }

    /// The label that a filter such as `project=x` names.
    pub fn of_filter(text: &str) -> Result<(String, String), String> {
        let (name, value) = split(text)?;
        check(name, value)?;
        Ok((name.to_owned(), value.to_owned()))
    }

    /// The labels of a body. Its `metadata` belongs to the video service: only an object of at most 16 short texts is labels as
    /// well, and no `metadata` is an error.
    pub(super) fn of_body(body: &RawObject<&str>) -> Self {
        let Some(object) = body.get("metadata").and_then(RawObject::parse) else { return Self::default() };
        if object.keys().count() > LABELS {
            return Self::default();
        }
        let mut labels = BTreeMap::new();
        for key in object.keys() {
            let Some(value) = object.string(key) else { return Self::default() };
            let (name, value) = (key.trim(), value.trim());
            let added = check(name, value).and_then(|()| add(&mut labels, name.to_owned(), value.to_owned()));
            if added.is_err() {
                return Self::default();
            }
        }
        Self::of(labels)
    }

    /// Labels as they are stored.
    pub fn of(labels: BTreeMap<String, String>) -> Self {
        Self((!labels.is_empty()).then(|| Arc::new(labels)))
    }

    /// Those of the header with those of the body. A name that has two values is refused.
    pub fn and(self, other: Self) -> Result<Self, Invalid> {
        let (Some(own), Some(others)) = (&self.0, &other.0) else {
            return Ok(if self.is_empty() { other } else { self });
        };
        let mut labels = BTreeMap::clone(own);
        for (name, value) in others.iter() {
            add(&mut labels, name.clone(), value.clone()).map_err(|why| {
                Invalid::request(format!("X-Tollgate-Labels and 'metadata' together: {why}"))
            })?;
        }
        Ok(Self::of(labels))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Names and values, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|labels| labels.iter()).map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// All of them, by name.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        self.0.as_deref().cloned().unwrap_or_default()
    }

    /// The text of a header that [`Self::of_header`] reads.
    pub fn header(&self) -> String {
        let escaped = |text| utf8_percent_encode(text, ESCAPED);
        self.iter()
            .map(|(name, value)| format!("{}={}", escaped(name), escaped(value)))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// Name and value of `name=value`, without the spaces around them.
fn split(text: &str) -> Result<(&str, &str), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| {
        let shown: String = text.trim().chars().take(32).collect();
        format!("'{}' is no label: write name=value, and commas between labels", shown.escape_debug())
    })?;
    Ok((name.trim(), value.trim()))
}

fn decoded(text: &str) -> Result<String, String> {
    let digits = |part: &str| part.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    if !text.split('%').skip(1).all(digits) {
        return Err("a % must be followed by two hexadecimal digits; write %25 for a %".into());
    }
    let text = percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| "the bytes written as %XX must be UTF-8".to_owned())?;
    Ok(text.into_owned())
}

fn check(name: &str, value: &str) -> Result<(), String> {
    let seen = |text: &str| !text.chars().any(|c| c.is_control() || is_ignorable(c));
    if !(1..=NAME).contains(&name.chars().count()) || name.contains('=') || !seen(name) {
        return Err(format!("a label's name must have 1 to {NAME} visible characters, and no '='"));
    }
    if !(1..=VALUE).contains(&value.chars().count()) || !seen(value) {
        return Err(format!("a label's value must have 1 to {VALUE} visible characters"));
    }
    Ok(())
}

fn add(labels: &mut BTreeMap<String, String>, name: String, value: String) -> Result<(), String> {
    if let Some(known) = labels.get(&name) {
        return if *known == value {
            Ok(())
        } else {
            Err(format!("the label '{}' has two values", name.escape_debug()))
        };
    }
    if labels.len() >= LABELS {
        return Err(format!("a task has at most {LABELS} labels"));
    }
    labels.insert(name, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &str) -> Result<Vec<(String, String)>, String> {
        let labels = Labels::of_header(text.as_bytes()).map_err(|refused| refused.message)?;
        assert_eq!(Labels::of_header(labels.header().as_bytes()).unwrap(), labels, "{text}");
        Ok(labels.to_map().into_iter().collect())
    }

    fn body(metadata: &str) -> Vec<(String, String)> {
        let text = format!(r#"{{"metadata":{metadata}}}"#);
        Labels::of_body(&RawObject::parse(text.as_str()).unwrap()).to_map().into_iter().collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn headers() {
        for (text, labels) in [
            ("", &[][..]),
            (" ", &[]),
            ("project=x, shot=12", &[("project", "x"), ("shot", "12")]),
            ("shot = 12,Project=A b", &[("Project", "A b"), ("shot", "12")]),
            ("a=b=c, a=b=c", &[("a", "b=c")]),
            ("name=a%2Cb%20%25%3d,\u{e9}t\u{e9}=%C3%A9", &[("name", "a,b %="), ("\u{e9}t\u{e9}", "\u{e9}")]),
        ] {
            assert_eq!(header(text), Ok(pairs(labels)), "{text}");
        }
        let many = |count: usize| (0..count).map(|n| format!("l{n}=v")).collect::<Vec<_>>().join(",");
        assert_eq!(header(&many(16)).unwrap().len(), 16);
        let long =
            |name: usize, value: usize| format!("{}={}", "\u{fc}".repeat(name), "\u{fc}".repeat(value));
        assert_eq!(header(&long(64, 128)).unwrap().len(), 1);
        for (text, why) in [
            ("project", "no label"),
            ("a=b,", "no label"),
            ("=x", "name"),
            ("a%3Db=x", "no '='"),
            ("a=", "value"),
            ("a=%20", "value"),
            ("a=\tb\u{1}", "value"),
            ("a=x%00", "value"),
            ("a\u{200b}=x", "name"),
            ("a=%", "%25"),
            ("a=%4", "%25"),
            ("a=%ff", "UTF-8"),
            ("a=1,a=2", "two values"),
            (&many(17), "at most 16"),
            (&long(65, 1), "name"),
            (&long(1, 129), "value"),
        ] {
            let refused = header(text).unwrap_err();
            assert!(refused.starts_with("X-Tollgate-Labels: ") && refused.contains(why), "{text}: {refused}");
        }
        assert!(Labels::of_header(b"a=\xff").is_err());
    }

    #[test]
    fn what_people_type_has_no_escapes() {
        let typed = |text: &str| Labels::of_text(text).map(|labels| labels.header());
        assert_eq!(
            typed(" project = x ,\nshare=100%, caf\u{e9}=y,").unwrap(),
            "caf%C3%A9=y, project=x, share=100%25"
        );
        assert_eq!(typed("").unwrap(), "");
        assert!(typed("project").unwrap_err().contains("no label"));
        assert!(typed("a=b, a=c").unwrap_err().contains("two values"));
    }

    #[test]
    fn metadata_that_is_no_set_of_labels_is_none() {
        assert_eq!(body(r#"{"project":" x ","shot":"12"}"#), pairs(&[("project", "x"), ("shot", "12")]));
        assert_eq!(body(r#"{"caf\u00e9":"\u00fc"}"#), pairs(&[("caf\u{e9}", "\u{fc}")]));
        let (long, many) = ("x".repeat(129), (0..17).map(|n| format!(r#""l{n}":"v""#)).collect::<Vec<_>>());
        for other in [
            "null",
            "5",
            "\"project=x\"",
            "[\"x\"]",
            "{}",
            r#"{"a":5}"#,
            r#"{"a":"x","b":null}"#,
            r#"{"a":{"b":"c"}}"#,
            r#"{"a":""}"#,
            r#"{"":"a"}"#,
            r#"{"a=b":"c"}"#,
            r#"{"a":"x"," a":"y"}"#,
            r#"{"a":"\u0000"}"#,
            r#"{"a":"\ud800"}"#,
            &format!(r#"{{"a":"{long}"}}"#),
            &format!(r#"{{"{long}":"a"}}"#),
            &format!("{{{}}}", many.join(",")),
        ] {
            assert_eq!(body(other), [], "{other}");
        }
        assert_eq!(body(&format!("{{{}}}", many[..16].join(","))).len(), 16);
    }

    #[test]
    fn header_and_body_are_joined_and_must_agree() {
        let of = |text: &str| Labels::of_header(text.as_bytes()).unwrap();
        assert_eq!(of("a=1").and(of("b=2, a=1")).unwrap(), of("a=1,b=2"));
        assert_eq!(of("").and(of("a=1")).unwrap(), of("a=1"));
        assert_eq!(of("a=1").and(of("")).unwrap(), of("a=1"));
        assert!(of("a=1").and(of("a=2")).unwrap_err().message.contains("'a' has two values"));
        let many = (0..16).map(|n| format!("l{n}=v")).collect::<Vec<_>>().join(",");
        assert!(of(&many).and(of("a=2")).unwrap_err().message.contains("at most 16"));
    }
}
