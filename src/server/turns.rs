//! Requests in progress: each has a turn, from its head to its answer. Before valid credentials were seen, what
//! it takes is its client's network's; after that, its organisation's or operator's. So none of them can fill the memory with
//! heads, nor take all connections of a proxy that stands for many clients.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use super::connections::Connections;
use super::newcomers::{ForNewcomers, Newcomer};
use crate::access::proxies::TrustedProxies;
use crate::call::{Network, NoRoom, Party, Peer, RequestInProgress};
use crate::metrics as m;
use crate::shares::{Share, Shares};

/// How many requests of one connection are served at a time before one of them had valid credentials; the others wait.
const STREAMS: usize = 8;

/// The most bytes of strangers' requests in progress on a listener: a half for networks that nobody knows, of which one gets half of
/// what is free, and a half for those who return, where it is one party that does.
pub(super) const STRANGERS_HEADS: usize = 8 << 20;

/// The same for answers to strangers over HTTP/2 that were not read yet: their requests are over, and a connection may have many.
pub(super) const STRANGERS_ANSWERS: usize = 4 << 20;

/// What such an answer needs, besides what the connection has in its buffers: a stream, its task, and an answer of an error.
const ANSWER: usize = 2 << 10;

/// What a request in progress needs besides its head, its body and its answer.
const REQUEST: usize = 8 << 10;

/// How long the body of a request is read whose caller has its share already: long enough for one that is on its way, so that the
/// refusal is not lost, and not so long that many such take the places of strangers.
const REST: Duration = Duration::from_millis(20);

/// The bytes that the heads of requests in progress take on one listener.
#[derive(Debug)]
pub(super) struct Heads {
    listener: &'static str,
    strangers: ForNewcomers,
    known: Arc<Shares<Party>>,
    answers: ForNewcomers,
}

impl Heads {
    /// At most `most` bytes of requests whose callers are known.
    pub(super) fn new(listener: &'static str, most: usize) -> Arc<Self> {
        let gauge = |of: &'static str| metrics::gauge!(m::HEADS_BYTES, "listener" => listener, "of" => of);
        Arc::new(Self {
            listener,
            strangers: ForNewcomers::new(STRANGERS_HEADS / 2, 0, gauge),
            known: Shares::new(most, gauge("known")),
            answers: ForNewcomers::new(STRANGERS_ANSWERS / 2, 0, |_| metrics::Gauge::noop()),
        })
    }

    fn refuse(&self) -> NoRoom {
        metrics::counter!(m::REQUESTS_WITHOUT_ROOM, "listener" => self.listener).increment(1);
        NoRoom
    }
}

/// The body of a request, which keeps the turn.
pub(super) struct Taken {
    body: Incoming,
    turn: Arc<RequestTurn>,
    /// The end of the body of a request that was refused.
    end: Option<Pin<Box<Sleep>>>,
}

impl Taken {
    pub(super) fn new(body: Incoming, turn: Arc<RequestTurn>) -> Self {
        Self { body, turn, end: None }
    }
}

impl Body for Taken {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.turn.was_refused() {
            let end = self.end.get_or_insert_with(|| Box::pin(tokio::time::sleep(REST)));
            if end.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Gives the requests of one connection their turns.
#[derive(Debug, Clone)]
pub(super) struct RequestGate {
    peer: Peer,
    proxies: TrustedProxies,
    connections: Arc<Connections>,
    /// The connection's number among those of clients; none: it is a proxy's.
    id: Option<u64>,
    heads: Arc<Heads>,
    strangers: Arc<Semaphore>,
}

/// What is held for a request in progress.
#[derive(Debug)]
enum Holding {
    Strangers {
        _head: Share<Newcomer>,
        _place: Option<Share<Newcomer>>,
        _one_of_few: Option<OwnedSemaphorePermit>,
    },
    Known {
        party: Party,
        _head: Share<Party>,
        _place: Option<Share<Party>>,
    },
}

/// The turn of one request.
#[derive(Debug)]
pub(super) struct RequestTurn {
    gate: RequestGate,
    /// The network of a stranger.
    network: Option<Network>,
    size: usize,
    /// Whether the request has a connection of a proxy for itself.
    takes_place: bool,
    holding: Mutex<Holding>,
    refused: AtomicBool,
}

impl RequestGate {
    pub(super) fn new(
        peer: &Peer,
        proxies: &TrustedProxies,
        connections: &Arc<Connections>,
        id: Option<u64>,
        heads: &Arc<Heads>,
    ) -> Self {
        Self {
            peer: peer.clone(),
            proxies: proxies.clone(),
            connections: connections.clone(),
            id,
            heads: heads.clone(),
            strangers: Arc::new(Semaphore::new(STREAMS)),
        }
    }

