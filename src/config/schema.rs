//! The configuration's JSON Schema, generated from its types. The reference is printed from this schema, and the ranges of
//! numbers are checked against it.

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use ipnet::IpNet;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::Config;

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<Config>().to_value()
});

/// The JSON Schema of a configuration file, for editors.
pub fn schema() -> &'static Value {
    &SCHEMA
}

/// A field, or a section of fields.
pub(super) struct Field {
    /// Such as `server.tls.key_file`; for fields of a list's items, `[]` follows the name of the list.
    pub path: String,
    pub schema: &'static Value,
    pub required: bool,
    /// The fields of a section, or of each item of a list.
    pub fields: Vec<Field>,
}

impl Field {
    /// All sections and fields.
    pub(super) fn all() -> Vec<Self> {
        Self::of(schema(), "")
    }

    fn of(section: &'static Value, prefix: &str) -> Vec<Self> {
        let required = section["required"].as_array().map(Vec::as_slice).unwrap_or_default();
        let properties = section["properties"].as_object().into_iter().flatten();
        let field = |(name, schema): (&'static String, &'static Value)| {
            let path = format!("{prefix}{name}");
            let fields = match &schema["items"] {
                Value::Null => Self::of(present(schema), &format!("{path}.")),
                items => Self::of(items, &format!("{path}[].")),
            };
            Self { path, schema, required: required.iter().any(|one| one == name), fields }
        };
        properties.map(field).collect()
    }
}

/// The schema of an optional field's value.
pub(super) fn present(schema: &Value) -> &Value {
    let choices = schema["anyOf"].as_array().into_iter().flatten();
    choices.into_iter().find(|choice| choice["type"] != "null").unwrap_or(schema)
}

/// The range of a number as text, with its unit; nothing if the schema gives no maximum.
pub(super) fn range(path: &str, schema: &Value) -> Option<String> {
    let (least, most) = (&schema["minimum"], schema.get("maximum")?);
    let units = ["milliseconds", "seconds", "minutes", "hours"];
    let unit = units.into_iter().zip(["_ms", "_seconds", "_minutes", "_hours"]);
    let unit = unit.filter(|(_, end)| path.ends_with(end)).map(|(unit, _)| format!(" {unit}"));
    let unit: String = unit.take(1).collect();
    let zero = least.as_f64().is_none_or(|least| least == 0.0) && most.is_u64();
    Some(if zero { format!("at most {most}{unit}") } else { format!("from {least} to {most}{unit}") })
}

/// A part of what was given that does not fit the schema.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    /// The value of a field, or nothing where something is required.
    Value { field: String, value: String, right: String },
    /// A field that a section does not have.
    Unknown { section: String, name: String, known: Vec<String> },
}

impl Misfit {
    /// The field that it concerns.
    pub(super) fn field(&self) -> String {
        match self {
            Self::Value { field, .. } => field.clone(),
            Self::Unknown { section, name, .. } => joined(section, name),
        }
    }
}

/// Finds everything in `given` that does not fit the schema, and takes it out of `given`.
pub(super) fn take_misfits(given: &mut Value) -> Vec<Misfit> {
    let mut found = Vec::new();
    take_from(schema(), given, "", &mut found);
    found
}

fn joined(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

/// False if `given` itself does not fit.
fn take_from(schema: &Value, given: &mut Value, path: &str, found: &mut Vec<Misfit>) -> bool {
    let schema = present(schema);
    let right = match (kind(schema), &mut *given) {
        // Only a number that is none is read as null: the checks of the fields tell of it.
        (_, Value::Null) => return true,
        ("object", Value::Object(fields)) => {
            take_from_table(schema, fields, path, found);
            return true;
        }
        ("array", Value::Array(items))
            if !is_list_of_secrets(schema) || items.iter().all(Value::is_string) =>
        {
            let mut place = 0..items.len();
            items.retain_mut(|item| {
                let path = format!("{path}[{}]", place.next().unwrap_or_default());
                take_from(&schema["items"], item, &path, found)
            });
            return true;
        }
        _ => match wrong_value(schema, given, path) {
            None => return true,
            Some(right) => right,
        },
    };
    found.push(Misfit::Value { field: path.to_owned(), value: shown(schema, given), right });
    false
}

fn take_from_table(
    schema: &Value,
    fields: &mut serde_json::Map<String, Value>,
    path: &str,
    found: &mut Vec<Misfit>,
) {
    let known = schema["properties"].as_object();
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            let (field, value) = (joined(path, name), "missing".to_owned());
            found.push(Misfit::Value {
                field,
                value,
                right: "given, in the file or in the environment".into(),
            });
        }
    }
    fields.retain(|name, given| match known.and_then(|known| known.get(name)) {
        Some(schema) => take_from(schema, given, &joined(path, name), found),
        None if schema["additionalProperties"].is_object() => {
            take_from(&schema["additionalProperties"], given, &joined(path, name), found)
        }
        None => {
            let known = known.into_iter().flatten().map(|(name, _)| name.clone()).collect();
            found.push(Misfit::Unknown { section: path.to_owned(), name: name.clone(), known });
            false
        }
    });
}

