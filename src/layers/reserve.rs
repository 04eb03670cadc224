//! Gets a place with the vendor, then holds the credits, durably, before anything is sent.

use std::sync::Arc;
use std::task::{Context, Poll};

use tower::{Layer, Service};

use super::replay::replay;
use super::{LayerFuture, Stage, tell};
use crate::call::{Call, Fresh, Held, Notes, Priced};
use crate::error::{Answer, GatewayError, OverBudget};
use crate::ids::HoldId;
use crate::metrics as m;
use crate::store::{HoldGuard, Ledger, NewHold, Verdict};
use crate::telemetry::Span;
use crate::upstream::{Permit, Refusal, Upstream};

/// See the module.
#[derive(Debug, Clone)]
pub struct ReserveLayer {
    /// Where credits are held.
    pub ledger: Ledger,
    /// Where places are had, and which account a task is charged to.
    pub upstream: Arc<Upstream>,
}

impl<S> Layer<S> for ReserveLayer {
    type Service = Reserve<S>;

    fn layer(&self, inner: S) -> Reserve<S> {
        Reserve { inner, parts: self.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Reserve<S> {
    inner: S,
    parts: ReserveLayer,
}

impl<S: Stage<Held>> Service<Call<Priced>> for Reserve<S> {
    type Response = Answer;
    type Error = GatewayError;
    type Future = LayerFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), GatewayError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call<Priced>) -> LayerFuture {
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let parts = self.parts.clone();
        Box::pin(async move {
            let mut span = Span::of_part("reserve");
            let reserved = span.around(parts.reserve(&call.stage, &call.context.notes)).await;
            span.set_number("tollgate.credits", call.stage.order.price.hold.get());
            tell(&mut span, &reserved);
            drop(span);
            match reserved? {
                Reserved::Answered(answer) => Ok(answer),
                Reserved::Granted(guard, ticket) => {
                    inner.call(call.advance(|priced| Held::new(priced.order, guard, ticket))).await
                }
            }
        })
    }
}

/// What becomes of a create that nothing refuses.
enum Reserved {
    /// It is paid for, and has its place.
    Granted(HoldGuard, Permit),
    /// It is another's repetition.
    Answered(Answer),
}

impl ReserveLayer {
    async fn reserve(&self, priced: &Priced, notes: &Notes) -> Result<Reserved, GatewayError> {
        let (fresh, task_type) = (&priced.fresh, &priced.order.task_type);
        let org = fresh.principal.org;
        // Before anything is held: what finds no room is refused at once.
        let ticket = match self.upstream.admit(org, task_type) {
            Ok(ticket) => ticket,
            Err(refusal) => return Err(self.refused(priced, refusal).await),
        };
        // A key can be taken between our look-up and our reserve, and freed again before we look who has it.
        for _ in 0..3 {
            let new = self.new_hold(priced, &ticket);
            let required = new.amount;
            match self.ledger.reserve(new).await? {
                Verdict::Granted(guard) => {
                    notes.add(|notes| notes.hold = Some(guard.id()));
                    return Ok(Reserved::Granted(guard, ticket));
                }
                Verdict::Insufficient { available } => {
                    return Err(GatewayError::InsufficientCredits { required, available });
                }
                // One that was deleted or lifted meanwhile is no reason: it is asked again.
                Verdict::OverBudget { budget, left } => {
                    if let Some(budget) = self.ledger.database().budget_in_force(org, budget).await? {
                        let used = budget.limit.checked_sub(left).unwrap_or(budget.limit);
                        let over = OverBudget { budget, used, required };
                        return Err(GatewayError::BudgetExceeded(Box::new(over)));
                    }
                }
                Verdict::TooManyTasks => return Err(GatewayError::TooManyTasks),
                Verdict::InDoubt(reference) => return Err(GatewayError::OutcomeUnknown { reference }),
                Verdict::UnknownOrg => {
                    return Err(GatewayError::Internal("a key of an organisation without a balance".into()));
                }
                Verdict::Ended => {
                    return Err(GatewayError::Internal("a fresh hold had ended already".into()));
                }
                Verdict::KeyTaken => {
                    if let Some(key) = &fresh.idempotency_key
                        && let Some(claim) = self.ledger.database().claim(org, key).await?
                        && let Some(result) = replay(&claim, fresh.fingerprint)
                    {
                        notes.add(|notes| notes.hold = Some(claim.hold));
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

    /// Who repeats a create that is in doubt is told so, also while nothing new can be sent: "unavailable" would say
    /// that nothing is held.
    async fn refused(&self, priced: &Priced, refusal: Refusal) -> GatewayError {
        let fresh = &priced.fresh;
        let (org, user, key) = (fresh.principal.org, fresh.principal.user, fresh.principal.key);
        if refuses_if_in_doubt(fresh)
            && let Ok(Some(reference)) =
                self.ledger.database().in_doubt(org, user, key, fresh.fingerprint).await
        {
            return GatewayError::OutcomeUnknown { reference };
        }
        GatewayError::NotAdmitted(refusal)
    }

    fn new_hold(&self, priced: &Priced, ticket: &Permit) -> NewHold {
        let (fresh, order) = (&priced.fresh, &priced.order);
        NewHold {
            hold: HoldId::generate(),
            org: fresh.principal.org,
            user: fresh.principal.user,
            key: fresh.principal.key,
            amount: order.price.hold,
            list_price: order.price.list_price,
            factor: order.price.factor,
            book: order.price.book,
            task_type: order.task_type.clone(),
            backend: ticket.backend().into(),
            account: ticket.account(),
            fingerprint: fresh.fingerprint,
            idempotency_key: fresh.idempotency_key.clone(),
            refuse_if_in_doubt: refuses_if_in_doubt(fresh),
        }
    }
}

fn refuses_if_in_doubt(fresh: &Fresh) -> bool {
    fresh.idempotency_key.is_none() && !fresh.resend
}
