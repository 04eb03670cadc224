//! Circuit breakers: after many failures in a short time a circuit opens and refuses all calls for a while, then it admits one
//! call at a time as a probe (half open).
//!
//! A backend has one circuit for everybody, and one for each organisation. A failure that is an answer to a request, or none
//! in time, may be due to that request: it counts for its organisation, and for everybody only if the calls of several
//! organisations fail and those of no organisation mostly succeed. That a backend cannot be reached at all counts for
//! everybody.

mod circuit;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(super) use self::circuit::Observation;
use self::circuit::{BreakerSettings, Circuit, Phase};
use crate::ids::OrgId;

/// From this many organisations on, those without recent calls are forgotten.
const REMEMBERED: usize = 1_024;

/// The breaker of one kind of call to one backend.
#[derive(Debug)]
pub(super) struct Breaker {
    everybody: Mutex<Circuit>,
    own: Mutex<HashMap<OrgId, Circuit>>,
    settings: BreakerSettings,
    gauge: metrics::Gauge,
    open_for_some: metrics::Gauge,
}

/// Reports the outcome of one admitted call to the breaker, at most once. Dropping it without a report says nothing about
/// the backend, and admits the next probe.
#[derive(Debug)]
#[must_use]
pub(super) struct Reporter {
    breaker: Arc<Breaker>,
    org: OrgId,
    /// The generations of everybody's circuit and of the organisation's own, at admission.
    generations: [u64; 2],
    reported: AtomicBool,
}

impl Breaker {
    /// A closed breaker. `gauge` shows the state of everybody's circuit, `open_for_some` the number of organisations whose own
    /// circuit is not closed.
    pub(super) fn new(
        failures: u32,
        open_for: Duration,
        gauge: metrics::Gauge,
        open_for_some: metrics::Gauge,
    ) -> Self {
        gauge.set(Phase::Closed.level());
        open_for_some.set(0.0);
        Self {
            everybody: Mutex::new(Circuit::new()),
            own: Mutex::default(),
            settings: BreakerSettings { failures, open_for },
            gauge,
            open_for_some,
        }
    }

    /// Admits a call of `org`, or tells how long it has to wait at least.
    pub(super) fn acquire(self: &Arc<Self>, org: OrgId, now: Instant) -> Result<Reporter, Duration> {
        let mut own = self.own();
        let mut everybody = self.everybody();
        if own.len() >= REMEMBERED && !own.contains_key(&org) {
            own.retain(|_, circuit| !circuit.is_idle(now));
        }
        let mine = own.entry(org).or_insert_with(Circuit::new);
        // Both are asked before either begins a probe.
        let wait = everybody.wait(org, now, self.settings).or_else(|| mine.wait(org, now, self.settings));
        if let Some(wait) = wait {
            return Err(wait);
        }
        let changed = everybody.phase != Phase::Closed || mine.phase != Phase::Closed;
        everybody.admit(now);
        mine.admit(now);
        let generations = [everybody.generation, mine.generation];
        if changed {
            self.show(&everybody, &own);
        }
        Ok(Reporter { breaker: self.clone(), org, generations, reported: AtomicBool::new(false) })
    }

    /// Whether a call of `org` would be admitted now.
    pub(super) fn would_admit(&self, org: OrgId, now: Instant) -> bool {
        let waits = |circuit: &Circuit| circuit.wait(org, now, self.settings).is_some();
        let own = self.own();
        !own.get(&org).is_some_and(waits) && !waits(&self.everybody())
    }

    fn report(&self, org: OrgId, generations: [u64; 2], evidence: Observation, now: Instant) {
        if self.settings.failures == 0 {
            return;
        }
        let mut own = self.own();
        let mut everybody = self.everybody();
        let [of_all, of_own] = generations;
        let phases = |everybody: &Circuit, own: &HashMap<OrgId, Circuit>| {
            (everybody.phase, own.get(&org).map(|mine| mine.phase))
        };
        let before = phases(&everybody, &own);
        everybody.report(org, of_all, evidence, now, self.settings, Circuit::failures_of_several);
        if let Some(mine) = own.get_mut(&org) {
            match evidence {
                Observation::Works | Observation::FailedRequest => {
                    mine.report(org, of_own, evidence, now, self.settings, Circuit::failures_of_one);
                }
                // That is nothing of its own.
                Observation::CannotBeReached => mine.abandon(of_own),
            }
        }
        // Counting the open ones takes time, and they change rarely.
        if phases(&everybody, &own) != before {
            self.show(&everybody, &own);
        }
    }

    fn abandon(&self, org: OrgId, generations: [u64; 2]) {
        let mut own = self.own();
        let mut everybody = self.everybody();
        let [of_all, of_own] = generations;
        everybody.abandon(of_all);
        if let Some(mine) = own.get_mut(&org) {
            mine.abandon(of_own);
        }
    }

    fn show(&self, everybody: &Circuit, own: &HashMap<OrgId, Circuit>) {
        self.gauge.set(everybody.phase.level());
        let open = own.values().filter(|circuit| circuit.phase != Phase::Closed).count();
        self.open_for_some.set(open as f64);
    }

