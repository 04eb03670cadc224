//! Budgets.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::access::{Acting, Caller};
use super::problem::Problem;
use super::request::{At, Body, IfMatch, Limit, Page, Path, Query, Tagged, given, there};
use crate::credits::Credits;
use crate::ids::{BudgetId, OrgId};
use crate::store::{
    self, Budget, BudgetChange, BudgetEvent, BudgetFilter, BudgetLevel, Database, NewBudget, Period,
};

/// Which budgets.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct BudgetQuery {
    /// Only those of this level.
    #[param(inline)]
    level: Option<BudgetLevel>,
    /// Only those of this key, user or team; say its level too.
    subject_id: Option<String>,
    /// Only those of this period.
    #[param(inline)]
    period: Option<Period>,
    /// Items of a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

async fn page(api: &Api, org: Option<OrgId>, query: BudgetQuery) -> Result<Json<Page<Budget>>, Problem> {
    let subject = match (query.level, &query.subject_id) {
        (_, None) => None,
        (Some(level), Some(text)) => Some(level.subject(text)?),
        (None, Some(_)) => return Err(Problem::Invalid("subject_id needs its level beside it".into())),
    };
    let filter = BudgetFilter { level: query.level, subject, period: query.period };
    let slice = query.limit.behind(query.cursor.as_deref())?;
    let budgets = api.database.list_budgets(org, filter, slice).await?;
    Ok(Page::of(budgets, query.limit, |budget| budget.budget_id))
}

/// List an organisation's budgets
///
/// Oldest first, with what is held and charged in the present window.
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/budgets", tag = "budgets",
    params(("org_id" = OrgId, Path, description = "Of which organisation"), BudgetQuery),
    responses((status = 200, body = Page<Budget>)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn list_org_budgets(
    State(api): State<Api>,
    Path(org): Path<OrgId>,
    Query(query): Query<BudgetQuery>,
) -> Result<Json<Page<Budget>>, Problem> {
    page(&api, Some(org), query).await
}

/// List the platform's default budgets
///
/// They count where an organisation has none of the same level and period.
#[utoipa::path(
    get, path = "/admin/v1/budgets", tag = "budgets",
    params(BudgetQuery),
    responses((status = 200, body = Page<Budget>)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn list_default_budgets(
    State(api): State<Api>,
    Query(query): Query<BudgetQuery>,
) -> Result<Json<Page<Budget>>, Problem> {
    page(&api, None, query).await
}

/// A budget to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BudgetBody {
    /// Whose spending it bounds.
    level: BudgetLevel,
    /// Which key, user or team; left out: each of that level that has none of its own.
    subject_id: Option<String>,
    /// Of which time, by the organisation's clock; weeks begin on Monday.
    period: Period,
    /// How much; null: no limit, although a wider default may set one.
    #[schema(minimum = 0, required = true)]
    #[serde(deserialize_with = "nullable")]
    credits: Option<i64>,
    /// Percent of the limit at which an event is raised, once a window and limit; left out: 50, 80, 100.
    #[schema(max_items = 10)]
    thresholds: Option<Vec<i32>>,
}

/// A field that may be null, but must be there.
fn nullable<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Option::deserialize(deserializer)
}

async fn create(
    database: &store::Acting,
    org: Option<OrgId>,
    body: BudgetBody,
) -> Result<Tagged<Budget>, Problem> {
    let new = NewBudget {
        org,
        level: body.level,
        subject: body.subject_id,
        period: body.period,
        credits: body.credits.map(Credits::new),
        thresholds: body.thresholds,
    };
    let id = database.make_budget(&new).await?;
    let budget = there(database.budget(id).await?, id)?;
    Ok(Tagged(StatusCode::CREATED, budget.version, budget))
}

/// An organisation's own budgets are set by those who run the platform; its admins divide what is inside.
fn may_set(caller: &Caller, level: BudgetLevel) -> Result<(), Problem> {
    if caller.org().is_some() && level == BudgetLevel::Organisation {
        return Err(Problem::Forbidden("a budget of the whole organisation is set by operators".into()));
    }
    Ok(())
}

async fn may_change(database: &Database, caller: &Caller, id: BudgetId) -> Result<(), Problem> {
    may_set(caller, there(database.budget(id).await?, id)?.level)
}

