//! Configuration: defaults, then a TOML file, then the environment (`TOLLGATE_SERVER__LISTEN=…`), then what a command's flags
//! say. Unknown fields, and fields that are given twice, are refused; every error names the field, its value and what would
//! be right. A configuration can also be built as a value ([`Config::of`]): then neither a file nor the environment is read.

mod check;
mod environment;
mod reference;
mod schema;
mod telemetry;
mod tls;
mod upstream;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Format, Serialized, Toml};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::check::ConfigError;
pub use self::environment::is_setting;
pub use self::reference::reference;
pub use self::schema::schema;
pub use self::telemetry::{OtlpProtocol, Telemetry};
pub use self::tls::{BadPair, Pair, Tls};
pub use self::upstream::{AccountConfig, UpstreamConfig, Upstreams};
use crate::secret::{self, Secret};

/// Everything a gateway can be told.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The listener of the data plane, `/api/…`, and how it takes requests.
    #[serde(default)]
    pub server: Server,
    /// The operations listener: management API, metrics, health.
    #[serde(default)]
    pub admin: Admin,
    /// Where the ledger is.
    pub database: DatabaseConfig,
    /// The vendor's backends, their accounts, and how they are called.
    pub upstream: Upstreams,
    /// How the ledger works.
    #[serde(default)]
    pub ledger: LedgerConfig,
    /// Limits of those who have none of their own.
    #[serde(default)]
    pub limits: Limits,
    /// Prices that are promised.
    #[serde(default)]
    pub quotes: Quotes,
    /// Answers to status calls.
    #[serde(default)]
    pub status: Status,
    /// Finishing tasks nobody asks for.
    #[serde(default)]
    pub reconciler: Reconciler,
    /// How callers are authenticated, and what of that is cached.
    #[serde(default)]
    pub auth: Auth,
    /// Which events are logged, and in what form.
    #[serde(default)]
    pub log: Log,
    /// Which requests are traced, and where their traces are sent.
    #[serde(default)]
    pub telemetry: Telemetry,
}

/// The data plane's listener.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Address of the data plane.
    pub listen: SocketAddr,
    /// How long a client may take to send a request's head, and how long its connection may be idle.
    #[schemars(range(min = 100, max = 86_400_000))]
    pub header_timeout_ms: u64,
    /// How long a client may take to send a request's body.
    #[schemars(range(min = 100, max = 86_400_000))]
    pub body_timeout_ms: u64,
    /// After this a create without an answer from upstream is answered 504; the work goes on.
    #[schemars(range(min = 100, max = 86_400_000))]
    pub create_deadline_ms: u64,
    /// How long what is in flight may take after SIGTERM, and after `drain_ms`.
    #[schemars(range(min = 0, max = 86_400_000))]
    pub shutdown_grace_ms: u64,
    /// On SIGTERM the gateway says at once that it is not ready, but takes requests for this long, so that whatever
    /// spreads them can look elsewhere first; the grace period begins after it.
    #[schemars(range(min = 0, max = 86_400_000))]
    pub drain_ms: u64,
    /// Networks of proxies whose word on the client's address is taken.
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which trusted proxies say it. The other one is not looked at: whoever is not made to set it may forge it.
    pub proxy_header: ProxyHeader,
    /// HTTPS in place of HTTP.
    pub tls: Option<Tls>,
}

/// How proxies tell for whom they call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    /// `X-Forwarded-For`: a list of addresses, each proxy adding one at its end.
    #[default]
    XForwardedFor,
    /// `Forwarded` as RFC 7239 defines it: its `for` parameters.
    Forwarded,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            header_timeout_ms: 60_000,
            body_timeout_ms: 60_000,
            create_deadline_ms: 60_000,
            shutdown_grace_ms: 30_000,
            drain_ms: 0,
            trusted_proxies: Vec::new(),
            proxy_header: ProxyHeader::default(),
            tls: None,
        }
    }
}

/// The operators' listener: health, metrics, the management API.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Address of the operations listener; keep it off public networks.
    pub listen: SocketAddr,
    /// The first operator's token, used while there is none. Left out, the first start makes one and prints it once.
    pub bootstrap_token: Option<Secret>,
    /// A file that holds `bootstrap_token`, instead.
    pub bootstrap_token_file: Option<PathBuf>,
    /// HTTPS in place of HTTP.
    pub tls: Option<Tls>,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8081)),
            bootstrap_token: None,
            bootstrap_token_file: None,
            tls: None,
        }
    }
}

