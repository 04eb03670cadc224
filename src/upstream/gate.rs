//! Admission of calls to a backend: a bounded number of calls in flight, and the circuit breaker.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::breaker::{Breaker, Reporter};
use crate::ids::OrgId;
use crate::metrics as m;

/// Why a call is not admitted to its backend now. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The breaker is open: too many calls have failed recently.
    #[error("the video service is not answering as it should: try again later; nothing is charged")]
    Open {
        /// When the next call may be admitted.
        retry_after: Duration,
    },
    /// The limit of calls in flight is reached, in total or for this organisation.
    #[error("too many requests are waiting for the video service: try again; nothing is charged")]
    Full,
}

impl Refusal {
    /// When the caller should try again.
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

/// Admits one kind of call to one backend.
#[derive(Debug)]
pub(super) struct Gate {
    backend: &'static str,
    call: &'static str,
    breaker: Arc<Breaker>,
    slots: Arc<Slots>,
}

/// A permit to make one call. Dropping it frees its slot.
#[derive(Debug)]
#[must_use]
pub(super) struct CallPermit {
    reporter: Reporter,
    _slot: Slot,
}

impl Gate {
    pub(super) fn new(
        backend: &'static str,
        call: &'static str,
        failures: u32,
        open_for: Duration,
        slots: usize,
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
            slots: Arc::new(Slots { all: slots, in_use: Mutex::default(), in_flight }),
        }
    }

    /// A permit for a call of `org`, or why there is none now. Never waits.
    pub(super) fn acquire(&self, org: OrgId, now: Instant) -> Result<CallPermit, Refusal> {
        // The slot first: a probe that was admitted and then found no slot would have kept others from probing.
        let permit = match self.slots.take(org) {
            None => Err(Refusal::Full),
            Some(slot) => match self.breaker.acquire(org, now) {
                Err(retry_after) => Err(Refusal::Open { retry_after }),
                Ok(reporter) => Ok(CallPermit { reporter, _slot: slot }),
            },
        };
        if let Err(refusal) = &permit {
            metrics::counter!(m::UPSTREAM_REFUSED, "backend" => self.backend, "call" => self.call, "reason" => refusal.label())
                .increment(1);
        }
        permit
    }

    /// Whether a call of `org` would be admitted now.
    pub(super) fn would_admit(&self, org: OrgId, now: Instant) -> bool {
        self.breaker.would_admit(org, now) && self.slots.has_room(&self.slots.in_use(), org)
    }
}

impl CallPermit {
    /// Reports whether the call failed; only the first report counts.
    pub(super) fn report(&self, failed: bool, now: Instant) {
        self.reporter.report(failed, now);
    }
}

/// A bounded number of calls in flight, shared so that no organisation can take all slots: an organisation gets another
/// slot only while it has fewer than are free. One organisation alone gets half of the slots, the next half of the rest.
#[derive(Debug)]
struct Slots {
    all: usize,
    in_use: Mutex<InFlight>,
    in_flight: metrics::Gauge,
}

#[derive(Debug, Default)]
struct InFlight {
    total: usize,
    by_org: HashMap<OrgId, usize>,
}

#[derive(Debug)]
struct Slot {
    slots: Arc<Slots>,
    org: OrgId,
}

impl Slots {
    fn take(self: &Arc<Self>, org: OrgId) -> Option<Slot> {
        let mut in_use = self.in_use();
        if !self.has_room(&in_use, org) {
            return None;
        }
        in_use.total += 1;
        *in_use.by_org.entry(org).or_default() += 1;
        self.in_flight.increment(1);
        Some(Slot { slots: self.clone(), org })
    }

    fn has_room(&self, in_use: &InFlight, org: OrgId) -> bool {
        in_use.by_org.get(&org).copied().unwrap_or_default() < self.all.saturating_sub(in_use.total)
    }

    fn in_use(&self) -> MutexGuard<'_, InFlight> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut in_use = self.slots.in_use();
        in_use.total = in_use.total.saturating_sub(1);
        match in_use.by_org.get_mut(&self.org) {
            Some(own @ 2..) => *own -= 1,
            _ => drop(in_use.by_org.remove(&self.org)),
        }
        self.slots.in_flight.decrement(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn gate(slots: usize) -> Gate {
        Gate::new("kling-3.0", "create", 1, Duration::from_secs(10), slots)
    }

    fn fill(gate: &Gate, org: OrgId) -> Vec<CallPermit> {
        let now = Clock.now();
        std::iter::from_fn(|| gate.acquire(org, now).ok()).collect()
    }

    #[test]
    fn one_organisation_takes_half_and_there_is_room_for_the_next() {
        let gate = gate(512);
        let mut permits: Vec<Vec<CallPermit>> = (0..10).map(|_| fill(&gate, OrgId::generate())).collect();
        let lengths: Vec<usize> = permits.iter().map(Vec::len).collect();
        assert_eq!(lengths, [256, 128, 64, 32, 16, 8, 4, 2, 1, 1]);
        assert_eq!(gate.acquire(OrgId::generate(), Clock.now()).unwrap_err(), Refusal::Full);
        permits.remove(0);
        assert_eq!(fill(&gate, OrgId::generate()).len(), 128, "half of the slots that became free");
    }

    #[test]
    fn a_single_place_serves_one_after_the_other() {
        let gate = gate(1);
        let org = OrgId::generate();
        for _ in 0..3 {
            let permits = fill(&gate, org);
            assert_eq!(permits.len(), 1);
            assert!(!gate.would_admit(org, Clock.now()));
        }
        assert!(gate.would_admit(org, Clock.now()));
        assert!(gate.slots.in_use().by_org.is_empty(), "organisations without calls are forgotten");
    }

    #[test]
    fn what_the_breaker_refuses_takes_no_place() {
        let gate = gate(2);
        let (org, now) = (OrgId::generate(), Clock.now());
        gate.acquire(org, now).unwrap().report(true, now);
        assert!(!gate.would_admit(org, now));
        for _ in 0..5 {
            assert!(matches!(gate.acquire(org, now), Err(Refusal::Open { .. })));
        }
        assert_eq!(gate.slots.in_use().total, 0);
    }
}
