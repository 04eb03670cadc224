//! Checks of the configuration that its types alone cannot make.

use std::path::PathBuf;

use super::{Admin, BadPair, Config, DatabaseConfig};
use crate::api_key::{OPERATOR_ENV, PresentedKey};
use crate::secret::Secret;

/// Why a configuration cannot be used: the place, the problem, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file does not exist.
    #[error("there is no configuration file {0}: give its path with --config")]
    Missing(PathBuf),
    /// The file cannot be parsed, or a field is unknown or of another type.
    #[error("{origin}: {problem}")]
    Unreadable {
        origin: String,
        /// The place in the file, the problem, and what would be right.
        problem: String,
    },
    /// The value of a field is not allowed.
    #[error("{origin}: {field} is {value}; it must be {right}")]
    Value {
        origin: String,
        field: String,
        value: String,
        /// What would be right.
        right: String,
    },
    /// A certificate or its key cannot be used.
    #[error("{origin}: {section}.tls: {reason}")]
    Tls { origin: String, section: &'static str, reason: Box<BadPair> },
    /// The file of a secret cannot be read.
    #[error("{origin}: {field} names {path}, which cannot be read: {reason}")]
    SecretFile {
        origin: String,
        field: &'static str,
        path: PathBuf,
        /// Why it cannot be read.
        reason: std::io::ErrorKind,
    },
}

impl ConfigError {
    pub(super) fn value(origin: &str, field: &str, value: impl Into<String>, right: &str) -> Self {
        Self::Value {
            origin: origin.to_owned(),
            field: field.to_owned(),
            value: value.into(),
            right: right.to_owned(),
        }
    }

    pub(super) fn unreadable(origin: &str, error: &figment::Error) -> Self {
        let problems: Vec<String> = error
            .clone()
            .into_iter()
            .map(|one| {
                let path = one.path.join(".");
                let place = if path.is_empty() { String::new() } else { format!("{path}: ") };
                // The kind alone: the full text adds figment's profile and source, which mean nothing to the reader.
                format!("{place}{}", without_excerpt(&one.kind.to_string()))
            })
            .collect();
        Self::Unreadable { origin: origin.to_owned(), problem: problems.join("; ") }
    }
}

/// The message of a TOML parser, without its excerpt of the file, which may hold a secret.
fn without_excerpt(problem: &str) -> String {
    let is_excerpt =
        |line: &str| line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').starts_with('|');
    let lines: Vec<&str> = problem.trim_end().lines().filter(|line| !is_excerpt(line)).collect();
    lines.join(": ")
}

impl Config {
    pub(super) fn check(mut self, origin: &str) -> Result<Self, ConfigError> {
        let wrong = |field: &'static str, value: String, right: &'static str| {
            Err(ConfigError::value(origin, field, value, right))
        };
        if tracing_subscriber::EnvFilter::try_new(&self.log.level).is_err() {
            return wrong(
                "log.level",
                format!("'{}'", self.log.level),
                "a level (error, warn, info, debug, trace) or directives",
            );
        }
        for (section, tls) in [("server", &self.server.tls), ("admin", &self.admin.tls)] {
            if let Some(tls) = tls {
                let bad = |reason| ConfigError::Tls {
                    origin: origin.to_owned(),
                    section,
                    reason: Box::new(reason),
                };
                tls.read().and_then(|files| tls.parse(&files)).map_err(bad)?;
            }
        }
        for listed in &self.server.cors_origins {
            let same = |url: url::Url| url.origin().ascii_serialization() == *listed;
            if !listed.starts_with("http") || !listed.parse().is_ok_and(same) {
                let right = "a list of origins, each a scheme and a host, such as https://app.example.com";
                return wrong("server.cors_origins", format!("'{listed}'"), right);
            }
        }
        check_database(origin, &mut self.database)?;
        check_admin(origin, &mut self.admin)?;
        self.upstream.check(origin)?;
        self.telemetry.check(origin)?;
        Ok(self)
    }
}

