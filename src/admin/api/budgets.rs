//! Budgets: limits on the credits that may be held and charged in a window.

use axum::Json;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::call::{ApiCall, ReadCall, WriteCall};
use super::conditions::IfMatch;
use super::extract::{Body, Query, Tagged, Timestamp, existing, given};
use super::page::{Page, PageLimit};
use super::problem::Problem;
use crate::access::callers::Caller;
use crate::credits::Credits;
use crate::ids::{BudgetId, OrgId};
use crate::store::{
    Acting, Budget, BudgetChange, BudgetEvent, BudgetFilter, BudgetLevel, Database, NewBudget, Period,
};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct BudgetQuery {
    /// Only budgets of this level.
    #[param(inline)]
    level: Option<BudgetLevel>,
    /// Only budgets of this key, user or team; needs `level`.
    subject_id: Option<String>,
    /// Only budgets of this period.
    #[param(inline)]
    period: Option<Period>,
    /// The most items a page may have; 50 if omitted.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: PageLimit,
    /// `next_cursor` of the previous page.
    cursor: Option<String>,
}

async fn page(
    database: &Database,
    org: Option<OrgId>,
    query: BudgetQuery,
) -> Result<Json<Page<Budget>>, Problem> {
    let subject = match (query.level, &query.subject_id) {
        (_, None) => None,
        (Some(level), Some(text)) => Some(level.subject(text)?),
        (None, Some(_)) => {
            return Err(Problem::Invalid("subject_id needs level: say of which level the subject is".into()));
        }
    };
    let filter = BudgetFilter { level: query.level, subject, period: query.period };
    let slice = query.limit.after(query.cursor.as_deref())?;
    let budgets = database.list_budgets(org, filter, slice).await?;
    Ok(Page::of(budgets, query.limit, |budget| budget.budget_id))
}

/// List an organisation's budgets
///
/// Oldest first, each with the credits that are held and charged in its current window.
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/budgets", tag = "budgets",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    responses((status = 200, description = "A page of budgets", body = Page<Budget>)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn list_org_budgets(
    call: ReadCall<OrgId, Query<BudgetQuery>>,
) -> Result<Json<Page<Budget>>, Problem> {
    let ApiCall { database, path: org, input: Query(query), .. } = call;
    page(&database, Some(org), query).await
}

/// List the platform's default budgets
///
/// A default budget applies to organisations that have no budget of their own of the same level and period.
#[utoipa::path(
    get, path = "/admin/v1/budgets", tag = "budgets",
    responses((status = 200, description = "A page of budgets", body = Page<Budget>)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn list_default_budgets(
    call: ReadCall<(), Query<BudgetQuery>>,
) -> Result<Json<Page<Budget>>, Problem> {
    let ApiCall { database, input: Query(query), .. } = call;
    page(&database, None, query).await
}

/// The fields of a new budget.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BudgetBody {
    /// Whether the budget bounds a key, a user, a team or the whole organisation.
    level: BudgetLevel,
    /// The key, user or team; omitted: every one of that level that has no budget of its own.
    subject_id: Option<String>,
    /// The length of a window. Windows begin in the organisation's time zone; weeks begin on Monday.
    period: Period,
    /// Credits that may be held and charged in one window; null: no limit, even if a default budget sets one.
    #[schema(minimum = 0, required = true)]
    #[serde(deserialize_with = "nullable")]
    credits: Option<i64>,
    /// Percentages of the limit at which an event is recorded, once for each window and limit; omitted: 50, 80, 100.
    #[schema(max_items = 10)]
    thresholds: Option<Vec<i32>>,
}

/// A field that may be null, but must not be omitted.
fn nullable<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Option::deserialize(deserializer)
}

async fn create(database: &Acting, org: Option<OrgId>, body: BudgetBody) -> Result<Tagged<Budget>, Problem> {
    let new = NewBudget {
        org,
        level: body.level,
        subject: body.subject_id,
        period: body.period,
        credits: body.credits.map(Credits::new),
        thresholds: body.thresholds,
    };
    let id = database.make_budget(&new).await?;
    let budget = existing(database.budget(id).await?, id)?;
    Ok(Tagged(StatusCode::CREATED, budget.version, budget))
}

/// Only operators set the budget of a whole organisation; its admins divide it among teams, users and keys.
fn may_set(caller: &Caller, level: BudgetLevel) -> Result<(), Problem> {
    if caller.org().is_some() && level == BudgetLevel::Organisation {
        return Err(Problem::Forbidden("only operators may set a budget of the whole organisation".into()));
    }
    Ok(())
}

async fn may_change(database: &Database, caller: &Caller, id: BudgetId) -> Result<(), Problem> {
    may_set(caller, existing(database.budget(id).await?, id)?.level)
}

