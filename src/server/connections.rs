//! How many connections a listener has, and whose they are. Strangers, who have not shown valid credentials yet, get two parts of
//! them ([`super::newcomers`]): those from networks that nobody knows, where each network has its share, and those who return, where
//! each party has. The other connections are shared by the organisations and operators that they belong to.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::newcomers::{Acquaintances, ForNewcomers, Newcomer};
use crate::call::{Network, Party};
use crate::clock::Clock;
use crate::metrics as m;
use crate::shares::{Share, Shares};

/// The part of a listener's connections that strangers may have together: those from unknown networks, and as many others.
const STRANGERS: usize = 4;

/// How long a new connection waits at most for a place.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a request waits at most until an idle connection is closed for its own.
const REQUESTS_PATIENCE: Duration = Duration::from_secs(2);

/// A stranger's connection is not closed for another one before it has had this time to send a request.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// How often a new connection that waits looks for one that may be closed.
const LOOK: Duration = Duration::from_millis(200);

/// The connections of one listener.
#[derive(Debug)]
pub(super) struct Connections {
    listener: &'static str,
    all: Arc<Shares<Network>>,
    strangers: ForNewcomers,
    acquaintances: Acquaintances,
    known: Arc<Shares<Party>>,
    open: Mutex<Open>,
    grace: Duration,
    clock: Clock,
}

/// The clients' connections, each kind with the oldest first, and what closes each.
#[derive(Debug, Default)]
struct Open {
    next: u64,
    strangers: BTreeMap<u64, Stranger>,
    known: BTreeMap<u64, Known>,
}

/// A connection on which no valid credentials were seen yet.
#[derive(Debug)]
struct Stranger {
    one: Share<Newcomer>,
    newcomer: Newcomer,
    network: Network,
    since: Instant,
    standing: Standing,
}

/// A connection of somebody who is known.
#[derive(Debug)]
struct Known {
    _one: Share<Party>,
    party: Party,
    standing: Standing,
}

/// A connection's place. Dropping it makes room for another connection.
#[derive(Debug)]
pub(super) struct Place {
    _one: Share<Network>,
    /// None: it is a proxy's connection.
    client: Option<ClientsPlace>,
}

#[derive(Debug)]
struct ClientsPlace {
    connections: Arc<Connections>,
    id: u64,
}

/// What a connection's requests and its place know of each other.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing(Arc<ConnectionState>);

#[derive(Debug)]
struct ConnectionState {
    requests: AtomicUsize,
    /// When the last request ended.
    idle_since: Mutex<Instant>,
    /// Whether it was asked to close.
    asked: AtomicBool,
    close: Notify,
}

impl Default for ConnectionState {
    fn default() -> Self {
        Self {
            requests: AtomicUsize::default(),
            idle_since: Mutex::new(Clock.now()),
            asked: AtomicBool::default(),
            close: Notify::default(),
        }
    }
}

/// A request in progress, until it is dropped.
#[derive(Debug)]
pub(super) struct InProgress(Arc<ConnectionState>);

impl Standing {
    /// Counts a request: a connection with requests in progress is not closed to make room.
    pub(super) fn request(&self) -> InProgress {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        InProgress(self.0.clone())
    }

    fn is_idle(&self) -> bool {
        self.0.requests.load(Ordering::Relaxed) == 0
    }

    fn idle_since(&self) -> Instant {
        *self.0.idle_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_asked(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed)
    }

