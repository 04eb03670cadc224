//! `POST /api/generate`: into the paid path.

use crate::call::{Admitted, Call};
use crate::layers::{Below, Outcome};
use crate::order::{CreateBody, TaskData};
use crate::wire::Success;

/// Create a video task
///
/// Its credits are held before the video service sees it. Send an `Idempotency-Key`: then the same call can be repeated
/// until it is answered, and makes one task.
#[utoipa::path(
    post, path = "/api/generate", tag = "tasks", operation_id = "generate",
    params(
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$",
         description = "Another call with the same key and body gets the same answer. Kept for 72 hours"),
        ("X-Tollgate-Quote" = Option<String>, Header,
         description = "The `quote` of POST /api/quote for this very body: its price is kept"),
        ("X-Tollgate-Resend" = Option<String>, Header,
         description = "`yes`: send it although the same body is in doubt")
    ),
    request_body = CreateBody,
    responses((
        status = 200, description = "The task was taken", body = Success<TaskData>,
        headers(("Idempotent-Replayed" = String, description = "`true`: the answer of an earlier call with the same key"))
    ))
)]
pub(super) async fn generate<C: Below<Admitted>>(create: &C, call: Call<Admitted>) -> Outcome {
    create.take(call).await
}
