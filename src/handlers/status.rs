//! `GET /api/status?task_id=` (contract, section 3).

use http::{HeaderName, StatusCode};

use super::Handlers;
use crate::call::{Admitted, Call};
use crate::error::{Answer, GatewayError, json_answer};
use crate::order::TaskData;
use crate::wire::Success;

/// Show the state of a task
///
/// Of any task of the caller's organisation, from here; the video service is asked when what is known is old. Polling
/// costs nothing. Ask every few seconds until `status` is neither `IN_PROGRESS` nor any word you do not know.
#[utoipa::path(
    get, path = "/api/status", tag = "tasks", operation_id = "status",
    params(("task_id" = String, Query, min_length = 1, max_length = 255,
            description = "The task_id of a create, or the reference in a 504")),
    responses((
        status = 200, description = "What is known of it", body = Success<TaskData>,
        headers(("X-Tollgate-Stale-Seconds" = u64, description = "How old this is; left out when it is final"))
    ))
)]
pub(super) async fn status(handlers: &Handlers, call: Call<Admitted>) -> Result<Answer, GatewayError> {
    let id = call.context.parameter("task_id")?.filter(|id| !id.is_empty());
    let Some(id) = id else {
        return Err(GatewayError::invalid_request("'task_id' is missing: GET /api/status?task_id=<id>"));
    };
    if id.len() > 255 || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(GatewayError::TaskNotFound);
    }
    let (view, waited) =
        handlers.poller.view(call.stage.principal.org, &id).await?.ok_or(GatewayError::TaskNotFound)?;
    call.context.notes.add(|notes| {
        notes.hold = Some(view.task().hold);
        notes.waited += waited;
    });
    let mut answer = json_answer(StatusCode::OK, view.body());
    if !view.is_final() {
        let seconds = view.age(handlers.clock).as_secs();
        answer.headers_mut().insert(HeaderName::from_static("x-tollgate-stale-seconds"), seconds.into());
    }
    Ok(answer)
}
