//! The verdict on a reservation, and the guard that brings every granted hold to an end.

use tokio::sync::oneshot;

use crate::credits::Credits;
use crate::ids::{BudgetId, HoldId, OrgId};
use crate::store::db::error::StoreError;
use crate::store::ledger::step::{Applied, NewHold, Step, Terms};
use crate::store::ledger::step_queue::StepQueue;

/// The answer to a reservation.
#[derive(Debug)]
pub enum Verdict {
    Granted(HoldGuard),
    /// The organisation has too few credits: only this many are available.
    Insufficient {
        available: Credits,
    },
    /// A budget does not allow the create.
    OverBudget {
        budget: BudgetId,
        /// What is left of the budget; negative after an overrun, or when the budget was lowered.
        left: Credits,
    },
    /// The organisation has as many unfinished tasks as its cap allows.
    TooManyTasks,
    /// The creates of the organisation are stopped because of its exposure, until an operator lets them go on.
    Stopped,
    /// Another create holds this idempotency key.
    KeyTaken,
    /// A create with the same body and key (without a key: of the same user) is in doubt under this reference.
    InDoubt(HoldId),
    /// The caller of a create with the same user and body has gone before its answer: this one waits for that.
    Attach(HoldId),
    /// A create with the same user and body has no answer yet. Whether its caller is there is not known.
    Unanswered(HoldId),
    UnknownOrg,
    /// An earlier sending of this reservation was granted, and the hold has ended since.
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    No,
    Maybe,
    Settled,
}

/// A granted hold, owned by the request that must bring it to its end.
///
/// Dropping the guard is safe at any point (the caller left, a panic): before [`HoldGuard::about_to_send`] the hold is
/// released, after it the hold goes IN_DOUBT, because the vendor may have taken the task.
#[must_use = "a hold that is dropped is released"]
#[derive(Debug)]
pub struct HoldGuard {
    queue: StepQueue,
    org: OrgId,
    hold: HoldId,
    terms: Terms,
    available: Credits,
    sent: Sent,
}

impl HoldGuard {
    pub(in crate::store) fn new(queue: StepQueue, new: &NewHold, available: Credits) -> Self {
        Self { queue, org: new.org, hold: new.hold, terms: new.terms(), available, sent: Sent::No }
    }

    /// The id of the hold, which callers see as the reference.
    pub fn id(&self) -> HoldId {
        self.hold
    }

    /// The organisation from whose balance the credits are held.
    pub fn org(&self) -> OrgId {
        self.org
    }

    /// Credits available after the hold was granted.
    pub fn available(&self) -> Credits {
        self.available
    }

    /// Must be called before the first byte of the create may reach the vendor.
    pub fn about_to_send(&mut self) {
        self.sent = Sent::Maybe;
    }

    /// Takes a step and waits until it is durable. The lane repeats it until the database takes it, even if no caller
    /// waits.
    pub async fn step(&mut self, step: Step) -> Result<Applied, StoreError> {
        let answer = self.queue(step);
        answer.await.unwrap_or(Err(StoreError::ShuttingDown))
    }

    /// Queues a step without waiting; the receiver gets the result when the step is durable.
    pub fn queue(&mut self, step: Step) -> oneshot::Receiver<Result<Applied, StoreError>> {
        self.sent = Sent::Settled;
        self.queue.step(self.org, self.hold, Some(self.terms), step)
    }
}

impl Drop for HoldGuard {
    fn drop(&mut self) {
        let step = match self.sent {
            Sent::No => Step::Abandon,
            Sent::Maybe => Step::Doubt { reason: "the gateway lost track of the call" },
            Sent::Settled => return,
        };
        drop(self.queue.step(self.org, self.hold, Some(self.terms), step));
    }
}
