//! A circuit breaker: after many failures in a short time it lets nothing through for a while, then one call at a time
//! as a probe.
//!
//! It is the backend's, not an organisation's: as long as the calls of one organisation mostly succeed, the backend
//! works, whatever those of another do to it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::ids::OrgId;

/// Calls are counted in windows of this length: the current one and the one before.
const WINDOW: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub(super) struct Breaker {
    /// This many failures open it, if they are at least half of the calls; 0 never does.
    failures: u32,
    open_for: Duration,
    state: Mutex<State>,
    gauge: metrics::Gauge,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Moves whenever the breaker opens or closes: what calls of an earlier era tell is out of date.
    era: u64,
    begun: Option<Instant>,
    current: HashMap<OrgId, Counts>,
    previous: HashMap<OrgId, Counts>,
    /// Whose probe failed last: others have the next turn, if there are any.
    failed_probe: Option<OrgId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed,
    Open {
        until: Instant,
    },
    HalfOpen {
        /// When the present probe began; one that takes too long keeps nobody else from probing.
        probing: Option<Instant>,
        /// When it became half open.
        since: Instant,
    },
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    calls: u32,
    failures: u32,
}

impl Phase {
    /// Its value in metrics.
    fn level(self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::HalfOpen { .. } => 1,
            Self::Open { .. } => 2,
        }
    }
}

/// Leave for one call. What becomes of the call is reported to it, at most once; dropping it says nothing about the
/// backend, and makes room for the next probe.
#[derive(Debug)]
#[must_use]
pub(super) struct Permit {
    breaker: Arc<Breaker>,
    org: OrgId,
    era: u64,
    reported: AtomicBool,
}

impl Breaker {
    /// A closed one, which shows its state at `gauge`.
    pub(super) fn new(failures: u32, open_for: Duration, gauge: metrics::Gauge) -> Self {
        gauge.set(Phase::Closed.level());
        let state = State {
            phase: Phase::Closed,
            era: 0,
            begun: None,
            current: HashMap::new(),
            previous: HashMap::new(),
            failed_probe: None,
        };
        Self { failures, open_for, state: Mutex::new(state), gauge }
    }

    /// Leave for a call of `org`, or how long to wait for it at least.
    pub(super) fn enter(self: &Arc<Self>, org: OrgId, now: Instant) -> Result<Permit, Duration> {
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
        Ok(Permit { breaker: self.clone(), org, era: state.era, reported: AtomicBool::new(false) })
    }

    /// Whether a call of `org` would get leave now.
    pub(super) fn lets_through(&self, org: OrgId, now: Instant) -> bool {
        self.state().wait(org, now, self.open_for).is_none()
    }

    fn report(&self, org: OrgId, era: u64, failed: bool, now: Instant) {
        let mut state = self.state();
        if self.failures == 0 || state.era != era {
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
                state.turn();
                self.show(&mut state, Phase::Closed);
            }
            // Nobody got leave in this era and this phase.
            Phase::Open { .. } => {}
        }
    }

    fn open(&self, state: &mut State, now: Instant) {
        state.turn();
        // Not all gateways should probe at the same instant.
        let until = now + self.open_for.mul_f64(rand::random_range(1.0..1.3));
        self.show(state, Phase::Open { until });
    }

    fn show(&self, state: &mut State, phase: Phase) {
        state.phase = phase;
        self.gauge.set(phase.level());
    }

    fn abandon(&self, era: u64) {
        let mut state = self.state();
        if state.era == era
            && let Phase::HalfOpen { since, .. } = state.phase
        {
            state.phase = Phase::HalfOpen { probing: None, since };
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wait(&self, org: OrgId, now: Instant, open_for: Duration) -> Option<Duration> {
        let left = |until: Instant| Some(until.saturating_duration_since(now)).filter(|wait| !wait.is_zero());
        let (since, probing) = match self.phase {
            Phase::Closed => return None,
            Phase::Open { until } if now < until => return left(until),
            Phase::Open { until } => (until, None),
            Phase::HalfOpen { since, probing } => (since, probing),
        };
        if probing.is_some_and(|begun| now < begun + open_for) {
            // The probe may end at any moment.
            return Some(Duration::from_secs(1));
        }
        left(since + open_for).filter(|_| self.failed_probe == Some(org))
    }

    /// A new era, with nothing counted.
    fn turn(&mut self) {
        self.era += 1;
        self.begun = None;
        self.current.clear();
        self.previous.clear();
        self.failed_probe = None;
    }

    /// Counts a call. How many have failed lately if that is at least half of them, and nobody fares better; else 0.
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
        let mut sum = Counts::default();
        for org in
            self.current.keys().chain(self.previous.keys().filter(|org| !self.current.contains_key(org)))
        {
            let counts = [self.current.get(org), self.previous.get(org)];
            let add = |sum: Counts, counts: &Counts| Counts {
                calls: sum.calls.saturating_add(counts.calls),
                failures: sum.failures.saturating_add(counts.failures),
            };
            let own = counts.into_iter().flatten().fold(Counts::default(), add);
            if own.failures.saturating_mul(2) < own.calls {
                return 0;
            }
            sum = add(sum, &own);
        }
        sum.failures
    }
}

