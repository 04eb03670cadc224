//! Admission of calls to a backend: a bounded number of calls in flight, and the circuit breaker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::breaker::{Breaker, Observation, Reporter};
use crate::ids::OrgId;
use crate::metrics as m;
use crate::shares::{Share, Shares};

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
    slots: Arc<Shares<OrgId>>,
}

/// A permit to make one call. Dropping it frees its slot.
#[derive(Debug)]
#[must_use]
pub(super) struct CallPermit {
    reporter: Reporter,
    _slot: Share<OrgId>,
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
        let open_for_some =
            metrics::gauge!(m::UPSTREAM_BREAKERS_OF_ORGS, "backend" => backend, "call" => call);
        let in_flight = metrics::gauge!(m::UPSTREAM_IN_FLIGHT, "backend" => backend, "call" => call);
        for refusal in [Refusal::Open { retry_after: Duration::ZERO }, Refusal::Full] {
            metrics::counter!(m::UPSTREAM_REFUSED, "backend" => backend, "call" => call, "reason" => refusal.label())
                .increment(0);
        }
        Self {
            backend,
            call,
            breaker: Arc::new(Breaker::new(failures, open_for, state, open_for_some)),
            slots: Shares::new(slots, in_flight),
        }
    }

    /// A permit for a call of `org`, or why there is none now. Never waits.
    pub(super) fn acquire(&self, org: OrgId, now: Instant) -> Result<CallPermit, Refusal> {
        // The slot first: a probe that was admitted and then found no slot would have kept others from probing.
        let permit = match self.slots.take(org, 1) {
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
        self.breaker.would_admit(org, now) && self.slots.has_room(org, 1)
    }
}

impl CallPermit {
    /// Reports what the call tells about the backend; only the first report counts.
    pub(super) fn report(&self, evidence: Observation, now: Instant) {
        self.reporter.report(evidence, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn gate(slots: usize) -> Gate {
        Gate::new("kling-3.0", "create", 1, Duration::from_secs(10), slots)
    }

    #[test]
    fn what_the_breaker_refuses_takes_no_place() {
        let gate = gate(2);
        let (org, now) = (OrgId::generate(), Clock.now());
        gate.acquire(org, now).unwrap().report(Observation::CannotBeReached, now);
        assert!(!gate.would_admit(org, now));
        for _ in 0..5 {
            assert!(matches!(gate.acquire(org, now), Err(Refusal::Open { .. })));
        }
        assert_eq!(gate.slots.taken(), 0);
    }
}
