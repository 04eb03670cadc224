//! What lanes and side lanes tell their callers, and the holds that this process works on.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::fail_point;
use crate::ids::HoldId;
use crate::metrics as m;
use crate::store::db::error::{StoreError, is_unique_violation};
use crate::store::ledger::guard::{HoldGuard, Verdict};
use crate::store::ledger::lanes::ReserveItem;
use crate::store::ledger::lanes::batch::{RowOutcome, RowVerdict};
use crate::store::ledger::lanes::set_aside::SetAside;
use crate::store::ledger::metered;
use crate::store::ledger::step::{Applied, Step};
use crate::store::ledger::step_queue::{StepItem, StepQueue};

type Reply = oneshot::Sender<Result<Verdict, StoreError>>;

/// What a caller gets, and where.
pub(super) type Answer = (Reply, Result<Verdict, StoreError>);

/// A clone is cheap and shares them.
#[derive(Clone)]
pub(super) struct Answers {
    /// The queue of steps that guards are given.
    pub(super) queue: StepQueue,
    /// Holds that this process works on and that may be HELD in the database.
    active: Arc<Mutex<HashSet<HoldId>>>,
    pub(super) set_aside: SetAside,
}

impl Answers {
    pub(super) fn new(queue: StepQueue, set_aside: SetAside) -> Self {
        Self { queue, active: Arc::default(), set_aside }
    }

    pub(super) fn active(&self) -> MutexGuard<'_, HashSet<HoldId>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a reservation without a verdict. Whether or not it has a hold, nothing was sent to the vendor: if it has,
    /// the sweep releases it.
    pub(super) fn without_verdict(&self, item: ReserveItem, error: StoreError) {
        self.active().remove(&item.new.hold);
        drop(item.reply.send(Err(error)));
    }

    /// Refuses a reservation that the database refuses for a reason that nobody foresaw.
    pub(super) fn unforeseen(&self, item: ReserveItem, error: &Arc<sqlx::Error>) {
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        let (org, sqlstate) = (item.new.org, code.as_deref().unwrap_or("none"));
        metrics::counter!(m::LEDGER_SETTINGS_ASIDE, "call" => "reserve").increment(1);
        tracing::error!(hold = %item.new.hold, %org, sqlstate, %error, "the database refuses a reservation for a reason that nobody foresaw");
        self.without_verdict(item, StoreError::Database(error.clone()));
    }

    /// The answers to a batch; pairs each busy item with nothing, and returns it.
    pub(super) fn verdicts(
        &self,
        items: Vec<ReserveItem>,
        verdicts: Vec<RowVerdict>,
    ) -> (Vec<Answer>, Vec<ReserveItem>) {
        let (mut answers, mut busy) = (Vec::with_capacity(items.len()), Vec::new());
        for (item, verdict) in items.into_iter().zip(verdicts) {
            match verdict {
                RowVerdict::Busy => busy.push(item),
                verdict => answers.push(self.verdict(item, verdict)),
            }
        }
        (answers, busy)
    }

    fn verdict(&self, item: ReserveItem, verdict: RowVerdict) -> Answer {
        let answer = match verdict {
            RowVerdict::Granted { available } => {
                metered::granted(item.new.amount);
                let guard = HoldGuard::new(self.queue.clone(), &item.new, available);
                return (item.reply, Ok(Verdict::Granted(guard)));
            }
            RowVerdict::Insufficient { available } => Ok(Verdict::Insufficient { available }),
            RowVerdict::OverBudget { budget, left } => Ok(Verdict::OverBudget { budget, left }),
            RowVerdict::TooManyTasks => Ok(Verdict::TooManyTasks),
            RowVerdict::Stopped => Ok(Verdict::Stopped),
            RowVerdict::KeyTaken => Ok(Verdict::KeyTaken),
            RowVerdict::InDoubt(hold) => Ok(Verdict::InDoubt(hold)),
            RowVerdict::Attach(hold) => Ok(Verdict::Attach(hold)),
            RowVerdict::Unanswered(hold) => Ok(Verdict::Unanswered(hold)),
            RowVerdict::UnknownOrg => Ok(Verdict::UnknownOrg),
            RowVerdict::Ended => {
                // An earlier sending whose answer was lost was granted, and a gateway that counted this one as dead
                // took the hold over. Nothing was sent to the vendor, and only this gateway can know that.
                let new = &item.new;
                drop(self.queue.step(new.org, new.hold, Some(new.terms()), Step::Abandon));
                Ok(Verdict::Ended)
            }
            RowVerdict::Busy => Err(StoreError::Timeout),
            RowVerdict::Corrupt => Err(StoreError::Corrupt("a verdict of reserve_batch".into())),
        };
        self.active().remove(&item.new.hold);
        (item.reply, answer)
    }

    /// Answers the steps that were taken, and returns those that were busy.
    pub(super) fn outcomes(&self, items: Vec<StepItem>, outcomes: Vec<RowOutcome>) -> Vec<StepItem> {
        let mut busy = Vec::new();
        for (mut item, outcome) in items.into_iter().zip(outcomes) {
            let outcome = match outcome {
                RowOutcome::Busy => {
                    busy.push(item);
                    continue;
                }
                RowOutcome::Taken(applied) => {
                    reached(&item.step);
                    // A step that was sent twice answers No the second time, although the first sending moved the
                    // hold; callers read No as "it has happened already".
                    metered::step(item.hold, item.terms, &item.step, applied);
                    Ok(applied)
                }
                RowOutcome::Corrupt(error) => Err(error),
            };
            self.active().remove(&item.hold);
            item.answer(outcome);
        }
        busy
    }

    /// Handles a step that the database refuses for good. Returns the step that must follow in its place, if any.
    pub(super) fn refused(&self, mut item: StepItem, error: &sqlx::Error) -> Option<StepItem> {
        if is_unique_violation(error, "vendor_task_pkey") {
            tracing::error!(hold = %item.hold, org = %item.org, "the upstream gave one task id to two creates: the second is in doubt");
            metrics::counter!(m::DUPLICATE_TASKS).increment(1);
            let doubt = Step::Doubt { reason: "the upstream gave this task id to another create" };
            return Some(item.replaced(doubt, Ok(Applied::DuplicateTask)));
        }
        tracing::error!(hold = %item.hold, org = %item.org, step = item.step.kind().as_str(), %error, "a step was refused");
        let refused = StoreError::Refused(error.to_string().into());
        if let Step::Run { .. } = item.step {
            // The vendor accepted the task, but the ledger has no id to poll. The hold must not stay HELD, because
            // nobody works on it.
            let doubt = Step::Doubt { reason: "the upstream's answer could not be stored" };
            return Some(item.replaced(doubt, Err(refused)));
        }
        self.active().remove(&item.hold);
        item.answer(Err(refused));
        None
    }
}

/// Reaches the fail point of a step that has just become durable.
fn reached(step: &Step) {
    match step {
        Step::Run { .. } => fail_point::reach("record.committed"),
        Step::Settle { .. } | Step::Fail { .. } | Step::LateSettle { .. } => {
            fail_point::reach("settle.committed")
        }
        _ => {}
    }
}

pub(super) fn wake(answers: Vec<Answer>) {
    for (reply, answer) in answers {
        // If nobody waits any more, the guard of a granted hold comes back, is dropped, and releases the hold.
        drop(reply.send(answer));
    }
}
