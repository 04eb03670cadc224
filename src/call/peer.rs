//! The connection that a request arrived on.

use std::net::IpAddr;
use std::sync::Arc;

use http::Extensions;
use tokio::sync::SetOnce;

/// The connection that a request arrived on; the server adds it to the request's extensions.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The address at the other end: a client's, or a proxy's.
    pub address: IpAddr,
    known: Arc<SetOnce<()>>,
}

impl Peer {
    /// A connection whose client has not authenticated yet.
    pub fn stranger(address: IpAddr) -> Self {
        Self { address, known: Arc::new(SetOnce::new()) }
    }

    /// The connection of a request with these extensions; without one, as in tests of a service alone, a connection from
    /// nowhere.
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_else(|| Self::stranger(IpAddr::from([0, 0, 0, 0])))
    }

    /// Records that a request on this connection had valid credentials: from now on it is not a stranger's.
    pub fn is_known(&self) {
        // Only the first one of a connection makes a difference.
        let _ = self.known.set(());
    }

    /// Whether it is still a stranger's connection.
    pub fn is_stranger(&self) -> bool {
        !self.known.initialized()
    }

    /// Completes when a request on this connection has had valid credentials.
    pub async fn known(&self) {
        self.known.wait().await;
    }
}