/// The Postgres database that holds the ledger, and the pool of connections to it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// `postgres://user:password@host/database`. It is taken as it stands: `PGHOST`, `PGPASSWORD`, `PGOPTIONS` and the other
    /// variables of PostgreSQL's own programs change nothing. A password that is left out is looked up in `~/.pgpass`.
    pub url: Option<Secret>,
    /// The URL of every server of a replicated database, instead of `url`: the one that is the primary is used, and found
    /// again after a fail-over.
    #[serde(default, deserialize_with = "secret::list")]
    pub urls: Vec<Secret>,
    /// A file that holds the URL, or one a line, instead of `url` and `urls`.
    pub url_file: Option<PathBuf>,
    /// Connections of the pool for everything but reservations.
    #[serde(default = "ten")]
    #[schemars(range(min = 2, max = 1_000))]
    pub max_connections: u32,
    /// How long to wait for a connection of the pool.
    #[serde(default = "three_seconds")]
    #[schemars(range(min = 10, max = 60_000))]
    pub acquire_timeout_ms: u64,
}

impl DatabaseConfig {
    /// The database at `url`, everything else by default.
    pub fn of(url: Secret) -> Self {
        Self {
            url: Some(url),
            urls: Vec::new(),
            url_file: None,
            max_connections: ten(),
            acquire_timeout_ms: three_seconds(),
        }
    }

    /// Every server's URL, however it was given.
    pub fn servers(&self) -> Vec<Secret> {
        self.url.iter().chain(&self.urls).cloned().collect()
    }
}

fn ten() -> u32 {
    10
}

fn three_seconds() -> u64 {
    3_000
}

/// How a batch of the ledger is made durable before anybody is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// One commit, which waits for the disk while it has the balance row. Asks of the database only what every
    /// PostgreSQL can do.
    #[default]
    Plain,
    /// A commit that frees the balance row without waiting, then a second one that waits. For several gateways that
    /// share busy organisations, on a slow disk or with a synchronous standby. For a moment others can read what a
    /// crash of the database would still undo; whoever asked for it is answered only when it is durable.
    TwoCommit,
}

/// How the ledger works.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LedgerConfig {
    /// How a batch is made durable: `plain` or `two-commit`. Gateways that share a ledger may differ.
    pub profile: Profile,
    /// Lanes, each with a connection of its own.
    #[schemars(range(min = 1, max = 64))]
    pub lanes: usize,
    /// Reservations in one call, at most.
    #[schemars(range(min = 1, max = 1_024))]
    pub max_batch: usize,
    /// Reservations that may wait in one lane.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub queue: usize,
    /// How long a create waits for its reservation.
    #[schemars(range(min = 10, max = 60_000))]
    pub reserve_timeout_ms: u64,
    /// After this a call to the database is given up and its items are sent again.
    #[schemars(range(min = 100, max = 600_000))]
    pub call_timeout_ms: u64,
    /// A gateway that was silent for this long is taken for dead.
    #[schemars(range(min = 1_000, max = 600_000))]
    pub lease_ms: u64,
    /// Idempotency keys are kept this long.
    #[schemars(range(min = 1, max = 8_760))]
    pub idempotency_hours: u32,
    /// A task whose outcome stays unknown for this long is written off: its tenant is refunded, the platform may have
    /// lost.
    #[schemars(range(min = 1, max = 8_760))]
    pub in_doubt_hours: u32,
    /// How far apart the audits of the ledger begin that gateways run by themselves, one of them at a time; 0: this one
    /// runs none.
    #[schemars(range(max = 10_080))]
    pub audit_minutes: u32,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self {
            profile: Profile::default(),
            lanes: 4,
            max_batch: 256,
            queue: 4096,
            reserve_timeout_ms: 5_000,
            call_timeout_ms: 10_000,
            lease_ms: 30_000,
            idempotency_hours: 72,
            in_doubt_hours: 24,
            audit_minutes: 60,
        }
    }
}

/// Limits where the organisation, user or key has none of its own. 0 is no limit. They are counted per gateway process.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Creates a minute of one key.
    pub key_create_per_minute: u32,
    /// Other calls a minute of one key.
    pub key_status_per_minute: u32,
    /// Creates a minute of one user.
    pub user_create_per_minute: u32,
    /// Other calls a minute of one user.
    pub user_status_per_minute: u32,
    /// Creates a minute of one organisation.
    pub org_create_per_minute: u32,
    /// Other calls a minute of one organisation.
    pub org_status_per_minute: u32,
    /// Unfinished tasks of one organisation, over all gateways.
    pub max_open_tasks: u32,
    /// Wrong keys a minute from one address, before it is told to wait.
    pub failed_logins_per_minute: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            key_create_per_minute: 0,
            key_status_per_minute: 0,
            user_create_per_minute: 0,
            user_status_per_minute: 0,
            org_create_per_minute: 600,
            org_status_per_minute: 12_000,
            max_open_tasks: 200,
            failed_logins_per_minute: 60,
        }
    }
}

