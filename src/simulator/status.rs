//! The status call: `GET /api/status`.

use std::sync::Arc;

use http::{Response, StatusCode};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use url::form_urlencoded;

use super::answer;
use super::clock::Millis;
use super::script::{Active, FaultPlan, Replacement, SeenCall};
use super::shared::Shared;
use super::task::{Outcome, Shape, Task, TaskState};
use super::wire::{Cut, WireBody};

/// A field's true value, or the one a script puts in its place.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Figure<'a, T> {
    True(T),
    Scripted(&'a Value),
}

impl<'a, T> Figure<'a, T> {
    /// Nothing if the script drops the field.
    pub(super) fn unless(replacement: &'a Option<Replacement>, truth: T) -> Option<Figure<'a, T>> {
        match replacement {
            None => Some(Figure::True(truth)),
            Some(Replacement::Json(value)) => Some(Figure::Scripted(value)),
            Some(Replacement::Missing) => None,
        }
    }
}

#[derive(Serialize)]
struct StatusReport<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<Figure<'a, &'a str>>,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    consumed_credits: Option<Figure<'a, i64>>,
    created_at: String,
    request: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<Videos<'a>>,
    error_message: Option<&'static str>,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Videos<'a> {
    Null,
    List([String; 1]),
    String(String),
    Object { url: String },
    Json(&'a Value),
}

/// Answers a status call of a valid key.
pub(super) async fn status(
    shared: &Shared,
    script: &Active,
    account: &Arc<str>,
    query: Option<&str>,
) -> Result<Response<WireBody>, Cut> {
    let mut pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let task_id = pairs.find(|(name, _)| name == "task_id").map(|(_, value)| value).unwrap_or_default();
    let task = shared.books.task(&task_id).filter(|task| task.account == *account);
    if let Some(task) = &task {
        task.count_poll();
    }
    let plan = script.plan(&SeenCall::Status { account, task_id: &task_id, task: task.as_deref() });
    if let Some(delay) = plan.delay {
        tokio::time::sleep(delay).await;
    }
    shared
        .carry_out(plan, || match &task {
            _ if task_id.is_empty() => {
                answer::failure(StatusCode::BAD_REQUEST, "INVALID_REQUEST", "task_id is required")
            }
            Some(task) if !task.is_forgotten() => report(shared, task, plan),
            _ => answer::no_such_task(),
        })
        .await
}

fn report(shared: &Shared, task: &Task, plan: &FaultPlan) -> Response<WireBody> {
    let now = Millis::now();
    let state = task.state(now);
    // A word from a status rule hides the end of the task; one from its create goes when the task ends.
    let own_word = task.oddities.as_ref().and_then(|own| own.status_word.as_deref());
    let odd_word = plan.status_word.as_deref().or(own_word.filter(|_| state == TaskState::InProgress));
    let shown = if odd_word.is_some() { TaskState::InProgress } else { state };
    let shape = plan.response.as_ref().or(task.oddities.as_ref().and_then(|own| own.response.as_ref()));
    let echo = shared.echoes.of(&task.task_id);
    answer::success(StatusReport {
        task_id: Figure::unless(&plan.task_id, &*task.task_id),
        status: odd_word.unwrap_or(state.word()),
        consumed_credits: Figure::unless(&plan.consumed, task.consumed(now)),
        created_at: task.created.to_rfc3339(),
        request: echo.as_deref().unwrap_or(&task.request),
        response: match shown {
            TaskState::Ended(Outcome::Success) => videos(shared, task, shape.unwrap_or(&Shape::List)),
            _ => Some(Videos::Null),
        },
        error_message: (shown == TaskState::Ended(Outcome::Failed)).then_some("Video generation failed"),
        kind: task.product.name,
    })
}

fn videos<'a>(shared: &Shared, task: &Task, shape: &'a Shape) -> Option<Videos<'a>> {
    let url = || format!("{}/videos/{}.mp4", shared.public_url, task.task_id);
    match shape {
        Shape::List => Some(Videos::List([url()])),
        Shape::String => Some(Videos::String(url())),
        Shape::Object => Some(Videos::Object { url: url() }),
        Shape::Null => Some(Videos::Null),
        Shape::Missing => None,
        Shape::Json(value) => Some(Videos::Json(value)),
    }
}
