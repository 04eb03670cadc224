//! First look-ups of credentials, which strangers can cause. They have a pool of their own, at which networks take turns,
//! and an id that nobody has is not looked up again for a while.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use moka::sync::Cache;

use crate::call::Network;
use crate::error::{GatewayError, Level};
use crate::metrics as m;
use crate::store::{Database, SharedDatabase, StoreError, Turn};

/// The connections for first look-ups, each of which takes about a millisecond.
pub const LOOKUP_CONNECTIONS: u32 = 4;

/// How long an id that nobody has is not looked up again.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);

/// How long a network stays suspect after more wrong credentials than it may send.
const SUSPECT_FOR: Duration = Duration::from_secs(60);

/// At most so many unknown ids and suspect networks are remembered.
const MOST_REMEMBERED: u64 = 20_000;

/// Whose turn a look-up is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Stranger {
    Network(Network),
    /// All networks together that sent too many wrong credentials. A valid key of such a network still passes, but
    /// waits for its look-up behind theirs.
    Suspects,
}

#[derive(Debug)]
pub(super) struct Lookups {
    database: SharedDatabase<Stranger>,
    failures: DefaultKeyedRateLimiter<Network>,
    suspects: Cache<Network, ()>,
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
            failures: RateLimiter::keyed(quota),
            suspects: Cache::builder().max_capacity(MOST_REMEMBERED).time_to_live(SUSPECT_FOR).build(),
            unknown: Cache::builder().max_capacity(MOST_REMEMBERED).time_to_live(UNKNOWN_FOR).build(),
        }
    }

    /// A turn for a look-up that a client at `peer` causes.
    pub(super) async fn turn_of(&self, peer: IpAddr) -> Result<Turn<Stranger>, StoreError> {
        let network = Network::of(peer);
        let stranger = match self.suspects.contains_key(&network) {
            true => Stranger::Suspects,
            false => Stranger::Network(network),
        };
        self.database.turn_of(stranger).await
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
        match self.failures.check_key(&network) {
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
        self.failures.retain_recent();
    }

    pub(super) fn show(&self) {
        self.database.show_pool("look-ups");
    }
}
