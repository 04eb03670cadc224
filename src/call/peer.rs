//! The connection that a request arrived on.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};
use std::time::Instant;

use futures_util::future::BoxFuture;
use http::Extensions;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::net::TcpStream;
use tokio::sync::SetOnce;

use crate::ids::OrgId;

/// The network of a client: an IPv4 address, or the /64 of an IPv6 address, which is what one customer of a
/// network has at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network(IpAddr);

/// The address that stands for the network.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Network {
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
            v4 => v4,
        })
    }
}

/// Whose a request is, once it has shown valid credentials: what it takes comes out of this one's share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Party {
    Org(OrgId),
    /// An operator, by a hash of its name in the audit log.
    Operator(u64),
}

/// The caller has its share of the connections or of the requests in progress already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this caller has its share of connections and requests in progress")]
pub struct NoRoom;

/// What the listener holds for a request in progress.
pub trait RequestInProgress: fmt::Debug + Send + Sync {
    /// The request is this one's from now on, and so is its connection, unless it is a proxy's.
    fn is_of(self: Arc<Self>, party: Party) -> BoxFuture<'static, Result<(), NoRoom>>;
}

/// The connection that a request arrived on; the server adds it to the request's extensions.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The address at the other end: a client's, or a proxy's.
    pub address: IpAddr,
    known: Arc<SetOnce<Party>>,
    half_closed: Arc<SetOnce<()>>,
    /// The connection itself, which nothing but the server keeps open.
    socket: Weak<TcpStream>,
    /// What is held for the request; none, once it was answered.
    turn: Option<Weak<dyn RequestInProgress>>,
    /// When the connection was accepted, for its first request.
    accepted: Option<Instant>,
}

impl Peer {
    /// A connection whose client has not authenticated yet.
    pub fn stranger(address: IpAddr) -> Self {
        Self::at(address, Weak::new())
    }

    /// The same, by this socket.
    pub fn at(address: IpAddr, socket: Weak<TcpStream>) -> Self {
        let (known, half_closed) = (Arc::new(SetOnce::new()), Arc::new(SetOnce::new()));
        Self { address, known, half_closed, socket, turn: None, accepted: None }
    }

    /// The connection of a request with these extensions; without one, as in tests of a service alone, a connection from
    /// nowhere.
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_else(|| Self::stranger(IpAddr::from([0, 0, 0, 0])))
    }

    /// The connection, as it is added to a request for which `turn` is held.
    #[must_use]
    pub fn with(&self, turn: Weak<dyn RequestInProgress>) -> Self {
        Self { turn: Some(turn), ..self.clone() }
    }

    /// The same, for the first request of a connection that was accepted at this instant.
    #[must_use]
    pub fn first_since(self, accepted: Instant) -> Self {
        Self { accepted: Some(accepted), ..self }
    }

    /// Since when the request may have waited to be read, if it is the first of its connection, which may have waited for a place.
    pub fn waits_since(&self) -> Option<Instant> {
        self.accepted
    }

    /// Tells the listener that the request had valid credentials, and whose they are. An error: there is no room for one more
    /// request, or one more connection, of this caller.
    pub async fn is_known(&self, party: Party) -> Result<(), NoRoom> {
        match self.turn.as_ref().and_then(Weak::upgrade) {
            Some(turn) => turn.is_of(party).await,
            None => Ok(()),
        }
    }

    /// Records whose connection it is: from now on it is not a stranger's.
    pub fn belongs_to(&self, party: Party) {
        // Only the first one of a connection makes a difference.
        let _ = self.known.set(party);
    }

    /// Whose connection it is; none: still a stranger's.
    pub fn party(&self) -> Option<Party> {
        self.known.get().copied()
    }

    /// Completes when it is known whose connection it is.
    pub async fn known(&self) -> Party {
        *self.known.wait().await
    }

    /// Records that the client has closed its direction of the connection.
    pub fn has_half_closed(&self) {
        let _ = self.half_closed.set(());
    }

    /// Whether the client has closed its direction of the connection: the system is asked, which knows it before the server has been
    /// told.
    pub fn is_half_closed(&self) -> bool {
        if !self.half_closed.initialized() && self.socket.upgrade().is_some_and(|socket| has_ended(&socket)) {
            self.has_half_closed();
        }
        self.half_closed.initialized()
    }

    /// Completes when the client has closed its direction of the connection. It may have left, or wait for its answer: TCP does
    /// not tell. So it is answered, but nothing more is begun for it.
    pub async fn half_closed(&self) {
        self.half_closed.wait().await;
    }
}

/// Whether the other end has closed its direction of this connection, or the connection is broken.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn has_ended(socket: &TcpStream) -> bool {
    let ended = PollFlags::from_bits_retain(nix::libc::POLLRDHUP);
    poll(&mut [PollFd::new(socket.as_fd(), ended)], PollTimeout::ZERO).is_ok_and(|told| told > 0)
}

/// Other systems do not tell.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn has_ended(_: &TcpStream) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_64_of_an_ipv6_address_is_one_network() {
        assert_eq!(Network::of(address("2001:db8::1")), Network::of(address("2001:db8::ffff:0:0:2")));
        assert_ne!(Network::of(address("2001:db8:0:1::1")), Network::of(address("2001:db8::1")));
        assert_eq!(Network::of(address("::ffff:192.0.2.1")), Network::of(address("192.0.2.1")));
        assert_ne!(Network::of(address("192.0.2.2")), Network::of(address("192.0.2.1")));
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[tokio::test]
    async fn that_a_client_has_closed_its_direction_is_known_before_anything_is_read() {
        use std::io::Write;
        use std::net::Shutdown;

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, from) = listener.accept().await.unwrap();
        let socket = Arc::new(stream);
        let peer = Peer::at(from.ip(), Arc::downgrade(&socket));
        client.write_all(b"bytes that nobody has read").unwrap();
        assert!(!peer.is_half_closed());
        client.shutdown(Shutdown::Write).unwrap();
        while !peer.is_half_closed() {
            tokio::task::yield_now().await;
        }
        drop(socket);
        assert!(peer.is_half_closed());
    }
}
