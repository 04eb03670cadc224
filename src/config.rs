//! Configuration. Defaults are overridden by a TOML file, the file by the environment (`TOLLGATE_SERVER__LISTEN=…`), the
//! environment by the flags of a command. Unknown fields, and fields that are given twice, are refused; every error names
//! the field, its value and what would be right. A configuration can also be built as a value ([`Config::of`]): then neither
//! a file nor the environment is read.

mod admin;
mod auth;
mod check;
mod console;
mod database;
mod database_url;
mod environment;
mod error;
mod files;
mod ledger;
mod limits;
mod log;
mod quotes;
mod reference;
mod schema;
mod server;
mod status;
mod telemetry;
#[cfg(test)]
mod tests;
mod tls;
mod upstream;
mod warnings;

use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Format, Serialized, Toml};
use figment::value::Dict;
use schemars::JsonSchema;
use serde::Deserialize;

pub use self::admin::Admin;
pub use self::auth::AuthConfig;
pub use self::console::Console;
pub use self::database::DatabaseConfig;
pub use self::database_url::database_url_problem;
pub use self::environment::is_setting;
pub use self::error::ConfigError;
pub use self::ledger::{LedgerConfig, Profile, RetentionConfig};
pub use self::limits::Limits;
pub use self::log::{Log, LogFormat};
pub use self::quotes::Quotes;
pub use self::reference::reference;
pub use self::schema::schema;
pub use self::server::{ProxyHeader, Server};
pub use self::status::{Reconciler, StatusConfig};
pub use self::telemetry::{OtlpProtocol, Telemetry};
pub use self::tls::{BadExtraAuthorities, BadPair, Pair, Tls, Trusted};
pub use self::upstream::{AccountConfig, UpstreamConfig, Upstreams};
use crate::https::{Authorities, Egress};

use self::check::Check;
use self::environment::Settings;
use self::error::Origin;
use self::schema::{Misfit, take_misfits};

/// The whole configuration of a gateway.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The listener of the data plane, `/api/…`, and its time-outs.
    #[serde(default)]
    pub server: Server,
    /// The operations listener: management API, metrics, health.
    #[serde(default)]
    pub admin: Admin,
    /// The database that holds the ledger, and the pool of connections to it.
    pub database: DatabaseConfig,
    /// What the gateway trusts when it connects to others by TLS: the vendor, identity providers, the trace collector, the
    /// database.
    #[serde(default)]
    pub tls: Trusted,
    /// The vendor's backends and accounts, and the limits and time-outs of calls to them.
    pub upstream: Upstreams,
    /// Lanes, batches, time-outs and periods of the ledger.
    #[serde(default)]
    pub ledger: LedgerConfig,
    /// Default limits: for organisations, users and keys without a limit of their own. 0 is no limit.
    #[serde(default)]
    pub limits: Limits,
    /// How long what is not money is kept.
    #[serde(default)]
    pub retention: RetentionConfig,
    /// Quotes that promise a price.
    #[serde(default)]
    pub quotes: Quotes,
    /// Answers to status calls, and the cache behind them.
    #[serde(default)]
    pub status: StatusConfig,
    /// The reconciler, which polls unfinished tasks, so that they end although no caller asks for them.
    #[serde(default)]
    pub reconciler: Reconciler,
    /// Caching of credentials, and of the keys of identity providers.
    #[serde(default)]
    pub auth: AuthConfig,
    /// The console, `/console` on both listeners: pages for people.
    #[serde(default)]
    pub console: Console,
    /// The log, on standard error.
    #[serde(default)]
    pub log: Log,
    /// Traces, sent to an OpenTelemetry collector.
    #[serde(default)]
    pub telemetry: Telemetry,
    /// What will work, but should not stay so, in sentences for the operator.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

/// A duration from a field in milliseconds.
pub fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