fn check_admin(origin: &str, admin: &mut Admin) -> Result<(), ConfigError> {
    let (field, file) = ("admin.bootstrap_token", "admin.bootstrap_token_file");
    if admin.bootstrap_token.is_none() && admin.bootstrap_token_file.is_none() {
        return Ok(());
    }
    let token = secret(origin, field, admin.bootstrap_token.take(), file, &mut admin.bootstrap_token_file)?;
    let presented = token.as_ref().and_then(|token| PresentedKey::parse(token.expose()));
    if presented.is_none_or(|presented| presented.env != OPERATOR_ENV) {
        return Err(ConfigError::value(
            origin,
            field,
            "not a token",
            "one that 'tollgate operator-token' printed",
        ));
    }
    admin.bootstrap_token = token;
    Ok(())
}

fn check_database(origin: &str, database: &mut DatabaseConfig) -> Result<(), ConfigError> {
    let wrong =
        |value: &str, right: &'static str| Err(ConfigError::value(origin, "database.urls", value, right));
    if !database.urls.is_empty() {
        if database.url.is_some() {
            return wrong("given beside database.url", "the only one of the two");
        }
        if database.url_file.is_some() {
            return wrong("given beside database.url_file", "the only one of the two");
        }
        if database.urls.iter().any(Secret::is_empty) {
            return wrong("partly empty", "a list of URLs");
        }
        return Ok(());
    }
    let url =
        secret(origin, "database.url", database.url.take(), "database.url_file", &mut database.url_file)?;
    let text = url.as_ref().map(Secret::expose).unwrap_or_default();
    database.urls = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Secret::new).collect();
    Ok(())
}