    // Whoever needs both locks takes that of the organisations first.
    fn own(&self) -> MutexGuard<'_, HashMap<OrgId, Circuit>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn everybody(&self) -> MutexGuard<'_, Circuit> {
        self.everybody.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reporter {
    /// Reports what the call tells; only the first report counts.
    pub(super) fn report(&self, evidence: Observation, now: Instant) {
        if !self.reported.swap(true, Ordering::Relaxed) {
            self.breaker.report(self.org, self.generations, evidence, now);
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if !*self.reported.get_mut() {
            self.breaker.abandon(self.org, self.generations);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::circuit::WINDOW;
    use super::*;
    use crate::clock::Clock;

    const ORG: OrgId = OrgId::from_uuid(uuid::Uuid::nil());
    const OPEN: Duration = Duration::from_secs(10);
    /// Longer than the breaker stays open, jitter included.
    const LATER: Duration = Duration::from_secs(14);

    fn breaker(failures: u32) -> (Arc<Breaker>, Instant) {
        (Arc::new(Breaker::new(failures, OPEN, metrics::Gauge::noop(), metrics::Gauge::noop())), Clock.now())
    }

    fn evidence(failed: bool) -> Observation {
        if failed { Observation::CannotBeReached } else { Observation::Works }
    }

    fn call(breaker: &Arc<Breaker>, failed: bool, now: Instant) {
        breaker.acquire(ORG, now).unwrap().report(evidence(failed), now);
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
        probe.report(Observation::CannotBeReached, now);
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
        early[0].report(Observation::CannotBeReached, now);
        early[1].report(Observation::CannotBeReached, now);
        early[2].report(Observation::Works, now);
        assert!(!breaker.would_admit(ORG, now));
        let now = now + LATER;
        let probe = breaker.acquire(ORG, now).unwrap();
        early[3].report(Observation::CannotBeReached, now);
        drop(early);
        assert!(!breaker.would_admit(ORG, now), "the probe is still under way");
        probe.report(Observation::Works, now);
        assert!(breaker.would_admit(ORG, now));
    }

    #[test]
    fn only_the_first_report_counts() {
        let (breaker, now) = breaker(2);
        let reporter = breaker.acquire(ORG, now).unwrap();
        reporter.report(Observation::CannotBeReached, now);
        reporter.report(Observation::CannotBeReached, now);
        assert!(breaker.would_admit(ORG, now));
    }

    fn fail(breaker: &Arc<Breaker>, org: OrgId, evidence: Observation, times: usize, now: Instant) {
        for _ in 0..times {
            if let Ok(reporter) = breaker.acquire(org, now) {
                reporter.report(evidence, now);
            }
        }
    }

    #[test]
    fn what_one_organisation_is_answered_shuts_out_that_one_alone() {
        let (breaker, now) = breaker(2);
        let others = [OrgId::generate(), OrgId::generate()];
        fail(&breaker, ORG, Observation::FailedRequest, 50, now);
        assert!(!breaker.would_admit(ORG, now));
        assert!(others.iter().all(|other| breaker.would_admit(*other, now)), "no call of theirs has failed");
        fail(&breaker, others[0], Observation::FailedRequest, 1, now);
        assert!(breaker.would_admit(others[1], now), "two are not several");
        fail(&breaker, others[1], Observation::FailedRequest, 1, now);
        assert!(!breaker.would_admit(OrgId::generate(), now), "it fails for all who ask");
    }

    #[test]
    fn as_long_as_it_works_for_one_it_is_open_for_none_of_the_others() {
        let (breaker, now) = breaker(2);
        let happy = OrgId::generate();
        breaker.acquire(happy, now).unwrap().report(Observation::Works, now);
        for _ in 0..10 {
            fail(&breaker, OrgId::generate(), Observation::CannotBeReached, 1, now);
        }
        assert!(breaker.would_admit(OrgId::generate(), now));
        fail(&breaker, happy, Observation::CannotBeReached, 1, now);
        assert!(!breaker.would_admit(happy, now), "now it cannot be reached by anybody");
    }

    #[test]
    fn what_nobody_reaches_is_not_asked_for_anybody() {
        let (breaker, now) = breaker(2);
        fail(&breaker, ORG, Observation::CannotBeReached, 2, now);
        assert!(!breaker.would_admit(OrgId::generate(), now));
    }

    #[test]
    fn organisations_without_calls_are_forgotten() {
        let (breaker, now) = breaker(2);
        for _ in 0..2 * REMEMBERED {
            breaker.acquire(OrgId::generate(), now).unwrap().report(Observation::Works, now);
        }
        let later = now + 3 * WINDOW;
        breaker.acquire(OrgId::generate(), later).unwrap().report(Observation::Works, later);
        assert_eq!(breaker.own().len(), 1);
    }

    #[test]
    fn after_a_failed_probe_another_organisation_has_the_next_turn() {
        let (breaker, now) = opened();
        let other = OrgId::generate();
        let now = now + LATER;
        call(&breaker, true, now);
        let now = now + LATER;
        assert!(!breaker.would_admit(ORG, now - Duration::from_secs(1)));
        breaker.acquire(other, now).unwrap().report(Observation::Works, now);
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
