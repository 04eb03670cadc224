//! The answer to a reservation, and the guard that makes sure that a granted hold reaches an honest end.

use tokio::sync::oneshot;

use crate::credits::Credits;
use crate::ids::{BudgetId, HoldId, OrgId};
use crate::store::db::error::LedgerError;
use crate::store::ledger::step::{Applied, NewHold, Step, Terms};
use crate::store::ledger::step_queue::StepQueue;

/// The answer to a reservation.
#[derive(Debug)]
pub enum Verdict {
    Granted(HoldGuard),
    /// Not enough credits: this many were available.
    Insufficient {
        available: Credits,
    },
    /// A budget does not allow it.
    OverBudget {
        budget: BudgetId,
        /// What is left of it; below zero after an overrun, or when it was lowered.
        left: Credits,
    },
    /// The organisation has as many unfinished tasks as it may.
    TooManyTasks,
    /// Somebody else holds this idempotency key.
    KeyTaken,
    /// The same body from the same key (from the same user, if without a key) is in doubt under this reference.
    InDoubt(HoldId),
    UnknownOrg,
    /// The id was granted by an earlier sending and has ended since.
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    No,
    Maybe,
    Settled,
}

/// A granted hold, owned by whoever must bring it to its end.
///
/// Dropping it is safe at any point (a caller that left, a panic): before [`HoldGuard::about_to_send`] the hold is
/// released, after it the hold goes IN_DOUBT, because the upstream may have taken the task.
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

    /// Its id, also the reference shown to callers.
    pub fn id(&self) -> HoldId {
        self.hold
    }

    /// Whose balance it is held from.
    pub fn org(&self) -> OrgId {
        self.org
    }

    /// What was available after it was granted.
    pub fn available(&self) -> Credits {
        self.available
    }

    /// Must be called before the first byte may reach the upstream.
    pub fn about_to_send(&mut self) {
        self.sent = Sent::Maybe;
    }

    /// Takes a step, and waits for it to be durable. The step is retried until the database takes it, whether or
    /// not anybody waits.
    pub async fn step(&mut self, step: Step) -> Result<Applied, LedgerError> {
        let answer = self.queue(step);
        answer.await.unwrap_or(Err(LedgerError::ShuttingDown))
    }

    /// Hands the step to the ledger without waiting; the receiver tells when it is durable.
    pub fn queue(&mut self, step: Step) -> oneshot::Receiver<Result<Applied, LedgerError>> {
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