/// Create a budget
///
/// What was spent earlier in the current window counts. The budget is in force when that is counted: with the answer, unless
/// that takes more than ten seconds; `counting` is true until then. An organisation's admins may create budgets of teams, users
/// and keys; only operators may create the budget of the whole organisation.
#[utoipa::path(
    post, path = "/admin/v1/orgs/{org_id}/budgets", tag = "budgets",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    request_body = BudgetBody,
    responses((status = 201, description = "The new budget", body = Budget)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn create_org_budget(
    call: WriteCall<OrgId, Body<BudgetBody>>,
) -> Result<Tagged<Budget>, Problem> {
    let ApiCall { caller, database, path: org, input: Body(body), .. } = call;
    may_set(&caller, body.level)?;
    create(&database, Some(org), body).await
}

/// Create a default budget of the platform
///
/// It applies in every organisation that has no budget of its own of the same level and period. It comes into force in one
/// organisation after the other; `counting` is true until it is in force in all of them.
#[utoipa::path(
    post, path = "/admin/v1/budgets", tag = "budgets",
    request_body = BudgetBody,
    responses((status = 201, description = "The new budget", body = Budget)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn create_default_budget(
    call: WriteCall<(), Body<BudgetBody>>,
) -> Result<Tagged<Budget>, Problem> {
    let ApiCall { database, input: Body(body), .. } = call;
    create(&database, None, body).await
}

/// Show a budget
#[utoipa::path(
    get, path = "/admin/v1/budgets/{budget_id}", tag = "budgets",
    params(("budget_id" = BudgetId, Path, description = "The budget")),
    responses((status = 200, description = "The budget", body = Budget)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn show_budget(call: ReadCall<BudgetId>) -> Result<Tagged<Budget>, Problem> {
    let ApiCall { database, path: id, .. } = call;
    let budget = existing(database.budget(id).await?, id)?;
    Ok(Tagged(StatusCode::OK, budget.version, budget))
}

/// Changes of a budget; a field that is omitted keeps its value.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BudgetPatch {
    /// Credits of one window; null: no limit. A limit below what is already spent refuses new tasks.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>, minimum = 0)]
    credits: Option<Option<i64>>,
    /// Percentages of the limit at which an event is recorded.
    #[schema(max_items = 10)]
    thresholds: Option<Vec<i32>>,
}

/// Change a budget
#[utoipa::path(
    patch, path = "/admin/v1/budgets/{budget_id}", tag = "budgets",
    params(("budget_id" = BudgetId, Path, description = "The budget")),
    request_body = BudgetPatch,
    responses((status = 200, description = "The budget after the change", body = Budget)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn update_budget(
    call: WriteCall<BudgetId, (IfMatch, Body<BudgetPatch>)>,
) -> Result<Tagged<Budget>, Problem> {
    let ApiCall { caller, database, path: id, input: (IfMatch(version), Body(patch)), .. } = call;
    may_change(&database, &caller, id).await?;
    let credits = patch.credits.map(|credits| credits.map(Credits::new));
    let change = BudgetChange { credits, thresholds: patch.thresholds };
    database.change_budget(id, change, version).await?;
    let budget = existing(database.budget(id).await?, id)?;
    Ok(Tagged(StatusCode::OK, budget.version, budget))
}

/// A temporary raise of a limit.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RaiseBody {
    /// The raised limit in credits.
    #[schema(minimum = 0)]
    credits: i64,
    /// When the raise ends.
    #[schema(value_type = String, format = DateTime)]
    until: Timestamp,
}

/// Raise a budget temporarily
#[utoipa::path(
    post, path = "/admin/v1/budgets/{budget_id}/raise", tag = "budgets",
    params(("budget_id" = BudgetId, Path, description = "The budget")),
    request_body = RaiseBody,
    responses((status = 200, description = "The budget after the change", body = Budget)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn raise_budget(
    call: WriteCall<BudgetId, (IfMatch, Body<RaiseBody>)>,
) -> Result<Tagged<Budget>, Problem> {
    let ApiCall { caller, database, path: id, input: (IfMatch(version), Body(body)), .. } = call;
    may_change(&database, &caller, id).await?;
    database.raise_budget(id, Some((Credits::new(body.credits), body.until.get())), version).await?;
    let budget = existing(database.budget(id).await?, id)?;
    Ok(Tagged(StatusCode::OK, budget.version, budget))
}

/// End a budget's temporary raise
#[utoipa::path(
    delete, path = "/admin/v1/budgets/{budget_id}/raise", tag = "budgets",
    params(("budget_id" = BudgetId, Path, description = "The budget")),
    responses((status = 204, description = "The budget is not raised any more")),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn end_budget_raise(call: WriteCall<BudgetId, IfMatch>) -> Result<StatusCode, Problem> {
    let ApiCall { caller, database, path: id, input: IfMatch(version), .. } = call;
    may_change(&database, &caller, id).await?;
    database.raise_budget(id, None, version).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Delete a budget
///
/// Spending stays recorded and counts again if the same budget is created again. A default budget applies from now on, if
/// there is one.
#[utoipa::path(
    delete, path = "/admin/v1/budgets/{budget_id}", tag = "budgets",
    params(("budget_id" = BudgetId, Path, description = "The budget")),
    responses((status = 204, description = "Deleted")),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn delete_budget(call: WriteCall<BudgetId, IfMatch>) -> Result<StatusCode, Problem> {
    let ApiCall { caller, database, path: id, input: IfMatch(version), .. } = call;
    may_change(&database, &caller, id).await?;
    database.delete_budget(id, version).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct EventQuery {
    /// Only events of this budget.
    budget_id: Option<BudgetId>,
    /// The most items a page may have; 50 if omitted.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: PageLimit,
    /// `next_cursor` of the previous page.
    cursor: Option<String>,
}

/// List budget events
///
/// The thresholds that the organisation's budgets have reached, newest first; each once for a window and limit.
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/budget-events", tag = "budgets",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    responses((status = 200, description = "A page of budget events", body = Page<BudgetEvent>)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn list_budget_events(
    call: ReadCall<OrgId, Query<EventQuery>>,
) -> Result<Json<Page<BudgetEvent>>, Problem> {
    let ApiCall { database, path: org, input: Query(query), .. } = call;
    let slice = query.limit.after(query.cursor.as_deref())?;
    let events = database.budget_events(org, query.budget_id, slice).await?;
    Ok(Page::of(events, query.limit, |event| event.event_id))
}
