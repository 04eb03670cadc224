//! `tollgate doctor`: what would go wrong with a configuration, all of it at once, each with what to do. It goes through the
//! same checks as a start and `migrate`, asks everybody whom a gateway asks, buys nothing and changes nothing.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use tokio::net::TcpListener;

use super::{database, descriptors};
use crate::access::jwks::{KeyKind, KeySets};
use crate::access::oidc::{SignInClient, UNREADABLE_SECRET};
use crate::bulk::Bulk;
use crate::clock::Clock;
use crate::config::{Config, Tls, UpstreamConfig};
use crate::encryption::is_encrypted;
use crate::ids::OrgId;
use crate::secret::Secret;
use crate::store::{Database, Provider, Purpose, Shortfall, StoreError};
use crate::telemetry::Tracing;
use crate::upstream::{StatusError, Upstream};

/// A certificate that ends within this time should be replaced now.
const ENDS_SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// The id of a task that no vendor has.
const NO_TASK: &str = "tollgate-doctor";

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It is as it should be.
    Ok,
    /// It works, but something should be done.
    Warning,
    /// A gateway would not start, or not do its work.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// What was looked at: `database`, `vendor`, …
    pub area: String,
    pub level: Severity,
    /// What was found, without a full stop.
    pub what: String,
    /// What to do about it; nothing if it is as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Diagnosis {
    fn new(area: &str, level: Severity, what: impl Into<String>, remedy: Option<String>) -> Self {
        Self { area: area.to_owned(), level, what: what.into(), remedy }
    }

    fn well(area: &str, what: impl Into<String>) -> Self {
        Self::new(area, Severity::Ok, what, None)
    }

    fn warning(area: &str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(area, Severity::Warning, what, Some(remedy.into()))
    }

    /// Something that keeps a gateway from working.
    pub fn error(area: &str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(area, Severity::Error, what, Some(remedy.into()))
    }
}

/// Looks at everything that a gateway with this configuration depends on.
pub async fn diagnose(config: &Config) -> Vec<Diagnosis> {
    let mut found = vec![Diagnosis::well("configuration", "every value is valid")];
    let warned = config.warnings.iter().map(String::as_str).chain(config.quotes.warning());
    found.extend(warned.map(|warning| {
        let (what, remedy) =
            warning.rsplit_once(": ").unwrap_or((warning, "See the configuration reference"));
        Diagnosis::warning("configuration", what, remedy)
    }));
    found.push(of_descriptors(config));
    for (section, listen, tls) in [
        ("server", config.server.listen, config.server.tls.as_ref()),
        ("admin", config.admin.listen, config.admin.tls.as_ref()),
    ] {
        found.extend(of_address(section, listen).await);
        found.extend(tls.map(|tls| of_certificate(section, tls)));
    }
    let (of_database, of_vendor, of_collector) =
        tokio::join!(of_database(config), of_vendor(config), of_collector(config));
    found.extend(of_database);
    found.extend(of_vendor);
    found.extend(of_collector);
    found
}

/// Sends no spans to the trace collector. Without it a gateway does all its work, and is not traced.
async fn of_collector(config: &Config) -> Option<Diagnosis> {
    const AREA: &str = "trace collector";
    let endpoint = config.telemetry.otlp_endpoint.as_ref()?;
    // What is wrong with them is told of the vendor.
    let authorities = config.egress().ok()?.authorities;
    Some(match Tracing::look(&config.telemetry, authorities).await? {
        Ok(()) => Diagnosis::well(AREA, format!("{endpoint} takes spans")),
        Err(why) => Diagnosis::warning(
            AREA,
            format!("{endpoint} takes no spans: {why}"),
            "Make sure that it listens there, and for telemetry.protocol; until then nothing is traced",
        ),
    })
}

