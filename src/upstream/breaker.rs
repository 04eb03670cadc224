//! A circuit breaker: after many failures in a short time it refuses all calls for a while (open), then admits one call at a
//! time as a probe (half open).
//!
//! A breaker belongs to a backend, not to an organisation. As long as most calls of any one organisation succeed, the
//! backend works and the breaker stays closed, however the calls of other organisations fail.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::ids::OrgId;

/// Calls are counted in windows of this length: the current window and the previous one.
const WINDOW: Duration = Duration::from_secs(5);

/// The breaker of one kind of call to one backend.
#[derive(Debug)]
pub(super) struct Breaker {
    /// The breaker opens at this many failures, if they are at least half of the calls; 0: never.
    failures: u32,
    open_for: Duration,
    state: Mutex<BreakerState>,
    gauge: metrics::Gauge,
}

#[derive(Debug)]
struct BreakerState {
    phase: Phase,
    /// Counts up whenever the breaker opens or closes: reports of calls from an earlier generation are stale.
    generation: u64,
    begun: Option<Instant>,
    current: HashMap<OrgId, CallCounts>,
    previous: HashMap<OrgId, CallCounts>,
    /// The organisation whose probe failed last: the next probe is left to others for a while.
    failed_probe: Option<OrgId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed,
    Open {
        until: Instant,
    },
    HalfOpen {
        /// When the current probe began. A probe that takes too long does not keep others from probing.
        probing: Option<Instant>,
        /// When the breaker became half open.
        since: Instant,
    },
}

#[derive(Debug, Clone, Copy, Default)]
struct CallCounts {
    calls: u32,
    failures: u32,
}

impl Phase {
    /// The value in metrics.
    fn level(self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::HalfOpen { .. } => 1,
            Self::Open { .. } => 2,
        }
    }
}

/// Reports the outcome of one admitted call to the breaker, at most once. Dropping it without a report says nothing about
/// the backend, and admits the next probe.
#[derive(Debug)]
#[must_use]
pub(super) struct Reporter {
    breaker: Arc<Breaker>,
    org: OrgId,
    generation: u64,
    reported: AtomicBool,
}

impl Breaker {
    /// A closed breaker that shows its state in `gauge`.
    pub(super) fn new(failures: u32, open_for: Duration, gauge: metrics::Gauge) -> Self {
        gauge.set(Phase::Closed.level());
        let state = BreakerState {
            phase: Phase::Closed,
            generation: 0,
            begun: None,
            current: HashMap::new(),
            previous: HashMap::new(),
            failed_probe: None,
        };
        Self { failures, open_for, state: Mutex::new(state), gauge }
    }

    /// Admits a call of `org`, or tells how long it has to wait at least.
    pub(super) fn acquire(self: &Arc<Self>, org: OrgId, now: Instant) -> Result<Reporter, Duration> {
        let mut state = self.state();
        if let Some(wait) = state.wait(org, now, self.open_for) {
            return Err(wait);
        }
        match state.phase {
            Phase::Closed => {}
            Phase::Open { until: since } | Phase::HalfOpen { since, .. } => {
                self.show(&mut state, Phase::HalfOpen { probing: Some(now), since });
            }
        }
        Ok(Reporter {
            breaker: self.clone(),
            org,
            generation: state.generation,
            reported: AtomicBool::new(false),
        })
    }

    /// Whether a call of `org` would be admitted now.
    pub(super) fn would_admit(&self, org: OrgId, now: Instant) -> bool {
        self.state().wait(org, now, self.open_for).is_none()
    }

    fn report(&self, org: OrgId, generation: u64, failed: bool, now: Instant) {
        let mut state = self.state();
        if self.failures == 0 || state.generation != generation {
            return;
        }
        match state.phase {
            Phase::Closed => {
                if state.count(org, failed, now) >= self.failures {
                    self.open(&mut state, now);
                }
            }
            Phase::HalfOpen { .. } if failed => {
                self.open(&mut state, now);
                state.failed_probe = Some(org);
            }
            Phase::HalfOpen { .. } => {
                state.start_over();
                self.show(&mut state, Phase::Closed);
            }
            // While the breaker is open no calls are admitted, so no report of this generation can arrive.
            Phase::Open { .. } => {}
        }
    }

    fn open(&self, state: &mut BreakerState, now: Instant) {
        state.start_over();
        // Jitter, so that not all gateways probe at the same instant.
        let until = now + self.open_for.mul_f64(rand::random_range(1.0..1.3));
        self.show(state, Phase::Open { until });
    }

