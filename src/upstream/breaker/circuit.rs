//! One circuit: what it counts, when it opens, and how a probe closes it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::ids::OrgId;

/// Calls are counted in windows of this length: the current window and the previous one.
pub(super) const WINDOW: Duration = Duration::from_secs(5);

/// So many organisations must have failing calls before these count for everybody.
const SEVERAL: usize = 3;

/// What a call tells about its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) enum Observation {
    /// It works, whatever it answered.
    Works,
    /// This request got a failure for an answer, or no answer in time.
    FailedRequest,
    /// It cannot be reached.
    CannotBeReached,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct BreakerSettings {
    /// A circuit opens at this many failures, if they are at least half of the calls; 0: never.
    pub(super) failures: u32,
    pub(super) open_for: Duration,
}

#[derive(Debug)]
pub(super) struct Circuit {
    pub(super) phase: Phase,
    /// Counts up whenever the circuit opens or closes: reports of calls from an earlier generation are stale.
    pub(super) generation: u64,
    begun: Option<Instant>,
    current: HashMap<OrgId, CallCounts>,
    previous: HashMap<OrgId, CallCounts>,
    /// The organisation whose probe failed last: the next probe is left to others for a while.
    failed_probe: Option<OrgId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Closed,
    Open {
        until: Instant,
    },
    HalfOpen {
        /// When the current probe began. A probe that takes too long does not keep others from probing.
        probing: Option<Instant>,
        /// When the circuit became half open.
        since: Instant,
    },
}

#[derive(Debug, Clone, Copy, Default)]
struct CallCounts {
    calls: u32,
    /// Failures that are answers.
    failed: u32,
    /// Times that the backend could not be reached.
    unreached: u32,
}

impl CallCounts {
    fn add(self, other: Self) -> Self {
        Self {
            calls: self.calls.saturating_add(other.calls),
            failed: self.failed.saturating_add(other.failed),
            unreached: self.unreached.saturating_add(other.unreached),
        }
    }

    fn failures(self) -> u32 {
        self.failed.saturating_add(self.unreached)
    }
}

impl Phase {
    /// The value in metrics.
    pub(super) fn level(self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::HalfOpen { .. } => 1,
            Self::Open { .. } => 2,
        }
    }
}

impl Circuit {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Closed,
            generation: 0,
            begun: None,
            current: HashMap::new(),
            previous: HashMap::new(),
            failed_probe: None,
        }
    }

    /// Whether there is nothing to remember: it is closed, and there were no recent calls.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        let recent = self.begun.is_some_and(|begun| now.saturating_duration_since(begun) < 2 * WINDOW);
        self.phase == Phase::Closed && !recent
    }

    pub(super) fn wait(&self, org: OrgId, now: Instant, settings: BreakerSettings) -> Option<Duration> {
        let left = |until: Instant| Some(until.saturating_duration_since(now)).filter(|wait| !wait.is_zero());
        let (since, probing) = match self.phase {
            Phase::Closed => return None,
            Phase::Open { until } if now < until => return left(until),
            Phase::Open { until } => (until, None),
            Phase::HalfOpen { since, probing } => (since, probing),
        };
        if probing.is_some_and(|begun| now < begun + settings.open_for) {
            // The probe may end at any moment, so come back soon.
            return Some(Duration::from_secs(1));
        }
        left(since + settings.open_for).filter(|_| self.failed_probe == Some(org))
    }

    pub(super) fn admit(&mut self, now: Instant) {
        if let Phase::Open { until: since } | Phase::HalfOpen { since, .. } = self.phase {
            self.phase = Phase::HalfOpen { probing: Some(now), since };
        }
    }

    pub(super) fn report(
        &mut self,
        org: OrgId,
        generation: u64,
        evidence: Observation,
        now: Instant,
        settings: BreakerSettings,
        failures: fn(&Self) -> u32,
    ) {
        if self.generation != generation {
            return;
        }
        match (self.phase, evidence) {
            (Phase::Closed, _) => {
                self.count(org, evidence, now);
                if evidence != Observation::Works && failures(self) >= settings.failures {
                    self.open(now, settings);
                }
            }
            (Phase::HalfOpen { .. }, Observation::Works) => {
                self.start_over();
                self.phase = Phase::Closed;
            }
            (Phase::HalfOpen { .. }, Observation::FailedRequest | Observation::CannotBeReached) => {
                self.open(now, settings);
                self.failed_probe = Some(org);
            }
            // While the circuit is open no calls are admitted, so no report of this generation can arrive.
            (Phase::Open { .. }, _) => {}
        }
    }

    fn open(&mut self, now: Instant, settings: BreakerSettings) {
        self.start_over();
        // Jitter, so that not all gateways probe at the same instant.
        self.phase = Phase::Open { until: now + settings.open_for.mul_f64(rand::random_range(1.0..1.3)) };
    }

    pub(super) fn abandon(&mut self, generation: u64) {
        if self.generation == generation
            && let Phase::HalfOpen { since, .. } = self.phase
        {
            self.phase = Phase::HalfOpen { probing: None, since };
        }
    }

    /// Begins a new generation with nothing counted.
    fn start_over(&mut self) {
        self.generation += 1;
        self.begun = None;
        self.current.clear();
        self.previous.clear();
        self.failed_probe = None;
    }

    fn count(&mut self, org: OrgId, evidence: Observation, now: Instant) {
        let age = self.begun.map_or(Duration::MAX, |begun| now.saturating_duration_since(begun));
        if age >= WINDOW {
            let current = std::mem::take(&mut self.current);
            self.previous = if age < 2 * WINDOW { current } else { HashMap::new() };
            self.begun = Some(now);
        }
        let counts = self.current.entry(org).or_default();
        *counts = counts.add(CallCounts {
            calls: 1,
            failed: (evidence == Observation::FailedRequest).into(),
            unreached: (evidence == Observation::CannotBeReached).into(),
        });
    }

    /// The recent calls of each organisation.
    fn recent(&self) -> impl Iterator<Item = CallCounts> {
        let earlier = |org: &OrgId| self.previous.get(org).copied().unwrap_or_default();
        let now = self.current.iter().map(move |(org, counts)| counts.add(earlier(org)));
        now.chain(
            self.previous
                .iter()
                .filter(|(org, _)| !self.current.contains_key(*org))
                .map(|(_, counts)| *counts),
        )
    }

    /// The recent failures of the one organisation that this circuit is of, or 0 if most of its calls did not fail.
    pub(super) fn failures_of_one(&self) -> u32 {
        let own = self.recent().fold(CallCounts::default(), CallCounts::add);
        if own.failures().saturating_mul(2) < own.calls { 0 } else { own.failures() }
    }

    /// The recent failures that concern everybody, or 0 if most calls of any one organisation succeeded. Failed requests are among
    /// them only if they are those of several organisations.
    pub(super) fn failures_of_several(&self) -> u32 {
        let (mut sum, mut failing) = (CallCounts::default(), 0);
        for own in self.recent() {
            if own.failures().saturating_mul(2) < own.calls {
                return 0;
            }
            failing += usize::from(own.failed > 0);
            sum = sum.add(own);
        }
        if failing >= SEVERAL { sum.failures() } else { sum.unreached }
    }
}