fn of_descriptors(config: &Config) -> Diagnosis {
    const AREA: &str = "file descriptors";
    match descriptors::allowance(config) {
        Ok(room) if room.left < room.wanted => Diagnosis::warning(
            AREA,
            format!(
                "the limit of {} allows {} connections of callers; server.max_connections is {}",
                room.limit,
                room.left.max(1),
                room.wanted
            ),
            "Raise the limit (LimitNOFILE, ulimit -n), or lower server.max_connections",
        ),
        Ok(room) => Diagnosis::well(AREA, format!("the limit of {} is enough", room.limit)),
        Err(error) => Diagnosis::warning(
            AREA,
            format!("the limit is not known ({error})"),
            "Make sure that it is at least three times server.max_connections",
        ),
    }
}

/// Whether the address is one of this machine. The port may be taken by a running gateway, which is no fault.
async fn of_address(section: &str, listen: SocketAddr) -> Option<Diagnosis> {
    let error = TcpListener::bind(SocketAddr::new(listen.ip(), 0)).await.err()?;
    Some(Diagnosis::error(
        "listeners",
        format!("{section}.listen is {listen}, which this machine cannot listen on ({})", error.kind()),
        "Use an address of this machine, or 0.0.0.0 for all of them",
    ))
}

fn of_certificate(section: &str, tls: &Tls) -> Diagnosis {
    let area = "certificates";
    let file = tls.certificate_file.display();
    let remedy = format!("Put a new certificate and its key into {file} and {}", tls.key_file.display());
    let pair = match tls.read().and_then(|files| tls.parse(&files)) {
        Ok(pair) => pair,
        Err(error) => return Diagnosis::error(area, format!("{section}.tls: {error}"), remedy),
    };
    let now = Duration::from_secs(Clock.wall().unix_timestamp().try_into().unwrap_or_default());
    let days = pair.ends.saturating_sub(now).as_secs() / (24 * 3600);
    if pair.ends <= now {
        Diagnosis::error(area, format!("{section}.tls: the certificate in {file} has ended"), remedy)
    } else if pair.ends - now < ENDS_SOON {
        let what = format!("{section}.tls: the certificate in {file} ends in {days} days");
        Diagnosis::warning(area, what, remedy)
    } else {
        Diagnosis::well(area, format!("{section}.tls: the certificate is valid for {days} more days"))
    }
}

async fn of_database(config: &Config) -> Vec<Diagnosis> {
    const AREA: &str = "database";
    let asked = async {
        let database = database(&config.database)?;
        database.find_primary().await?;
        Ok::<_, StoreError>(database)
    };
    let database = match asked.await {
        Ok(database) => database,
        Err(error) => {
            let remedy = "Make sure that it runs, and that the database URL is right";
            return vec![Diagnosis::error(AREA, error.to_string(), remedy)];
        }
    };
    let mut found = Vec::new();
    match database.shortfalls(Purpose::Serve).await {
        Ok(shortfalls) => found.extend(shortfalls.into_iter().map(|shortfall| {
            let Shortfall { what, remedy, blocking } = shortfall;
            let level = if blocking { Severity::Error } else { Severity::Warning };
            Diagnosis::new(AREA, level, what, Some(remedy))
        })),
        Err(error) => {
            found.push(Diagnosis::error(AREA, error.to_string(), "Ask the database's administrator"))
        }
    }
    if found.iter().any(|finding| finding.level == Severity::Error) {
        return found;
    }
    found.extend(of_schema(&database).await);
    found.extend(of_connections(&database, config).await);
    found.extend(of_clock(&database).await);
    if !found.iter().any(|finding| finding.level == Severity::Error) {
        found.push(Diagnosis::well(AREA, format!("{} is as assumed", database.place())));
        found.extend(of_role(&database).await);
        found.extend(of_providers(&database, config).await);
    }
    found
}

async fn of_schema(database: &Database) -> Option<Diagnosis> {
    let error = database.check_schema().await.err()?;
    // What is to be migrated must be right for that.
    let mut remedy = "tollgate migrate".to_owned();
    for shortfall in database.shortfalls(Purpose::Migrate).await.unwrap_or_default() {
        remedy.push_str(&format!("; before that: {}. {}", shortfall.what, shortfall.remedy));
    }
    Some(Diagnosis::error("schema", error.to_string(), remedy))
}

