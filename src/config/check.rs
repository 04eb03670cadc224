//! Checks that types alone cannot make.

use std::path::PathBuf;

use super::{Admin, Config, DatabaseConfig};
use crate::api_key::{OPERATOR_ENV, PresentedKey};
use crate::secret::Secret;

/// A configuration that cannot be used: where, what, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no such file.
    #[error("there is no configuration file {0}: give its path with --config")]
    Missing(PathBuf),
    /// The file does not have the form it should.
    #[error("{origin}: {problem}")]
    Unreadable {
        /// Which file.
        origin: String,
        /// Where in it, what, and what would be right.
        problem: String,
    },
    /// A value cannot be right.
    #[error("{origin}: {field} is {value}; it must be {right}")]
    Value {
        /// Which file.
        origin: String,
        /// The field's path.
        field: &'static str,
        /// What it is.
        value: String,
        /// What would be right.
        right: &'static str,
    },
    /// A file that should hold a secret cannot be read.
    #[error("{origin}: {field} names {path}, which cannot be read: {reason}")]
    SecretFile {
        /// Which file.
        origin: String,
        /// The field's path.
        field: &'static str,
        /// The named file.
        path: PathBuf,
        /// Why it cannot be read.
        reason: std::io::ErrorKind,
    },
}

impl ConfigError {
    pub(super) fn unreadable(origin: &str, error: &figment::Error) -> Self {
        let problems: Vec<String> = error
            .clone()
            .into_iter()
            .map(|one| {
                let path = one.path.join(".");
                let place = if path.is_empty() { String::new() } else { format!("{path}: ") };
                // The kind alone: the full text repeats profile and source, which mean nothing to the reader.
                format!("{place}{}", one.kind)
            })
            .collect();
        Self::Unreadable { origin: origin.to_owned(), problem: problems.join("; ") }
    }
}

