//! One poll of a task that is under way, which any number of callers wait for.

use std::sync::{Arc, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio_util::sync::CancellationToken;

use super::{Poller, View};
use crate::ids::HoldId;
use crate::store::Task;
use crate::telemetry::{Span, carry};

pub(super) type Flight = Shared<BoxFuture<'static, Option<Arc<View>>>>;

/// When a poll was sent and when it was answered. A caller waits for other parts of the poll too, and only this part counts
/// as the vendor's time.
#[derive(Debug, Default)]
pub(super) struct Asking {
    pub(super) begun: OnceLock<Instant>,
    pub(super) ended: OnceLock<Instant>,
    /// Cancelled when the vendor has answered and a step waits in the ledger.
    pub(super) recording: CancellationToken,
}

impl Asking {
    /// How much of the time from `since` to `until` the vendor took.
    pub(super) fn within(&self, since: Instant, until: Instant) -> Duration {
        let Some(begun) = self.begun.get() else { return Duration::ZERO };
        let ended = self.ended.get().copied().unwrap_or(until);
        ended.min(until).saturating_duration_since(since.max(*begun))
    }
}

/// Removes a poll from `flights` when it ends, even by a panic.
struct Landing<'a> {
    poller: &'a Poller,
    hold: HoldId,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.poller.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.hold);
    }
}

impl Poller {
    /// Joins the poll of this task that is in flight, or starts one; `paid` if the budget has already been charged. The poll
    /// goes on when its callers leave.
    pub(super) fn refresh(self: &Arc<Self>, known: &Arc<View>, paid: bool) -> Option<(Flight, Arc<Asking>)> {
        let hold = known.task().hold;
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&hold) {
            return Some(flight.clone());
        }
        if self.ledger.is_set_aside(hold) {
            return None;
        }
        let asking = Arc::<Asking>::default();
        // A poll that has just ended may have refreshed the cache already. But ignore a cached terminal state if the task
        // was reopened since.
        let told = self.cached(known.task()).filter(|view| self.is_fresh(view));
        if let Some(view) = told.filter(|view| !view.is_final() || known.is_final()) {
            return Some((std::future::ready(Some(view)).boxed().shared(), asking));
        }
        let org = known.task().org;
        if !paid
            && self.costs_a_poll(known.task())
            && (self.bulk.pace.callers_have_to_wait(org) || !self.budget.client_may(org))
        {
            return None;
        }
        let (poller, known, told) = (self.clone(), known.clone(), asking.clone());
        // The poll belongs to the trace of its first caller.
        let work = self.tasks.spawn(carry(async move {
            let _landing = Landing { poller: &poller, hold };
            let mut span = Span::of_part("poll");
            span.set("tollgate.hold", hold);
            span.around(poller.ask(known, &told)).await
        }));
        let flight = work.map(|joined| joined.ok().flatten()).boxed().shared();
        flights.insert(hold, (flight.clone(), asking.clone()));
        Some((flight, asking))
    }

    /// Whether polling the task needs the budget. A task that will not be polled must not use up budget.
    pub(super) fn costs_a_poll(&self, task: &Task) -> bool {
        task.upstream_task.is_some() && self.upstream.may_be_polled(task.org, &task.backend)
    }
}
