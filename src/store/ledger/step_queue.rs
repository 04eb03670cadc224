//! The queue of steps. Every step that ends a hold goes through it, whether or not anybody waits for the result.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::ids::{HoldId, OrgId};
use crate::metrics as m;
use crate::store::db::error::StoreError;
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
}

impl StepQueue {
    pub(in crate::store) fn new(lanes: Vec<mpsc::UnboundedSender<Work>>) -> Self {
        let queued = metrics::gauge!(m::LEDGER_QUEUE_ITEMS, "call" => "transition");
        Self(Arc::new(Inner { lanes, hasher: RandomState::new(), queued }))
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

    pub(in crate::store) fn item(
        &self,
        org: OrgId,
        hold: HoldId,
        terms: Option<Terms>,
        step: Step,
        reply: oneshot::Sender<Result<Applied, StoreError>>,
    ) -> StepItem {
        StepItem { org, hold, terms, step, reply, _queued: Queued::in_queue(&self.0.queued) }
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
    pub(in crate::store) reply: oneshot::Sender<Result<Applied, StoreError>>,
    _queued: Queued,
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