/// Puts something that fits in the place of what is required and is not there, so that all the rest can be read and checked.
pub(super) fn complete(given: &mut Value) {
    complete_part(schema(), given);
}

fn complete_part(schema: &Value, given: &mut Value) {
    let schema = present(schema);
    match given {
        Value::Object(fields) => {
            for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                fields.entry(name).or_insert_with(|| stand_in(&schema["properties"][name]));
            }
            for (name, value) in fields {
                complete_part(&schema["properties"][name.as_str()], value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| complete_part(&schema["items"], item)),
        _ => {}
    }
}

fn stand_in(schema: &Value) -> Value {
    let schema = present(schema);
    match kind(schema) {
        "object" => Value::Object(serde_json::Map::new()),
        "array" => Value::Array(Vec::new()),
        "integer" | "number" => schema.get("minimum").cloned().unwrap_or_else(|| 0.into()),
        "boolean" => false.into(),
        _ if schema["format"] == "uri" => "https://missing.invalid".into(),
        _ => schema["oneOf"][0].get("const").cloned().unwrap_or_else(|| "missing".into()),
    }
}

/// The type of a schema that is not null.
fn kind(schema: &Value) -> &str {
    match &schema["type"] {
        Value::Array(kinds) => {
            kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or("")
        }
        kind => kind.as_str().unwrap_or_default(),
    }
}

/// What would be right; nothing if a value without parts fits.
fn wrong_value(schema: &Value, given: &Value, path: &str) -> Option<String> {
    let choices: Vec<&str> = schema["oneOf"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|choice| choice["const"].as_str())
        .collect();
    if !choices.is_empty() {
        let fits = given.as_str().is_some_and(|given| choices.contains(&given));
        return (!fits).then(|| choices.join(" or "));
    }
    let bound = |name: &str, or: f64| schema[name].as_f64().unwrap_or(or);
    let most = if schema["format"] == "uint32" { u32::MAX.into() } else { f64::MAX };
    let in_range = |number: f64| (bound("minimum", f64::MIN)..=bound("maximum", most)).contains(&number);
    let number =
        |what: &str| range(path, schema).map_or_else(|| what.to_owned(), |range| format!("{what}, {range}"));
    match kind(schema) {
        "integer" => {
            let fits = (given.is_u64() || given.is_i64()) && given.as_f64().is_some_and(in_range);
            let least = if bound("minimum", f64::MIN) == 0.0 { " that is not negative" } else { "" };
            (!fits).then(|| number(&format!("a whole number{least}")))
        }
        "number" => (!given.as_f64().is_some_and(in_range)).then(|| number("a number")),
        "boolean" => (!given.is_boolean()).then(|| "true or false".into()),
        "string" => match given.as_str() {
            None if schema["writeOnly"] == true => {
                Some("a text; in the environment, a secret that looks like a number is put in quotes".into())
            }
            None => Some("a text".into()),
            Some(text) => wrong_text(schema, text, path),
        },
        "array" if is_list_of_secrets(schema) => {
            Some(r#"a list of secret strings; in the environment: '["…","…"]'"#.into())
        }
        "array" => Some(r#"a list, such as ["…", "…"]"#.into()),
        "object" => Some("a section with fields".into()),
        _ => None,
    }
}

fn is_list_of_secrets(schema: &Value) -> bool {
    schema["items"]["writeOnly"] == true
}

/// The texts that have a form of their own.
fn wrong_text(schema: &Value, text: &str, path: &str) -> Option<String> {
    let right = if path.ends_with(".listen") {
        text.parse::<SocketAddr>().is_err().then(|| {
            let port = text.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).unwrap_or(8080);
            format!(
                "an IP address and a port, such as 127.0.0.1:{port} (this machine only) or 0.0.0.0:{port} (all networks)"
            )
        })
    } else if path.starts_with("server.trusted_proxies[") {
        wrong_network(text)
    } else if schema["format"] == "uri" {
        url::Url::parse(text).is_err().then(|| "a URL, such as https://host.example".into())
    } else {
        None
    };
    right.filter(|_| !text.is_empty() || schema["writeOnly"] != true)
}

/// What would be right for a network that is none, or that matches no client.
fn wrong_network(text: &str) -> Option<String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        return Some(format!("a network: {address}/{bits} is this address alone"));
    }
    match text.parse::<IpNet>() {
        Err(_) => Some("a network, such as 10.0.0.0/8 or fd00::/8".into()),
        // The address of a client is never written in this form.
        Ok(IpNet::V6(network)) if network.prefix_len() >= 96 => {
            network.addr().to_ipv4_mapped().map(|address| {
                format!(
                    "the IPv4 network {address}/{}: this form of it matches no client",
                    network.prefix_len() - 96
                )
            })
        }
        Ok(_) => None,
    }
}

/// The value for a message, unless it may be or hold a secret.
fn shown(schema: &Value, given: &Value) -> String {
    const MOST: usize = 80;
    let hidden = schema["writeOnly"] == true || schema["format"] == "uri" || is_list_of_secrets(schema);
    match given {
        _ if hidden => "not shown".into(),
        Value::String(text) => format!("'{}'", text.chars().take(MOST).collect::<String>()),
        Value::Number(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a section".into(),
        Value::Null => "nothing".into(),
    }
}