/// Prices that are promised.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Quotes {
    /// For how long a caller may have a price promised, at most. 0: not at all.
    // Books that were in force within an hour are at hand.
    #[schemars(range(min = 0, max = 3_000))]
    pub max_valid_seconds: u32,
}

impl Default for Quotes {
    fn default() -> Self {
        Self { max_valid_seconds: 900 }
    }
}

/// Answers to status calls.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Status {
    /// A state older than this is asked for upstream.
    pub min_interval_ms: u64,
    /// How long a status call waits for a newer state, at most.
    #[schemars(range(min = 0, max = 2_000))]
    pub wait_ms: u64,
    /// Memory for the last states of tasks, about.
    pub cache_bytes: u64,
}

impl Default for Status {
    fn default() -> Self {
        Self { min_interval_ms: 2_000, wait_ms: 2_000, cache_bytes: 128 << 20 }
    }
}

/// Finishing tasks nobody asks for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reconciler {
    /// Polls to the upstream a second, at most, of all gateways on one database together; clients' status calls count,
    /// and get at most half of them.
    #[schemars(range(min = 1, max = 100_000))]
    pub polls_per_second: u32,
    /// Polls of one backend at one time, at most.
    #[schemars(range(min = 1, max = 10_000))]
    pub concurrency: usize,
    /// How long after a create the first look is taken; later looks are further apart.
    #[schemars(range(min = 10, max = 86_400_000))]
    pub interval_ms: u64,
    /// How often due tasks are looked for.
    #[schemars(range(min = 10, max = 60_000))]
    pub tick_ms: u64,
    /// A task that runs longer than this is in doubt.
    #[schemars(range(min = 1, max = 8_760))]
    pub max_task_age_hours: u32,
}

impl Default for Reconciler {
    fn default() -> Self {
        Self {
            polls_per_second: 50,
            concurrency: 32,
            interval_ms: 5_000,
            tick_ms: 500,
            max_task_age_hours: 24,
        }
    }
}

/// How callers are authenticated, and what of that is cached.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// Keys kept in memory.
    pub cached_keys: u64,
    /// While the database is away, keys in memory may ask for the status of their tasks for this long.
    pub stale_max_ms: u64,
    /// The keys of an identity provider are fetched again after this; if that fails, they are used for `stale_max_ms` more.
    #[schemars(range(min = 100, max = 86_400_000))]
    pub jwks_refresh_ms: u64,
}

impl Default for Auth {
    fn default() -> Self {
        Self { cached_keys: 100_000, stale_max_ms: 300_000, jwks_refresh_ms: 300_000 }
    }
}

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Coloured lines for people who read a terminal.
    Pretty,
}

/// Which events are logged, and in what form.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// How events are written.
    pub format: LogFormat,
    /// What is logged: a level, or directives such as `info,tollgate::upstream=debug`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Json, level: "info".into() }
    }
}

/// A field in milliseconds as a duration.
pub fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

impl Config {
    /// A gateway on `database` in front of `upstream`, everything else by default. Nothing outside is read.
    pub fn of(database: DatabaseConfig, upstream: UpstreamConfig) -> Result<Self, ConfigError> {
        let config = Self {
            server: Server::default(),
            admin: Admin::default(),
            database,
            upstream: Upstreams { kling_3: upstream, kling_o3: None },
            ledger: LedgerConfig::default(),
            limits: Limits::default(),
            quotes: Quotes::default(),
            status: Status::default(),
            reconciler: Reconciler::default(),
            auth: Auth::default(),
            log: Log::default(),
            telemetry: Telemetry::default(),
        };
        config.check("the configuration")
    }

    /// Reads `file`, then the environment, which wins, and checks every value.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        if !file.is_file() {
            return Err(ConfigError::Missing(file.to_owned()));
        }
        let settings = environment::settings()?;
        Self::read(Figment::from(Toml::file_exact(file)).merge(settings), &file.display().to_string())
    }

    /// Reads a TOML text, and nothing else, and checks every value.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        Self::read(Figment::from(Toml::string(text)), "the configuration")
    }

    fn read(given: Figment, source: &str) -> Result<Self, ConfigError> {
        let figment = Figment::from(Serialized::default("log", Log::default())).merge(given);
        let config: Self = figment.extract().map_err(|error| ConfigError::unreadable(source, &error))?;
        // It has the form it should, so only numbers are looked at here.
        let given = figment.extract().unwrap_or_default();
        if let Some((field, value, right)) = schema::out_of_range(&given) {
            return Err(ConfigError::Value { origin: source.to_owned(), field, value, right });
        }
        config.check(source)
    }
}
