//! Settings from the environment: `TOLLGATE_SECTION__FIELD`, with the value as it would be in the file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use figment::Figment;
use figment::providers::{Env, Format, Toml};
use figment::value::{Dict, Value};

use super::ConfigError;
use super::schema::Field;

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
    ("upstream", &["proxy_credentials", "proxy_credentials_file"]),
    ("quotes", &["secret", "secret_file"]),
    ("quotes", &["former_secret", "former_secret_file"]),
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

/// What the environment sets.
pub(super) struct Settings {
    /// For merging over the settings of a file.
    pub(super) given: Env,
    /// The variable that sets a field, such as `server.listen`.
    names: BTreeMap<String, String>,
    /// The fields that variables with a mistake are about: what is missing there follows from the mistake.
    mistaken: Vec<String>,
}

impl Settings {
    /// The settings of the environment. A variable with an empty value sets nothing: that is how a container engine passes
    /// on a variable that nobody has set. Variables with a mistake are left out, and returned as problems.
    pub(super) fn read() -> (Self, Vec<ConfigError>) {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
            })
            .filter(|(_, value)| !value.trim().is_empty());
        let (names, mistaken, problems) = check(variables);
        let fields: BTreeSet<String> = names.keys().cloned().collect();
        let given =
            Env::prefixed(PREFIX).filter(move |name| fields.contains(&field_of(name.as_str()))).split("__");
        (Self { given, names, mistaken }, problems)
    }

    /// Whether a problem of a field may follow from a variable with a mistake.
    pub(super) fn explains(&self, field: &str) -> bool {
        self.mistaken.iter().any(|mistaken| mistaken.starts_with(field))
    }

    /// The variable that sets a field, a section, or the list that a field is in.
    pub(super) fn variable(&self, field: &str) -> Option<&str> {
        let field = field.split(['[', ':']).next().unwrap_or_default();
        let mut within = field;
        loop {
            if let Some(name) = self.names.get(within) {
                return Some(name);
            }
            within = within.rsplit_once('.')?.0;
        }
    }
}

/// The field that a variable without its prefix sets.
fn field_of(name: &str) -> String {
    name.to_ascii_lowercase().replace("__", ".")
}

/// Refuses variables that set one field twice, because the variable that happens to come last would win, and those that set
/// nothing because an underscore is missing or too many. Returns the variable of each field, the fields of variables with a
/// mistake, and the mistakes.
fn check(
    variables: impl Iterator<Item = (String, String)>,
) -> (BTreeMap<String, String>, Vec<String>, Vec<ConfigError>) {
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let (mut mistaken, mut problems) = (Vec::new(), Vec::new());
    let mut wrong = |name: &str, value: String, right: &str| {
        let (origin, field, right) = (ORIGIN.to_owned(), name.to_owned(), right.to_owned());
        problems.push(ConfigError::Value { origin, field, value, right });
    };
    for (name, value) in variables {
        if let Some(meant) = meant(&name) {
            wrong(
                &name,
                "not a setting".into(),
                &format!("written {meant}, with two underscores before each part"),
            );
            mistaken.push(field_of(&meant[PREFIX.len()..]));
            continue;
        }
        if !is_setting(&name) {
            continue;
        }
        if holds_table(&value.parse().unwrap_or(Value::from(false)))
            && Figment::from(Toml::string(&format!("value = {value}"))).find_value("value").is_err()
        {
            // The value may hold a secret: not shown.
            wrong(&name, "not shown".into(), "a table as in the file, with each key once");
            mistaken.push(field_of(&name[PREFIX.len()..]));
            continue;
        }
        let field = field_of(&name[PREFIX.len()..]);
        let beside = names.get(&field).or_else(|| {
            let within = |shorter: &str, longer: &str| {
                longer.strip_prefix(shorter).is_some_and(|rest| rest.starts_with('.'))
            };
            let other = names.iter().find(|(other, _)| within(other, &field) || within(&field, other));
            other.map(|(_, name)| name)
        });
        if let Some(beside) = beside {
            let value = format!("given beside {beside}, which sets the same");
            wrong(&name, value, "the only one of the two");
            continue;
        }
        names.insert(field, name);
    }
    (names, mistaken, problems)
}

/// The variable that was meant by one that differs from it in the number of underscores, such as `TOLLGATE_SERVER_LISTEN`.
fn meant(name: &str) -> Option<String> {
    let plain = |name: &str| name.to_ascii_uppercase().replace('_', "");
    let prefixed = name.get(..PREFIX.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX));
    if !prefixed {
        return None;
    }
    let right = variables().iter().find(|right| plain(right) == plain(name))?;
    (!right.eq_ignore_ascii_case(name)).then(|| right.clone())
}

/// The variables of all fields.
fn variables() -> &'static [String] {
    static ALL: LazyLock<Vec<String>> = LazyLock::new(|| {
        fn add(fields: &[Field], all: &mut Vec<String>) {
            for field in fields.iter().filter(|field| !field.path.contains("[]")) {
                if field.path.contains('.') {
                    all.push(variable(&field.path));
                }
                add(&field.fields, all);
            }
        }
        let mut all = Vec::new();
        add(&Field::all(), &mut all);
        all
    });
    &ALL
}

/// The variable that sets a field.
pub(super) fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.to_uppercase().replace('.', "__"))
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
        let (_, _, problems) = check(variables);
        ConfigError::of(problems).err().map(|error| error.to_string())
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
    fn a_variable_with_a_wrong_number_of_underscores_is_told_the_right_one() {
        for (name, right) in [
            ("TOLLGATE_SERVER_LISTEN", "TOLLGATE_SERVER__LISTEN"),
            ("TOLLGATE_SERVER__LIS_TEN", "TOLLGATE_SERVER__LISTEN"),
            ("tollgate_database_url_file", "TOLLGATE_DATABASE__URL_FILE"),
            ("TOLLGATE_UPSTREAM_KLING_3__MASTER_KEY", "TOLLGATE_UPSTREAM__KLING_3__MASTER_KEY"),
            ("TOLLGATE_UPSTREAM__KLING__3__MASTER_KEY", "TOLLGATE_UPSTREAM__KLING_3__MASTER_KEY"),
            ("TOLLGATE_SERVER_TLS_KEY_FILE", "TOLLGATE_SERVER__TLS__KEY_FILE"),
        ] {
            let said = problem(&[(name, "hunter2")]).unwrap_or_else(|| panic!("{name} is taken"));
            assert!(said.contains(name) && said.contains(right) && !said.contains("hunter2"), "{said}");
        }
        // What commands and orchestrators set.
        for name in [
            "TOLLGATE_ADMIN_URL",
            "TOLLGATE_ADMIN_TOKEN",
            "TOLLGATE_SERVICE_HOST",
            "TOLLGATE_PORT",
            "TOLLGATE",
        ] {
            assert_eq!(problem(&[(name, "x")]), None, "{name}");
        }
    }

    #[test]
    fn a_field_is_traced_to_its_variable() {
        let variables = [("TOLLGATE_UPSTREAM__KLING_3__ACCOUNTS", "[]"), ("TOLLGATE_SERVER__LISTEN", "x")];
        let (names, mistaken, _) =
            check(variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
        let settings = Settings { given: Env::raw(), names, mistaken };
        assert_eq!(settings.variable("server.listen"), Some("TOLLGATE_SERVER__LISTEN"));
        assert_eq!(
            settings.variable("upstream.kling_3.accounts[1].weight"),
            Some("TOLLGATE_UPSTREAM__KLING_3__ACCOUNTS")
        );
        assert_eq!(settings.variable("server.drain_ms"), None);
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
