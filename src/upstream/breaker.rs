//! A circuit breaker: after many failures in a short time it lets nothing through for a while, then one call at a time
//! as a probe.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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
    current: Counts,
    previous: Counts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed,
    Open { until: Instant },
    HalfOpen { probing: bool },
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
            current: Counts::default(),
            previous: Counts::default(),
        };
        Self { failures, open_for, state: Mutex::new(state), gauge }
    }

    /// Leave for a call, or how long to wait for it at least.
    pub(super) fn enter(self: &Arc<Self>, now: Instant) -> Result<Permit, Duration> {
        let mut state = self.state();
        if let Some(wait) = state.wait(now) {
            return Err(wait);
        }
        if state.phase != Phase::Closed {
            self.show(&mut state, Phase::HalfOpen { probing: true });
        }
        Ok(Permit { breaker: self.clone(), era: state.era, reported: AtomicBool::new(false) })
    }

    /// Whether a call would get leave now.
    pub(super) fn lets_through(&self, now: Instant) -> bool {
        self.state().wait(now).is_none()
    }

    fn report(&self, era: u64, failed: bool, now: Instant) {
        let mut state = self.state();
        if self.failures == 0 || state.era != era {
            return;
        }
        match state.phase {
            Phase::Closed => {
                if state.count(failed, now) >= self.failures {
                    self.open(&mut state, now);
                }
            }
            Phase::HalfOpen { .. } if failed => self.open(&mut state, now),
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
        if state.era == era && state.phase == (Phase::HalfOpen { probing: true }) {
            state.phase = Phase::HalfOpen { probing: false };
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wait(&self, now: Instant) -> Option<Duration> {
        match self.phase {
            Phase::Closed | Phase::HalfOpen { probing: false } => None,
            Phase::Open { until } => {
                Some(until.saturating_duration_since(now)).filter(|wait| !wait.is_zero())
            }
            // The probe may end at any moment.
            Phase::HalfOpen { probing: true } => Some(Duration::from_secs(1)),
        }
    }

    /// A new era, with nothing counted.
    fn turn(&mut self) {
        self.era += 1;
        (self.begun, self.current, self.previous) = (None, Counts::default(), Counts::default());
    }

    /// Counts a call. How many have failed lately if that is at least half of them, else 0.
    fn count(&mut self, failed: bool, now: Instant) -> u32 {
        let age = self.begun.map_or(Duration::MAX, |begun| now.saturating_duration_since(begun));
        if age >= WINDOW {
            self.previous = if age < 2 * WINDOW { self.current } else { Counts::default() };
            self.current = Counts::default();
            self.begun = Some(now);
        }
        self.current.calls = self.current.calls.saturating_add(1);
        self.current.failures = self.current.failures.saturating_add(failed.into());
        let calls = self.current.calls.saturating_add(self.previous.calls);
        let failures = self.current.failures.saturating_add(self.previous.failures);
        if failures.saturating_mul(2) >= calls { failures } else { 0 }
    }
}

impl Permit {
    /// Says whether the call failed; only the first report counts.
    pub(super) fn report(&self, failed: bool, now: Instant) {
        if !self.reported.swap(true, Ordering::Relaxed) {
            self.breaker.report(self.era, failed, now);
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

    const OPEN: Duration = Duration::from_secs(10);
    /// Longer than it stays open at most.
    const LATER: Duration = Duration::from_secs(14);

    fn breaker(failures: u32) -> (Arc<Breaker>, Instant) {
        (Arc::new(Breaker::new(failures, OPEN, metrics::Gauge::noop())), Clock.now())
    }

    fn call(breaker: &Arc<Breaker>, failed: bool, now: Instant) {
        breaker.enter(now).unwrap().report(failed, now);
    }

    fn opened() -> (Arc<Breaker>, Instant) {
        let (breaker, now) = breaker(2);
        call(&breaker, true, now);
        call(&breaker, true, now);
        assert!(breaker.enter(now).is_err());
        (breaker, now)
    }

    #[test]
    fn enough_failures_open_it_for_a_while() {
        let (breaker, now) = breaker(3);
        for _ in 0..3 {
            assert!(breaker.lets_through(now));
            call(&breaker, true, now);
        }
        let wait = breaker.enter(now).unwrap_err();
        assert!((OPEN..LATER).contains(&wait), "{wait:?}");
        assert!(!breaker.lets_through(now + OPEN - Duration::from_millis(1)));
        assert!(breaker.lets_through(now + LATER));
    }

    #[test]
    fn failures_among_twice_as_many_successes_do_not_open_it() {
        let (breaker, now) = breaker(2);
        for n in 0..30 {
            call(&breaker, n % 3 == 2, now);
        }
        assert!(breaker.lets_through(now));
        for _ in 0..9 {
            call(&breaker, true, now);
        }
        assert!(breaker.lets_through(now), "19 of 39");
        call(&breaker, true, now);
        assert!(!breaker.lets_through(now), "20 of 40");
    }

    #[test]
    fn failures_far_apart_do_not_open_it() {
        let (breaker, mut now) = breaker(3);
        for _ in 0..20 {
            call(&breaker, true, now);
            now += WINDOW + Duration::from_millis(1);
        }
        assert!(breaker.lets_through(now), "two windows never hold three of them");
        call(&breaker, true, now);
        call(&breaker, true, now);
        assert!(!breaker.lets_through(now), "the one of the window before counts");
    }

    #[test]
    fn zero_turns_it_off() {
        let (breaker, now) = breaker(0);
        for _ in 0..1000 {
            call(&breaker, true, now);
        }
        assert!(breaker.lets_through(now));
    }

    #[test]
    fn one_probe_at_a_time_decides() {
        let (breaker, now) = opened();
        let now = now + LATER;
        let probe = breaker.enter(now).unwrap();
        assert_eq!(breaker.enter(now).unwrap_err(), Duration::from_secs(1));
        probe.report(true, now);
        assert!(!breaker.lets_through(now), "a failed probe opens it again");
        let now = now + LATER;
        call(&breaker, false, now);
        let together = [breaker.enter(now).unwrap(), breaker.enter(now).unwrap()];
        drop(together);
        call(&breaker, true, now);
        assert!(breaker.lets_through(now), "it counts anew");
    }

    #[test]
    fn a_probe_that_is_dropped_makes_room_for_the_next() {
        let (breaker, now) = opened();
        let now = now + LATER;
        let probe = breaker.enter(now).unwrap();
        assert!(!breaker.lets_through(now));
        drop(probe);
        assert!(breaker.lets_through(now));
    }

    #[test]
    fn what_was_begun_before_it_opened_tells_nothing() {
        let (breaker, now) = breaker(2);
        let early: Vec<Permit> = (0..4).map(|_| breaker.enter(now).unwrap()).collect();
        early[0].report(true, now);
        early[1].report(true, now);
        early[2].report(false, now);
        assert!(!breaker.lets_through(now));
        let now = now + LATER;
        let probe = breaker.enter(now).unwrap();
        early[3].report(true, now);
        drop(early);
        assert!(!breaker.lets_through(now), "the probe is still under way");
        probe.report(false, now);
        assert!(breaker.lets_through(now));
    }

    #[test]
    fn only_the_first_report_counts() {
        let (breaker, now) = breaker(2);
        let permit = breaker.enter(now).unwrap();
        permit.report(true, now);
        permit.report(true, now);
        assert!(breaker.lets_through(now));
    }
}
