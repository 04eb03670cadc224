//! Configuration. Defaults are overridden by a TOML file, the file by the environment (`TOLLGATE_SERVER__LISTEN=…`), the
//! environment by the flags of a command. Unknown fields, and fields that are given twice, are refused; every error names
//! the field, its value and what would be right. A configuration can also be built as a value ([`Config::of`]): then neither
//! a file nor the environment is read.

mod check;
mod console;
mod database_url;
mod environment;
mod error;
mod files;
mod reference;
mod schema;
mod telemetry;
mod tls;
mod upstream;
mod warnings;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Format, Serialized, Toml};
use figment::value::Dict;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

pub use self::console::Console;
pub use self::database_url::database_url_problem;
pub use self::environment::is_setting;
pub use self::error::ConfigError;
pub use self::reference::reference;
pub use self::schema::schema;
pub use self::telemetry::{OtlpProtocol, Telemetry};
pub use self::tls::{BadPair, Pair, Tls, Trusted};
pub use self::upstream::{AccountConfig, UpstreamConfig, Upstreams};
use crate::encryption::StoredSecrets;
use crate::https::{Authorities, BadTrust, Egress};

use self::check::Check;
use self::environment::Settings;
use self::error::Origin;
use self::schema::{Misfit, take_misfits};
use crate::secret::{self, Secret};

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

/// The data plane's listener.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Address of the data plane.
    pub listen: SocketAddr,
    /// Time-out for a client to send the head of a request, and for an idle connection.
    #[schemars(range(min = 100, max = 86_400_000))]
    pub header_timeout_ms: u64,
    /// Time-out for a client to send the body of a request.
    #[schemars(range(min = 100, max = 86_400_000))]
    pub body_timeout_ms: u64,
    /// Time after which a create that the vendor has not answered is answered 504; the gateway goes on with it.
    #[schemars(range(min = 100, max = 86_400_000))]
    pub create_deadline_ms: u64,
    /// Time for requests in flight to finish on SIGTERM, after `drain_ms`.
    #[schemars(range(min = 0, max = 86_400_000))]
    pub shutdown_grace_ms: u64,
    /// Time to serve on after SIGTERM, while `/readyz` already says that the gateway is not ready. Longer than a load
    /// balancer takes to notice. `shutdown_grace_ms` begins after it.
    #[schemars(range(min = 0, max = 86_400_000))]
    pub drain_ms: u64,
    /// Networks of the proxies that are trusted to set the client-address header.
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which trusted proxies name the client's address. The other header is ignored, because a client can
    /// forge a header that the proxies do not set.
    pub proxy_header: ProxyHeader,
    /// Origins of pages whose scripts may call the data plane from a browser, such as `https://app.example.com`. Whoever reads
    /// such a page can read the key that it uses.
    pub cors_origins: Vec<String>,
    /// Whether the organisations' own part of the management API, `/admin/v1`, is served on this listener too: what members and
    /// admins of an organisation may call, and nothing that is for operators alone.
    pub tenant_api: bool,
    /// The most connections at a time. Connections without valid credentials get a quarter of all, of which one network (an IPv4
    /// address, or the /64 of an IPv6 address) gets half of those that are free; of the others an organisation or an operator
    /// gets half of those that are free. Trusted proxies get what is free; each request that they send over HTTP/1.1 counts as a
    /// connection of its caller.
    #[schemars(range(min = 16, max = 100_000))]
    pub max_connections: usize,
    /// How long a client may take to read a piece (64 KiB) of an answer; then its connection is closed.
    #[schemars(range(min = 1_000, max = 600_000))]
    pub write_timeout_ms: u64,
    /// The most bytes of bodies and answers in memory at a time, with the copies that are made of them. One organisation gets half
    /// of what is free; what finds no room is answered 503.
    #[schemars(range(min = 100_663_296, max = 1_099_511_627_776_u64))]
    pub max_bytes_under_way: usize,
    /// Serve HTTPS instead of HTTP.
    pub tls: Option<Tls>,
}

/// The header in which proxies name the client's address.
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
            cors_origins: Vec::new(),
            tenant_api: true,
            max_connections: 2_000,
            write_timeout_ms: 30_000,
            max_bytes_under_way: 192 << 20,
            tls: None,
        }
    }
}