/// What a gateway is to the database. That another role would be better is a shortfall of the database.
async fn of_role(database: &Database) -> Option<Diagnosis> {
    let role = database.role().await.ok()?;
    let may = match role.as_str() {
        "tollgate_app" => "it adds entries and cannot change them, nor any table, trigger, function or rule",
        _ => "it may do what that role may",
    };
    Some(Diagnosis::well("database", format!("a gateway runs as {role}: {may}")))
}

async fn of_connections(database: &Database, config: &Config) -> Option<Diagnosis> {
    let needed = descriptors::database_connections(config);
    let most = database.most_connections().await.ok()?;
    (usize::try_from(most).unwrap_or_default() < needed).then(|| {
        Diagnosis::warning(
            "database",
            format!("it takes {most} connections of this role; one gateway uses up to {needed}"),
            "Raise max_connections of the server (or the limit of the role or database), or lower database.max_connections",
        )
    })
}

async fn of_clock(database: &Database) -> Option<Diagnosis> {
    /// Tokens and certificates allow for about this much.
    const TOLERATED: f64 = 30.0;
    let away = (database.time().await.ok()? - Clock.wall()).as_seconds_f64();
    (away.abs() > TOLERATED).then(|| {
        Diagnosis::warning(
            "clock",
            format!("the clock of this machine and that of the database are {:.0} seconds apart", away.abs()),
            "Synchronise both (NTP): tokens and certificates go by this one, prices, leases and budgets by the database's",
        )
    })
}

async fn of_providers(database: &Database, config: &Config) -> Vec<Diagnosis> {
    const AREA: &str = "identity providers";
    let egress = match config.egress() {
        Ok(egress) => egress,
        Err(error) => return vec![Diagnosis::error(AREA, error.to_string(), "Mend the section tls")],
    };
    let asks = KeySets::new(&config.auth, &egress, Clock).and_then(|key_sets| {
        Ok((key_sets, SignInClient::new(&egress, config.quotes.stored_secrets(), Clock)?))
    });
    let (providers, key_sets, sign_ins) = match (database.providers().await, asks) {
        (Ok(providers), Ok((key_sets, sign_ins))) => (providers, key_sets, sign_ins),
        (Err(error), _) => return vec![Diagnosis::error(AREA, error.to_string(), "See the database")],
        (_, Err(error)) => {
            return vec![Diagnosis::error(
                AREA,
                error.to_string(),
                "Mend this machine's trusted certificates",
            )];
        }
    };
    let looks = providers.iter().map(|provider| {
        let key_sets = &key_sets;
        async move {
            let (name, url) = (&provider.spec.name, &provider.spec.jwks_url);
            // An id that no key has: the set is fetched, and the answer does not matter.
            match key_sets.find(url, Some(NO_TASK), KeyKind::Rsa).await {
                Ok(_) => Diagnosis::well(AREA, format!("the keys of {name} can be fetched")),
                Err(error) => Diagnosis::warning(
                    AREA,
                    format!("{name}: {error} from {url}"),
                    "Make sure that this machine reaches the URL, and that a JWKS is there; its users are refused until then",
                ),
            }
        }
    });
    let mut found = futures_util::future::join_all(looks).await;
    let offered = providers.iter().filter(|provider| provider.spec.console_client_id.is_some());
    let sign_ins = offered.map(|provider| of_sign_in(&sign_ins, provider, config));
    found.extend(futures_util::future::join_all(sign_ins).await);
    let in_clear = |stored: &Secret| !is_encrypted(stored);
    let in_clear = |provider: &&Provider| provider.spec.console_client_secret.as_ref().is_some_and(in_clear);
    found.extend(providers.iter().filter(in_clear).map(|provider| {
        Diagnosis::warning(
            "sign-in",
            format!("whoever can read the database can read the client secret of {}", provider.spec.name),
            "Set quotes.secret_file: at its next start a gateway encrypts what is stored",
        )
    }));
    found
}

