//! Tests of whole configurations.

use super::{Config, DatabaseConfig, UpstreamConfig};
use crate::secret::Secret;

pub(super) const LEAST: &str = r#"
    [database]
    url = "postgres://gw@localhost/tollgate"
    [upstream.kling_3]
    base_url = "https://vendor.example"
    master_key = "sk-test"
"#;

pub(super) fn problem(more: &str) -> String {
    Config::from_toml(&format!("{LEAST}\n{more}")).unwrap_err().to_string()
}

/// Checks that each text, added to the least configuration, is refused with all of the parts, and without a password.
pub(super) fn are_told(rows: &[(&str, &[&str])]) {
    for (more, expected) in rows {
        let problem = problem(more);
        for part in *expected {
            assert!(problem.contains(part), "{more}: {problem}");
        }
        assert!(!problem.contains("hunter2"), "{problem}");
    }
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
    let sample = sample.replace("master_key_file = \"/run/secrets/master_key\"", "master_key = \"sk-test\"");
    Config::from_toml(&sample).unwrap();
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
        assert!(problem.contains("a list of secret strings") && !problem.contains("hunter2"), "{problem}");
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
    for part in ["begins with mysql://", "upstream.kling_3.base_url: it ends in /api", "log.level is 'loud'"]
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
    are_told(&[
        ("[ledger]\nlanes = 0", &["ledger.lanes is 0", "from 1 to 64"]),
        ("[ledger]\nprofile = \"fast\"", &["ledger.profile", "fast", "plain", "two-commit"]),
        ("[server]\nlisten = \"nowhere\"", &["server.listen is 'nowhere'", "an IP address and a port"]),
        ("[server]\nlisten = \":8080\"", &["127.0.0.1:8080 (this machine only) or 0.0.0.0:8080"]),
        ("[log]\nlevel = \"warning\"", &["log.level is 'warning'", "a level"]),
        ("[log]\nlevel = \"info,tolgate\"", &["log.level is 'info,tolgate'", "a level"]),
        ("[log]\nlevel = \"info,tolgate=debug\"", &["log.level is 'info,tolgate=debug'", "directives"]),
        ("[log]\nlevel = \"info,tollgat::poll=debug\"", &["log.level is", "directives"]),
        ("[log]\nlevel = \"my-app[span]=debug\"", &["log.level is", "directives"]),
        ("[server]\nlistn = \"x\"", &["server", "unknown field", "listn", "listen"]),
        ("[status]\nmin_interval_ms = \"soon\"", &["status.min_interval_ms", "soon"]),
        ("[log]\nlevel = \"loud=quiet\"", &["log.level is 'loud=quiet'", "directives"]),
        ("[tls]\nextra_ca_file = \"/nowhere.pem\"", &["tls.extra_ca_file: /nowhere.pem: it cannot be read"]),
    ]);
}
