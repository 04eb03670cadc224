//! Settings from the environment: `TOLLGATE_SECTION__FIELD`, with the value as it would be in the file.

use std::collections::BTreeMap;

use figment::Figment;
use figment::providers::{Env, Format, Toml};
use figment::value::{Dict, Value};

use super::ConfigError;

const PREFIX: &str = "TOLLGATE_";
const ORIGIN: &str = "the environment";

/// Whether a variable of this name sets a configuration field. Other `TOLLGATE_…` variables belong to commands.
pub fn is_setting(name: &str) -> bool {
    let prefixed = name.get(..PREFIX.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX));
    prefixed && name[PREFIX.len()..].contains("__")
}

/// Fields of which only one may be given, by their table: a secret itself, or the file that holds it.
const ALTERNATIVES: &[(&str, &[&str])] = &[
    ("admin", &["bootstrap_token", "bootstrap_token_file"]),
    ("database", &["url", "urls", "url_file"]),
    ("quotes", &["secret", "secret_file"]),
    ("upstream.kling_3", &["master_key", "master_key_file"]),
    ("upstream.kling_o3", &["master_key", "master_key_file"]),
];

/// Removes from the file's settings what the environment sets in another form: a file's `database.url` must not win over
/// `TOLLGATE_DATABASE__URL_FILE`.
pub(super) fn replace_alternatives(file: &mut Dict, environment: &Figment) {
    for (table, fields) in ALTERNATIVES {
        if !fields.iter().any(|field| environment.contains(&format!("{table}.{field}"))) {
            continue;
        }
        let found = table.split('.').try_fold(&mut *file, |within, key| match within.get_mut(key) {
            Some(Value::Dict(_, inner)) => Some(inner),
            _ => None,
        });
        if let Some(found) = found {
            found.retain(|key, _| !fields.contains(&key.as_str()));
        }
    }
}

/// The settings of the environment, for merging over those of a file.
pub(super) fn settings() -> Result<Env, ConfigError> {
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
    check(variables)?;
    Ok(Env::prefixed(PREFIX).filter(|name| name.as_str().contains("__")).split("__"))
}

/// Refuses variables that set one field twice: otherwise the variable that happens to come last would win.
fn check(variables: impl Iterator<Item = (String, String)>) -> Result<(), ConfigError> {
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in variables.filter(|(name, _)| is_setting(name)) {
        if holds_table(&value.parse().unwrap_or(Value::from(false)))
            && Figment::from(Toml::string(&format!("value = {value}"))).find_value("value").is_err()
        {
            // The value may hold a secret: not shown.
            let right = "a table as in the file, with each key once";
            return Err(ConfigError::value(ORIGIN, &name, "not shown", right));
        }
        let field = name.to_ascii_lowercase();
        let beside = fields.get(&field).or_else(|| {
            let within = |shorter: &str, longer: &str| {
                longer.strip_prefix(shorter).is_some_and(|rest| rest.starts_with("__"))
            };
            let other = fields.iter().find(|(other, _)| within(other, &field) || within(&field, other));
            other.map(|(_, name)| name)
        });
        if let Some(beside) = beside {
            let value = format!("given beside {beside}, which sets the same");
            return Err(ConfigError::value(ORIGIN, &name, value, "the only one of the two"));
        }
        fields.insert(field, name);
    }
    Ok(())
}

fn holds_table(value: &Value) -> bool {
    match value {
        Value::Dict(..) => true,
        Value::Array(_, items) => items.iter().any(holds_table),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(variables: &[(&str, &str)]) -> Option<String> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        check(variables).err().map(|error| error.to_string())
    }

    #[test]
    fn one_variable_sets_a_field_or_none() {
        let listen = ("TOLLGATE_SERVER__LISTEN", "127.0.0.1:1");
        assert_eq!(problem(&[listen, ("TOLLGATE_ADMIN_URL", "x"), ("tollgate_admin_url", "x")]), None);
        assert_eq!(problem(&[("TOLLGATE_SERVER__TLS", "x"), ("TOLLGATE_SERVER__TLSX", "x")]), None);
        let said = problem(&[listen, ("Tollgate_Server__Listen", "127.0.0.1:2")]).unwrap();
        assert!(
            said.contains("Tollgate_Server__Listen") && said.contains("TOLLGATE_SERVER__LISTEN"),
            "{said}"
        );
        let table = ("TOLLGATE_SERVER__TLS", "{ key_file = \"a\" }");
        for both in [
            [table, ("TOLLGATE_SERVER__TLS__KEY_FILE", "b")],
            [("TOLLGATE_SERVER__TLS__KEY_FILE", "b"), table],
        ] {
            assert!(problem(&both).unwrap().contains("which sets the same"));
        }
    }

    #[test]
    fn a_variable_replaces_what_the_file_says_in_another_form() {
        let file = "database = { url = 'a', max_connections = 3 }\nadmin = { bootstrap_token_file = 'b' }\n\
                    upstream = { kling_3 = { master_key = 'c' } }";
        let left = |environment: &str| {
            let mut given: Dict = Figment::from(Toml::string(file)).extract().unwrap();
            replace_alternatives(&mut given, &Figment::from(Toml::string(environment)));
            let given = Figment::from(figment::providers::Serialized::defaults(given));
            [
                "database.url",
                "admin.bootstrap_token_file",
                "upstream.kling_3.master_key",
                "database.max_connections",
            ]
            .map(|field| given.contains(field))
        };
        assert_eq!(left("database = { url_file = 'x' }"), [false, true, true, true]);
        assert_eq!(left("database = { urls = ['x'] }"), [false, true, true, true]);
        assert_eq!(left("admin = { bootstrap_token = 'x' }"), [true, false, true, true]);
        assert_eq!(left("upstream = { kling_3 = { master_key_file = 'x' } }"), [true, true, false, true]);
        assert_eq!(left("database = { max_connections = 4 }"), [true; 4]);
    }

    #[test]
    fn a_table_in_a_variable_has_each_key_once() {
        let accounts = |text| problem(&[("TOLLGATE_UPSTREAM__KLING_3__ACCOUNTS", text)]);
        assert_eq!(
            accounts("[{ name = \"a\", master_key = \"k\" }, { name = \"b\", master_key = \"l\" }]"),
            None
        );
        let said = accounts("[{ name = \"a\", master_key = \"hunter2\", name = \"b\" }]").unwrap();
        assert!(said.contains("ACCOUNTS") && said.contains("each key once"), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
        assert_eq!(problem(&[("TOLLGATE_DATABASE__URLS", "[\"postgres://a/x\", \"postgres://b/x\"]")]), None);
        assert_eq!(problem(&[("TOLLGATE_ADMIN__BOOTSTRAP_TOKEN", "{[no table")]), None);
    }
}
