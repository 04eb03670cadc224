//! `GET /api/tasks/{task_id}`: one task with its times, and why it cost what it cost.

use std::collections::BTreeMap;

use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::Handlers;
use crate::call::{Admitted, Call};
use crate::credits::{Credits, PriceFactor};
use crate::error::{Answer, GatewayError};
use crate::ids::{EntryId, HoldId, KeyId, UserId};
use crate::layers::route::task_of;
use crate::poll::{shown_credits, shown_status};
use crate::pricing::BookVersion;
use crate::store::{Proof, Task};
use crate::wire::{Success, success};

/// A task, and why it cost what it cost.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TaskDetail {
    /// The id of the task, for status calls.
    task_id: String,
    /// The gateway's own reference of the task, which status calls accept too.
    reference: HoldId,
    /// `IN_PROGRESS`, `SUCCESS` or `FAILED`.
    status: &'static str,
    /// The state of the task in the ledger.
    state: &'static str,
    #[serde(rename = "type")]
    task_type: String,
    user_id: UserId,
    user_name: String,
    /// The API key that created the task; null: it was created without an API key.
    key_id: Option<KeyId>,
    key_name: Option<String>,
    /// The labels of the task, by name.
    labels: BTreeMap<String, String>,
    /// When the credits were reserved.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    /// When the video service had accepted the task; null: it has not.
    #[serde(with = "time::serde::rfc3339::option")]
    accepted_at: Option<OffsetDateTime>,
    /// When it was last unknown whether the video service had the task; null: never.
    #[serde(with = "time::serde::rfc3339::option")]
    doubt_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    ended_at: Option<OffsetDateTime>,
    /// How often the gateways have asked the video service for the state of the task.
    polls: u32,
    /// The price book that the task was priced by.
    #[schema(value_type = i32)]
    price_book: BookVersion,
    list_price: Credits,
    /// The price factor that the task is charged by, in basis points.
    price_factor_bp: PriceFactor,
    /// The credits that were held: list price × factor, rounded up.
    held_credits: Credits,
    /// What the video service last reported as consumed, before the factor; null: nothing valid.
    reported_credits: Option<Credits>,
    /// Credits that are held for the task, or were charged.
    consumed_credits: Credits,
    /// The entry of the charge in the statement; null: there is none.
    entry_id: Option<EntryId>,
    /// Whether content is kept after the task has ended.
    keeps_content: bool,
}

/// Show a task and its price
///
/// The times of the task, and why it cost what it cost. Any task of the caller's organisation. `GET /api/status` shows the result.
#[utoipa::path(
    get, path = "/api/tasks/{task_id}", tag = "tasks", operation_id = "task",
    params(("task_id" = String, Path, min_length = 1, max_length = 255, example = "task-id-of-your-create",
            description = "The `task_id` of a create's answer, or the `reference` of the task")),
    responses((status = 200, description = "The task", body = Success<TaskDetail>))
)]
pub(super) async fn task(handlers: &Handlers, call: Call<Admitted>) -> Result<Answer, GatewayError> {
    let org = call.stage.principal.org;
    let id = task_of(&call.context.path).ok_or(GatewayError::NotFound)?;
    let task = handlers.poller.find(org, id).await?.ok_or(GatewayError::TaskNotFound)?;
    call.context.notes.add(|notes| notes.hold = Some(task.hold));
    let proof = handlers.database.turn_of(org).await?.proof(org, task.hold).await?;
    let proof = proof.ok_or(GatewayError::TaskNotFound)?;
    handlers.success(org, success(&detail(&task, proof)))
}

fn detail(task: &Task, proof: Proof) -> TaskDetail {
    TaskDetail {
        task_id: task.upstream_task.as_deref().map_or_else(|| task.hold.to_string(), ToOwned::to_owned),
        reference: task.hold,
        status: shown_status(task),
        state: task.state.as_str(),
        task_type: task.task_type.to_string(),
        user_id: task.user,
        user_name: proof.user,
        key_id: task.key,
        key_name: proof.key,
        labels: task.labels.to_map(),
        created_at: task.created_at,
        accepted_at: proof.accepted_at,
        doubt_at: proof.doubt_at,
        ended_at: task.ended_at,
        polls: task.polls,
        price_book: proof.price_book,
        list_price: task.list_price,
        price_factor_bp: task.factor,
        held_credits: task.amount,
        reported_credits: task.raw_consumed,
        consumed_credits: shown_credits(task),
        entry_id: proof.entry,
        keeps_content: task.keeps_content,
    }
}