/// Make a budget
///
/// What was spent in its present window before counts at once. An organisation's admins make those of teams, users and
/// keys; that of the organisation is made by operators.
#[utoipa::path(
    post, path = "/admin/v1/orgs/{org_id}/budgets", tag = "budgets",
    params(("org_id" = OrgId, Path, description = "Of which organisation")),
    request_body = BudgetBody,
    responses((status = 201, body = Budget)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn create_org_budget(
    Acting(database): Acting,
    caller: Caller,
    Path(org): Path<OrgId>,
    Body(body): Body<BudgetBody>,
) -> Result<Tagged<Budget>, Problem> {
    may_set(&caller, body.level)?;
    create(&database, Some(org), body).await
}

/// Make a default budget of the platform
///
/// For each of its level, in every organisation that has none of the same level and period.
#[utoipa::path(
    post, path = "/admin/v1/budgets", tag = "budgets",
    request_body = BudgetBody,
    responses((status = 201, body = Budget)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn create_default_budget(
    Acting(database): Acting,
    Body(body): Body<BudgetBody>,
) -> Result<Tagged<Budget>, Problem> {
    create(&database, None, body).await
}

/// Show a budget
#[utoipa::path(
    get, path = "/admin/v1/budgets/{budget_id}", tag = "budgets",
    params(("budget_id" = BudgetId, Path, description = "Which")),
    responses((status = 200, body = Budget)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn show_budget(
    State(api): State<Api>,
    Path(id): Path<BudgetId>,
) -> Result<Tagged<Budget>, Problem> {
    let budget = there(api.database.budget(id).await?, id)?;
    Ok(Tagged(StatusCode::OK, budget.version, budget))
}

/// What is to change of a budget; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BudgetPatch {
    /// How much; null: no limit. Below what is spent it refuses what is new.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>, minimum = 0)]
    credits: Option<Option<i64>>,
    /// Percent of the limit at which an event is raised.
    #[schema(max_items = 10)]
    thresholds: Option<Vec<i32>>,
}

/// Change a budget
#[utoipa::path(
    patch, path = "/admin/v1/budgets/{budget_id}", tag = "budgets",
    params(
        ("budget_id" = BudgetId, Path, description = "Which"),
        ("If-Match" = Option<String>, Header, description = "The ETag it must still have")
    ),
    request_body = BudgetPatch,
    responses((status = 200, body = Budget)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn update_budget(
    Acting(database): Acting,
    caller: Caller,
    Path(id): Path<BudgetId>,
    IfMatch(version): IfMatch,
    Body(patch): Body<BudgetPatch>,
) -> Result<Tagged<Budget>, Problem> {
    may_change(&database, &caller, id).await?;
    let credits = patch.credits.map(|credits| credits.map(Credits::new));
    let change = BudgetChange { credits, thresholds: patch.thresholds };
    database.change_budget(id, change, version).await?;
    let budget = there(database.budget(id).await?, id)?;
    Ok(Tagged(StatusCode::OK, budget.version, budget))
}

/// A raise that ends by itself.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RaiseBody {
    /// To how much.
    #[schema(minimum = 0)]
    credits: i64,
    /// Until when.
    #[schema(value_type = String, format = DateTime)]
    until: At,
}

/// Raise a budget for a time
#[utoipa::path(
    post, path = "/admin/v1/budgets/{budget_id}/raise", tag = "budgets",
    params(
        ("budget_id" = BudgetId, Path, description = "Which"),
        ("If-Match" = Option<String>, Header, description = "The ETag it must still have")
    ),
    request_body = RaiseBody,
    responses((status = 200, body = Budget)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn raise_budget(
    Acting(database): Acting,
    caller: Caller,
    Path(id): Path<BudgetId>,
    IfMatch(version): IfMatch,
    Body(body): Body<RaiseBody>,
) -> Result<Tagged<Budget>, Problem> {
    may_change(&database, &caller, id).await?;
    database.raise_budget(id, Some((Credits::new(body.credits), body.until.get())), version).await?;
    let budget = there(database.budget(id).await?, id)?;
    Ok(Tagged(StatusCode::OK, budget.version, budget))
}

/// End a budget's raise now
#[utoipa::path(
    delete, path = "/admin/v1/budgets/{budget_id}/raise", tag = "budgets",
    params(
        ("budget_id" = BudgetId, Path, description = "Which"),
        ("If-Match" = Option<String>, Header, description = "The ETag it must still have")
    ),
    responses((status = 204, description = "It is not raised")),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn end_budget_raise(
    Acting(database): Acting,
    caller: Caller,
    Path(id): Path<BudgetId>,
    IfMatch(version): IfMatch,
) -> Result<StatusCode, Problem> {
    may_change(&database, &caller, id).await?;
    database.raise_budget(id, None, version).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Delete a budget
///
/// What was counted stays, and counts again if one is made in its place. A wider default counts from now on, if there is one.
#[utoipa::path(
    delete, path = "/admin/v1/budgets/{budget_id}", tag = "budgets",
    params(
        ("budget_id" = BudgetId, Path, description = "Which"),
        ("If-Match" = Option<String>, Header, description = "The ETag it must still have")
    ),
    responses((status = 204, description = "It is deleted")),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn delete_budget(
    Acting(database): Acting,
    caller: Caller,
    Path(id): Path<BudgetId>,
    IfMatch(version): IfMatch,
) -> Result<StatusCode, Problem> {
    may_change(&database, &caller, id).await?;
    database.delete_budget(id, version).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventQuery {
    /// Only those of this budget.
    budget_id: Option<BudgetId>,
    /// Items of a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List the thresholds that an organisation's budgets have reached
///
/// Newest first; each threshold once a window and limit.
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/budget-events", tag = "budgets",
    params(("org_id" = OrgId, Path, description = "Of which organisation"), EventQuery),
    responses((status = 200, body = Page<BudgetEvent>)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn list_budget_events(
    State(api): State<Api>,
    Path(org): Path<OrgId>,
    Query(query): Query<EventQuery>,
) -> Result<Json<Page<BudgetEvent>>, Problem> {
    let slice = query.limit.behind(query.cursor.as_deref())?;
    let events = api.database.budget_events(org, query.budget_id, slice).await?;
    Ok(Page::of(events, query.limit, |event| event.event_id))
}