    /// Waits until the request may be served.
    pub(super) async fn pass<B>(&self, request: &Request<B>) -> Result<Arc<RequestTurn>, NoRoom> {
        let lines = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
        let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
        let size = REQUEST + target + lines.sum::<usize>();
        let takes_place = self.id.is_none() && request.version() < Version::HTTP_2;
        let (network, holding) = match self.peer.party() {
            Some(party) => (None, self.known(party, size)),
            None => {
                let network = self.network(request);
                let newcomer = self.connections.newcomer(network);
                (Some(network), self.unknown(newcomer, size, takes_place).await)
            }
        };
        let holding = Mutex::new(holding.ok_or_else(|| self.heads.refuse())?);
        let refused = AtomicBool::new(false);
        Ok(Arc::new(RequestTurn { gate: self.clone(), network, size, takes_place, holding, refused }))
    }

    /// The client's network, as far as the connection and trusted proxies tell it.
    fn network<B>(&self, request: &Request<B>) -> Network {
        Network::of(self.proxies.client(self.peer.address, request.headers()))
    }

    /// Whose answer it is, if its client does not read it and no turn is held for it any more.
    pub(super) fn reader<B>(&self, request: &Request<B>) -> Newcomer {
        match self.peer.party() {
            Some(party) => Newcomer::Returning(party),
            None => self.connections.newcomer(self.network(request)),
        }
    }

    /// Room for an answer that has not been read, and for which no turn is held; none: the stream must go without it.
    pub(super) fn unread(&self, reader: Newcomer) -> Option<Share<Newcomer>> {
        let room = self.heads.answers.take(reader, ANSWER);
        if room.is_none() {
            self.heads.refuse();
        }
        room
    }

    /// For a request on a connection that is `party`'s.
    fn known(&self, party: Party, size: usize) -> Option<Holding> {
        let head = self.heads.known.take(party, size)?;
        Some(Holding::Known { party, _head: head, _place: None })
    }

    /// For a request that nobody knows whose it is.
    async fn unknown(&self, newcomer: Newcomer, size: usize, takes_place: bool) -> Option<Holding> {
        let head = self.heads.strangers.take(newcomer, size)?;
        let place = if takes_place { Some(self.connections.place_of_stranger(newcomer)?) } else { None };
        if self.id.is_none() {
            // A proxy's connection stands for many clients.
            return Some(Holding::Strangers { _head: head, _place: place, _one_of_few: None });
        }
        tokio::select! {
            one = self.strangers.clone().acquire_owned() => {
                Some(Holding::Strangers { _head: head, _place: place, _one_of_few: Some(one.ok()?) })
            }
            party = self.peer.known() => self.known(party, size),
        }
    }
}

impl RequestTurn {
    /// The connection, as it is added to the request.
    pub(super) fn peer(self: &Arc<Self>) -> Peer {
        let turn: Arc<dyn RequestInProgress> = self.clone();
        self.gate.peer.with(Arc::downgrade(&turn))
    }

    /// Whether its caller was refused for want of room.
    pub(super) fn was_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether the turn is held until the answer is written. That of a stranger ends with the head of the answer: what comes after
    /// it is bounded by the connection.
    pub(super) fn lasts_until_written(&self) -> bool {
        self.gate.id.is_none() || matches!(&*self.holding(), Holding::Known { .. })
    }

    async fn becomes_known(&self, party: Party) -> Option<()> {
        let gate = &self.gate;
        if matches!(&*self.holding(), Holding::Known { party: its, .. } if *its == party) {
            return Some(());
        }
        if let (None, Some(network)) = (gate.id, self.network) {
            gate.connections.remember(network, party);
        }
        let head = gate.heads.known.take(party, self.size)?;
        let place = match gate.id {
            Some(id) => {
                gate.connections.becomes_known(id, party).await?;
                gate.peer.belongs_to(party);
                None
            }
            None if self.takes_place => Some(gate.connections.place_of(party).await?),
            None => None,
        };
        let known = Holding::Known { party, _head: head, _place: place };
        let before = std::mem::replace(&mut *self.holding(), known);
        // What is given back serves others: not while we hold the lock.
        drop(before);
        Some(())
    }

