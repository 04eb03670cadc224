//! First look-ups of credentials, which strangers can cause. They have a pool of their own, at which networks take turns,
//! and an id that nobody has is not looked up again for a while.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use moka::sync::Cache;

use crate::call::Network;
use crate::error::{GatewayError, Level};
use crate::ids::ProviderId;
use crate::metrics as m;
use crate::shares::{Share, Shares};
use crate::store::{Database, SharedDatabase, StoreError, Turn};

/// The connections for first look-ups, each of which takes about a millisecond.
pub const LOOKUP_CONNECTIONS: u32 = 4;

/// How long an id that nobody has is not looked up again.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);

/// How long a network stays suspect after more wrong credentials than it may send.
const SUSPECT_FOR: Duration = Duration::from_secs(60);

/// How many look-ups of suspect networks are made at a time, how many more may wait, and how long.
const SUSPECTS: usize = 2;
const SUSPECTS_WAITING: usize = 4_096;
const SUSPECTS_PATIENCE: Duration = Duration::from_secs(3);

/// At most so many unknown ids, and networks that sent wrong credentials, are remembered.
const MOST_REMEMBERED: u64 = 100_000;

/// Whose turn a look-up is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum LookupOwner {
    Network(Network),
    /// All networks together that sent too many wrong credentials, among which they take turns. A valid key of such a
    /// network still passes, but waits for its look-up behind theirs.
    Suspects,
    /// Those whose token this provider has signed. They are no strangers, but the rows that they sign in with may be locked.
    SignedBy(ProviderId),
}

/// A turn for a look-up.
#[derive(Debug)]
pub(super) struct LookupTurn {
    turn: Turn<LookupOwner>,
    _among_suspects: Option<Share<Network>>,
}

impl Deref for LookupTurn {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.turn
    }
}

#[derive(Debug)]
pub(super) struct Lookups {
    database: SharedDatabase<LookupOwner>,
    /// What each network may still send of wrong credentials; those that sent none lately are not here.
    failures: Cache<Network, Arc<DefaultDirectRateLimiter>>,
    quota: Quota,
    suspects: Cache<Network, ()>,
    suspects_turns: Arc<Shares<Network>>,
    /// Public ids that nobody has.
    unknown: Cache<String, ()>,
}

impl Lookups {
    /// `failures_per_minute` limits wrong credentials from one network; 0: no limit.
    pub(super) fn new(database: Database, failures_per_minute: u32) -> Self {
        metrics::counter!(m::LIMITED, "level" => Level::Address.as_str()).increment(0);
        let quota = Quota::per_minute(NonZeroU32::new(failures_per_minute).unwrap_or(NonZeroU32::MAX));
        Self {
            database: database.into(),
            // A limiter that was idle for more than its minute is full again: forgetting it changes nothing.
            failures: Cache::builder().max_capacity(MOST_REMEMBERED).time_to_idle(2 * SUSPECT_FOR).build(),
            quota,
            suspects: Cache::builder().max_capacity(MOST_REMEMBERED).time_to_live(SUSPECT_FOR).build(),
            suspects_turns: Shares::with_queue(SUSPECTS, SUSPECTS_WAITING, metrics::Gauge::noop()),
            unknown: Cache::builder().max_capacity(MOST_REMEMBERED).time_to_live(UNKNOWN_FOR).build(),
        }
    }

    /// A turn for a look-up that a client at `peer` causes.
    pub(super) async fn turn_of(&self, peer: IpAddr) -> Result<LookupTurn, StoreError> {
        let network = Network::of(peer);
        if !self.suspects.contains_key(&network) {
            return self.turn(LookupOwner::Network(network), None).await;
        }
        let waiting = tokio::time::timeout(SUSPECTS_PATIENCE, self.suspects_turns.wait(network, 1));
        let share = waiting.await.map_err(|_| StoreError::Timeout)?.map_err(|_| StoreError::QueueFull)?;
        self.turn(LookupOwner::Suspects, Some(share)).await
    }

    /// A turn for those whose token `provider` has signed.
    pub(super) async fn turn_of_signed(&self, provider: ProviderId) -> Result<LookupTurn, StoreError> {
        self.turn(LookupOwner::SignedBy(provider), None).await
    }

    async fn turn(
        &self,
        stranger: LookupOwner,
        share: Option<Share<Network>>,
    ) -> Result<LookupTurn, StoreError> {
        Ok(LookupTurn { turn: self.database.turn_of(stranger).await?, _among_suspects: share })
    }

    pub(super) fn is_unknown(&self, public_id: &str) -> bool {
        self.unknown.contains_key(public_id)
    }

    /// Remembers that nobody has this id. Ids of new keys are random, so none of them was asked for before.
    pub(super) fn note_unknown(&self, public_id: &str) {
        self.unknown.insert(public_id.to_owned(), ());
    }

    /// Forgets which ids nobody has.
    pub(super) fn invalidate(&self) {
        self.unknown.invalidate_all();
    }

    /// Counts wrong credentials against the client's network; valid ones are never counted or refused.
    pub(super) fn wrong(&self, why: &'static str, peer: IpAddr) -> GatewayError {
        let network = Network::of(peer);
        let failures = self.failures.get_with(network, || Arc::new(RateLimiter::direct(self.quota)));
        match failures.check() {
            Ok(()) => GatewayError::Unauthenticated(why),
            Err(not_until) => {
                self.suspects.insert(network, ());
                metrics::counter!(m::LIMITED, "level" => Level::Address.as_str()).increment(1);
                let retry_after = not_until.wait_time_from(DefaultClock::default().now());
                GatewayError::RateLimited { level: Level::Address, retry_after }
            }
        }
    }

    /// Forgets networks that sent no wrong credentials recently.
    pub(super) fn tidy(&self) {
        self.failures.run_pending_tasks();
    }

    pub(super) fn show(&self) {
        self.database.show_pool("look-ups");
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;
    use crate::secret::Secret;

    #[tokio::test]
    async fn networks_of_many_wrong_credentials_share_one_place_and_take_turns_at_it() {
        let nowhere = Secret::new("postgres://127.0.0.1:1/none".to_owned());
        let database = Database::connect(&nowhere, LOOKUP_CONNECTIONS, Duration::from_secs(60))
            .expect("a pool connects later");
        let lookups = Lookups::new(database, 1);
        let [loud, quiet] = [1, 2].map(|last| IpAddr::from([192, 0, 2, last]));
        for network in [loud, quiet] {
            assert!(matches!(lookups.wrong("no", network), GatewayError::Unauthenticated(_)));
            assert!(matches!(lookups.wrong("no", network), GatewayError::RateLimited { .. }));
        }
        let mut under_way = vec![lookups.turn_of(loud).await.expect("a turn")];
        let mut waiting: Vec<_> = (0..50).map(|_| Box::pin(lookups.turn_of(loud))).collect();
        for turn in &mut waiting {
            assert!(poll!(turn).is_pending(), "one place for one network");
        }
        let mut other = Box::pin(lookups.turn_of(quiet));
        match poll!(&mut other) {
            std::task::Poll::Ready(turn) => under_way.push(turn.expect("a turn")),
            std::task::Poll::Pending => panic!("the other network waits behind fifty of the first"),
        }
        // Those of a network that is not suspect are not behind them.
        assert!(poll!(Box::pin(lookups.turn_of(IpAddr::from([198, 51, 100, 1])))).is_ready());
        under_way.clear();
        assert!(poll!(&mut waiting[0]).is_ready());
    }
}
