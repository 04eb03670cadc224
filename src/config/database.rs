//! The settings of the database, and of the pool of connections to it.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use super::check::Check;
use super::database_url::database_url_problem;
use crate::secret::{self, Secret};

/// The Postgres database that holds the ledger, and the pool of connections to it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// URL of the database, `postgres://user:password@host/database`. With `?sslmode=verify-full` the server's certificate is
    /// checked; `&sslrootcert=FILE` names the authority to trust, if it is not a public one. The variables of PostgreSQL's own programs (`PGHOST`,
    /// `PGPASSWORD`, `PGOPTIONS` and others) are ignored. A password that is left out is looked up in `~/.pgpass`.
    pub url: Option<Secret>,
    /// URLs of all servers of a replicated database, instead of `url`. The gateway uses the primary, and finds the new
    /// primary after a fail-over.
    #[serde(default, deserialize_with = "secret::list")]
    pub urls: Vec<Secret>,
    /// File that holds the URL, or one URL a line, instead of `url` and `urls`.
    pub url_file: Option<PathBuf>,
    /// Maximum number of connections of the pool for calls. Lanes and background jobs have connections of their own.
    #[serde(default = "ten")]
    #[schemars(range(min = 2, max = 1_000))]
    pub max_connections: u32,
    /// Time-out for getting a connection from the pool.
    #[serde(default = "three_seconds")]
    #[schemars(range(min = 10, max = 60_000))]
    pub acquire_timeout_ms: u64,
    /// The file of `tls.extra_ca_file`.
    #[serde(skip)]
    pub extra_ca_file: Option<PathBuf>,
}

impl DatabaseConfig {
    /// The database at `url`, with defaults for everything else.
    pub fn of(url: Secret) -> Self {
        Self {
            url: Some(url),
            urls: Vec::new(),
            url_file: None,
            max_connections: ten(),
            acquire_timeout_ms: three_seconds(),
            extra_ca_file: None,
        }
    }

    /// The URL of every server, whether it was given as `url` or in `urls`, with the file of `tls.extra_ca_file` as its
    /// `sslrootcert` unless it has one.
    pub fn servers(&self) -> Vec<Secret> {
        let extra = self.extra_ca_file.as_deref().and_then(Path::to_str);
        let with_extra = |url: &Secret| -> Option<Secret> {
            let mut full = Url::parse(url.expose()).ok()?;
            if full.query_pairs().any(|(name, _)| name == "sslrootcert" || name == "ssl-root-cert") {
                return None;
            }
            full.query_pairs_mut().append_pair("sslrootcert", extra?);
            Some(Secret::new(full.as_str()))
        };
        let urls = self.url.iter().chain(&self.urls);
        urls.map(|url| with_extra(url).unwrap_or_else(|| url.clone())).collect()
    }

    /// Gathers the URLs of all servers in `urls`, and checks each.
    pub(super) fn check(&mut self, check: &mut Check<'_>) {
        let field = if self.urls.is_empty() {
            let field = if self.url_file.is_some() { "database.url_file" } else { "database.url" };
            let url = check.secret("database.url", self.url.take(), "database.url_file", &mut self.url_file);
            let text = url.as_ref().map(Secret::expose).unwrap_or_default();
            self.urls =
                text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Secret::new).collect();
            field
        } else {
            if self.url.is_some() {
                check.wrong("database.urls", "given beside database.url", "the only one of the two");
            }
            if self.url_file.is_some() {
                check.wrong("database.urls", "given beside database.url_file", "the only one of the two");
            }
            if self.urls.iter().any(Secret::is_empty) {
                check.wrong("database.urls", "partly empty", "a list of URLs");
            }
            "database.urls"
        };
        for url in self.urls.iter().filter(|url| !url.is_empty()) {
            if let Some(problem) = database_url_problem(url.expose()) {
                check.problem(field, problem);
            }
        }
    }
}

fn ten() -> u32 {
    10
}

fn three_seconds() -> u64 {
    3_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::tests::LEAST;

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
}
