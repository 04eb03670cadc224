//! The configuration reference: every section and field, from the types and their comments.

use std::fmt::Write;

use serde_json::Value;

use super::schema::{Field, present, range};

const HEAD: &str = "\
# Configuration reference

Made from the program's own types by `tollgate config reference`: do not edit. `config/tollgate.toml` is a file to start
from, `tollgate config check FILE` checks one, and `tollgate config schema` is a JSON Schema for editors.

A value comes from the environment, else from the file, else it is the default. Variables hold what would stand in the
file: `8080`, `true`, `text`, `[\"a\", \"b\"]`. Fields that are not listed here are refused.
";

/// All of it, as Markdown.
pub fn reference() -> String {
    let mut text = HEAD.to_owned();
    for section in Field::all() {
        write_section(&mut text, &section);
    }
    text
}

fn write_section(text: &mut String, section: &Field) {
    let needed = if section.required { " Required." } else { "" };
    let mut line = |line: String| {
        // A text takes whatever is written to it.
        let _ = writeln!(text, "{line}");
    };
    line(format!("\n## `{}`\n\n{}{needed}", section.path, sentence(section.schema)));
    let (sections, fields): (Vec<_>, Vec<_>) = section.fields.iter().partition(|field| is_section(field));
    if !fields.is_empty() {
        line("\n| Field | Type | Default | Meaning |\n|---|---|---|---|".into());
    }
    for field in fields {
        let default = match field.schema.get("default") {
            _ if field.required => "required".into(),
            None | Some(Value::Null) => "unset".into(),
            Some(default) => format!("`{default}`"),
        };
        line(format!(
            "| `{}`<br>`{}` | {} | {default} | {} |",
            field.path,
            variable(&field.path),
            kind(&field.path, field.schema),
            meaning(field.schema),
        ));
    }
    for section in sections {
        write_section(text, section);
    }
}

/// A list of tables is shown as its own section too: its items have fields.
fn is_section(field: &Field) -> bool {
    !field.fields.is_empty()
}

fn variable(path: &str) -> String {
    match path.split_once("[]") {
        Some((list, _)) => format!("in {}", variable(list)),
        None => format!("TOLLGATE_{}", path.to_uppercase().replace('.', "__")),
    }
}

/// A comment's lines are one paragraph of a table.
fn sentence(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().replace('\n', " ").replace('|', "\\|")
}

fn choices(schema: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let choices = present(schema)["oneOf"].as_array().into_iter().flatten();
    choices.filter_map(|choice| Some((choice["const"].as_str()?, choice)))
}

fn meaning(schema: &Value) -> String {
    let choices = choices(schema).map(|(name, choice)| format!("<br>`{name}`: {}", sentence(choice)));
    sentence(schema) + &choices.collect::<String>()
}

fn kind(path: &str, schema: &Value) -> String {
    let schema = present(schema);
    let names: Vec<String> = choices(schema).map(|(name, _)| format!("`{name}`")).collect();
    if !names.is_empty() {
        return names.join(" or ");
    }
    let types =
        schema["type"].as_array().map_or_else(|| vec![&schema["type"]], |types| types.iter().collect());
    let name = types.into_iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap_or("any");
    match name {
        _ if schema["writeOnly"] == true => "secret".into(),
        "array" => format!("list of {}s", kind(path, &schema["items"])),
        "object" => format!("table of {}s", kind(path, &schema["additionalProperties"])),
        "string" if schema["format"] == "uri" => "URL".into(),
        _ => range(path, schema).map_or_else(|| name.to_owned(), |range| format!("{name} {range}")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use figment::Figment;
    use figment::providers::{Format, Toml};

    use super::*;

    #[test]
    fn the_reference_is_that_of_this_program() {
        let kept = include_str!("../../config/reference.md");
        assert!(
            kept == reference(),
            "config/reference.md is not up to date: cargo run -- config reference > config/reference.md"
        );
    }

    /// What the sample shows, commented out or not: a field's value, and whether something else is the default.
    fn shown() -> HashMap<String, (Value, bool)> {
        let mut section = String::new();
        let mut fields = HashMap::new();
        for line in include_str!("../../config/tollgate.toml").lines() {
            let line = line.trim_start_matches("# ");
            if let Some(list) = line.strip_prefix("[[").and_then(|line| line.split_once("]]")) {
                section = format!("{}[]", list.0);
            } else if let Some(table) = line.strip_prefix('[').and_then(|line| line.split_once(']')) {
                section = table.0.to_owned();
            } else if let Some((name, _)) = line.split_once(" = ").filter(|(name, _)| !name.contains(' ')) {
                let figment = Figment::from(Toml::string(line));
                let value = figment.find_value(name).unwrap_or_else(|error| panic!("{line}: {error}"));
                let value = serde_json::to_value(value).unwrap();
                fields.insert(format!("{section}.{name}"), (value, line.contains("instead of")));
            }
        }
        fields
    }

    fn compare(field: &Field, shown: &HashMap<String, (Value, bool)>, missing: &mut Vec<String>) {
        for field in &field.fields {
            compare(field, shown, missing);
        }
        // Its fields are those of the other backend.
        if !field.fields.is_empty() || field.path.starts_with("upstream.kling_o3.") {
            return;
        }
        let Some((value, instead)) = shown.get(&field.path) else {
            missing.push(field.path.clone());
            return;
        };
        match field.schema.get("default") {
            None | Some(Value::Null) => {}
            Some(_) if *instead => {}
            Some(default) => assert_eq!(value, default, "{}", field.path),
        }
    }

    #[test]
    fn the_sample_file_shows_every_field_with_its_default() {
        let mut shown = shown();
        // A share of its own, to show what it is for.
        shown.remove("upstream.kling_3.accounts[].weight").unwrap();
        let mut missing = Vec::new();
        for section in Field::all() {
            compare(&section, &shown, &mut missing);
        }
        assert_eq!(missing, ["upstream.kling_3.accounts[].weight"]);
        assert!(shown.len() > 60, "{}", shown.len());
    }

    #[test]
    fn every_field_is_explained() {
        fn explained(field: &Field) {
            assert!(field.schema["description"].is_string(), "{} has no comment", field.path);
            field.fields.iter().for_each(explained);
        }
        Field::all().iter().for_each(explained);
    }

    #[test]
    fn a_number_out_of_its_range_is_told_with_its_place() {
        use super::super::schema::out_of_range;
        use serde_json::json;

        let account = json!({"upstream": {"kling_o3": {"accounts": [{"weight": 1}, {"weight": 1_000_001}]}}});
        let told = |given: &Value| {
            out_of_range(given).map(|(field, value, right)| format!("{field} {value} {right}"))
        };
        assert_eq!(told(&account).unwrap(), "upstream.kling_o3.accounts[1].weight 1000001 at most 1000000");
        let server = |ms: i64| json!({"server": {"body_timeout_ms": ms}});
        assert_eq!(told(&server(99)).unwrap(), "server.body_timeout_ms 99 from 100 to 86400000 milliseconds");
        for ms in [100, 86_400_000] {
            assert_eq!(told(&server(ms)), None);
        }
    }
}