/// Whether people can sign in at the console by a provider that has a client for it.
async fn of_sign_in(sign_ins: &SignInClient, provider: &Provider, config: &Config) -> Diagnosis {
    const AREA: &str = "sign-in";
    let name = &provider.spec.name;
    let Some(place) = config.console.address_of("/console/sign-in/return") else {
        return Diagnosis::warning(
            AREA,
            format!("nobody signs in at the console by {name}: console.public_url is not set"),
            "Set console.public_url to the address by which browsers reach the gateway",
        );
    };
    match sign_ins.check(provider).await {
        Ok(()) => Diagnosis::well(
            AREA,
            format!("{name} says where people sign in; it must know the redirect URI {place}"),
        ),
        Err(UNREADABLE_SECRET) => Diagnosis::warning(
            AREA,
            format!(
                "nobody signs in at the console by {name}: its client secret is encrypted under another secret than quotes.secret"
            ),
            "Give the other one as quotes.former_secret, or enter the client secret again",
        ),
        Err(why) => Diagnosis::warning(
            AREA,
            format!("nobody signs in at the console by {name}: {why}"),
            format!(
                "Make sure that this machine reaches {}/.well-known/openid-configuration, and that it names this issuer",
                provider.spec.issuer.trim_end_matches('/')
            ),
        ),
    }
}

/// Asks each account for a task that does not exist.
async fn of_vendor(config: &Config) -> Vec<Diagnosis> {
    const AREA: &str = "vendor";
    let bulk = Bulk::new(config.server.max_bytes_under_way);
    let egress = match config.egress() {
        Ok(egress) => egress,
        Err(error) => return vec![Diagnosis::error(AREA, error.to_string(), "Mend the section tls")],
    };
    let upstream = match Upstream::new(&config.upstream, &egress, &bulk, Clock) {
        Ok(upstream) => upstream,
        Err(error) => return vec![Diagnosis::error(AREA, error.to_string(), "Mend the section upstream")],
    };
    let backends: [Option<&UpstreamConfig>; 2] =
        [Some(&config.upstream.kling_3), config.upstream.kling_o3.as_ref()];
    let accounts =
        Upstream::names().into_iter().zip(backends).filter_map(|(name, backend)| Some((name, backend?)));
    let accounts = accounts.flat_map(|(name, backend)| {
        backend
            .accounts
            .iter()
            .map(move |account| (name.clone(), backend.base_url.clone(), account.name.clone()))
    });
    let looks = accounts.map(|(backend, url, account)| {
        let upstream = &upstream;
        async move {
            let place = format!("{backend}, account {account}");
            match upstream.status(OrgId::generate(), &backend, &account, NO_TASK).await {
                Ok(_) | Err(StatusError::NotFound) => Diagnosis::well(
                    AREA,
                    format!("{place}: {url} answers; only a create proves the master key"),
                ),
                Err(error @ StatusError::KeyRejected) => Diagnosis::error(
                    AREA,
                    format!("{place}: {error}"),
                    "Put the right key into the configuration: master_key or master_key_file",
                ),
                Err(error @ StatusError::NotVendors(_)) => Diagnosis::error(
                    AREA,
                    format!("{place}: {url} answers {error}"),
                    "Set base_url to the address that the vendor gave you, with its path if it has one, and without /api",
                ),
                Err(StatusError::Unreadable(status)) if status.is_client_error() => Diagnosis::well(
                    AREA,
                    format!("{place}: {url} answers; only a create proves the master key"),
                ),
                Err(error @ StatusError::Unreadable(_)) => Diagnosis::warning(
                    AREA,
                    format!("{place}: {error}"),
                    format!(
                        "Make sure that {url} is the vendor's address; otherwise wait, the vendor has a fault"
                    ),
                ),
                Err(error) => Diagnosis::error(
                    AREA,
                    format!("{place}: {error}"),
                    format!("Make sure that this machine reaches {url}: name, firewall, certificate"),
                ),
            }
        }
    });
    futures_util::future::join_all(looks).await
}