/// The secret itself, or the contents of its file; an error if neither or both are given.
pub(super) fn secret(
    origin: &str,
    field: &'static str,
    value: Option<Secret>,
    file_field: &'static str,
    file: &mut Option<PathBuf>,
) -> Result<Option<Secret>, ConfigError> {
    let secret = match (value, file.take()) {
        (Some(_), Some(_)) => {
            let value = format!("given beside {file_field}");
            return Err(ConfigError::value(origin, field, value, "the only one of the two"));
        }
        (Some(secret), None) => secret,
        (None, Some(path)) => match std::fs::read_to_string(&path) {
            Ok(text) => Secret::new(text.trim()),
            Err(error) => {
                return Err(ConfigError::SecretFile {
                    origin: origin.to_owned(),
                    field: file_field,
                    path,
                    reason: error.kind(),
                });
            }
        },
        (None, None) => Secret::new(""),
    };
    if secret.is_empty() {
        return Err(ConfigError::value(
            origin,
            field,
            "missing",
            "set: here, by a file, or in the environment",
        ));
    }
    Ok(Some(secret))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::UpstreamConfig;

    const LEAST: &str = r#"
        [database]
        url = "postgres://gw@localhost/tollgate"
        [upstream.kling_3]
        base_url = "https://vendor.example"
        master_key = "sk-test"
    "#;

    fn problem(more: &str) -> String {
        Config::from_toml(&format!("{LEAST}\n{more}")).unwrap_err().to_string()
    }

    #[test]
    fn the_least_configuration_is_enough() {
        let config = Config::from_toml(LEAST).unwrap();
        assert_eq!(config.server.listen.port(), 8080);
        assert!(!format!("{config:?}").contains("sk-test"), "secrets do not show");
    }

    #[test]
    fn the_sample_file_is_usable() {
        let sample = include_str!("../../config/tollgate.toml");
        let sample =
            sample.replace("master_key_file = \"/run/secrets/master_key\"", "master_key = \"sk-test\"");
        Config::from_toml(&sample).unwrap();
    }

    const ACCOUNTS: &str = "[[upstream.kling_o3.accounts]]\nname = \"a\"\nmaster_key = \"k\"";

    fn o3(more: &str) -> String {
        format!("[upstream.kling_o3]\nbase_url = \"http://x\"\nmaster_key = \"k\"\n{more}")
    }

    /// A backend with two accounts.
    fn pool(one: &str, other: &str, weight: u32) -> String {
        let account = |name| {
            format!(
                "[[upstream.kling_o3.accounts]]\nname = \"{name}\"\nmaster_key = \"k\"\nweight = {weight}\n"
            )
        };
        format!("[upstream.kling_o3]\nbase_url = \"http://x\"\n{}{}", account(one), account(other))
    }

    #[test]
    fn accounts_end_up_in_one_place() {
        let names = |more: &str| -> Vec<String> {
            let config = Config::from_toml(&format!("{LEAST}\n{more}")).unwrap();
            let all = [Some(config.upstream.kling_3), config.upstream.kling_o3];
            let accounts = all.into_iter().flatten().flat_map(|upstream| upstream.accounts);
            accounts
                .map(|account| {
                    format!("{} {} {}", account.name, account.master_key.unwrap().expose(), account.weight)
                })
                .collect()
        };
        assert_eq!(names(""), ["main sk-test 1"]);
        assert_eq!(names(&pool("a", "b", 3)), ["main sk-test 1", "a k 3", "b k 3"]);
        assert_eq!(
            names(&o3("")),
            ["main sk-test 1", "main k 1"],
            "two that are unnamed are both called main"
        );
        let same = "[upstream.kling_o3]\nbase_url = \"https://vendor.example/\"\nmaster_key = \"sk-test\"\naccount = \"main\"";
        assert_eq!(names(same), ["main sk-test 1", "main sk-test 1"], "one account for both backends");
    }

    #[test]
    fn the_first_byte_is_not_waited_for_longer_than_the_whole() {
        let upstream = |more: &str| Config::from_toml(&format!("{LEAST}\n{more}")).unwrap().upstream.kling_3;
        assert_eq!(upstream("").first_byte_timeout().as_secs(), 240);
        assert_eq!(upstream("create_timeout_ms = 60000").first_byte_timeout().as_secs(), 60);
        assert_eq!(upstream("first_byte_timeout_ms = 5000").first_byte_timeout().as_secs(), 5);
    }

    #[test]
    fn several_servers_are_a_list_or_lines_of_a_file() {
        let upstream = &LEAST[LEAST.find("[upstream").unwrap()..];
        let servers = |database: &str| {
            let config = Config::from_toml(&format!("[database]\n{database}\n{upstream}"));
            config.map(|config| config.database.servers())
        };
        let two = [Secret::new("postgres://a/x"), Secret::new("postgres://b/x")];
        assert_eq!(servers("url = \"postgres://a/x\"").unwrap(), two[..1]);
        assert_eq!(servers("urls = [\"postgres://a/x\", \"postgres://b/x\"]").unwrap(), two);
        let file = std::env::temp_dir().join(format!("tollgate-urls-{}", std::process::id()));
        std::fs::write(&file, "postgres://a/x\n\n  postgres://b/x\n").unwrap();
        assert_eq!(servers(&format!("url_file = \"{}\"", file.display())).unwrap(), two);
        std::fs::remove_file(&file).unwrap();
        for (database, expected) in [
            ("url = \"postgres://a/x\"\nurls = [\"postgres://b/x\"]", "given beside database.url"),
            ("url_file = \"a\"\nurls = [\"postgres://b/x\"]", "given beside database.url_file"),
            ("url_file = \"a\"\nurl = \"postgres://b/x\"", "given beside database.url_file"),
            ("urls = [\"postgres://a/x\", \"\"]", "partly empty"),
            ("urls = []", "database.url is missing"),
        ] {
            let problem = servers(database).unwrap_err().to_string();
            assert!(problem.contains(expected), "{problem}");
        }
    }

    #[test]
    fn problems_show_no_password() {
        for more in [
            "[upstream.kling_o3]\nbase_url = \"http://:hunter2@x\"\nmaster_key = \"k\"",
            "[upstream.kling_o3]\nbase_url = \"http://u:hunter2@x\"\nmaster_key = \"k\"",
            "[telemetry]\notlp_endpoint = \"http://u:hunter2@x\"",
        ] {
            let problem = problem(more);
            assert!(!problem.contains("hunter2"), "{problem}");
        }
        for urls in ["\"postgres://u:hunter2@x\"", "[{ url = \"postgres://u:hunter2@x\" }]"] {
            let text = format!(
                "[database]\nurls = {urls}\n[upstream.kling_3]\nbase_url = \"http://x\"\nmaster_key = \"k\"\n"
            );
            let problem = Config::from_toml(&text).unwrap_err().to_string();
            assert!(
                problem.contains("a list of secret strings") && !problem.contains("hunter2"),
                "{problem}"
            );
        }
    }

    #[test]
    fn a_field_that_is_given_twice_is_refused_and_not_shown() {
        for (more, field) in [
            ("[server]\nlisten = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:2\"", "listen"),
            ("[server]\ndrain_ms = 1\n[server]\ndrain_ms = 2", "server"),
            ("[server]\ntls = { key_file = \"a\", key_file = \"b\" }", "key_file"),
            ("[admin]\nbootstrap_token = \"hunter2\"\nbootstrap_token = \"hunter2\"", "bootstrap_token"),
        ] {
            let problem = problem(more);
            assert!(problem.contains("duplicate key") && problem.contains(field), "{more}: {problem}");
            assert!(problem.contains("line ") && !problem.contains("hunter2"), "{more}: {problem}");
        }
    }

    #[test]
    fn a_configuration_built_as_a_value_is_that_of_the_least_file() {
        let database = DatabaseConfig::of(Secret::new("postgres://gw@localhost/tollgate"));
        let upstream = UpstreamConfig::of("https://vendor.example".parse().unwrap(), Secret::new("sk-test"));
        let built = Config::of(database, upstream).unwrap();
        let read = Config::from_toml(LEAST).unwrap();
        assert_eq!(format!("{built:?}"), format!("{read:?}"));
        let keys = |config: &Config| config.upstream.kling_3.accounts[0].master_key.clone();
        assert_eq!((keys(&built), built.database.servers()), (keys(&read), read.database.servers()));
    }

    #[test]
    fn problems_name_field_value_and_remedy() {
        for (more, expected) in [
            ("[ledger]\nlanes = 0", &["ledger.lanes is 0", "from 1 to 64"][..]),
            ("[ledger]\nprofile = \"fast\"", &["ledger.profile", "fast", "plain", "two-commit"]),
            ("[server]\nlisten = \"nowhere\"", &["server.listen", "invalid socket address"]),
            ("[server]\nlistn = \"x\"", &["server", "unknown field", "listn", "listen"]),
            ("[status]\nmin_interval_ms = \"soon\"", &["status.min_interval_ms", "soon"]),
            ("[log]\nlevel = \"loud=quiet\"", &["log.level is 'loud=quiet'", "directives"]),
            (
                "[upstream.kling_o3]\nbase_url = \"ftp://x\"\nmaster_key = \"k\"",
                &["base_url is not usable", "http or https"],
            ),
            ("[upstream.kling_o3]\nbase_url = \"http://x\"", &["master_key is missing"]),
            (
                &o3("first_byte_timeout_ms = 2000\ncreate_timeout_ms = 1000"),
                &["first_byte_timeout_ms is 2000", "at most create_timeout_ms"],
            ),
            (&o3("breaker_open_ms = 0"), &["breaker_open_ms is 0", "from 10 to 3600000"]),
            (&o3("max_creates = 0"), &["max_creates is 0", "from 1 to 100000"]),
            (&o3("max_polls = 1000000"), &["max_polls is 1000000", "from 1 to 100000"]),
            (&o3("account = \"\""), &["account is ''", "1 to 64 characters"]),
            (&o3("account = \"main\""), &["kling_o3", "'main'", "another than those of kling_3"]),
            (&o3(ACCOUNTS), &["master_key is given beside accounts", "left out"]),
            (&pool("a", "a", 1), &["accounts.name is 'a' twice", "no other account"]),
            (&pool("a", "main", 1), &["kling_o3", "'main'", "another than those of kling_3"]),
            (&pool("a", "b", 0), &["weight is 0 for all", "above 0"]),
            (&pool("a", "b", 1).replace("master_key", "# master_key"), &["accounts.master_key is missing"]),
        ] {
            let problem = problem(more);
            for part in expected {
                assert!(problem.contains(part), "{more}: {problem}");
            }
        }
    }
}
