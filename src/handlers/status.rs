//! `GET /api/status?task_id=`: the state of a task.

use http::{HeaderName, HeaderValue, Method};

use super::Handlers;
use crate::call::{Admitted, Call};
use crate::error::{Answer, GatewayError};
use crate::order::TaskData;
use crate::poll::ShownView;
use crate::wire::Success;

/// Show the state of a task
///
/// Any task of the caller's organisation. The gateway answers from its cache, and asks the video service when the cached
/// state is old. Polling costs no credits. Poll every few seconds while `status` is `IN_PROGRESS` or a word you do not know.
#[utoipa::path(
    get, path = "/api/status", tag = "tasks", operation_id = "status",
    params(("task_id" = String, Query, min_length = 1, max_length = 255, example = "task-id-of-your-create",
            description = "The `task_id` of a create's answer, or the `reference` in a 504")),
    responses((
        status = 200, description = "The state of the task", body = Success<TaskData>,
        headers(
            ("X-Tollgate-Stale-Seconds" = u64, description = "Age of this state in seconds; omitted if the state is final"),
            ("X-Tollgate-Labels" = String, description = "The labels of the task, as a create sends them; omitted if it has none")
        )
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
    let ShownView { view, waited, room } =
        handlers.poller.view(call.stage.principal.org, &id).await?.ok_or(GatewayError::TaskNotFound)?;
    call.context.notes.add(|notes| {
        notes.hold = Some(view.task().hold);
        notes.waited += waited;
    });
    let mut answer = handlers.success_in(room, call.stage.principal.org, view.body())?;
    // A HEAD request gets no body, so nothing was read.
    if call.context.method != Method::HEAD {
        handlers.poller.has_read(&view);
    }
    let labels = &view.task().labels;
    if !labels.is_empty()
        && let Ok(value) = HeaderValue::try_from(labels.header())
    {
        answer.headers_mut().insert(HeaderName::from_static("x-tollgate-labels"), value);
    }
    if !view.is_final() {
        let seconds = view.age(handlers.clock).as_secs();
        answer.headers_mut().insert(HeaderName::from_static("x-tollgate-stale-seconds"), seconds.into());
    }
    Ok(answer)
}
