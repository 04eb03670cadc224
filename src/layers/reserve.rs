//! Acquires a permit to create an upstream task, then durably holds the credits, before anything is sent.

use std::sync::Arc;

use url::Url;

use super::replay::replay;
use super::unanswered::{Attendance, Unanswered};
use super::{Below, Outcome, Stage, tell};
use crate::bulk::Bulk;
use crate::call::{Attended, Call, Context, Held, NewCreate, Priced};
use crate::credits::Credits;
use crate::error::{Answer, GatewayError, OverBudget};
use crate::ids::{BudgetId, HoldId, OrgId};
use crate::metrics as m;
use crate::store::{
    BudgetInForce, BudgetLevel, Claim, HoldGuard, Ledger, NewHold, Principal, StoreError, Verdict,
};
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
    /// Answers creates that repeat one whose caller has gone.
    pub unanswered: Arc<Unanswered>,
    /// The console's page of budgets as browsers see it, where there is one.
    pub budgets_page: Option<Url>,
}

impl Stage for Reserve {
    type In = Priced;
    type Out = Held;

    async fn run(&self, call: Call<Priced>, below: &impl Below<Held>) -> Outcome {
        let mut span = Span::of_part("reserve");
        // Boxed: calls that are no creates have no room for it.
        let mut reserved = span.around(Box::pin(self.reserve(&call.stage, &call.context, true))).await;
        span.set_number("tollgate.credits", call.stage.order.price.hold.get());
        tell(&mut span, &reserved);
        drop(span);
        let may_be_repeated = match reserved {
            Ok(Reserved::Attached(_) | Reserved::Unanswered(_)) => true,
            Ok(Reserved::Granted(..)) => may_have_gone(&call.stage.create, &call.context),
            _ => false,
        };
        if may_be_repeated {
            reserved = Box::pin(self.follow(reserved, &call.stage, &call.context)).await;
        }
        match reserved? {
            Reserved::Answered(answer) => Ok(answer),
            Reserved::Granted(guard, permit, caller) => {
                let caller = caller.map(|caller| caller as Box<dyn Attended>);
                below.take(call.advance(|priced| Held::new(priced, guard, permit, caller))).await
            }
            Reserved::Attached(reference) | Reserved::Unanswered(reference) => {
                Err(GatewayError::OutcomeUnknown { reference }.into())
            }
        }
    }
}

/// The result of a reservation that was not refused.
enum Reserved {
    /// With its caller, if no idempotency key finds the create again.
    Granted(HoldGuard, Permit, Option<Box<Attendance>>),
    /// The create repeats an earlier one, and gets the stored answer.
    Answered(Answer),
    /// The create repeats this one, whose caller has gone before the answer.
    Attached(HoldId),
    /// The create is like this one, which has no answer yet; whether its caller is there is not known.
    Unanswered(HoldId),
}

