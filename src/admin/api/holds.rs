//! What operators look into: tasks that go on, tasks in doubt, losses, drift.

use axum::Json;
use serde::Deserialize;
use utoipa::IntoParams;

use super::call::{ApiCall, ReadCall, WriteCall};
use super::extract::{Query, Text, existing};
use super::page::{Page, PageLimit};
use super::problem::Problem;
use crate::access::callers::Caller;
use crate::ids::{HoldId, OrgId};
use crate::store::{Doubt, Drift, HoldInfo, Loss, RunningTask, UnfinishedRequest};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct DoubtQuery {
    /// Only tasks of this organisation.
    org_id: Option<OrgId>,
    /// The most items a page may have; 50 if omitted.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: PageLimit,
    /// `next_cursor` of the previous page.
    cursor: Option<String>,
}

/// List tasks in doubt
///
/// Tasks whose outcome is unknown, the oldest doubt first.
#[utoipa::path(
    get, path = "/admin/v1/holds/in-doubt", tag = "doubts and losses",
    responses((status = 200, description = "A page of holds in doubt", body = Page<Doubt>)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn list_doubts(call: ReadCall<(), Query<DoubtQuery>>) -> Result<Json<Page<Doubt>>, Problem> {
    let ApiCall { database, input: Query(query), .. } = call;
    let slice = query.limit.after(query.cursor.as_deref())?;
    let doubts = database.doubts(query.org_id, slice).await?;
    Ok(Page::of(doubts, query.limit, Doubt::place))
}

/// List running tasks
///
/// Tasks that go on, the oldest first; those in doubt are a list of their own.
#[utoipa::path(
    get, path = "/admin/v1/holds/running", tag = "doubts and losses",
    responses((status = 200, description = "A page of tasks that go on", body = Page<RunningTask>)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn list_running_tasks(
    call: ReadCall<(), Query<DoubtQuery>>,
) -> Result<Json<Page<RunningTask>>, Problem> {
    let ApiCall { database, input: Query(query), .. } = call;
    let slice = query.limit.after(query.cursor.as_deref())?;
    let tasks = database.running_tasks(query.org_id, slice).await?;
    Ok(Page::of(tasks, query.limit, |task| task.hold_id))
}

/// Show a hold
///
/// Its state, what an operator recorded of it, and digests of its request, by which it can be found on the vendor's pages. It is
/// found by the reference that its caller was given, and by the vendor's id of its task.
#[utoipa::path(
    get, path = "/admin/v1/holds/{hold_id}", tag = "doubts and losses",
    params(("hold_id" = String, Path, description = "The reference that the caller was given, or the vendor's id of the task")),
    responses((status = 200, description = "The hold", body = HoldInfo)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn show_hold(call: ReadCall<String>) -> Result<Json<HoldInfo>, Problem> {
    let ApiCall { database, path: id, .. } = call;
    Ok(Json(existing(database.hold_by_any_id(&id).await?, id)?))
}

/// The text that is kept with the task: who resolved the doubt, and why.
pub(super) fn said(caller: &Caller, reason: &Text) -> String {
    format!("{}: {}", caller.name(), reason.as_str())
}

/// Read the request of an unfinished task
///
/// A short excerpt of what the caller sent, for whoever has to find out what became of the task. It is kept until the task has
/// ended. That you read it is in the audit log.
#[utoipa::path(
    post, path = "/admin/v1/holds/{hold_id}/read-request", tag = "doubts and losses",
    params(("hold_id" = HoldId, Path, description = "The hold: the reference that its caller was given")),
    responses((status = 200, description = "The excerpt", body = UnfinishedRequest)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn read_hold_request(call: WriteCall<HoldId>) -> Result<Json<UnfinishedRequest>, Problem> {
    let ApiCall { database, path: hold_id, .. } = call;
    let found = database.read_request(hold_id).await?;
    found.map(Json).ok_or_else(|| {
        Problem::NotFound(format!(
            "nothing is kept of the request of {hold_id}: there is no such task, or it has ended"
        ))
    })
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct DaysQuery {
    /// How many days to look back; 30 if omitted.
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

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct LossQuery {
    /// How many days to look back; 30 if omitted.
    #[serde(default = "month")]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 3660)]
    days: u32,
    /// The most items a page may have; 50 if omitted.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: PageLimit,
    /// `next_cursor` of the previous page.
    cursor: Option<String>,
}

/// List losses
///
/// Tasks by which the platform lost credits, or may have lost some; newest first.
#[utoipa::path(
    get, path = "/admin/v1/losses", tag = "doubts and losses",
    responses((status = 200, description = "A page of losses", body = Page<Loss>)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn list_losses(call: ReadCall<(), Query<LossQuery>>) -> Result<Json<Page<Loss>>, Problem> {
    let ApiCall { database, input: Query(query), .. } = call;
    let slice = query.limit.after(query.cursor.as_deref())?;
    let losses = database.losses(checked(query.days)?, slice).await?;
    Ok(Page::of(losses, query.limit, Loss::place))
}

/// Show drift
///
/// Compares what was booked with what the vendor reported, by account, by task and by price, for the tasks that ended in the last days,
/// from the beginning of an hour (UTC) on.
#[utoipa::path(
    get, path = "/admin/v1/drift", tag = "doubts and losses",
    responses((status = 200, description = "The differences between the vendor and the ledger", body = Drift)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn show_drift(call: ReadCall<(), Query<DaysQuery>>) -> Result<Json<Drift>, Problem> {
    let ApiCall { database, input: Query(query), .. } = call;
    Ok(Json(database.drift(checked(query.days)?).await?))
}
