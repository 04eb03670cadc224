//! `DELETE /api/tasks/{task_id}/content`: erases what is stored about a task.

use serde::Serialize;
use utoipa::ToSchema;

use super::Handlers;
use crate::call::{Admitted, Call};
use crate::error::{Answer, GatewayError};
use crate::ids::HoldId;
use crate::layers::route::task_of_content;
use crate::store::Role;
use crate::wire::{Success, success};

/// A task whose content is erased.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErasedData {
    /// The gateway's own reference of the task.
    reference: HoldId,
}

/// Erase the content of a task
///
/// What the video service said about it: prompts that it repeats, links, messages. The task itself, its credits and its state
/// stay. Of a task that goes on nothing is kept for more than some minutes after its end has been read, or an hour after its end. A member erases
/// the content of its own tasks, an organisation's admin of all. Other gateways may show what they have cached for another
/// minute.
#[utoipa::path(
    delete, path = "/api/tasks/{task_id}/content", tag = "tasks", operation_id = "erase_content",
    params(("task_id" = String, Path, min_length = 1, max_length = 255, example = "task-id-of-your-create",
            description = "The `task_id` of a create's answer, or the `reference` of the task")),
    responses((status = 200, description = "Nothing is stored any more", body = Success<ErasedData>))
)]
pub(super) async fn erase_content(handlers: &Handlers, call: Call<Admitted>) -> Result<Answer, GatewayError> {
    let principal = &call.stage.principal;
    let id = task_of_content(&call.context.path).ok_or(GatewayError::NotFound)?;
    let found = handlers.poller.find(principal.org, id).await?;
    let task = found.ok_or(GatewayError::TaskNotFound)?;
    call.context.notes.add(|notes| notes.hold = Some(task.hold));
    if principal.role == Role::Member && task.user != principal.user {
        return Err(GatewayError::Forbidden(
            "only an organisation's admin can erase content of other users' tasks",
        ));
    }
    handlers.poller.erase(&task).await?;
    handlers.success(principal.org, success(&ErasedData { reference: task.hold }))
}