    fn show(&self, state: &mut BreakerState, phase: Phase) {
        state.phase = phase;
        self.gauge.set(phase.level());
    }

    fn abandon(&self, generation: u64) {
        let mut state = self.state();
        if state.generation == generation
            && let Phase::HalfOpen { since, .. } = state.phase
        {
            state.phase = Phase::HalfOpen { probing: None, since };
        }
    }

    fn state(&self) -> MutexGuard<'_, BreakerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BreakerState {
    fn wait(&self, org: OrgId, now: Instant, open_for: Duration) -> Option<Duration> {
        let left = |until: Instant| Some(until.saturating_duration_since(now)).filter(|wait| !wait.is_zero());
        let (since, probing) = match self.phase {
            Phase::Closed => return None,
            Phase::Open { until } if now < until => return left(until),
            Phase::Open { until } => (until, None),
            Phase::HalfOpen { since, probing } => (since, probing),
        };
        if probing.is_some_and(|begun| now < begun + open_for) {
            // The probe may end at any moment, so come back soon.
            return Some(Duration::from_secs(1));
        }
        left(since + open_for).filter(|_| self.failed_probe == Some(org))
    }

    /// Begins a new generation with nothing counted.
    fn start_over(&mut self) {
        self.generation += 1;
        self.begun = None;
        self.current.clear();
        self.previous.clear();
        self.failed_probe = None;
    }

    /// Counts a call. Returns the recent failures of all organisations, or 0 if most calls of any one organisation succeeded.
    fn count(&mut self, org: OrgId, failed: bool, now: Instant) -> u32 {
        let age = self.begun.map_or(Duration::MAX, |begun| now.saturating_duration_since(begun));
        if age >= WINDOW {
            let current = std::mem::take(&mut self.current);
            self.previous = if age < 2 * WINDOW { current } else { HashMap::new() };
            self.begun = Some(now);
        }
        let counts = self.current.entry(org).or_default();
        counts.calls = counts.calls.saturating_add(1);
        counts.failures = counts.failures.saturating_add(failed.into());
        if !failed {
            return 0;
        }
        let mut sum = CallCounts::default();
        for org in
            self.current.keys().chain(self.previous.keys().filter(|org| !self.current.contains_key(org)))
        {
            let counts = [self.current.get(org), self.previous.get(org)];
            let add = |sum: CallCounts, counts: &CallCounts| CallCounts {
                calls: sum.calls.saturating_add(counts.calls),
                failures: sum.failures.saturating_add(counts.failures),
            };
            let own = counts.into_iter().flatten().fold(CallCounts::default(), add);
            if own.failures.saturating_mul(2) < own.calls {
                return 0;
            }
            sum = add(sum, &own);
        }
        sum.failures
    }
}

