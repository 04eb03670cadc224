//! Evidence by hand: the forms that say what became of a task. The management API asks the video service before it records anything.

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{body, done, whole};
use crate::console::visit::{Fields, Outcome, Visit};

/// Sends a step of evidence. A refusal is told above the task, with both sides if they do not fit.
async fn step(visit: &Visit, fields: &Fields, what: &str, body: String, word: &str) -> Outcome {
    let task = visit.param("task");
    let place = format!("/admin/v1/holds/{task}/{what}");
    let call = visit.client.manage(Method::POST, &place).header("idempotency-key", fields.need("key")?);
    call.body(body).send().await?;
    Ok(done(visit, &format!("/tasks/{task}"), word))
}

/// Says which task of the video service a hold is.
pub(super) async fn settle(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let body = body(&[
        ("task_id", json!(fields.need("task_id")?.trim())),
        ("credits", json!(whole(&fields, "credits")?)),
        ("reason", json!(fields.need("reason")?)),
        // Without it the body stays the same as that of the first attempt.
        ("force", if fields.is_set("force") { json!(true) } else { Value::Null }),
    ]);
    step(&visit, &fields, "settle", body, "settled").await
}

/// Says that nothing is owed for a task.
pub(super) async fn release(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let body = body(&[
        ("reason", json!(fields.need("reason")?)),
        ("force", if fields.is_set("force") { json!(true) } else { Value::Null }),
    ]);
    step(&visit, &fields, "release", body, "released").await
}

/// Takes back what an operator recorded.
pub(super) async fn take_back(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let body = json!({"reason": fields.need("reason")?}).to_string();
    step(&visit, &fields, "take-back", body, "taken_back").await
}

#[derive(Debug, Deserialize)]
struct AdoptedAnswer {
    hold_id: String,
}

/// Adopts a task that the video service runs and no hold knows.
pub(super) async fn adopt(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let place = format!("/admin/v1/orgs/{}/adopt-task", visit.escaped(fields.need("org")?.trim()));
    let body = body(&[
        ("user_id", json!(fields.need("user")?.trim())),
        ("backend", json!(fields.need("backend")?)),
        ("account", json!(fields.get("account").map(str::trim))),
        ("task_id", json!(fields.need("id")?.trim())),
        ("reason", json!(fields.need("reason")?)),
        ("force", if fields.is_set("force") { json!(true) } else { Value::Null }),
    ]);
    let call = visit.client.manage(Method::POST, &place).header("idempotency-key", fields.need("key")?);
    let adopted: AdoptedAnswer = call.body(body).whole().await?;
    Ok(done(&visit, &format!("/tasks/{}", adopted.hold_id), "adopted"))
}
