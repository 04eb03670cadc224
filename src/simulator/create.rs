//! The create call: `POST /api/generate`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use http::{Response, StatusCode};
use serde::Serialize;
use serde_json::Value;

use super::answer;
use super::clock::Millis;
use super::echo;
use super::request::{Draft, ValidCreate};
use super::script::{Active, FaultPlan, Replacement, SeenCall};
use super::shared::Shared;
use super::status::Figure;
use super::task::{Oddities, Outcome, Task, TaskState};
use super::wire::{Cut, WireBody};

#[derive(Serialize)]
struct Created<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<Figure<'a, &'a str>>,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    consumed_credits: Option<Figure<'a, i64>>,
}

/// Answers a create of a valid key.
pub(super) async fn create(
    shared: &Shared,
    script: &Active,
    account: &Arc<str>,
    body: &[u8],
) -> Result<Response<WireBody>, Cut> {
    let draft = Draft::read(body);
    let plan = script.plan(&SeenCall::Create { account, draft: &draft });
    if let Some(delay) = plan.delay.filter(|_| !plan.accept_first) {
        tokio::time::sleep(delay).await;
    }
    // A create that is not accepted gets no true answer either: the plan then has one of its own.
    let outcome =
        if plan.accepts() { Some(accept(shared, script, account, &draft, plan).await) } else { None };
    if let Some(delay) = plan.delay.filter(|_| plan.accept_first) {
        tokio::time::sleep(delay).await;
    }
    shared
        .carry_out(plan, || match outcome {
            Some(Ok(task)) => created(&task, plan),
            Some(Err(refusal)) => refusal,
            None => answer::failure(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", "Not accepted"),
        })
        .await
}

/// Judges the create, enters its task in the books and waits until the state file has it.
async fn accept(
    shared: &Shared,
    script: &Active,
    account: &Arc<str>,
    draft: &Draft<'_>,
    plan: &FaultPlan,
) -> Result<Arc<Task>, Response<WireBody>> {
    let valid = draft
        .check()
        .map_err(|refusal| answer::failure(StatusCode::BAD_REQUEST, refusal.error, refusal.message))?;
    if script.is_exhausted(account) {
        let message = "Not enough credits for this operation";
        return Err(answer::failure(StatusCode::PAYMENT_REQUIRED, "INSUFFICIENT_CREDITS", message));
    }
    let mut task = new_task(shared, account, &valid, plan);
    let task = loop {
        match shared.books.add(task) {
            Ok(task) => break task,
            // Only a scripted id can be taken: its task lives on under an id of its own.
            Err(refused) => {
                task = refused;
                task.task_id = valid.product.new_task_id().into();
            }
        }
    };
    shared.echoes.keep(&task.task_id, task.ends, valid.body, Millis::now());
    shared.journal.append(&task).await;
    Ok(task)
}

fn new_task(shared: &Shared, account: &Arc<str>, valid: &ValidCreate<'_>, plan: &FaultPlan) -> Task {
    let created = Millis::now();
    let task_id = match &plan.task_id {
        Some(Replacement::Json(Value::String(id))) if !id.is_empty() => id.as_str().into(),
        _ => valid.product.new_task_id().into(),
    };
    let outcome = plan.outcome.or(plan.create_status).unwrap_or_else(|| {
        if rand::random::<f64>() < shared.fail_ratio { Outcome::Failed } else { Outcome::Success }
    });
    let duration = match plan.task_ms {
        Some(ms) => ms,
        None if plan.create_status.is_some() && plan.outcome.is_none() => 0,
        None if shared.at_once.as_deref().is_some_and(|prompt| valid.body.get().contains(prompt)) => 0,
        None => shared.task_ms.saturating_add(rand::random_range(0..=shared.jitter_ms)),
    };
    let charge = plan.charge.unwrap_or(valid.credits);
    let oddities = Oddities {
        response: plan.response.clone(),
        status_word: plan.status_word.clone(),
        forgotten: plan.forget,
    };
    Task {
        task_id,
        account: Arc::clone(account),
        product: valid.product,
        created,
        ends: created.plus(duration),
        outcome,
        charge,
        final_charge: plan.final_charge.unwrap_or(match outcome {
            Outcome::Success => charge,
            Outcome::Failed => 0,
        }),
        request: echo::shortened(valid.body),
        oddities: (oddities != Oddities::default()).then(|| Box::new(oddities)),
        polls: AtomicU64::new(0),
    }
}

fn created(task: &Task, plan: &FaultPlan) -> Response<WireBody> {
    let (word, consumed) = match (plan.create_status, &plan.status_word) {
        (Some(ended), _) if plan.outcome.is_none() => (TaskState::Ended(ended).word(), task.final_charge),
        (Some(ended), _) => (TaskState::Ended(ended).word(), task.charge),
        (None, Some(word)) => (word.as_str(), task.charge),
        (None, None) => (TaskState::InProgress.word(), task.charge),
    };
    answer::success(Created {
        task_id: Figure::unless(&plan.task_id, &*task.task_id),
        status: word,
        consumed_credits: Figure::unless(&plan.consumed, consumed),
    })
}