impl Reporter {
    /// Reports whether the call failed; only the first report counts.
    pub(super) fn report(&self, failed: bool, now: Instant) {
        if !self.reported.swap(true, Ordering::Relaxed) {
            self.breaker.report(self.org, self.generation, failed, now);
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if !*self.reported.get_mut() {
            self.breaker.abandon(self.generation);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const ORG: OrgId = OrgId::from_uuid(uuid::Uuid::nil());
    const OPEN: Duration = Duration::from_secs(10);
    /// Longer than the breaker stays open, jitter included.
    const LATER: Duration = Duration::from_secs(14);

    fn breaker(failures: u32) -> (Arc<Breaker>, Instant) {
        (Arc::new(Breaker::new(failures, OPEN, metrics::Gauge::noop())), Clock.now())
    }

    fn call(breaker: &Arc<Breaker>, failed: bool, now: Instant) {
        breaker.acquire(ORG, now).unwrap().report(failed, now);
    }

    fn opened() -> (Arc<Breaker>, Instant) {
        let (breaker, now) = breaker(2);
        call(&breaker, true, now);
        call(&breaker, true, now);
        assert!(breaker.acquire(ORG, now).is_err());
        (breaker, now)
    }

    #[test]
    fn enough_failures_open_it_for_a_while() {
        let (breaker, now) = breaker(3);
        for _ in 0..3 {
            assert!(breaker.would_admit(ORG, now));
            call(&breaker, true, now);
        }
        let wait = breaker.acquire(ORG, now).unwrap_err();
        assert!((OPEN..LATER).contains(&wait), "{wait:?}");
        assert!(!breaker.would_admit(ORG, now + OPEN - Duration::from_millis(1)));
        assert!(breaker.would_admit(ORG, now + LATER));
    }

    #[test]
    fn failures_among_twice_as_many_successes_do_not_open_it() {
        let (breaker, now) = breaker(2);
        for n in 0..30 {
            call(&breaker, n % 3 == 2, now);
        }
        assert!(breaker.would_admit(ORG, now));
        for _ in 0..9 {
            call(&breaker, true, now);
        }
        assert!(breaker.would_admit(ORG, now), "19 of 39");
        call(&breaker, true, now);
        assert!(!breaker.would_admit(ORG, now), "20 of 40");
    }

    #[test]
    fn failures_far_apart_do_not_open_it() {
        let (breaker, mut now) = breaker(3);
        for _ in 0..20 {
            call(&breaker, true, now);
            now += WINDOW + Duration::from_millis(1);
        }
        assert!(breaker.would_admit(ORG, now), "two windows never hold three of them");
        call(&breaker, true, now);
        call(&breaker, true, now);
        assert!(!breaker.would_admit(ORG, now), "the failure of the previous window counts");
    }

    #[test]
    fn zero_turns_it_off() {
        let (breaker, now) = breaker(0);
        for _ in 0..1000 {
            call(&breaker, true, now);
        }
        assert!(breaker.would_admit(ORG, now));
    }

    #[test]
    fn one_probe_at_a_time_decides() {
        let (breaker, now) = opened();
        let now = now + LATER;
        let probe = breaker.acquire(ORG, now).unwrap();
        assert_eq!(breaker.acquire(ORG, now).unwrap_err(), Duration::from_secs(1));
        probe.report(true, now);
        assert!(!breaker.would_admit(ORG, now), "a failed probe opens it again");
        let now = now + 2 * LATER;
        call(&breaker, false, now);
        let together = [breaker.acquire(ORG, now).unwrap(), breaker.acquire(ORG, now).unwrap()];
        drop(together);
        call(&breaker, true, now);
        assert!(breaker.would_admit(ORG, now), "it counts anew");
    }

    #[test]
    fn a_probe_that_is_dropped_makes_room_for_the_next() {
        let (breaker, now) = opened();
        let now = now + LATER;
        let probe = breaker.acquire(ORG, now).unwrap();
        assert!(!breaker.would_admit(ORG, now));
        drop(probe);
        assert!(breaker.would_admit(ORG, now));
    }

    #[test]
    fn what_was_begun_before_it_opened_tells_nothing() {
        let (breaker, now) = breaker(2);
        let early: Vec<Reporter> = (0..4).map(|_| breaker.acquire(ORG, now).unwrap()).collect();
        early[0].report(true, now);
        early[1].report(true, now);
        early[2].report(false, now);
        assert!(!breaker.would_admit(ORG, now));
        let now = now + LATER;
        let probe = breaker.acquire(ORG, now).unwrap();
        early[3].report(true, now);
        drop(early);
        assert!(!breaker.would_admit(ORG, now), "the probe is still under way");
        probe.report(false, now);
        assert!(breaker.would_admit(ORG, now));
    }

    #[test]
    fn only_the_first_report_counts() {
        let (breaker, now) = breaker(2);
        let reporter = breaker.acquire(ORG, now).unwrap();
        reporter.report(true, now);
        reporter.report(true, now);
        assert!(breaker.would_admit(ORG, now));
    }

    #[test]
    fn what_one_organisation_does_to_it_does_not_shut_out_another() {
        let (breaker, now) = breaker(2);
        let other = OrgId::generate();
        breaker.acquire(other, now).unwrap().report(false, now);
        for _ in 0..50 {
            call(&breaker, true, now);
        }
        assert!(breaker.would_admit(ORG, now), "the backend works for another organisation");
        breaker.acquire(other, now).unwrap().report(true, now);
        assert!(!breaker.would_admit(other, now), "now it fails for all");
    }

    #[test]
    fn after_a_failed_probe_another_organisation_has_the_next_turn() {
        let (breaker, now) = opened();
        let other = OrgId::generate();
        let now = now + LATER;
        call(&breaker, true, now);
        let now = now + LATER;
        assert!(!breaker.would_admit(ORG, now - Duration::from_secs(1)));
        breaker.acquire(other, now).unwrap().report(false, now);
        assert!(breaker.would_admit(ORG, now));
    }

    #[test]
    fn a_probe_that_hangs_keeps_nobody_waiting_for_long() {
        let (breaker, now) = opened();
        let now = now + LATER;
        let _hanging = breaker.acquire(ORG, now).unwrap();
        assert!(breaker.acquire(OrgId::generate(), now).is_err());
        assert!(breaker.acquire(OrgId::generate(), now + OPEN).is_ok());
    }
}
