//! How many connections a listener has, and from where. Whoever opens connections without limit gets only its share of
//! them, and strangers, who have not shown valid credentials yet, get a part of that which is theirs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::call::Network;
use crate::clock::Clock;
use crate::metrics as m;
use crate::shares::{Share, Shares};

/// The part of a listener's connections that strangers may have together.
const STRANGERS: usize = 4;

/// How long a new connection waits at most for a place.
const PATIENCE: Duration = Duration::from_secs(10);

/// A stranger's connection is not closed for another one before it has had this time to send a request.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// How often a new connection that waits looks for one that may be closed.
const LOOK: Duration = Duration::from_millis(200);

/// The connections of one listener.
#[derive(Debug)]
pub(super) struct Connections {
    listener: &'static str,
    all: Arc<Shares<Network>>,
    strangers: Arc<Shares<Network>>,
    /// The strangers' connections, oldest first, and what closes each.
    closing: Mutex<Strangers>,
    grace: Duration,
    clock: Clock,
}

#[derive(Debug, Default)]
struct Strangers {
    next: u64,
    open: BTreeMap<u64, Stranger>,
}

/// A connection on which no valid credentials were seen yet.
#[derive(Debug)]
struct Stranger {
    network: Network,
    since: Instant,
    standing: Standing,
    /// Whether it was asked to close.
    asked: bool,
}

/// A connection's place. Dropping it makes room for another connection.
#[derive(Debug)]
pub(super) struct Place {
    _one: Share<Network>,
    stranger: Option<StrangersPlace>,
}

#[derive(Debug)]
struct StrangersPlace {
    _one: Share<Network>,
    connections: Arc<Connections>,
    id: u64,
}

/// What a connection's requests and its place know of each other.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    requests: Arc<AtomicUsize>,
    close: Arc<Notify>,
}

/// A request in progress, until it is dropped.
#[derive(Debug)]
pub(super) struct InProgress(Arc<AtomicUsize>);

impl Standing {
    /// Counts a request: a connection with requests in progress is not closed to make room.
    pub(super) fn request(&self) -> InProgress {
        self.requests.fetch_add(1, Ordering::Relaxed);
        InProgress(self.requests.clone())
    }

    fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Shows the series of a listener's connections from the start: a scrape may come before the listener serves.
pub fn register(listener: &'static str) {
    metrics::counter!(m::CONNECTIONS_CLOSED_FOR_ROOM, "listener" => listener).increment(0);
    metrics::counter!(m::CONNECTIONS_REFUSED, "listener" => listener).increment(0);
    metrics::counter!(m::CONNECTIONS_STALLED, "listener" => listener).increment(0);
    for who in ["all", "strangers"] {
        metrics::gauge!(m::CONNECTIONS, "listener" => listener, "of" => who).set(0);
    }
    metrics::gauge!(m::STRANGERS_HEADS_BYTES, "listener" => listener).set(0);
}

impl Connections {
    /// A listener's connections, of which there are at most `most` at a time. Strangers have `grace` to send a request.
    pub(super) fn new(listener: &'static str, most: usize, grace: Duration) -> Arc<Self> {
        let gauge = |who: &'static str| metrics::gauge!(m::CONNECTIONS, "listener" => listener, "of" => who);
        // Each of those that wait has a descriptor.
        let waiting = most / 2;
        Arc::new(Self {
            listener,
            all: Shares::with_queue(most, waiting, gauge("all")),
            strangers: Shares::with_queue((most / STRANGERS).max(1), waiting, gauge("strangers")),
            closing: Mutex::default(),
            grace,
            clock: Clock,
        })
    }

    /// A place for a new connection from `address`; none: there is no room. If there is no room at once, the oldest connection
    /// of a stranger without a request in progress is closed to make room: one from the same network, or, if the newcomer's
    /// network has none, any.
    pub(super) async fn enter(self: &Arc<Self>, address: IpAddr, standing: &Standing) -> Option<Place> {
        let network = Network::of(address);
        let entered = async {
            let stranger = self.place(&self.strangers, network).await?;
            let one = self.place(&self.all, network).await?;
            let id = {
                let standing = standing.clone();
                let mut strangers = self.closing();
                strangers.next += 1;
                let id = strangers.next;
                let since = self.clock.now();
                strangers.open.insert(id, Stranger { network, since, standing, asked: false });
                id
            };
            let stranger = StrangersPlace { _one: stranger, connections: self.clone(), id };
            Some(Place { _one: one, stranger: Some(stranger) })
        };
        let entered = tokio::time::timeout(PATIENCE, entered).await.ok().flatten();
        if entered.is_none() {
            metrics::counter!(m::CONNECTIONS_REFUSED, "listener" => self.listener).increment(1);
        }
        entered
    }

    /// A place for a connection from a proxy that is trusted. It stands for many clients, so it gets what is free.
    pub(super) fn enter_as_proxy(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let place =
            self.all.take_freely(Network::of(address), 1).map(|one| Place { _one: one, stranger: None });
        if place.is_none() {
            metrics::counter!(m::CONNECTIONS_REFUSED, "listener" => self.listener).increment(1);
        }
        place
    }

