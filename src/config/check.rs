//! Checks of the configuration that its types alone cannot make. Every problem is found, not only the first.

use std::path::PathBuf;

use super::Config;
use super::error::{ConfigError, Origin};
use super::files::written_by_others;
use crate::https::unread;
use crate::secret::Secret;

/// Collects what is wrong.
pub(super) struct Check<'a> {
    origin: &'a Origin<'a>,
    found: Vec<ConfigError>,
}

impl<'a> Check<'a> {
    pub(super) fn new(origin: &'a Origin<'a>) -> Self {
        Self { origin, found: Vec::new() }
    }

    /// The value of a field is wrong.
    pub(super) fn wrong(&mut self, field: &str, value: impl Into<String>, right: impl Into<String>) {
        let (name, value, right) = (field.to_owned(), value.into(), right.into());
        self.add(field, |origin| ConfigError::Value { origin, field: name, value, right });
    }

    /// A problem that has an error of its own, made with the place where `field` was given.
    pub(super) fn add(&mut self, field: &str, error: impl FnOnce(String) -> ConfigError) {
        self.found.push(error((self.origin)(field)));
    }

    /// A field has a problem.
    pub(super) fn problem(&mut self, field: &str, problem: impl Into<String>) {
        let (name, problem) = (field.to_owned(), problem.into());
        self.add(field, |origin| ConfigError::Field { origin, field: name, problem });
    }

    /// What was found. Problems of fields that are among `told` are left out: they follow from what was told.
    pub(super) fn end(self, told: &[String]) -> Vec<ConfigError> {
        let known = |problem: &ConfigError| {
            let Some(field) = problem.field() else { return false };
            told.iter().any(|told| follows(field, &without_places(told)))
        };
        self.found.into_iter().filter(|problem| !known(problem)).collect()
    }

    /// The contents of the file of a secret.
    fn read(&mut self, field: &str, path: PathBuf) -> Option<Secret> {
        if let Some(mode) = written_by_others(&path) {
            self.problem(
                field,
                format!(
                    "{} may be written by every user of this machine (mode {mode:03o}): chmod o-w it, and make sure that \
                     it still holds what you have put there",
                    path.display()
                ),
            );
        }
        match std::fs::read_to_string(&path) {
            Ok(text) => Some(Secret::new(text.trim())),
            Err(error) => {
                let (name, reason) = (field.to_owned(), unread(&error));
                self.add(field, |origin| ConfigError::SecretFile { origin, field: name, path, reason });
                None
            }
        }
    }

    /// The secret itself, or the contents of its file; a problem if neither or both are given.
    pub(super) fn secret(
        &mut self,
        field: &str,
        value: Option<Secret>,
        file_field: &str,
        file: &mut Option<PathBuf>,
    ) -> Option<Secret> {
        let secret = match (value, file.take()) {
            (Some(_), Some(_)) => {
                self.wrong(field, format!("given beside {file_field}"), "the only one of the two");
                return None;
            }
            (Some(secret), None) => secret,
            (None, Some(path)) => self.read(file_field, path)?,
            (None, None) => Secret::new(""),
        };
        if secret.is_empty() {
            self.wrong(field, "missing", "set: here, by a file, or in the environment");
            return None;
        }
        Some(secret)
    }
}

/// Whether what is wrong with `field` follows from what was told of another one: a wrong `urls` or `master_key_file`, and then
/// neither `url` nor `master_key` is missing; or a section that is missing, and with it everything in it.
fn follows(field: &str, told: &str) -> bool {
    told.starts_with(field) && !told[field.len()..].contains('.')
        || field.strip_prefix(told).is_some_and(|within| within.starts_with('.'))
}

/// The path of a field without the places in lists: `accounts[1].name` is `accounts.name`.
fn without_places(path: &str) -> String {
    path.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest)).collect()
}

