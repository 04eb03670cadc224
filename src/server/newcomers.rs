//! Newcomers: connections, and requests that come through proxies, on which no valid credentials were seen yet.
//!
//! A caller is known only after its first request. But where valid credentials came from lately, it is known whose they were: a
//! newcomer from there takes of that party's share, from however many addresses the party comes. Networks from which no valid
//! credentials came have a part of their own, so that they cannot keep those out who were there before.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use crate::call::{Network, Party};
use crate::shares::{Share, Shares};

/// From how many networks valid credentials are remembered on one listener; of one party's at most half of what is free.
const NETWORKS: usize = 16_384;

/// For how long a network is remembered after the last valid credentials.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// Whose share a newcomer takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Newcomer {
    /// No valid credentials came from this network lately.
    Unknown(Network),
    /// The last valid credentials from its network were this one's.
    Returning(Party),
}

/// The networks from which valid credentials came lately, and whose they were last.
#[derive(Debug)]
pub(super) struct Acquaintances {
    parties: Cache<Network, Arc<Acquaintance>>,
    room: Arc<Shares<Party>>,
}

#[derive(Debug)]
struct Acquaintance {
    party: Party,
    _one: Share<Party>,
}

impl Acquaintances {
    pub(super) fn new() -> Self {
        let parties = Cache::builder().max_capacity(NETWORKS as u64).time_to_idle(REMEMBERED).build();
        Self { parties, room: Shares::new(NETWORKS, metrics::Gauge::noop()) }
    }

    pub(super) fn newcomer(&self, network: Network) -> Newcomer {
        let known = self.parties.get(&network);
        known.map_or(Newcomer::Unknown(network), |known| Newcomer::Returning(known.party))
    }

    /// Remembers whose valid credentials came from this network, if there is room for one more of this party.
    pub(super) fn remember(&self, network: Network, party: Party) {
        if self.parties.get(&network).is_some_and(|known| known.party == party) {
            return;
        }
        if let Some(one) = self.room.take(party, 1) {
            self.parties.insert(network, Arc::new(Acquaintance { party, _one: one }));
        }
    }
}

/// A quantity for newcomers, in two equal parts: for those from networks that nobody knows, and for those who return.
#[derive(Debug)]
pub(super) struct ForNewcomers {
    unknown: Arc<Shares<Newcomer>>,
    returning: Arc<Shares<Newcomer>>,
}

impl ForNewcomers {
    /// Each part has `each`, for which at most `waiting` newcomers wait. `gauge` shows how much is taken of a part.
    pub(super) fn new(each: usize, waiting: usize, gauge: impl Fn(&'static str) -> metrics::Gauge) -> Self {
        let part = |of| Shares::with_queue(each, waiting, gauge(of));
        Self { unknown: part("strangers"), returning: part("returning") }
    }

    /// The part of which this newcomer takes.
    pub(super) fn part(&self, newcomer: Newcomer) -> &Arc<Shares<Newcomer>> {
        match newcomer {
            Newcomer::Unknown(_) => &self.unknown,
            Newcomer::Returning(_) => &self.returning,
        }
    }

    pub(super) fn take(&self, newcomer: Newcomer, amount: usize) -> Option<Share<Newcomer>> {
        self.part(newcomer).take(newcomer, amount)
    }

    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.unknown.taken() + self.returning.taken()
    }
}

impl Newcomer {
    /// Whether both take of the same part.
    pub(super) fn is_like(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Unknown(_), Self::Unknown(_)) | (Self::Returning(_), Self::Returning(_))
        )
    }
}