    async fn place(&self, of: &Arc<Shares<Network>>, network: Network) -> Option<Share<Network>> {
        loop {
            if let Some(one) = of.take(network, 1) {
                return Some(one);
            }
            // One more place would be the newcomer's, unless its network has too many already.
            let any_helps = of.taken_by(network) <= of.free();
            self.close_one(network, any_helps);
            // Those that are too young to be closed now are not for long.
            if let Ok(one) = tokio::time::timeout(LOOK, of.wait(network, 1)).await {
                return one.ok();
            }
        }
    }

    fn close_one(&self, newcomer: Network, any_helps: bool) {
        let mut strangers = self.closing();
        let (now, grace) = (self.clock.now(), self.grace);
        let may_be_closed = move |stranger: &Stranger| {
            let age = now.saturating_duration_since(stranger.since);
            stranger.standing.is_idle() && !stranger.asked && age >= grace
        };
        let idle = || strangers.open.iter().filter(|(_, stranger)| may_be_closed(stranger));
        let own = idle().find(|(_, stranger)| stranger.network == newcomer);
        let oldest = own.or_else(|| idle().next().filter(|_| any_helps)).map(|(id, _)| *id);
        if let Some(stranger) = oldest.and_then(|id| strangers.open.get_mut(&id)) {
            stranger.asked = true;
            stranger.standing.close.notify_one();
        }
    }

    fn closing(&self) -> MutexGuard<'_, Strangers> {
        self.closing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Completes when the connection must be closed to make room for another one: it was asked to, and has no request in
    /// progress. Its requests must have been looked for first.
    pub(super) async fn wanted(&self, standing: &Standing) {
        loop {
            standing.close.notified().await;
            let Some(place) = &self.stranger else { continue };
            if standing.is_idle() {
                let listener = place.connections.listener;
                metrics::counter!(m::CONNECTIONS_CLOSED_FOR_ROOM, "listener" => listener).increment(1);
                return;
            }
            if let Some(stranger) = place.connections.closing().open.get_mut(&place.id) {
                stranger.asked = false;
            }
        }
    }

    /// Records that the connection's client is known: it is not closed to make room any more.
    pub(super) fn is_known(&mut self) {
        self.stranger = None;
    }
}

impl Drop for StrangersPlace {
    fn drop(&mut self) {
        self.connections.closing().open.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::task::TaskTracker;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    async fn enter(connections: &Arc<Connections>, from: &str) -> (Place, Standing) {
        let standing = Standing::default();
        (connections.enter(address(from), &standing).await.unwrap(), standing)
    }

    /// A newcomer that finds no place at once.
    fn newcomer(connections: &Arc<Connections>, from: &str) -> tokio::task::JoinHandle<bool> {
        let (connections, from) = (connections.clone(), address(from));
        TaskTracker::new().spawn(async move { connections.enter(from, &Standing::default()).await.is_some() })
    }

    #[tokio::test]
    async fn one_network_closes_its_own_connections_and_leaves_room_for_others() {
        let connections = Connections::new("data", 32, Duration::ZERO);
        // Strangers have 8 places, of which one network gets 4.
        let mut open = Vec::new();
        for _ in 0..4 {
            open.push(enter(&connections, "192.0.2.1").await);
        }
        let busy = open[0].1.request();
        let next = newcomer(&connections, "192.0.2.1");
        open[1].0.wanted(&open[1].1).await;
        assert!(futures_util::poll!(std::pin::pin!(open[0].0.wanted(&open[0].1))).is_pending());
        drop(open.remove(1));
        assert!(next.await.unwrap());
        drop(busy);
        drop(enter(&connections, "192.0.2.2").await);

        open.iter_mut().for_each(|(place, _)| place.is_known());
        drop(enter(&connections, "192.0.2.1").await);
        assert_eq!(connections.all.taken(), 3);
        drop(open);
        assert_eq!((connections.all.taken(), connections.strangers.taken()), (0, 0));
        assert!(connections.closing().open.is_empty());
    }

    #[tokio::test]
    async fn a_newcomer_from_elsewhere_finds_room_among_strangers_from_everywhere() {
        let connections = Connections::new("data", 16, Duration::ZERO);
        let mut open = Vec::new();
        // All 4 places for strangers.
        for host in 1..=4 {
            open.push(enter(&connections, &format!("192.0.2.{host}")).await);
        }
        let next = newcomer(&connections, "192.0.2.5");
        open[0].0.wanted(&open[0].1).await;
        open.remove(0);
        assert!(next.await.unwrap());
    }

    #[tokio::test]
    async fn a_trusted_proxy_gets_what_is_free() {
        let connections = Connections::new("data", 8, Duration::ZERO);
        let proxy = address("192.0.2.1");
        let open: Vec<Place> = std::iter::from_fn(|| connections.enter_as_proxy(proxy)).collect();
        assert_eq!(open.len(), 8);
    }
}