impl Config {
    /// A gateway on `database` in front of `upstream`, with defaults for everything else. Reads no file and no variable.
    pub fn of(database: DatabaseConfig, upstream: UpstreamConfig) -> Result<Self, ConfigError> {
        let mut config = Self {
            server: Server::default(),
            admin: Admin::default(),
            database,
            tls: Trusted::default(),
            upstream: Upstreams::of(upstream),
            ledger: LedgerConfig::default(),
            limits: Limits::default(),
            retention: RetentionConfig::default(),
            quotes: Quotes::default(),
            status: StatusConfig::default(),
            reconciler: Reconciler::default(),
            auth: AuthConfig::default(),
            console: Console::default(),
            log: Log::default(),
            telemetry: Telemetry::default(),
            warnings: Vec::new(),
        };
        let origin = |_: &str| "the configuration".to_owned();
        let mut check = Check::new(&origin);
        config.check(&mut check);
        ConfigError::of(check.end(&[])).map(|()| config)
    }

    /// What connections to the internet need. Reads the file of `tls.extra_ca_file`.
    pub fn egress(&self) -> Result<Egress, BadExtraAuthorities> {
        let read = |file: &PathBuf| {
            Authorities::read(file).map_err(|reason| BadExtraAuthorities { file: file.clone(), reason })
        };
        let authorities = self.tls.extra_ca_file.as_ref().map(read).transpose()?;
        Ok(Egress { authorities, proxy: self.upstream.proxy() })
    }

    /// Reads `file` and the environment, which overrides the file, and checks every value.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        if !file.is_file() {
            return Err(ConfigError::Missing(file.to_owned()));
        }
        let source = file.display().to_string();
        let (environment, mistakes) = Settings::read();
        let settings = Figment::from(environment.given.clone());
        let origin = |field: &str| match environment.variable(field) {
            Some(variable) => format!("{variable} in the environment"),
            None => source.clone(),
        };
        let given: Result<Dict, _> = Figment::from(Toml::file_exact(file)).extract();
        let read = given.map_err(|error| ConfigError::unreadable(&source, &error)).and_then(|mut given| {
            environment::replace_alternatives(&mut given, &settings);
            Self::read(Figment::from(Serialized::defaults(given)).merge(settings), &source, &origin)
        });
        if !mistakes.is_empty() {
            let others = read.err().map(ConfigError::each).unwrap_or_default().into_iter();
            let others =
                others.filter(|other| !other.field().is_some_and(|field| environment.explains(field)));
            ConfigError::of(mistakes.into_iter().chain(others).collect())?;
            return Err(unknown(&source));
        }
        let mut config = read?;
        config.warnings.extend(files::changeable("the configuration file", file));
        Ok(config)
    }

    /// Reads a TOML text, and nothing else, and checks every value.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let source = "the configuration";
        Self::read(Figment::from(Toml::string(text)), source, &|_| source.to_owned())
    }

    fn read(given: Figment, source: &str, origin: &Origin<'_>) -> Result<Self, ConfigError> {
        let unreadable = |error: figment::Error| ConfigError::unreadable(source, &error);
        let mut values: serde_json::Value = given.extract().map_err(unreadable)?;
        let misfits = take_misfits(&mut values);
        let mut told: Vec<String> = misfits.iter().map(Misfit::field).collect();
        let mut problems: Vec<ConfigError> =
            misfits.into_iter().map(|misfit| ConfigError::of_misfit(misfit, origin)).collect();
        // What fits is checked too, so that all problems are told at once.
        let read: Result<Self, _> = if problems.is_empty() {
            let defaults = Figment::from(Serialized::default("log", Log::default()));
            defaults.merge(given).extract()
        } else {
            schema::complete(&mut values);
            Figment::from(Serialized::defaults(values)).extract()
        };
        let mut config = match read {
            Ok(config) => config,
            Err(error) if problems.is_empty() => return Err(unreadable(error)),
            Err(_) => return Err(ConfigError::of(problems).err().unwrap_or_else(|| unknown(source))),
        };
        let files = config.secret_files();
        let mut check = Check::new(origin);
        config.check(&mut check);
        told.sort_unstable();
        problems.extend(check.end(&told));
        ConfigError::of(problems)?;
        config.warnings = config.find_warnings(&files);
        Ok(config)
    }
}

fn unknown(source: &str) -> ConfigError {
    ConfigError::Unreadable { origin: source.to_owned(), problem: "it cannot be read".into() }
}