impl Permit {
    /// Says whether the call failed; only the first report counts.
    pub(super) fn report(&self, failed: bool, now: Instant) {
        if !self.reported.swap(true, Ordering::Relaxed) {
            self.breaker.report(self.org, self.era, failed, now);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !*self.reported.get_mut() {
            self.breaker.abandon(self.era);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const ORG: OrgId = OrgId::from_uuid(uuid::Uuid::nil());
    const OPEN: Duration = Duration::from_secs(10);
    /// Longer than it stays open at most.
    const LATER: Duration = Duration::from_secs(14);

    fn breaker(failures: u32) -> (Arc<Breaker>, Instant) {
        (Arc::new(Breaker::new(failures, OPEN, metrics::Gauge::noop())), Clock.now())
    }

    fn call(breaker: &Arc<Breaker>, failed: bool, now: Instant) {
        breaker.enter(ORG, now).unwrap().report(failed, now);
    }

    fn opened() -> (Arc<Breaker>, Instant) {
        let (breaker, now) = breaker(2);
        call(&breaker, true, now);
        call(&breaker, true, now);
        assert!(breaker.enter(ORG, now).is_err());
        (breaker, now)
    }

    #[test]
    fn enough_failures_open_it_for_a_while() {
        let (breaker, now) = breaker(3);
        for _ in 0..3 {
            assert!(breaker.lets_through(ORG, now));
            call(&breaker, true, now);
        }
        let wait = breaker.enter(ORG, now).unwrap_err();
        assert!((OPEN..LATER).contains(&wait), "{wait:?}");
        assert!(!breaker.lets_through(ORG, now + OPEN - Duration::from_millis(1)));
        assert!(breaker.lets_through(ORG, now + LATER));
    }

    #[test]
    fn failures_among_twice_as_many_successes_do_not_open_it() {
        let (breaker, now) = breaker(2);
        for n in 0..30 {
            call(&breaker, n % 3 == 2, now);
        }
        assert!(breaker.lets_through(ORG, now));
        for _ in 0..9 {
            call(&breaker, true, now);
        }
        assert!(breaker.lets_through(ORG, now), "19 of 39");
        call(&breaker, true, now);
        assert!(!breaker.lets_through(ORG, now), "20 of 40");
    }

    #[test]
    fn failures_far_apart_do_not_open_it() {
        let (breaker, mut now) = breaker(3);
        for _ in 0..20 {
            call(&breaker, true, now);
            now += WINDOW + Duration::from_millis(1);
        }
        assert!(breaker.lets_through(ORG, now), "two windows never hold three of them");
        call(&breaker, true, now);
        call(&breaker, true, now);
        assert!(!breaker.lets_through(ORG, now), "the one of the window before counts");
    }

    #[test]
    fn zero_turns_it_off() {
        let (breaker, now) = breaker(0);
        for _ in 0..1000 {
            call(&breaker, true, now);
        }
        assert!(breaker.lets_through(ORG, now));
    }

    #[test]
    fn one_probe_at_a_time_decides() {
        let (breaker, now) = opened();
        let now = now + LATER;
        let probe = breaker.enter(ORG, now).unwrap();
        assert_eq!(breaker.enter(ORG, now).unwrap_err(), Duration::from_secs(1));
        probe.report(true, now);
        assert!(!breaker.lets_through(ORG, now), "a failed probe opens it again");
        let now = now + 2 * LATER;
        call(&breaker, false, now);
        let together = [breaker.enter(ORG, now).unwrap(), breaker.enter(ORG, now).unwrap()];
        drop(together);
        call(&breaker, true, now);
        assert!(breaker.lets_through(ORG, now), "it counts anew");
    }

    #[test]
    fn a_probe_that_is_dropped_makes_room_for_the_next() {
        let (breaker, now) = opened();
        let now = now + LATER;
        let probe = breaker.enter(ORG, now).unwrap();
        assert!(!breaker.lets_through(ORG, now));
        drop(probe);
        assert!(breaker.lets_through(ORG, now));
    }

    #[test]
    fn what_was_begun_before_it_opened_tells_nothing() {
        let (breaker, now) = breaker(2);
        let early: Vec<Permit> = (0..4).map(|_| breaker.enter(ORG, now).unwrap()).collect();
        early[0].report(true, now);
        early[1].report(true, now);
        early[2].report(false, now);
        assert!(!breaker.lets_through(ORG, now));
        let now = now + LATER;
        let probe = breaker.enter(ORG, now).unwrap();
        early[3].report(true, now);
        drop(early);
        assert!(!breaker.lets_through(ORG, now), "the probe is still under way");
        probe.report(false, now);
        assert!(breaker.lets_through(ORG, now));
    }

    #[test]
    fn only_the_first_report_counts() {
        let (breaker, now) = breaker(2);
        let permit = breaker.enter(ORG, now).unwrap();
        permit.report(true, now);
        permit.report(true, now);
        assert!(breaker.lets_through(ORG, now));
    }

    #[test]
    fn what_one_organisation_does_to_it_does_not_shut_out_another() {
        let (breaker, now) = breaker(2);
        let other = OrgId::generate();
        breaker.enter(other, now).unwrap().report(false, now);
        for _ in 0..50 {
            call(&breaker, true, now);
        }
        assert!(breaker.lets_through(ORG, now), "the backend works for somebody");
        breaker.enter(other, now).unwrap().report(true, now);
        assert!(!breaker.lets_through(other, now), "now it works for nobody");
    }

    #[test]
    fn after_a_failed_probe_another_organisation_has_the_next_turn() {
        let (breaker, now) = opened();
        let other = OrgId::generate();
        let now = now + LATER;
        call(&breaker, true, now);
        let now = now + LATER;
        assert!(!breaker.lets_through(ORG, now - Duration::from_secs(1)));
        breaker.enter(other, now).unwrap().report(false, now);
        assert!(breaker.lets_through(ORG, now));
    }

    #[test]
    fn a_probe_that_hangs_keeps_nobody_waiting_for_long() {
        let (breaker, now) = opened();
        let now = now + LATER;
        let _hanging = breaker.enter(ORG, now).unwrap();
        assert!(breaker.enter(OrgId::generate(), now).is_err());
        assert!(breaker.enter(OrgId::generate(), now + OPEN).is_ok());
    }
}
