//! `POST /api/generate`: a create, which the paid stages answer.

use crate::call::{Admitted, Call};
use crate::layers::{Below, Outcome};
use crate::order::{CreateBody, TaskData};
use crate::wire::Success;

/// Create a video task
///
/// The task's credits are held before the request is sent to the video service. Send an `Idempotency-Key`: then you can
/// repeat the call until it is answered, and get only one task.
///
/// Without a key, the same body from the same user gets the answer to an earlier call (with `Idempotent-Replayed: true`) if the caller of
/// that one had gone before the answer, or got a 504: while it is not answered, and for 60 seconds after the video service accepted its
/// task. While an earlier call is in doubt, it gets the same 504. In all other cases it is another purchase.
#[utoipa::path(
    post, path = "/api/generate", tag = "tasks", operation_id = "generate",
    params(
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$",
         description = "Your name for this create: a repeated call with the same key and body gets the same answer. Kept for 72 hours, unless configured otherwise"),
        ("X-Tollgate-Quote" = Option<String>, Header,
         description = "The `quote` that POST /api/quote has answered for exactly this body: the task costs the quoted price"),
        ("X-Tollgate-Resend" = Option<String>, Header,
         description = "`yes`: create a task even if an earlier create of the same body is in doubt, or unanswered although its caller has gone"),
        ("X-Tollgate-Store" = Option<String>, Header, pattern = "^([Yy][Ee][Ss]|[Nn][Oo])$",
         description = "`no`: nothing that the video service says of the task is kept for more than some minutes after its end has been read, or an hour after its end"),
        ("X-Tollgate-Labels" = Option<String>, Header, example = "project=x, shot=12",
         description = "Up to 16 labels of the task, to find and count tasks by: `name=value`, separated by commas. Names have 1 to 64 characters, values 1 to 128; `%XX` stands for a byte, as in a URL. Not sent to the video service. Together with the labels in `metadata`")
    ),
    request_body = CreateBody,
    responses((
        status = 200, description = "The video service has accepted the task", body = Success<TaskData>,
        headers(("Idempotent-Replayed" = String, description = "`true`: this is the answer to an earlier call: one with the same key, or one with the same body and no key whose caller had gone"))
    ))
)]
pub(super) async fn generate<C: Below<Admitted>>(create: &C, call: Call<Admitted>) -> Outcome {
    create.take(call).await
}