    fn ask_to_close(&self) {
        self.0.asked.store(true, Ordering::Relaxed);
        self.0.close.notify_one();
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        *self.0.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Clock.now();
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Shows the series of a listener's connections from the start: a scrape may come before the listener serves.
pub fn register(listener: &'static str) {
    metrics::counter!(m::CONNECTIONS_CLOSED_FOR_ROOM, "listener" => listener).increment(0);
    metrics::counter!(m::CONNECTIONS_REFUSED, "listener" => listener).increment(0);
    metrics::counter!(m::CONNECTIONS_STALLED, "listener" => listener).increment(0);
    metrics::counter!(m::REQUESTS_WITHOUT_ROOM, "listener" => listener).increment(0);
    for who in ["all", "strangers", "returning", "known"] {
        metrics::gauge!(m::CONNECTIONS, "listener" => listener, "of" => who).set(0);
    }
    for who in ["strangers", "returning", "known"] {
        metrics::gauge!(m::HEADS_BYTES, "listener" => listener, "of" => who).set(0);
    }
}

impl Connections {
    /// A listener's connections, of which there are at most `most` at a time. Strangers have `grace` to send a request.
    pub(super) fn new(listener: &'static str, most: usize, grace: Duration) -> Arc<Self> {
        let gauge = |who: &'static str| metrics::gauge!(m::CONNECTIONS, "listener" => listener, "of" => who);
        // Each of those that wait has a descriptor.
        let waiting = most / 2;
        let strangers = (most / STRANGERS).max(1);
        // What strangers may have and what those may have who are known is not more than all.
        let known = most.saturating_sub(2 * strangers).max(1);
        Arc::new(Self {
            listener,
            all: Shares::with_queue(most, waiting, gauge("all")),
            strangers: ForNewcomers::new(strangers, waiting, gauge),
            acquaintances: Acquaintances::new(),
            known: Shares::with_queue(known, 2 * strangers, gauge("known")),
            open: Mutex::default(),
            grace,
            clock: Clock,
        })
    }

    /// A place for a new connection from `address`; none: there is no room. If there is no room at once, the oldest connection
    /// of a stranger without a request in progress is closed to make room: one whose share is the same, or, if there is none, any of
    /// the newcomer's part.
    pub(super) async fn enter(self: &Arc<Self>, address: IpAddr, standing: &Standing) -> Option<Place> {
        let network = Network::of(address);
        let entered = async {
            let newcomer = self.acquaintances.newcomer(network);
            let stranger = self.strangers_place(newcomer).await?;
            let one = self.place(network, newcomer).await?;
            let id = {
                let standing = standing.clone();
                let mut open = self.open();
                open.next += 1;
                let id = open.next;
                let since = self.clock.now();
                open.strangers.insert(id, Stranger { one: stranger, newcomer, network, since, standing });
                id
            };
            let client = Some(ClientsPlace { connections: self.clone(), id });
            Some(Place { _one: one, client })
        };
        let entered = tokio::time::timeout(PATIENCE, entered).await.ok().flatten();
        if entered.is_none() {
            metrics::counter!(m::CONNECTIONS_REFUSED, "listener" => self.listener).increment(1);
        }
        entered
    }

    /// A place for a connection from a proxy that is trusted. It stands for many clients, so it gets what is free; its requests
    /// take places of their own.
    pub(super) fn enter_as_proxy(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let place =
            self.all.take_freely(Network::of(address), 1).map(|one| Place { _one: one, client: None });
        if place.is_none() {
            metrics::counter!(m::CONNECTIONS_REFUSED, "listener" => self.listener).increment(1);
        }
        place
    }

    /// Whose share a stranger from `network` takes.
    pub(super) fn newcomer(&self, network: Network) -> Newcomer {
        self.acquaintances.newcomer(network)
    }

    /// Remembers that credentials of `party` came from `network` through a proxy.
    pub(super) fn remember(&self, network: Network, party: Party) {
        self.acquaintances.remember(network, party);
    }

    /// The place of a request that a stranger sends through a proxy.
    pub(super) fn place_of_stranger(&self, newcomer: Newcomer) -> Option<Share<Newcomer>> {
        self.strangers.take(newcomer, 1)
    }

    /// One more place of `party`: for a connection, or for a request that it sends through a proxy. If there is no room at once,
    /// idle connections are closed: of the party that has the most of them.
    pub(super) async fn place_of(&self, party: Party) -> Option<Share<Party>> {
        if let Some(one) = self.known.take(party, 1) {
            return Some(one);
        }
        let waiting = async {
            while self.close_known(party) {
                if let Ok(one) = tokio::time::timeout(LOOK, self.known.wait(party, 1)).await {
                    return one.ok();
                }
            }
            None
        };
        tokio::time::timeout(REQUESTS_PATIENCE, waiting).await.ok().flatten()
    }

    /// Gives the connection `id` one of the places of `party`; none: there is no room for one more.
    pub(super) async fn becomes_known(&self, id: u64, party: Party) -> Option<()> {
        let network = self.open().strangers.get(&id).map(|stranger| stranger.network);
        // None: it has ended, or another of its requests was faster.
        let Some(network) = network else { return Some(()) };
        // Also one that finds no room: it comes again.
        self.acquaintances.remember(network, party);
        let one = self.place_of(party).await?;
        let stranger = {
            let mut open = self.open();
            let stranger = open.strangers.remove(&id)?;
            let standing = stranger.standing.clone();
            open.known.insert(id, Known { _one: one, party, standing });
            stranger
        };
        drop(stranger.one);
        Some(())
    }

    async fn strangers_place(&self, newcomer: Newcomer) -> Option<Share<Newcomer>> {
        let part = self.strangers.part(newcomer);
        loop {
            if let Some(one) = part.take(newcomer, 1) {
                return Some(one);
            }
            // One more place would be the newcomer's, unless as many are its own already.
            let any_helps = part.taken_by(newcomer) <= part.free();
            self.close_stranger(newcomer, |other| any_helps && other.is_like(newcomer));
            // Those that are too young to be closed now are not for long.
            if let Ok(one) = tokio::time::timeout(LOOK, part.wait(newcomer, 1)).await {
                return one.ok();
            }
        }
    }

    /// A place among all: whose it is is looked at elsewhere.
    async fn place(&self, network: Network, newcomer: Newcomer) -> Option<Share<Network>> {
        loop {
            if let Some(one) = self.all.take_freely(network, 1) {
                return Some(one);
            }
            self.close_stranger(newcomer, |_| true);
            if let Ok(one) = tokio::time::timeout(LOOK, self.all.wait(network, 1)).await {
                return one.ok();
            }
        }
    }

    fn close_stranger(&self, newcomer: Newcomer, helps: impl Fn(Newcomer) -> bool) {
        let open = self.open();
        let (now, grace) = (self.clock.now(), self.grace);
        let may_be_closed = move |stranger: &&Stranger| {
            let age = now.saturating_duration_since(stranger.since);
            stranger.standing.is_idle() && !stranger.standing.is_asked() && age >= grace
        };
        let idle = || open.strangers.values().filter(may_be_closed);
        let own = idle().find(|stranger| stranger.newcomer == newcomer);
        if let Some(oldest) = own.or_else(|| idle().find(|stranger| helps(stranger.newcomer))) {
            oldest.standing.ask_to_close();
        }
    }

    /// Closes a connection so that `newcomer` may have one more place: the one that is idle for the longest time, of the party
    /// that has the most. False: none is idle, or it would not help.
    fn close_known(&self, newcomer: Party) -> bool {
        let (its, free) = (self.known.taken_by(newcomer), self.known.free());
        if its > free + 1 {
            return false;
        }
        let open = self.open();
        let mut count: HashMap<Party, usize> = HashMap::new();
        for known in open.known.values() {
            *count.entry(known.party).or_default() += 1;
        }
        let has = |party: Party| count.get(&party).copied().unwrap_or_default();
        // Nobody loses a connection to somebody who has more.
        let others = its <= free;
        let helps = |known: &&Known| {
            known.standing.is_idle() && (known.party == newcomer || others && has(known.party) > its)
        };
        let longest_idle =
            |known: &&Known| (has(known.party), std::cmp::Reverse(known.standing.idle_since()));
        let asked = open.known.values().filter(helps).any(|known| known.standing.is_asked());
        let most = open.known.values().filter(helps).filter(|known| !known.standing.is_asked());
        match most.max_by_key(longest_idle) {
            Some(known) => known.standing.ask_to_close(),
            // It is about to close.
            None => return asked,
        }
        true
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let taken = self.all.taken() + self.strangers.taken() + self.known.taken();
        let open = self.open();
        taken == 0 && open.strangers.is_empty() && open.known.is_empty()
    }
}

impl Place {
    /// The connection's number among those of clients; none: it is a proxy's.
    pub(super) fn id(&self) -> Option<u64> {
        self.client.as_ref().map(|client| client.id)
    }

    /// Completes when the connection must be closed to make room for another one: it was asked to, and has no request in
    /// progress. Its requests must have been looked for first.
    pub(super) async fn wanted(&self, standing: &Standing) {
        loop {
            standing.0.close.notified().await;
            let Some(client) = &self.client else { continue };
            if standing.is_idle() {
                let listener = client.connections.listener;
                metrics::counter!(m::CONNECTIONS_CLOSED_FOR_ROOM, "listener" => listener).increment(1);
                return;
            }
            standing.0.asked.store(false, Ordering::Relaxed);
        }
    }
}

impl Drop for ClientsPlace {
    fn drop(&mut self) {
        let (stranger, known) = {
            let mut open = self.connections.open();
            (open.strangers.remove(&self.id), open.known.remove(&self.id))
        };
        // What is given back serves others: not while we hold the lock.
        drop((stranger, known));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::ids::OrgId;

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

    /// A connection of somebody who is known, with a request in progress.
    struct Busy {
        place: Place,
        standing: Standing,
        request: Option<InProgress>,
    }

    async fn enter_busy(connections: &Arc<Connections>, from: &str) -> Busy {
        let (place, standing) = enter(connections, from).await;
        let request = Some(standing.request());
        Busy { place, standing, request }
    }

    /// Opens connections of one party from ever other networks, until there is no room.
    async fn fill(connections: &Arc<Connections>, party: Party, network: u8) -> Vec<Busy> {
        let mut open = Vec::new();
        for host in 1.. {
            let one = enter_busy(connections, &format!("192.0.{network}.{host}")).await;
            if connections.becomes_known(one.place.id().unwrap(), party).await.is_none() {
                break;
            }
            open.push(one);
        }
        open
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

        let party = Party::Org(OrgId::generate());
        for (place, _) in &open {
            connections.becomes_known(place.id().unwrap(), party).await.unwrap();
        }
        assert_eq!((connections.strangers.taken(), connections.known.taken()), (0, 3));
        drop(enter(&connections, "192.0.2.1").await);
        assert_eq!(connections.all.taken(), 3);
        drop(open);
        assert!(connections.is_empty());
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
    async fn one_organisation_leaves_room_for_others_from_however_many_networks_it_comes() {
        let connections = Connections::new("data", 96, Duration::ZERO);
        let parties = [Party::Org(OrgId::generate()), Party::Operator(1), Party::Org(OrgId::generate())];
        let mut all = Vec::new();
        for (network, party) in (1..).zip(parties) {
            all.push(fill(&connections, party, network).await);
        }
        // Of 48 for those who are known.
        assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [24, 12, 6]);
        drop(all);
        assert!(connections.is_empty());
    }

    #[tokio::test]
    async fn a_hundred_networks_of_one_key_have_one_share_among_those_who_return() {
        let connections = Connections::new("data", 32, Duration::from_secs(3600));
        let (one, other) = (Party::Operator(1), Party::Operator(2));
        for (party, network) in
            (0..100).map(|host| (one, format!("192.0.2.{host}"))).chain([(other, "192.0.3.1".into())])
        {
            let (place, _) = enter(&connections, &network).await;
            connections.becomes_known(place.id().unwrap(), party).await.unwrap();
        }
        // Connections that say nothing: all that this party may have, and all that those may of whom nobody knows anything.
        let mut silent = Vec::new();
        for network in
            (0..4).map(|host| format!("192.0.2.{host}")).chain((0..8).map(|host| format!("192.0.4.{host}")))
        {
            silent.push(enter(&connections, &network).await);
        }
        // Behind them, many more wait or are refused.
        let more = |network: u8| (0..100).map(move |host| format!("192.0.{network}.{host}"));
        let more: Vec<_> = more(2).chain(more(4)).map(|from| newcomer(&connections, &from)).collect();
        while more.iter().filter(|task| !task.is_finished()).count() > 24 {
            tokio::task::yield_now().await;
        }
        let entered = connections.enter(address("192.0.3.1"), &Standing::default()).now_or_never();
        assert!(entered.flatten().is_some());
        more.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test]
    async fn idle_connections_of_the_party_that_has_the_most_are_closed_for_others() {
        let connections = Connections::new("data", 24, Duration::ZERO);
        let mut all = Vec::new();
        for number in 0..4 {
            all.push(fill(&connections, Party::Operator(number), number as u8).await);
        }
        // All 12 for those who are known.
        assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [6, 3, 2, 1]);
        // The first of these is idle for the longest time, but it is somebody's who has fewer.
        for (party, connection) in [(1, 0), (0, 1), (0, 0)] {
            all[party][connection].request = None;
        }
        let next = enter_busy(&connections, "192.0.9.1").await;
        let (there, id) = (connections.clone(), next.place.id().unwrap());
        let entering =
            TaskTracker::new().spawn(async move { there.becomes_known(id, Party::Operator(4)).await });
        all[0][1].place.wanted(&all[0][1].standing).await;
        drop(all[0].remove(1));
        entering.await.unwrap().unwrap();
        drop((next, all));
        assert!(connections.is_empty());
    }

    #[tokio::test]
    async fn who_has_the_most_closes_its_own_idle_connections_or_is_refused() {
        let connections = Connections::new("data", 32, Duration::ZERO);
        let party = Party::Operator(1);
        let mut open = fill(&connections, party, 1).await;
        open[0].request = None;
        let next = enter_busy(&connections, "192.0.2.9").await;
        let (there, id) = (connections.clone(), next.place.id().unwrap());
        let entering = TaskTracker::new().spawn(async move { there.becomes_known(id, party).await });
        open[0].place.wanted(&open[0].standing).await;
        open.remove(0);
        entering.await.unwrap().unwrap();
        let last = enter_busy(&connections, "192.0.2.9").await;
        let refused = connections.becomes_known(last.place.id().unwrap(), party).await;
        assert!(refused.is_none(), "all others are busy");
    }

    #[tokio::test]
    async fn a_trusted_proxy_gets_what_is_free() {
        let connections = Connections::new("data", 8, Duration::ZERO);
        let proxy = address("192.0.2.1");
        let open: Vec<Place> = std::iter::from_fn(|| connections.enter_as_proxy(proxy)).collect();
        assert_eq!(open.len(), 8);
    }
}
