//! Builds every part of a gateway once and runs them; no other module does.

mod build;
mod descriptors;
mod doctor;
mod memory;
mod metrics;
mod run;

pub use self::doctor::{Diagnosis, Severity, diagnose};
pub use self::memory::memory;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::callers::Authenticator;
use crate::access::proxies::TrustedProxies;
use crate::admin::Operations;
use crate::admin::api::Api;
use crate::api_key::PresentedKey;
use crate::background::JobParts;
use crate::config::{self, BadExtraAuthorities, BadPair, Config, DatabaseConfig, ms};
use crate::https::BadTrust;
use crate::layers::body::BodyReader;
use crate::rate_limits::RateLimits;
use crate::secret::Secret;
use crate::server::{BindError, Certificate};
use crate::stack::Parts;
use crate::store::{Actor, Database, StoreError};
use crate::telemetry::BadTelemetry;
use crate::upstream::BadUpstream;

/// The reasons for which a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address of a listener cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The ledger's database cannot be used.
    #[error("the ledger cannot be used: {0}")]
    Ledger(#[from] StoreError),
    /// The configuration of an upstream cannot be used.
    #[error(transparent)]
    Upstream(#[from] BadUpstream),
    /// The certificate of a listener cannot be used.
    #[error("{section}.tls: {reason}")]
    Tls { section: &'static str, reason: Box<BadPair> },
    /// The file of authorities to trust cannot be used.
    #[error(transparent)]
    ExtraAuthorities(#[from] BadExtraAuthorities),
    /// The TLS client for identity providers cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Trust(#[from] BadTrust),
    /// The exporter of traces cannot be set up as configured.
    #[error(transparent)]
    Telemetry(#[from] BadTelemetry),
    /// The recorder of metrics cannot be set up.
    #[error("metrics: {0}")]
    Metrics(String),
}

/// A gateway whose listeners are bound, but which does not serve yet.
pub struct App {
    config: Config,
    /// The most connections of the data listener.
    max_connections: usize,
    data: Listener,
    admin: Listener,
    parts: Parts,
    operations: Operations,
    api: Api,
    consoles: Option<Consoles>,
    /// The parts that the background jobs work on.
    work: Arc<JobParts>,
    /// Tracks creates and polls in progress: they continue when their clients leave, and a stop waits for them.
    tasks: TaskTracker,
    /// Cancelled when no more requests are accepted, and creates that wait for the vendor must end soon.
    stop: CancellationToken,
    /// Cancelled when load balancers and clients should go elsewhere.
    draining: CancellationToken,
}

/// What the consoles of the two listeners are built from, besides the APIs that they call.
struct Consoles {
    settings: config::Console,
    authenticator: Arc<Authenticator>,
    proxies: TrustedProxies,
    bodies: BodyReader,
    limits: Arc<RateLimits>,
}

/// A bound socket, and the certificate if the listener serves HTTPS.
struct Listener {
    socket: TcpListener,
    certificate: Option<Arc<Certificate>>,
}

/// The pool that `config` describes.
pub fn database(config: &DatabaseConfig) -> Result<Database, StoreError> {
    Database::connect_to_primary(&config.servers(), config.max_connections, ms(config.acquire_timeout_ms))
}

impl App {
    /// The address of the data listener.
    pub fn data_address(&self) -> std::io::Result<SocketAddr> {
        self.data.socket.local_addr()
    }

    /// The address of the operations listener.
    pub fn admin_address(&self) -> std::io::Result<SocketAddr> {
        self.admin.socket.local_addr()
    }

    /// Creates the first operator token, unless there was one already: the token of the configuration, or a new one,
    /// which `show` shows this one time. If `show` fails, the token does not count, and the next start shows another.
    pub async fn bootstrap_operator<E: From<StoreError>>(
        &self,
        show: impl FnOnce(&Secret) -> Result<(), E> + Send,
    ) -> Result<(), E> {
        let given = self.config.admin.bootstrap_token.as_ref();
        let given = given.and_then(|token| PresentedKey::parse(token.expose()));
        let database = &self.operations.database;
        let acting = database.acting(Actor::program("bootstrap"));
        if !acting.bootstrap_operator(given.as_ref(), show).await?
            && let Some(given) = given
            && database.find_operator(&given).await?.is_none()
        {
            tracing::warn!(
                "admin.bootstrap_token is not a valid operator token: there were others already, or it was revoked; \
                 it counts at the first start only and can be removed"
            );
        }
        Ok(())
    }
}