    fn holding(&self) -> std::sync::MutexGuard<'_, Holding> {
        self.holding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RequestInProgress for RequestTurn {
    fn is_of(self: Arc<Self>, party: Party) -> BoxFuture<'static, Result<(), NoRoom>> {
        Box::pin(async move {
            self.becomes_known(party).await.ok_or_else(|| {
                self.refused.store(true, Ordering::Relaxed);
                self.gate.heads.refuse()
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::super::connections::Standing;
    use super::*;
    use crate::config::Server;
    use crate::ids::OrgId;

    const HEAD: usize = 64 << 10;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn org() -> Party {
        Party::Org(OrgId::generate())
    }

    fn request(client: &str) -> Request<()> {
        Request::get("/api/me").header("x-forwarded-for", client).body(()).unwrap()
    }

    /// Connections of a proxy at 10.0.0.1.
    fn proxied(connections: &Arc<Connections>, heads: &Arc<Heads>) -> RequestGate {
        let networks = vec!["10.0.0.0/8".parse().unwrap()];
        let proxies = TrustedProxies::new(&Server { trusted_proxies: networks, ..Server::default() });
        RequestGate::new(&Peer::stranger(address("10.0.0.1")), &proxies, connections, None, heads)
    }

    #[tokio::test]
    async fn one_client_of_a_proxy_leaves_its_connections_to_others() {
        let connections = Connections::new("data", 96, Duration::ZERO);
        let heads = Heads::new("data", 64 << 20);
        let gate = proxied(&connections, &heads);
        // Strangers from unknown networks have 24 places, of which one network gets 12.
        let mut turns = Vec::new();
        while let Ok(turn) = gate.pass(&request("192.0.2.1")).await {
            turns.push(turn);
        }
        assert_eq!(turns.len(), 12);
        drop(gate.pass(&request("192.0.2.2")).await.unwrap());
        drop(turns);

        // Those who are known have 48, of which one gets 24, from however many networks.
        let (one, other) = (org(), org());
        let mut known = Vec::new();
        for host in 1.. {
            let turn = gate.pass(&request(&format!("192.0.2.{host}"))).await.unwrap();
            if turn.peer().is_known(one).await.is_err() {
                assert!(turn.was_refused());
                break;
            }
            known.push(turn);
        }
        assert_eq!(known.len(), 24);
        let turn = gate.pass(&request("192.0.2.1")).await.unwrap();
        turn.peer().is_known(other).await.unwrap();
        // Asked again, as the calls of a page do.
        turn.peer().is_known(other).await.unwrap();
        let peer = turn.peer();
        drop((turn, known));
        peer.is_known(one).await.unwrap();
        assert!(connections.is_empty() && heads.strangers.taken() == 0 && heads.known.taken() == 0);
    }

    #[tokio::test]
    async fn heads_on_a_known_connection_are_its_owners() {
        let connections = Connections::new("data", 64, Duration::ZERO);
        let heads = Heads::new("data", 8 * HEAD);
        let connect = async || {
            let standing = Standing::default();
            let (client, proxies) = (address("192.0.2.1"), TrustedProxies::new(&Server::default()));
            let place = connections.enter(client, &standing).await.unwrap();
            let gate = RequestGate::new(&Peer::stranger(client), &proxies, &connections, place.id(), &heads);
            (place, gate)
        };
        let large = || {
            let head = "a".repeat(HEAD - REQUEST - "/api/me".len() - 1);
            let mut request = request("");
            request.headers_mut().clear();
            request.headers_mut().insert("x", head.parse().unwrap());
            request
        };
        let (_place, gate) = connect().await;
        let (one, other) = (org(), org());
        let first = gate.pass(&large()).await.unwrap();
        first.peer().is_known(one).await.unwrap();
        assert_eq!((heads.strangers.taken(), heads.known.taken()), (0, HEAD));
        let mut turns = vec![first];
        while let Ok(turn) = gate.pass(&large()).await {
            turns.push(turn);
        }
        assert_eq!(turns.len(), 4, "half of what is free");
        let (_other_place, other_gate) = connect().await;
        let turn = other_gate.pass(&large()).await.unwrap();
        turn.peer().is_known(other).await.unwrap();
        // A request with another's credentials on this connection is that other's.
        drop(turns.pop());
        let turn = gate.pass(&large()).await.unwrap();
        turn.peer().is_known(other).await.unwrap();
        assert_eq!((heads.known.taken_by(one), heads.known.taken_by(other)), (3 * HEAD, 2 * HEAD));
    }

    #[tokio::test]
    async fn few_requests_of_a_stranger_at_a_time_until_it_is_known() {
        let connections = Connections::new("data", 64, Duration::ZERO);
        let heads = Heads::new("data", 64 << 20);
        let (client, standing) = (address("192.0.2.1"), Standing::default());
        let place = connections.enter(client, &standing).await.unwrap();
        let proxies = TrustedProxies::new(&Server::default());
        let gate = RequestGate::new(&Peer::stranger(client), &proxies, &connections, place.id(), &heads);
        let mut turns = Vec::new();
        for _ in 0..STREAMS {
            turns.push(gate.pass(&request("")).await.unwrap());
        }
        let request = request("");
        let mut next = std::pin::pin!(gate.pass(&request));
        assert!(futures_util::poll!(next.as_mut()).is_pending());
        turns[0].peer().is_known(org()).await.unwrap();
        drop(next.await.unwrap());
    }
}
