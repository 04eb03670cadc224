//! What a call passes before it may go to a backend: the breaker, and a bounded number of places.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::breaker::{Breaker, Permit};
use crate::ids::OrgId;
use crate::metrics as m;

/// Why a call may not go to its backend now. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too many calls have failed lately.
    #[error("the video service is not answering as it should: try again later; nothing is charged")]
    Open {
        /// When it is tried again.
        retry_after: Duration,
    },
    /// As many calls are under way as may be, in all or of this organisation.
    #[error("too many requests are waiting for the video service: try again; nothing is charged")]
    Full,
}

impl Refusal {
    /// When to come back.
    pub fn retry_after(self) -> Duration {
        match self {
            Self::Open { retry_after } => retry_after,
            Self::Full => Duration::from_secs(1),
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Open { .. } => "breaker open",
            Self::Full => "no room",
        }
    }
}

/// The way to one backend for one kind of call.
#[derive(Debug)]
pub(super) struct Gate {
    backend: &'static str,
    call: &'static str,
    breaker: Arc<Breaker>,
    places: Arc<Places>,
}

/// Leave to make one call. Dropping it gives its place back.
#[derive(Debug)]
#[must_use]
pub(super) struct Pass {
    permit: Permit,
    _place: Place,
}

impl Gate {
    pub(super) fn new(
        backend: &'static str,
        call: &'static str,
        failures: u32,
        open_for: Duration,
        places: usize,
    ) -> Self {
        let state = metrics::gauge!(m::UPSTREAM_BREAKER, "backend" => backend, "call" => call);
        let in_flight = metrics::gauge!(m::UPSTREAM_IN_FLIGHT, "backend" => backend, "call" => call);
        in_flight.increment(0);
        for refusal in [Refusal::Open { retry_after: Duration::ZERO }, Refusal::Full] {
            metrics::counter!(m::UPSTREAM_REFUSED, "backend" => backend, "call" => call, "reason" => refusal.label())
                .increment(0);
        }
        Self {
            backend,
            call,
            breaker: Arc::new(Breaker::new(failures, open_for, state)),
            places: Arc::new(Places { all: places, taken: Mutex::default(), in_flight }),
        }
    }

    /// Leave for a call of `org`; never waits.
    pub(super) fn enter(&self, org: OrgId, now: Instant) -> Result<Pass, Refusal> {
        // A place first: a probe that then finds no room would have kept others from probing.
        let pass = match self.places.take(org) {
            None => Err(Refusal::Full),
            Some(place) => match self.breaker.enter(org, now) {
                Err(retry_after) => Err(Refusal::Open { retry_after }),
                Ok(permit) => Ok(Pass { permit, _place: place }),
            },
        };
        if let Err(refusal) = &pass {
            metrics::counter!(m::UPSTREAM_REFUSED, "backend" => self.backend, "call" => self.call, "reason" => refusal.label())
                .increment(1);
        }
        pass
    }

    /// Whether a call of `org` would get leave.
    pub(super) fn is_passable(&self, org: OrgId, now: Instant) -> bool {
        self.breaker.lets_through(org, now) && self.places.has_room(&self.places.taken(), org)
    }
}

impl Pass {
    /// Says whether the call failed; only the first report counts.
    pub(super) fn report(&self, failed: bool, now: Instant) {
        self.permit.report(failed, now);
    }
}

/// A bounded number of places, shared so that nobody can take them all: an organisation gets another one only while it
/// has fewer than are free. Alone it takes half of them, the next one half of the rest.
#[derive(Debug)]
struct Places {
    all: usize,
    taken: Mutex<Taken>,
    in_flight: metrics::Gauge,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by_org: HashMap<OrgId, usize>,
}

#[derive(Debug)]
struct Place {
    places: Arc<Places>,
    org: OrgId,
}

impl Places {
    fn take(self: &Arc<Self>, org: OrgId) -> Option<Place> {
        let mut taken = self.taken();
        if !self.has_room(&taken, org) {
            return None;
        }
        taken.total += 1;
        *taken.by_org.entry(org).or_default() += 1;
        self.in_flight.increment(1);
        Some(Place { places: self.clone(), org })
    }

    fn has_room(&self, taken: &Taken, org: OrgId) -> bool {
        taken.by_org.get(&org).copied().unwrap_or_default() < self.all.saturating_sub(taken.total)
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.total = taken.total.saturating_sub(1);
        match taken.by_org.get_mut(&self.org) {
            Some(own @ 2..) => *own -= 1,
            _ => drop(taken.by_org.remove(&self.org)),
        }
        self.places.in_flight.decrement(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn gate(places: usize) -> Gate {
        Gate::new("kling-3.0", "create", 1, Duration::from_secs(10), places)
    }

    fn fill(gate: &Gate, org: OrgId) -> Vec<Pass> {
        let now = Clock.now();
        std::iter::from_fn(|| gate.enter(org, now).ok()).collect()
    }

    #[test]
    fn one_organisation_takes_half_and_there_is_room_for_the_next() {
        let gate = gate(512);
        let mut passes: Vec<Vec<Pass>> = (0..10).map(|_| fill(&gate, OrgId::generate())).collect();
        let lengths: Vec<usize> = passes.iter().map(Vec::len).collect();
        assert_eq!(lengths, [256, 128, 64, 32, 16, 8, 4, 2, 1, 1]);
        assert_eq!(gate.enter(OrgId::generate(), Clock.now()).unwrap_err(), Refusal::Full);
        passes.remove(0);
        assert_eq!(fill(&gate, OrgId::generate()).len(), 128, "half of what has become free");
    }

    #[test]
    fn a_single_place_serves_one_after_the_other() {
        let gate = gate(1);
        let org = OrgId::generate();
        for _ in 0..3 {
            let passes = fill(&gate, org);
            assert_eq!(passes.len(), 1);
            assert!(!gate.is_passable(org, Clock.now()));
        }
        assert!(gate.is_passable(org, Clock.now()));
        assert!(gate.places.taken().by_org.is_empty(), "nobody is remembered for ever");
    }

    #[test]
    fn what_the_breaker_refuses_takes_no_place() {
        let gate = gate(2);
        let (org, now) = (OrgId::generate(), Clock.now());
        gate.enter(org, now).unwrap().report(true, now);
        assert!(!gate.is_passable(org, now));
        for _ in 0..5 {
            assert!(matches!(gate.enter(org, now), Err(Refusal::Open { .. })));
        }
        assert_eq!(gate.places.taken().total, 0);
    }
}