/// The operations listener: health, metrics, the management API.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Address of the operations listener; keep it off public networks.
    pub listen: SocketAddr,
    /// The first operator token, used while the database has none. Omitted: the first start creates one and prints it.
    pub bootstrap_token: Option<Secret>,
    /// File that holds the token, instead of `bootstrap_token`.
    pub bootstrap_token_file: Option<PathBuf>,
    /// Serve HTTPS instead of HTTP.
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
}

fn ten() -> u32 {
    10
}

fn three_seconds() -> u64 {
    3_000
}

/// How a batch of the ledger is made durable before its callers are answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// One commit, which waits for the disk while it has locked the row of the balance. Needs nothing special of the
    /// database.
    #[default]
    Plain,
    /// One commit that unlocks the row of the balance without waiting for the disk, then a second one that waits. For
    /// several gateways that share busy organisations, on a slow disk or with a synchronous standby. For a moment others
    /// can read a hold that a crash of the database would still undo; its own caller is answered only once it is durable.
    TwoCommit,
}

/// Lanes, batches, time-outs and periods of the ledger.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LedgerConfig {
    /// How a batch is made durable. Gateways that share a ledger may differ.
    pub profile: Profile,
    /// Number of lanes, each with a database connection of its own. Four side lanes, for organisations whose rows are locked
    /// by somebody else, have one each too.
    #[schemars(range(min = 1, max = 64))]
    pub lanes: usize,
    /// Maximum number of items in one batch of a lane.
    #[schemars(range(min = 1, max = 1_024))]
    pub max_batch: usize,
    /// Maximum number of reservations that wait in one lane. An organisation gets at most half of the places that are free.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub queue: usize,
    /// Time-out for a create to get its hold.
    #[schemars(range(min = 10, max = 60_000))]
    pub reserve_timeout_ms: u64,
    /// Time-out of a lane's call to the database, whose items are then sent again.
    #[schemars(range(min = 100, max = 600_000))]
    pub call_timeout_ms: u64,
    /// Length of a gateway's lease. A gateway that has not renewed its lease for this long counts as dead.
    #[schemars(range(min = 1_000, max = 600_000))]
    pub lease_ms: u64,
    /// How long idempotency keys are kept.
    #[schemars(range(min = 1, max = 8_760))]
    pub idempotency_hours: u32,
    /// Age at which a task in doubt is written off: the organisation is refunded, and the platform books a possible loss.
    #[schemars(range(min = 1, max = 8_760))]
    pub in_doubt_hours: u32,
    /// Interval between the automatic audits of the ledger, each run by one of the gateways. 0: this gateway runs none.
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

/// How long what is not money is kept.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// How many days content is kept: what the vendor says about a task, with the prompts and links in it. An organisation may
    /// have a time of its own. Gateways on one database should agree.
    #[schemars(range(max = 3_650))]
    pub content_days: u32,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { content_days: 30 }
    }
}

/// Limits of an organisation, user or key without a limit of its own. 0 is no limit. Rates are counted by each gateway.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Maximum number of creates per minute of one key.
    pub key_create_per_minute: u32,
    /// Maximum number of other calls per minute of one key.
    pub key_status_per_minute: u32,
    /// Maximum number of creates per minute of one user.
    pub user_create_per_minute: u32,
    /// Maximum number of other calls per minute of one user.
    pub user_status_per_minute: u32,
    /// Maximum number of creates per minute of one organisation.
    pub org_create_per_minute: u32,
    /// Maximum number of other calls per minute of one organisation.
    pub org_status_per_minute: u32,
    /// Maximum number of calls per minute that the users of one organisation make to the management API.
    pub org_management_per_minute: u32,
    /// Maximum number of calls per minute that one operator makes to the management API.
    pub operator_management_per_minute: u32,
    /// Maximum number of unfinished tasks of one organisation, over all gateways.
    pub max_open_tasks: u32,
    /// What the tasks of one organisation may cost the platform in a UTC day before its creates are stopped until an
    /// operator looks: losses, doubts and overruns, in the vendor's credits. The default is twenty of the dearest tasks.
    pub max_exposure_per_day: u32,
    /// Maximum number of failed authentications per minute from one address; further ones are answered 429.
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
            org_management_per_minute: 600,
            operator_management_per_minute: 6_000,
            max_open_tasks: 200,
            // 15 seconds of pro with audio cost 1,200.
            max_exposure_per_day: 24_000,
            failed_logins_per_minute: 60,
        }
    }
}

