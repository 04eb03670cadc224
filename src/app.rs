//! Builds every part once and runs them; nothing else does.

mod build;
mod metrics;
mod run;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::Operations;
use crate::admin::api::Api;
use crate::api_key::PresentedKey;
use crate::background::Work;
use crate::config::{BadPair, Config, DatabaseConfig, ms};
use crate::https::BadTrust;
use crate::secret::Secret;
use crate::server::{BindError, Certificate};
use crate::stack::Parts;
use crate::store::{Actor, Database, LedgerError};
use crate::telemetry::BadTelemetry;
use crate::upstream::BadUpstream;

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The ledger cannot be used.
    #[error("the ledger cannot be used: {0}")]
    Ledger(#[from] LedgerError),
    /// An upstream is not configured as it should be.
    #[error(transparent)]
    Upstream(#[from] BadUpstream),
    /// A listener's certificate cannot be used.
    #[error("{section}.tls: {reason}")]
    Tls { section: &'static str, reason: Box<BadPair> },
    /// Identity providers cannot be asked.
    #[error("TLS cannot be set up: {0}")]
    Trust(#[from] BadTrust),
    /// Traces cannot be sent as configured.
    #[error(transparent)]
    Telemetry(#[from] BadTelemetry),
    /// Metrics cannot be set up.
    #[error("metrics: {0}")]
    Metrics(String),
}

/// A gateway that listens, but does not serve yet.
pub struct App {
    config: Config,
    data: Listener,
    admin: Listener,
    parts: Parts,
    operations: Operations,
    api: Api,
    /// What the background jobs work on.
    work: Arc<Work>,
    /// Creates and polls under way: they outlive their clients, and a stop waits for them.
    tasks: TaskTracker,
    /// Cancelled when no request is accepted any more, and creates that wait for the vendor are to come to an end.
    stop: CancellationToken,
    /// Cancelled when load balancers and clients are to go elsewhere.
    draining: CancellationToken,
}

/// A bound socket, and its certificate if it serves HTTPS.
struct Listener {
    socket: TcpListener,
    certificate: Option<Arc<Certificate>>,
}

/// The pool that `config` describes.
pub fn database(config: &DatabaseConfig) -> Result<Database, LedgerError> {
    Database::connect_to_primary(&config.servers(), config.max_connections, ms(config.acquire_timeout_ms))
}

impl App {
    /// Where the data plane listens.
    pub fn data_address(&self) -> std::io::Result<SocketAddr> {
        self.data.socket.local_addr()
    }

    /// Where the operations listener listens.
    pub fn admin_address(&self) -> std::io::Result<SocketAddr> {
        self.admin.socket.local_addr()
    }

    /// Makes the first operator's token, unless there is one already: that of the configuration, or a fresh one, which
    /// `show` shows this once. If that fails there is none, and the next start shows another.
    pub async fn bootstrap_operator<E: From<LedgerError>>(
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
                "admin.bootstrap_token is no operator's token: there were others already, or it was revoked; \
                 it counts at the first start only and can be removed"
            );
        }
        Ok(())
    }
}