impl Reserve {
    /// `looks`: whether an unanswered create with this body is looked for, wherever its caller is.
    async fn reserve(
        &self,
        priced: &Priced,
        context: &Context,
        looks: bool,
    ) -> Result<Reserved, GatewayError> {
        let (create, task_type, notes) = (&priced.create, &priced.order.task_type, &context.notes);
        let org = create.principal.org;
        // Before credits are held: without a free slot the create is refused at once.
        let permit = match self.upstream.admit(org, task_type) {
            Ok(permit) => permit,
            Err(refusal) => return Box::pin(self.refused(priced, refusal)).await,
        };
        // Another create can take the idempotency key after our look-up, and free it before we look up its claim.
        for _ in 0..3 {
            let new = self.new_hold(priced, &permit, looks);
            let required = new.amount;
            match self.ledger.reserve(new).await? {
                Verdict::Granted(guard) => {
                    notes.add(|notes| notes.hold = Some(guard.id()));
                    let attend = || Box::new(self.unanswered.attend(org, guard.id(), &context.connection));
                    let caller = create.idempotency_key.is_none().then(attend);
                    return Ok(Reserved::Granted(guard, permit, caller));
                }
                Verdict::Insufficient { available } => {
                    return Err(GatewayError::InsufficientCredits { required, available });
                }
                // A budget that was deleted or raised in the meantime does not refuse: reserve again.
                Verdict::OverBudget { budget, left } => {
                    let budget = Box::pin(self.budget(org, budget)).await?;
                    if let Some(budget) = budget {
                        let used = budget.limit.checked_sub(left).unwrap_or(budget.limit);
                        let ask = self.ask(&create.principal, &budget, used, required);
                        let over = OverBudget { budget, used, required, ask };
                        return Err(GatewayError::BudgetExceeded(Box::new(over)));
                    }
                }
                Verdict::TooManyTasks => return Err(GatewayError::TooManyTasks),
                Verdict::Stopped => return Err(GatewayError::Stopped),
                Verdict::InDoubt(reference) => return Err(GatewayError::OutcomeUnknown { reference }),
                Verdict::Attach(earlier) => return Ok(Reserved::Attached(earlier)),
                Verdict::Unanswered(earlier) => return Ok(Reserved::Unanswered(earlier)),
                Verdict::UnknownOrg => {
                    // Its deletion is on its way to those who look keys up.
                    return Err(GatewayError::Unauthenticated(
                        "the organisation of this key has been deleted",
                    ));
                }
                Verdict::Ended => {
                    return Err(GatewayError::Internal("a new hold had already ended".into()));
                }
                Verdict::KeyTaken => {
                    if let Some(key) = &create.idempotency_key
                        && let Some(claim) = Box::pin(self.claim(org, key)).await?
                        && let hold = claim.task.hold
                        && let Some(result) =
                            Box::pin(replay(claim, create.fingerprint, &self.bulk, self.ledger.readers()))
                                .await
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

    /// The link by which more of a budget is asked for: half as much again, or what this create needs. Of a team's budget it is the
    /// page, because the caller's team is not known here; a budget of the whole organisation is raised by operators.
    fn ask(
        &self,
        caller: &Principal,
        budget: &BudgetInForce,
        used: Credits,
        required: Credits,
    ) -> Option<String> {
        let mut link = self.budgets_page.clone()?;
        let id = match budget.level {
            BudgetLevel::Key => caller.key?.to_string(),
            BudgetLevel::User => caller.user.to_string(),
            BudgetLevel::Team => return Some(link.into()),
            BudgetLevel::Organisation => return None,
        };
        let more = budget.limit.get().saturating_mul(3).checked_div(2)?;
        let needed = used.get().saturating_add(required.get());
        link.query_pairs_mut()
            .append_pair("ask", &format!("{}:{id}", budget.level.as_str()))
            .append_pair("period", budget.period.as_str())
            .append_pair("credits", &more.max(needed).to_string());
        Some(link.into())
    }

    /// What becomes of a create without a permit. If it repeats one in doubt, it gets the 504 of that doubt, because "unavailable"
    /// would mean that no credits are held; and one whose caller has gone needs no permit of its own.
    async fn refused(&self, priced: &Priced, refusal: Refusal) -> Result<Reserved, GatewayError> {
        let create = &priced.create;
        if refuses_repetition(create) {
            if let Ok(Some(reference)) = self.doubt(create).await {
                return Err(GatewayError::OutcomeUnknown { reference });
            }
            if let Ok(Some(earlier)) = self.left_alone(create).await {
                return Ok(Reserved::Attached(earlier));
            }
        }
        Err(GatewayError::NotAdmitted(refusal))
    }

    /// Goes on with a create that may be a repetition: waits for the answer to the first, or reserves again, if nothing was bought or
    /// if the callers of all like it are there.
    async fn follow(
        &self,
        reserved: Result<Reserved, GatewayError>,
        priced: &Priced,
        context: &Context,
    ) -> Result<Reserved, GatewayError> {
        let (mut reserved, create) = (reserved?, &priced.create);
        let (org, user) = (create.principal.org, create.principal.user);
        loop {
            let mut looks = true;
            match reserved {
                Reserved::Attached(earlier) => {
                    if let Some(answer) = self.answer_of(create, earlier, context).await {
                        return answer.map(Reserved::Answered);
                    }
                }
                Reserved::Unanswered(earlier) => {
                    let has_gone = || context.connection.is_half_closed();
                    if !has_gone() {
                        self.unanswered.are_noted(org, user, create.fingerprint, context.arrived).await?;
                        looks = false;
                    }
                    // Perhaps its caller gave up before this create had its turn, and the other one is the repetition.
                    if has_gone() {
                        reserved = Reserved::Attached(earlier);
                        continue;
                    }
                }
                Reserved::Granted(ref guard, _, ref mut caller) if may_have_gone(create, context) => {
                    let other = self.give_way(guard.id(), create, context).await?;
                    // It is noted, or the create is given up.
                    caller.iter_mut().for_each(|caller| caller.is_over());
                    let Some(other) = other else { return Ok(reserved) };
                    reserved = Reserved::Attached(other);
                    continue;
                }
                Reserved::Granted(..) | Reserved::Answered(_) => return Ok(reserved),
            }
            reserved = self.reserve(priced, context, looks).await?;
        }
    }

    /// The answer for a repetition of the create `earlier`; nothing: that was refused, and bought nothing.
    async fn answer_of(
        &self,
        create: &NewCreate,
        earlier: HoldId,
        context: &Context,
    ) -> Option<Result<Answer, GatewayError>> {
        let began = self.unanswered.clock.now();
        let repeated = (create.principal.org, create.principal.user, create.fingerprint);
        let answer = self.unanswered.answer(repeated, earlier, &context.connection, context.arrived).await;
        let waited = self.unanswered.clock.since(began);
        context.notes.add(|notes| notes.waited += waited);
        let (answered, answer) = answer?;
        context.notes.add(|notes| notes.hold = Some(answered));
        if answer.is_ok() {
            metrics::counter!(m::REPLAYS).increment(1);
        }
        Some(answer)
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

    /// The repetition of a create whose caller may have gone, that was granted or answered while this one had not had its turn; nothing:
    /// it is noted that the caller has gone. After the grant, because no like create is granted any more without a look at this one. Two
    /// that find each other are both released, and reserve again.
    async fn give_way(
        &self,
        own: HoldId,
        create: &NewCreate,
        context: &Context,
    ) -> Result<Option<HoldId>, StoreError> {
        let (org, user) = (create.principal.org, create.principal.user);
        let sent = context.connection.waits_since().unwrap_or(context.arrived).min(context.arrived);
        let turn = self.ledger.turn_of(org).await?;
        turn.give_way(own, org, user, create.fingerprint, self.unanswered.clock.since(sent)).await
    }

    /// The earlier create with the same body that is unanswered although its caller has gone.
    async fn left_alone(&self, create: &NewCreate) -> Result<Option<HoldId>, StoreError> {
        let (org, user) = (create.principal.org, create.principal.user);
        self.ledger.turn_of(org).await?.left_alone(org, user, create.fingerprint).await
    }

    fn new_hold(&self, priced: &Priced, permit: &Permit, looks: bool) -> NewHold {
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
            refuse_if_in_doubt: refuses_repetition(create),
            refuse_if_unanswered: looks && refuses_repetition(create),
            labels: order.labels.clone(),
        }
    }
}

/// Whether the create may be one whose caller gave up before it had its turn.
fn may_have_gone(create: &NewCreate, context: &Context) -> bool {
    refuses_repetition(create) && context.connection.is_half_closed()
}

/// Whether the create must not buy what an earlier one may have bought.
fn refuses_repetition(create: &NewCreate) -> bool {
    create.idempotency_key.is_none() && !create.resend
}