impl Config {
    pub(super) fn check(mut self, origin: &str) -> Result<Self, ConfigError> {
        let wrong = |field: &'static str, value: String, right: &'static str| {
            Err(ConfigError::Value { origin: origin.to_owned(), field, value, right })
        };
        let day_ms = 86_400_000;
        let ranges: [(&'static str, u64, u64, u64, &'static str); 23] = [
            (
                "server.header_timeout_ms",
                self.server.header_timeout_ms,
                100,
                day_ms,
                "from 100 to 86400000 milliseconds",
            ),
            (
                "server.body_timeout_ms",
                self.server.body_timeout_ms,
                100,
                day_ms,
                "from 100 to 86400000 milliseconds",
            ),
            (
                "server.create_deadline_ms",
                self.server.create_deadline_ms,
                100,
                day_ms,
                "from 100 to 86400000 milliseconds",
            ),
            (
                "server.shutdown_grace_ms",
                self.server.shutdown_grace_ms,
                0,
                day_ms,
                "at most 86400000 milliseconds",
            ),
            ("database.max_connections", self.database.max_connections.into(), 2, 1_000, "from 2 to 1000"),
            (
                "database.acquire_timeout_ms",
                self.database.acquire_timeout_ms,
                10,
                60_000,
                "from 10 to 60000 milliseconds",
            ),
            ("ledger.lanes", self.ledger.lanes as u64, 1, 64, "from 1 to 64"),
            ("ledger.max_batch", self.ledger.max_batch as u64, 1, 1_024, "from 1 to 1024"),
            ("ledger.queue", self.ledger.queue as u64, 1, 1_000_000, "from 1 to 1000000"),
            (
                "ledger.reserve_timeout_ms",
                self.ledger.reserve_timeout_ms,
                10,
                60_000,
                "from 10 to 60000 milliseconds",
            ),
            (
                "ledger.call_timeout_ms",
                self.ledger.call_timeout_ms,
                100,
                600_000,
                "from 100 to 600000 milliseconds",
            ),
            ("ledger.lease_ms", self.ledger.lease_ms, 1_000, 600_000, "from 1000 to 600000 milliseconds"),
            (
                "ledger.idempotency_hours",
                self.ledger.idempotency_hours.into(),
                1,
                8_760,
                "from 1 to 8760 hours",
            ),
            ("ledger.in_doubt_hours", self.ledger.in_doubt_hours.into(), 1, 8_760, "from 1 to 8760 hours"),
            ("ledger.audit_minutes", self.ledger.audit_minutes.into(), 0, 10_080, "from 0 to 10080 minutes"),
            (
                "reconciler.max_task_age_hours",
                self.reconciler.max_task_age_hours.into(),
                1,
                8_760,
                "from 1 to 8760 hours",
            ),
            // Books that were in force within an hour are at hand.
            (
                "quotes.max_valid_seconds",
                self.quotes.max_valid_seconds.into(),
                0,
                3_000,
                "at most 3000 seconds",
            ),
            ("status.wait_ms", self.status.wait_ms, 0, 2_000, "at most 2000 milliseconds"),
            (
                "reconciler.polls_per_second",
                self.reconciler.polls_per_second.into(),
                1,
                100_000,
                "from 1 to 100000",
            ),
            ("reconciler.concurrency", self.reconciler.concurrency as u64, 1, 10_000, "from 1 to 10000"),
            (
                "reconciler.interval_ms",
                self.reconciler.interval_ms,
                10,
                day_ms,
                "from 10 to 86400000 milliseconds",
            ),
            (
                "auth.jwks_refresh_ms",
                self.auth.jwks_refresh_ms,
                100,
                day_ms,
                "from 100 to 86400000 milliseconds",
            ),
            ("reconciler.tick_ms", self.reconciler.tick_ms, 10, 60_000, "from 10 to 60000 milliseconds"),
        ];
        for (field, value, least, most, right) in ranges {
            if !(least..=most).contains(&value) {
                return wrong(field, value.to_string(), right);
            }
        }
        if tracing_subscriber::EnvFilter::try_new(&self.log.level).is_err() {
            return wrong(
                "log.level",
                format!("'{}'", self.log.level),
                "a level (error, warn, info, debug, trace) or directives",
            );
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
        return Err(ConfigError::Value {
            origin: origin.to_owned(),
            field,
            value: "not a token".into(),
            right: "one that 'tollgate operator-token' printed",
        });
    }
    admin.bootstrap_token = token;
    Ok(())
}

fn check_database(origin: &str, database: &mut DatabaseConfig) -> Result<(), ConfigError> {
    let wrong = |value: &str, right: &'static str| {
        Err(ConfigError::Value {
            origin: origin.to_owned(),
            field: "database.urls",
            value: value.into(),
            right,
        })
    };
    if !database.urls.is_empty() {
        // As with one URL, what is given beside a file wins over it.
        database.url_file = None;
        if database.url.is_some() {
            return wrong("given beside database.url", "the only one of the two");
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

/// The secret itself, else what its file holds; one of the two must be there.
pub(super) fn secret(
    origin: &str,
    field: &'static str,
    value: Option<Secret>,
    file_field: &'static str,
    file: &mut Option<PathBuf>,
) -> Result<Option<Secret>, ConfigError> {
    let secret = match (value, file.take()) {
        // The value may come from the environment, to replace a file that the configuration names.
        (Some(secret), _) => secret,
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
        return Err(ConfigError::Value {
            origin: origin.to_owned(),
            field,
            value: "missing".into(),
            right: "set, here, by a file, or in the environment",
        });
    }
    Ok(Some(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_sample_file_is_usable_and_shows_the_defaults() {
        let sample = include_str!("../../config/tollgate.toml");
        let sample =
            sample.replace("master_key_file = \"/run/secrets/master_key\"", "master_key = \"sk-test\"");
        let config = Config::from_toml(&sample).unwrap();
        // Every commented-out line of the sections with defaults, put in force, must change nothing.
        let is_setting = |line: &str| {
            line.starts_with("# [") || line.split_once(" = ").is_some_and(|(key, _)| !key[2..].contains(' '))
        };
        let mut shown = String::new();
        let mut skip = false;
        for line in sample.lines() {
            let commented = line.starts_with("# ") && is_setting(line);
            if line.starts_with("# [") {
                skip = line.contains("[upstream");
            }
            if commented && !skip && !line.contains("instead of") {
                shown.push_str(&line[2..]);
            } else {
                shown.push_str(line);
            }
            shown.push('\n');
        }
        let shown = Config::from_toml(&shown).unwrap();
        assert_eq!(format!("{shown:?}"), format!("{config:?}"));
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
            ("urls = [\"postgres://a/x\", \"\"]", "partly empty"),
            ("urls = []", "database.url is missing"),
        ] {
            let problem = servers(database).unwrap_err().to_string();
            assert!(problem.contains(expected), "{problem}");
        }
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
                &["base_url is 'ftp://x", "http or https"],
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