impl Config {
    /// Checks what the types alone cannot, one section after the other, and reads the files of secrets.
    pub(super) fn check(&mut self, check: &mut Check<'_>) {
        self.log.check(check);
        for (section, tls) in [("server", &self.server.tls), ("admin", &self.admin.tls)] {
            if let Some(tls) = tls {
                tls.check(section, check);
            }
        }
        self.server.check(check);
        self.database.check(check);
        self.admin.check(check);
        self.quotes.check(check);
        self.console.check(check);
        self.database.extra_ca_file = self.tls.extra_ca_file.clone();
        self.upstream.check(check);
        if let Err(reason) = self.egress() {
            check.add("tls.extra_ca_file", |origin| ConfigError::Trust { origin, reason });
        }
        self.telemetry.check(check);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::{DatabaseConfig, UpstreamConfig};

    pub(in crate::config) const LEAST: &str = r#"
        [database]
        url = "postgres://gw@localhost/tollgate"
        [upstream.kling_3]
        base_url = "https://vendor.example"
        master_key = "sk-test"
    "#;

    pub(in crate::config) fn problem(more: &str) -> String {
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

    fn with_base(url: &str) -> String {
        o3("").replace("http://x", url)
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
    fn all_problems_are_told_at_once_and_in_words() {
        let text = "[server]\nlisten = \":8080\"\ndrain_ms = -1\ntrusted_proxies = \"10.0.0.0/8\"\n\
                    [database]\nurl = \"mysql://u:hunter2@h/x\"\n[upstream.kling_3]\nbase_url = \"https://x/api\"\n\
                    [upstream.kling_o3]\nmaster_key = 7\n[log]\nlevel = \"loud\"\n[ledgr]\n";
        let told = Config::from_toml(text).unwrap_err().to_string();
        for part in [
            "server.listen is ':8080'",
            "server.drain_ms is -1",
            "server.trusted_proxies is '10.0.0.0/8'",
            "upstream.kling_o3.base_url is missing",
            "upstream.kling_o3.master_key is not shown",
            "unknown field 'ledgr'; there are admin, auth",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        // What is missing keeps nothing else from being checked.
        for part in
            ["begins with mysql://", "upstream.kling_3.base_url: it ends in /api", "log.level is 'loud'"]
        {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert!(told.contains("upstream.kling_3.master_key is missing"), "{told}");
        assert_eq!(told.lines().count(), 11, "{told}");
        assert!(!told.contains("hunter2"), "{told}");
        for jargon in ["u64", "invalid type", "expected", "SocketAddr", "serde", "variant"] {
            assert!(!told.contains(jargon), "{jargon}: {told}");
        }
    }

    #[test]
    fn what_is_missing_hides_nothing_and_is_told_once() {
        let told = |text: &str| {
            let told = Config::from_toml(text).unwrap_err().each();
            told.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        let of_nothing = told("[server]\ncors_origins = [\"app.example.com\"]");
        for part in ["upstream is missing", "database", "server.cors_origins is 'app.example.com'"] {
            assert!(of_nothing.contains(part), "{part}: {of_nothing}");
        }
        // What would be in it follows from that.
        assert!(!of_nothing.contains("kling_3"), "{of_nothing}");
        let accounts = "[[upstream.kling_3.accounts]]\nmaster_key = \"k\"\n[[upstream.kling_3.accounts]]\nmaster_key = \"k\"\n";
        let text = format!(
            "[database]\nurl = \"postgres://a/x\"\n{accounts}[ledger]\nlanes = 0\n[log]\nlevel = \"loud\""
        );
        let of_names = told(&text);
        let parts = [
            "kling_3.base_url is missing",
            "accounts[0].name is missing",
            "accounts[1].name",
            "ledger.lanes",
            "log.level",
        ];
        for part in parts {
            assert!(of_names.contains(part), "{part}: {of_names}");
        }
        assert_eq!(of_names.lines().count(), parts.len(), "{of_names}");
        assert!(!of_names.contains("missing.invalid") && !of_names.contains("'missing'"), "{of_names}");
    }

    #[test]
    fn exceptions_from_the_proxy_that_no_server_has_are_refused() {
        let with = |host: &str| {
            Config::from_toml(&format!(
                "{LEAST}\n[upstream]\nproxy_url = \"http://x\"\nproxy_exceptions = [\"a.example\", \"{host}\"]"
            ))
        };
        for good in [
            "corp",
            ".corp.example",
            "my_host-1",
            "10.0.0.1",
            "10.0.0.0/8",
            "::1",
            "fd00::/8",
            "xn--bcher-kva.example",
        ] {
            assert!(with(good).is_ok(), "{good}: {:?}", with(good).map(|_| ()));
        }
        for bad in [
            "https://id.corp",
            "id.corp:8443",
            "id.corp/path",
            "10.0.0.0/33",
            "10.0.0",
            "10.0.0.256",
            "::ffff:10.0.0.0/104",
            "::ffff:10.0.0.1",
            "[::1]",
            "bücher.example",
            "*.corp",
            ".",
            "a..b",
        ] {
            let told = with(bad).unwrap_err().to_string();
            assert!(told.contains("upstream.proxy_exceptions is '"), "{bad}: {told}");
            assert!(told.contains("without scheme and port"), "{bad}: {told}");
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
            ("[server]\nlisten = \"nowhere\"", &["server.listen is 'nowhere'", "an IP address and a port"]),
            ("[server]\nlisten = \":8080\"", &["127.0.0.1:8080 (this machine only) or 0.0.0.0:8080"]),
            ("[log]\nlevel = \"warning\"", &["log.level is 'warning'", "a level"]),
            ("[log]\nlevel = \"info,tolgate\"", &["log.level is 'info,tolgate'", "a level"]),
            ("[log]\nlevel = \"info,tolgate=debug\"", &["log.level is 'info,tolgate=debug'", "directives"]),
            ("[log]\nlevel = \"info,tollgat::poll=debug\"", &["log.level is", "directives"]),
            ("[log]\nlevel = \"my-app[span]=debug\"", &["log.level is", "directives"]),
            (
                &o3("").replace("http://x", "https://x/v/api/"),
                &["base_url: it ends in /api", "leave that out"],
            ),
            (&o3("").replace("http://x", "https://x/api/generate"), &["ends in /api/generate"]),
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
            (
                "[upstream.kling_o3]\nbase_url = \"http://x/#a\"\nmaster_key = \"k\"",
                &["base_url is not usable", "http or https"],
            ),
            (&with_base("http://x//api//"), &["base_url: it ends in /api,"]),
            (&with_base("http://x/v1/api/generate/"), &["base_url: it ends in /api/generate,"]),
            (&with_base("http://x/api/status"), &["base_url: it ends in /api/status,"]),
            (
                "[tls]\nextra_ca_file = \"/nowhere.pem\"",
                &["tls.extra_ca_file: /nowhere.pem: it cannot be read"],
            ),
            ("[upstream]\nproxy_url = \"https://x\"", &["upstream.proxy_url is not usable", "http URL"]),
            (
                "[upstream]\nproxy_url = \"http://u:hunter2@x\"",
                &["upstream.proxy_url", "proxy_credentials_file"],
            ),
            ("[upstream]\nproxy_credentials = \"u:hunter2\"", &["given without proxy_url"]),
            (
                "[upstream]\nproxy_url = \"http://x\"\nproxy_credentials = \"hunter2\"",
                &["proxy_credentials is not shown", "user:password"],
            ),
            (
                "[upstream]\nproxy_url = \"http://x\"\nproxy_exceptions = [\"a, b\"]",
                &["upstream.proxy_exceptions is 'a, b'", "each by itself"],
            ),
            ("[upstream]\nproxy_exceptions = [\"a\"]", &["proxy_exceptions is given without proxy_url"]),
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
            assert!(!problem.contains("hunter2"), "{problem}");
        }
    }
}
