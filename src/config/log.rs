//! The settings of the log, and the check of its level.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::check::Check;

/// The form in which events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Coloured lines for people who read a terminal.
    Pretty,
}

/// The log, on standard error.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// The form in which events are written.
    pub format: LogFormat,
    /// Least level of logged events, or directives such as `info,tollgate::upstream=debug`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Json, level: "info".into() }
    }
}

/// The crates that write events: a directive for another one never matches.
const CRATES: &[&str] = &[
    "h2",
    "hyper_rustls",
    "hyper_util",
    "opentelemetry",
    "reqwest",
    "rustls",
    "sqlx",
    "sqlx_core",
    "sqlx_postgres",
    "tollgate",
    "tonic",
    "tower",
    "tower_http",
];

impl Log {
    pub(super) fn check(&self, check: &mut Check<'_>) {
        let level = &self.level;
        let right =
            "a level (error, warn, info, debug, trace), or directives such as info,tollgate::upstream=debug";
        // A word that is no level is taken for the beginning of the names of modules. Values of fields may have commas.
        let names_nothing = |directive: &str| {
            let target = directive.split(['=', '[']).next().unwrap_or_default().trim();
            let is_level = !directive.contains(['=', '[']) && directive.parse::<LevelFilter>().is_ok();
            let begins = |name: &&str| match target.split_once("::") {
                Some((krate, _)) => **name == *krate,
                None => name.starts_with(target),
            };
            !is_level && !target.is_empty() && !CRATES.iter().any(begins)
        };
        let in_vain = !level.contains('{') && level.split(',').map(str::trim).any(names_nothing);
        if level.trim().is_empty() || in_vain || EnvFilter::try_new(level).is_err() {
            check.wrong("log.level", format!("'{level}'"), right);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::tests::LEAST;

    #[test]
    fn the_levels_of_all_that_writes_events_can_be_set() {
        for level in [
            "off",
            "DEBUG",
            "3",
            "info,tollgate=debug",
            "warn,tollgate::upstream::client=trace,sqlx=warn,hyper_util=debug,hyper=debug",
            "tollgate[request]=debug",
            "[request{id=1}]=debug",
            "info,h2",
        ] {
            assert!(Config::from_toml(&format!("{LEAST}\n[log]\nlevel = \"{level}\"")).is_ok(), "{level}");
        }
        // What a new dependency is called is not forgotten.
        for package in include_str!("../../Cargo.lock").split("[[package]]").skip(1) {
            let name = package.split('"').nth(1).unwrap().replace('-', "_");
            let writes = package.contains("\n \"tracing\",");
            let never = ["loom", "tracing_subscriber", "sqlx_mysql", "sqlx_sqlite"];
            assert!(!writes || CRATES.contains(&&*name) || never.contains(&&*name), "{name}");
        }
    }
}
