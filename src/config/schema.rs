//! The configuration's JSON Schema, generated from its types. The reference is printed from this schema, and the ranges of
//! numbers are checked against it.

use std::sync::LazyLock;

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

/// The first number outside its range: the field, the number, and what would be right.
pub(super) fn out_of_range(given: &Value) -> Option<(String, String, String)> {
    wrong_in(schema(), given, String::new())
}

fn wrong_in(schema: &Value, given: &Value, path: String) -> Option<(String, String, String)> {
    match given {
        Value::Object(fields) => fields.iter().find_map(|(name, given)| {
            let schema = present(schema).get("properties")?.get(name)?;
            wrong_in(schema, given, if path.is_empty() { name.clone() } else { format!("{path}.{name}") })
        }),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(number, item)| wrong_in(&schema["items"], item, format!("{path}[{number}]"))),
        Value::Number(number) => {
            let right = range(&path, schema)?;
            let bound = |name: &str, or: f64| schema[name].as_f64().unwrap_or(or);
            let fits = bound("minimum", f64::MIN)..=bound("maximum", f64::MAX);
            (!fits.contains(&number.as_f64()?)).then(|| (path, number.to_string(), right))
        }
        _ => None,
    }
}
