//! The check against tables, and against generated documents of which it is known what stands twice.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn twice(text: &str) -> Option<String> {
    match check_json(text) {
        Ok(()) => None,
        Err(BadJson::GivenTwice(path)) => Some(path),
        Err(other) => panic!("{text}: {other}"),
    }
}

#[test]
fn a_key_that_stands_twice_is_found_with_its_path() {
    for (text, path) in [
        (r#"{"a":1,"a":2}"#, "a"),
        (r#"{"type":1,"typ\u0065":2}"#, "type"),
        (r#"{"a":{"b":1},"b":[{"c":1},{"c":1,"c":1}]}"#, "b[1].c"),
        (r#"{"prices":{"x":{"credits":80},"x":{"credits":8}}}"#, "prices.x"),
        (r#"[[{"a":1,"a":1}]]"#, "[0][0].a"),
        (r#"{"":1,"":2}"#, ""),
        ("{\"a\n\\n\":1}, {\"a\\n\":1, \"a\\u000a\":2}", "a\\n"),
        (r#" { "a" : "}" , "b" : "\"," , "a" : 1 } "#, "a"),
        (r#"{"\ud800":1,"\ud800":2}"#, "\\ud800"),
        (r#"{"a":1e400,"a":1}"#, "a"),
    ] {
        assert_eq!(twice(text).as_deref(), Some(path), "{text}");
    }
    let long = "k".repeat(1000);
    let path = twice(&format!(r#"{{"{long}":1,"{long}":2}}"#)).unwrap();
    assert_eq!(path.chars().count(), SHOWN + 1);
}

#[test]
fn what_is_not_ambiguous_is_left_to_the_parser() {
    for text in [
        r#"{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]}"#,
        r#"{"a":"\"a\":1,\"a\":2"}"#,
        r#"["a","a",{"b":"b"}]"#,
        r#"{"a":1"#,
        r#"{"a":"b"#,
        r#"{"a\"#,
        "]}{",
        "",
    ] {
        assert_eq!(twice(text), None, "{text}");
    }
    let depth = |levels: usize| check_json(&format!("{}{}", "[".repeat(levels), "]".repeat(levels)));
    assert!(depth(MAX_DEPTH).is_ok());
    assert!(matches!(depth(MAX_DEPTH + 1), Err(BadJson::TooDeep)));
    assert!(matches!(depth(1_000_000), Err(BadJson::TooDeep)));
}

#[test]
fn a_text_has_a_bounded_number_of_values() {
    let keys = |count: usize| {
        let keys: Vec<String> = (0..count).map(|n| format!("\"{n}\":1")).collect();
        format!("{{{}}}", keys.join(","))
    };
    assert!(check_json(&keys(MAX_VALUES)).is_ok());
    assert!(matches!(check_json(&keys(MAX_VALUES + 1)), Err(BadJson::TooMany)));
    let lists = |count: usize| format!("[{}]", vec!["[]"; count].join(","));
    assert!(check_json(&lists(MAX_VALUES / 2)).is_ok());
    assert!(matches!(check_json(&lists(MAX_VALUES / 2 + 1)), Err(BadJson::TooMany)));
    assert!(check_json(&format!("\"{}\"", ",".repeat(2 * MAX_VALUES))).is_ok(), "in a string they are none");
}

#[test]
fn a_refusal_says_what_and_where() {
    let said = |bytes: &[u8]| read_json::<BTreeMap<String, i64>>(bytes).unwrap_err().to_string();
    assert_eq!(said(br#"{"a":1,"a":1}"#), "the key 'a' is given twice");
    assert!(said(b"{\"a\":\xff}").starts_with("it is not UTF-8 at byte 5 (line 1, column 6), where 0xFF"));
    assert!(said(b"{\"a\":\xc3").contains("in the middle of a character"));
    assert_eq!(said(b"{\"a\":1,\n}"), "it is not JSON: trailing comma at line 2 column 1");
    assert_eq!(said(b"{\"a\":1"), "it ends at line 1, column 6, before the object is complete");
    assert!(said(br#"{"\ud83d":1}"#).contains("half of a surrogate pair"));
    assert!(said(b"{\n\"a\":}").contains("line 2 column 5"));
    assert_eq!(read_json::<BTreeMap<String, i64>>(br#"{"a":1}"#).unwrap()["a"], 1);
}

/// Documents whose keys come from a few, in several spellings.
fn document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-c\"\\\\{}\\[\\],:\n€]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-c\"\\\\\n€]{0,3}", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Which key is written twice, counted in the order in which values end; and its path, once it was.
struct Doubled {
    left: usize,
    path: Option<String>,
}

fn write(value: &Value, path: &str, doubled: &mut Doubled, text: &mut String) {
    match value {
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                text.push_str(if index > 0 { " , " } else { "" });
                write(item, &format!("{path}[{index}]"), doubled, text);
            }
            text.push(']');
        }
        Value::Object(fields) => {
            text.push('{');
            for (index, (key, value)) in fields.iter().enumerate() {
                text.push_str(if index > 0 { ",\n" } else { "" });
                let dot = if path.is_empty() { "" } else { "." };
                let here = format!("{path}{dot}{}", shown(key));
                text.push_str(&format!("{} :", Value::from(key.as_str())));
                write(value, &here, doubled, text);
                if doubled.path.is_some() {
                    continue;
                }
                if doubled.left > 0 {
                    doubled.left -= 1;
                    continue;
                }
                let spelled: String = key.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
                text.push_str(&format!(",\"{spelled}\":0"));
                doubled.path = Some(here);
            }
            text.push('}');
        }
        other => text.push_str(&other.to_string()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn of_any_document_exactly_the_doubled_key_is_found(document in document(), which in 0..12_usize) {
        let (mut text, mut never) = (String::new(), Doubled { left: usize::MAX, path: None });
        write(&document, "", &mut never, &mut text);
        prop_assert_eq!(twice(&text), None, "{}", &text);
        prop_assert_eq!(&read_json::<Value>(text.as_bytes()).unwrap(), &document);

        let (mut text, mut doubled) = (String::new(), Doubled { left: which, path: None });
        write(&document, "", &mut doubled, &mut text);
        prop_assert_eq!(twice(&text), doubled.path, "{}", &text);
    }
}