/// Quotes that promise a price.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Quotes {
    /// Maximum validity of a quote that promises a price. 0: no such quotes. It is checked again when a quote is used.
    // At most 3,000 s, because a gateway keeps the books that were in force within the last hour.
    #[schemars(range(min = 0, max = 3_000))]
    pub max_valid_seconds: u32,
    /// A secret of at least 32 characters that quotes are signed with, together with a key in the database, and that the client
    /// secrets of identity providers are encrypted under; the same for all gateways. Omitted: whoever can read the database can
    /// sign quotes, and read those secrets.
    pub secret: Option<Secret>,
    /// File that holds the secret, instead of `secret`.
    pub secret_file: Option<PathBuf>,
    /// What `secret` was before, while it is being replaced: what is encrypted under it can be read, and a gateway encrypts it
    /// anew when it starts.
    pub former_secret: Option<Secret>,
    /// File that holds the former secret, instead of `former_secret`.
    pub former_secret_file: Option<PathBuf>,
}

impl Default for Quotes {
    fn default() -> Self {
        Self {
            max_valid_seconds: 900,
            secret: None,
            secret_file: None,
            former_secret: None,
            former_secret_file: None,
        }
    }
}

impl Quotes {
    /// What an operator should know: quotes are given out that the database alone is enough to sign.
    pub fn warning(&self) -> Option<&'static str> {
        (self.max_valid_seconds > 0 && self.secret.is_none()).then_some(
            "quotes.secret_file is not set: whoever can read the database can sign quotes for an organisation",
        )
    }

    /// What secrets in the database are encrypted under.
    pub fn stored_secrets(&self) -> StoredSecrets {
        StoredSecrets::under(self.secret.as_ref(), self.former_secret.as_ref())
    }
}

/// Answers to status calls, and the cache behind them.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StatusConfig {
    /// Age from which a cached state is asked for at the vendor again.
    pub min_interval_ms: u64,
    /// Maximum time that a status call waits for the vendor's answer before it gets the cached state.
    #[schemars(range(min = 0, max = 2_000))]
    pub wait_ms: u64,
    /// Approximate size of the cache of task states; states of more than 64 KiB have a quarter of it.
    pub cache_bytes: u64,
}

impl Default for StatusConfig {
    fn default() -> Self {
        Self { min_interval_ms: 2_000, wait_ms: 2_000, cache_bytes: 128 << 20 }
    }
}

/// The reconciler, which polls unfinished tasks, so that they end although no caller asks for them.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reconciler {
    /// Maximum number of polls per second of all gateways on one database together. Polls for clients' status calls count,
    /// and get at most half of them.
    #[schemars(range(min = 1, max = 100_000))]
    pub polls_per_second: u32,
    /// Maximum number of concurrent polls of one backend.
    #[schemars(range(min = 1, max = 10_000))]
    pub concurrency: usize,
    /// Time from a create to the first poll of its task; later polls are further apart.
    #[schemars(range(min = 10, max = 86_400_000))]
    pub interval_ms: u64,
    /// Interval between two searches for tasks that are due for polling.
    #[schemars(range(min = 10, max = 60_000))]
    pub tick_ms: u64,
    /// Age from which an unfinished task is in doubt.
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

/// Caching of credentials, and of the keys of identity providers.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// Maximum number of API keys in the cache.
    pub cached_keys: u64,
    /// How long cached keys are accepted for status calls while the database is unavailable.
    pub stale_max_ms: u64,
    /// Interval at which the keys of an identity provider are fetched again. If that fails, the old keys are used for
    /// another `stale_max_ms`.
    #[schemars(range(min = 100, max = 86_400_000))]
    pub jwks_refresh_ms: u64,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self { cached_keys: 50_000, stale_max_ms: 300_000, jwks_refresh_ms: 300_000 }
    }
}

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

/// The file of `tls.extra_ca_file` cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("tls.extra_ca_file: {}: {reason}", file.display())]
pub struct BadExtraAuthorities {
    file: PathBuf,
    reason: BadTrust,
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
