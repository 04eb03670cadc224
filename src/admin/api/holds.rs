//! What needs an operator's eye: tasks in doubt, losses, drift.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::access::{Acting, Caller};
use super::once::{Made, OnceBody};
use super::problem::Problem;
use super::request::{IdempotencyKey, Limit, Page, Path, Query, Text};
use crate::credits::Credits;
use crate::ids::{HoldId, OrgId};
use crate::store::{Doubt, Drift, Loss, Resolution, Resolved};

/// Which tasks.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DoubtQuery {
    /// Only of this organisation.
    org_id: Option<OrgId>,
    /// Items of a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List tasks in doubt
///
/// Those whose outcome is unknown, the oldest doubt first.
#[utoipa::path(
    get, path = "/admin/v1/holds/in-doubt", tag = "doubts and losses",
    params(DoubtQuery),
    responses((status = 200, body = Page<Doubt>)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn list_doubts(
    State(api): State<Api>,
    Query(query): Query<DoubtQuery>,
) -> Result<Json<Page<Doubt>>, Problem> {
    let slice = query.limit.behind(query.cursor.as_deref())?;
    let doubts = api.database.doubts(query.org_id, slice).await?;
    Ok(Page::of(doubts, query.limit, Doubt::place))
}

/// How it is known that the vendor took a task.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SettleBody {
    /// The vendor's id of the task: 1 to 255 visible ASCII characters.
    #[schema(min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    task_id: String,
    /// What the vendor consumed. Left out (better, while the vendor knows the task): it is asked until the task has ended,
    /// and its tenant gets the result.
    #[schema(minimum = 0)]
    credits: Option<i64>,
    /// How you know; kept with the task.
    reason: Text,
}

/// How it is known that nothing is owed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReleaseBody {
    /// How you know; kept with the task.
    reason: Text,
}

/// What is kept with the task: who said so, and why.
fn said(caller: &Caller, reason: &Text) -> String {
    format!("{}: {}", caller.name(), reason.as_str())
}

/// Say that the vendor took a task
#[utoipa::path(
    post, path = "/admin/v1/holds/{hold_id}/settle", tag = "doubts and losses",
    params(
        ("hold_id" = HoldId, Path, description = "Which: the caller's reference"),
        IdempotencyKey
    ),
    request_body = SettleBody,
    responses((status = 200, body = Resolved)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn settle_hold(
    Acting(database): Acting,
    caller: Caller,
    Path(hold_id): Path<HoldId>,
    call: OnceBody<SettleBody>,
) -> Result<Made<Resolved>, Problem> {
    let body = &call.body;
    let usable =
        (1..=255).contains(&body.task_id.len()) && body.task_id.bytes().all(|b| b.is_ascii_graphic());
    if !usable {
        return Err(Problem::Invalid("task_id must be 1 to 255 visible ASCII characters".into()));
    }
    let task = body.task_id.as_str().into();
    let resolution = match body.credits {
        Some(credits @ 0..) => Resolution::Succeeded { task, consumed: Credits::new(credits) },
        Some(_) => return Err(Problem::Invalid("credits cannot be negative".into())),
        None => Resolution::Taken { task },
    };
    let why = said(&caller, &body.reason);
    Ok(Made(StatusCode::OK, database.resolve(hold_id, resolution, &why, call.once()).await?))
}

/// Say that nothing is owed for a task
#[utoipa::path(
    post, path = "/admin/v1/holds/{hold_id}/release", tag = "doubts and losses",
    params(
        ("hold_id" = HoldId, Path, description = "Which: the caller's reference"),
        IdempotencyKey
    ),
    request_body = ReleaseBody,
    responses((status = 200, body = Resolved)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn release_hold(
    Acting(database): Acting,
    caller: Caller,
    Path(hold_id): Path<HoldId>,
    call: OnceBody<ReleaseBody>,
) -> Result<Made<Resolved>, Problem> {
    let why = said(&caller, &call.body.reason);
    Ok(Made(StatusCode::OK, database.resolve(hold_id, Resolution::NotOwed, &why, call.once()).await?))
}

/// How far back.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DaysQuery {
    /// Days; 30 if left out.
    #[serde(default = "month")]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 3660)]
    days: u32,
}

fn month() -> u32 {
    30
}

fn checked(days: u32) -> Result<u32, Problem> {
    let wrong = || Problem::Invalid("days must be from 1 to 3660".into());
    (1..=3660).contains(&days).then_some(days).ok_or_else(wrong)
}

/// How far back, and which part.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LossQuery {
    /// Days; 30 if left out.
    #[serde(default = "month")]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 3660)]
    days: u32,
    /// Items of a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List what the platform lost
///
/// Or may have lost; newest first.
#[utoipa::path(
    get, path = "/admin/v1/losses", tag = "doubts and losses",
    params(LossQuery),
    responses((status = 200, body = Page<Loss>)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn list_losses(
    State(api): State<Api>,
    Query(query): Query<LossQuery>,
) -> Result<Json<Page<Loss>>, Problem> {
    let slice = query.limit.behind(query.cursor.as_deref())?;
    let losses = api.database.losses(checked(query.days)?, slice).await?;
    Ok(Page::of(losses, query.limit, Loss::place))
}

/// Show the drift
///
/// What was booked beside what the vendor reported, by account, task and price.
#[utoipa::path(
    get, path = "/admin/v1/drift", tag = "doubts and losses",
    params(DaysQuery),
    responses((status = 200, body = Drift)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn show_drift(
    State(api): State<Api>,
    Query(query): Query<DaysQuery>,
) -> Result<Json<Drift>, Problem> {
    Ok(Json(api.database.drift(checked(query.days)?).await?))
}
