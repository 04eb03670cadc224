//! Acquires a permit to create an upstream task, then durably holds the credits, before anything is sent.

use std::sync::Arc;

use super::replay::replay;
use super::{Below, Outcome, Stage, tell};
use crate::bulk::Bulk;
use crate::call::{Call, Held, NewCreate, Notes, Priced};
use crate::error::{Answer, GatewayError, OverBudget};
use crate::ids::{BudgetId, HoldId, OrgId};
use crate::metrics as m;
use crate::store::{BudgetInForce, Claim, HoldGuard, Ledger, NewHold, StoreError, Verdict};
use crate::telemetry::Span;
use crate::upstream::{Permit, Refusal, Upstream};

/// Holds the credits of a create that has a permit.
#[derive(Debug, Clone)]
pub struct Reserve {
    pub ledger: Ledger,
    /// Issues permits, and picks the account that a task is charged to.
    pub upstream: Arc<Upstream>,
    /// Counts the answer to a create that repeats an earlier one.
    pub bulk: Bulk,
}

impl Stage for Reserve {
    type In = Priced;
    type Out = Held;

    async fn run(&self, call: Call<Priced>, below: &impl Below<Held>) -> Outcome {
        let mut span = Span::of_part("reserve");
        let reserved = span.around(self.reserve(&call.stage, &call.context.notes)).await;
        span.set_number("tollgate.credits", call.stage.order.price.hold.get());
        tell(&mut span, &reserved);
        drop(span);
        match reserved? {
            Reserved::Answered(answer) => Ok(answer),
            Reserved::Granted(guard, permit) => {
                below.take(call.advance(|priced| Held::new(priced, guard, permit))).await
            }
        }
    }
}

/// The result of a reservation that was not refused.
enum Reserved {
    Granted(HoldGuard, Permit),
    /// The create repeats an earlier one, and gets the stored answer.
    Answered(Answer),
}

impl Reserve {
    /// Rare paths are boxed, because the future of every create would otherwise have room for them.
    async fn reserve(&self, priced: &Priced, notes: &Notes) -> Result<Reserved, GatewayError> {
        let (create, task_type) = (&priced.create, &priced.order.task_type);
        let org = create.principal.org;
        // Before credits are held: without a free slot the create is refused at once.
        let permit = match self.upstream.admit(org, task_type) {
            Ok(permit) => permit,
            Err(refusal) => return Err(Box::pin(self.refused(priced, refusal)).await),
        };
        // Another create can take the idempotency key after our look-up, and free it before we look up its claim.
        for _ in 0..3 {
            let new = self.new_hold(priced, &permit);
            let required = new.amount;
            match self.ledger.reserve(new).await? {
                Verdict::Granted(guard) => {
                    notes.add(|notes| notes.hold = Some(guard.id()));
                    return Ok(Reserved::Granted(guard, permit));
                }
                Verdict::Insufficient { available } => {
                    return Err(GatewayError::InsufficientCredits { required, available });
                }
                // A budget that was deleted or raised in the meantime does not refuse: reserve again.
                Verdict::OverBudget { budget, left } => {
                    let budget = Box::pin(self.budget(org, budget)).await?;
                    if let Some(budget) = budget {
                        let used = budget.limit.checked_sub(left).unwrap_or(budget.limit);
                        let over = OverBudget { budget, used, required };
                        return Err(GatewayError::BudgetExceeded(Box::new(over)));
                    }
                }
                Verdict::TooManyTasks => return Err(GatewayError::TooManyTasks),
                Verdict::Stopped => return Err(GatewayError::Stopped),
                Verdict::InDoubt(reference) => return Err(GatewayError::OutcomeUnknown { reference }),
                Verdict::UnknownOrg => {
                    return Err(GatewayError::Internal("a key of an organisation without a balance".into()));
                }
                Verdict::Ended => {
                    return Err(GatewayError::Internal("a new hold had already ended".into()));
                }
                Verdict::KeyTaken => {
                    if let Some(key) = &create.idempotency_key
                        && let Some(claim) = Box::pin(self.claim(org, key)).await?
                        && let hold = claim.task.hold
                        && let Some(result) =
                            Box::pin(replay(claim, create.fingerprint, &self.bulk, org)).await
                    {
                        notes.add(|notes| notes.hold = Some(hold));
                        if result.is_ok() {
                            metrics::counter!(m::REPLAYS).increment(1);
                        }
                        return result.map(Reserved::Answered);
                    }
                }
            }
        }
        Err(GatewayError::RequestInProgress)
    }

    /// The error for a create without a permit. If the create repeats one in doubt, it gets the 504 of that doubt, because
    /// "unavailable" would mean that no credits are held.
    async fn refused(&self, priced: &Priced, refusal: Refusal) -> GatewayError {
        let create = &priced.create;
        if refuses_if_in_doubt(create)
            && let Ok(Some(reference)) = self.doubt(create).await
        {
            return GatewayError::OutcomeUnknown { reference };
        }
        GatewayError::NotAdmitted(refusal)
    }

    async fn budget(&self, org: OrgId, budget: BudgetId) -> Result<Option<BudgetInForce>, StoreError> {
        self.ledger.turn_of(org).await?.budget_in_force(org, budget).await
    }

    async fn claim(&self, org: OrgId, key: &str) -> Result<Option<Claim>, StoreError> {
        self.ledger.turn_of(org).await?.claim(org, key).await
    }

    /// The doubt of an earlier create with the same body.
    async fn doubt(&self, create: &NewCreate) -> Result<Option<HoldId>, StoreError> {
        let (org, user) = (create.principal.org, create.principal.user);
        self.ledger.turn_of(org).await?.in_doubt(org, user, create.fingerprint).await
    }

    fn new_hold(&self, priced: &Priced, permit: &Permit) -> NewHold {
        let (create, order) = (&priced.create, &priced.order);
        NewHold {
            hold: HoldId::generate(),
            org: create.principal.org,
            user: create.principal.user,
            key: create.principal.key,
            amount: order.price.hold,
            list_price: order.price.list_price,
            factor: order.price.factor,
            book: order.price.book,
            task_type: order.task_type.clone(),
            backend: permit.backend().into(),
            account: permit.account(),
            fingerprint: create.fingerprint,
            idempotency_key: create.idempotency_key.clone(),
            refuse_if_in_doubt: refuses_if_in_doubt(create),
        }
    }
}

fn refuses_if_in_doubt(create: &NewCreate) -> bool {
    create.idempotency_key.is_none() && !create.resend
}
