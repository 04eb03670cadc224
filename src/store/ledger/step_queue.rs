//! The queue of steps. Every step that ends a hold goes through it, whether or not anybody waits for the result.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::ids::{HoldId, OrgId};
use crate::metrics as m;
use crate::store::db::error::StoreError;
use crate::store::ledger::lanes::set_aside::AsideToken;
use crate::store::ledger::step::{Applied, Step, Terms};

/// The queue of steps on their way to the lanes. A clone is cheap; an organisation always uses the same lane.
#[derive(Debug, Clone)]
pub(in crate::store) struct StepQueue(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    // Unbounded on purpose: a step that ends a hold must never be refused. At most one step for each open hold is
    // queued.
    lanes: Vec<mpsc::UnboundedSender<Work>>,
    hasher: RandomState,
    queued: metrics::Gauge,
    /// Holds whose step the sweep has queued.
    swept: Arc<Mutex<HashSet<HoldId>>>,
}

impl StepQueue {
    pub(in crate::store) fn new(lanes: Vec<mpsc::UnboundedSender<Work>>) -> Self {
        let queued = metrics::gauge!(m::LEDGER_QUEUE_ITEMS, "call" => "transition");
        Self(Arc::new(Inner { lanes, hasher: RandomState::new(), queued, swept: Arc::default() }))
    }

    /// The lane of an organisation, for its reservations and its steps.
    pub(in crate::store) fn lane(&self, org: OrgId) -> usize {
        let mut hasher = self.0.hasher.build_hasher();
        org.hash(&mut hasher);
        std::hash::Hasher::finish(&hasher) as usize % self.0.lanes.len()
    }

    /// Queues a step, which the lane repeats until the database takes it.
    pub(in crate::store) fn step(
        &self,
        org: OrgId,
        hold: HoldId,
        terms: Option<Terms>,
        step: Step,
    ) -> oneshot::Receiver<Result<Applied, StoreError>> {
        let (reply, answer) = oneshot::channel();
        let item = self.item(org, hold, terms, step, reply);
        if self.0.lanes[self.lane(org)].send(Work::Step(item)).is_err() {
            tracing::error!(%org, %hold, "a step came after the ledger had shut down: its hold is unchanged");
        }
        answer
    }

    /// Queues a step of the sweep, unless an earlier sweep's step for this hold still waits: while a row stays locked,
    /// the sweep comes again and again.
    pub(in crate::store) fn step_once(
        &self,
        org: OrgId,
        hold: HoldId,
        terms: Option<Terms>,
        step: Step,
    ) -> Option<oneshot::Receiver<Result<Applied, StoreError>>> {
        let (reply, answer) = oneshot::channel();
        let item = self.item_once(org, hold, terms, step, reply)?;
        if self.0.lanes[self.lane(org)].send(Work::Step(item)).is_err() {
            tracing::error!(%org, %hold, "a step came after the ledger had shut down: its hold is unchanged");
        }
        Some(answer)
    }

    pub(in crate::store) fn item(
        &self,
        org: OrgId,
        hold: HoldId,
        terms: Option<Terms>,
        step: Step,
        reply: oneshot::Sender<Result<Applied, StoreError>>,
    ) -> StepItem {
        StepItem {
            org,
            hold,
            terms,
            step,
            reply: Some(reply),
            instead: None,
            aside: None,
            _once: None,
            _queued: Queued::in_queue(&self.0.queued),
        }
    }

    /// An item of the sweep; nothing if an earlier one for this hold still waits.
    pub(in crate::store) fn item_once(
        &self,
        org: OrgId,
        hold: HoldId,
        terms: Option<Terms>,
        step: Step,
        reply: oneshot::Sender<Result<Applied, StoreError>>,
    ) -> Option<StepItem> {
        let swept = &self.0.swept;
        if !swept.lock().unwrap_or_else(PoisonError::into_inner).insert(hold) {
            return None;
        }
        let once = SweepMark { swept: swept.clone(), hold };
        Some(StepItem { _once: Some(Box::new(once)), ..self.item(org, hold, terms, step, reply) })
    }

    /// Asks each lane to release those of these HELD holds that it does not work on.
    pub(in crate::store) fn sweep(&self, candidates: &[(OrgId, HoldId, Terms)]) {
        for (index, lane) in self.0.lanes.iter().enumerate() {
            let mine: Vec<_> =
                candidates.iter().copied().filter(|(org, ..)| self.lane(*org) == index).collect();
            if !mine.is_empty() {
                drop(lane.send(Work::Sweep(mine)));
            }
        }
    }
}

pub(in crate::store) struct StepItem {
    pub(in crate::store) org: OrgId,
    pub(in crate::store) hold: HoldId,
    /// The terms of the hold; `None` if this gateway does not know them.
    pub(in crate::store) terms: Option<Terms>,
    pub(in crate::store) step: Step,
    /// `None`: the caller has been answered.
    reply: Option<oneshot::Sender<Result<Applied, StoreError>>>,
    /// What the caller is told in place of the outcome, if the step stands in for another one.
    instead: Option<Box<Result<Applied, StoreError>>>,
    /// Set while the step is set aside.
    pub(in crate::store) aside: Option<Box<AsideToken>>,
    _once: Option<Box<SweepMark>>,
    _queued: Queued,
}

impl StepItem {
    /// Tells the caller the outcome; a caller that has left needs none.
    pub(in crate::store) fn answer(&mut self, outcome: Result<Applied, StoreError>) {
        if let Some(reply) = self.reply.take() {
            drop(reply.send(self.instead.take().map_or(outcome, |instead| *instead)));
        }
    }

    /// Another step for the same hold in place of this one, whose caller is told `answer` once it is durable.
    pub(in crate::store) fn replaced(self, step: Step, answer: Result<Applied, StoreError>) -> Self {
        Self { step, instead: Some(self.instead.unwrap_or_else(|| Box::new(answer))), ..self }
    }
}

/// The mark of a hold whose step the sweep has queued, until the step is done.
struct SweepMark {
    swept: Arc<Mutex<HashSet<HoldId>>>,
    hold: HoldId,
}

impl Drop for SweepMark {
    fn drop(&mut self) {
        self.swept.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.hold);
    }
}

/// Counts an item in a gauge, from when it is queued until it is dropped.
pub(in crate::store) struct Queued(metrics::Gauge);

impl Queued {
    pub(in crate::store) fn in_queue(gauge: &metrics::Gauge) -> Self {
        gauge.increment(1);
        Self(gauge.clone())
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

pub(in crate::store) enum Work {
    Step(StepItem),
    /// HELD holds of this gateway past their grace period. Those that this lane does not work on were never sent.
    Sweep(Vec<(OrgId, HoldId, Terms)>),
}
