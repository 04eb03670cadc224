//! Requests of members for a temporary raise of a budget, and their answers.

use axum::Json;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::call::{ApiCall, ReadCall, WriteCall};
use super::extract::{Body, Query, Text, Timestamp, existing};
use super::key_policy::member;
use super::page::{Page, PageLimit};
use super::problem::Problem;
use crate::access::callers::Caller;
use crate::credits::Credits;
use crate::ids::{BudgetRequestId, OrgId, UserId};
use crate::store::{
    BudgetLevel, BudgetRequest, Database, Grant, GrantVerdict, NewBudgetRequest, Period, RequestFilter,
    RequestState, RequestVerdict,
};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestQuery {
    /// Only requests of this user.
    user_id: Option<UserId>,
    /// Only requests in this state.
    #[param(inline)]
    state: Option<RequestState>,
    /// The most items a page may have; 50 if omitted.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: PageLimit,
    /// `next_cursor` of the previous page.
    cursor: Option<String>,
}

/// The user whose things a member may see: itself. Others see those of the user they name, or all.
pub(super) fn of_user(caller: &Caller, named: Option<UserId>) -> Result<Option<UserId>, Problem> {
    match (member(caller), named) {
        (None, named) => Ok(named),
        (Some(principal), None) => Ok(Some(principal.user)),
        (Some(principal), Some(named)) if named == principal.user => Ok(Some(named)),
        (Some(_), Some(_)) => {
            Err(Problem::Forbidden("members see only what is their own: omit user_id".into()))
        }
    }
}

/// List requests for more budget
///
/// Newest first; a member sees its own. An organisation keeps a thousand: the oldest that are not open go.
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/budget-requests", tag = "budgets",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    responses((status = 200, description = "A page of requests", body = Page<BudgetRequest>)),
    security(("bearer" = ["operator", "operator-read", "org-admin", "member"]))
)]
pub(super) async fn list_budget_requests(
    call: ReadCall<OrgId, Query<RequestQuery>>,
) -> Result<Json<Page<BudgetRequest>>, Problem> {
    let ApiCall { caller, database, path: org, input: Query(query), .. } = call;
    let slice = query.limit.after(query.cursor.as_deref())?;
    let filter = RequestFilter { user: of_user(&caller, query.user_id)?, state: query.state };
    let requests = database.budget_requests(org, filter, slice).await?;
    Ok(Page::of(requests, query.limit, |request| request.request_id))
}

/// A request for a temporary raise of a budget.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRequestBody {
    /// Whose budget: that of the key you call with, yours, your team's or your organisation's. It must be one that counts for
    /// you and has a limit.
    level: BudgetLevel,
    period: Period,
    /// The limit you ask for, in credits; more than the limit in force.
    #[schema(minimum = 1)]
    credits: i64,
    /// When the raise shall end, at least an hour from now.
    #[schema(value_type = String, format = DateTime)]
    until: Timestamp,
    /// Why you ask, in words for who answers.
    reason: Text,
    /// The user that asks; omitted: you.
    user_id: Option<UserId>,
}

/// Ask for more budget
///
/// An admin of the organisation, or an operator, grants or declines it. A user may have three open requests.
#[utoipa::path(
    post, path = "/admin/v1/orgs/{org_id}/budget-requests", tag = "budgets",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    request_body = NewRequestBody,
    responses((status = 201, description = "The request", body = BudgetRequest)),
    security(("bearer" = ["operator", "org-admin", "member"]))
)]
pub(super) async fn create_budget_request(
    call: WriteCall<OrgId, Body<NewRequestBody>>,
) -> Result<(StatusCode, Json<BudgetRequest>), Problem> {
    let ApiCall { caller, database, path: org, input: Body(body), .. } = call;
    let (own, key) = match &caller {
        Caller::Tenant(principal) => (Some(principal.user), principal.key),
        Caller::Operator(_) => (None, None),
    };
    let user = of_user(&caller, body.user_id)?.or(own);
    let user = user.ok_or_else(|| Problem::Invalid("user_id is missing: name the user that asks".into()))?;
    if body.credits < 1 {
        return Err(Problem::Invalid("credits must be at least 1".into()));
    }
    let new = NewBudgetRequest {
        user,
        key: key.filter(|_| own == Some(user)),
        level: body.level,
        period: body.period,
        credits: Credits::new(body.credits),
        until: body.until.get(),
        reason: body.reason.into_string(),
    };
    let (verdict, id) = database.request_budget(org, &new).await?;
    if let Some(problem) = not_taken(verdict, org, user) {
        return Err(problem);
    }
    Ok((StatusCode::CREATED, shown(&database, org, id).await?))
}

fn not_taken(verdict: RequestVerdict, org: OrgId, user: UserId) -> Option<Problem> {
    let conflict = |what: &str| Some(Problem::Conflict(what.into()));
    match verdict {
        RequestVerdict::Made => None,
        RequestVerdict::Unknown => Some(Problem::NotFound(format!("{org} has no {user}"))),
        RequestVerdict::NoSubject => {
            conflict("there is no such budget: you are in no team, or you do not call with a key")
        }
        RequestVerdict::TooSoon => Some(Problem::Invalid("until must be at least an hour from now".into())),
        RequestVerdict::NoLimit => conflict("no budget of this level and period limits you"),
        RequestVerdict::Below => {
            conflict("the limit that is in force is not below what you ask for: ask for more")
        }
        RequestVerdict::TooMany => {
            conflict("you have three open requests: wait until one is answered, or until it has lapsed")
        }
        RequestVerdict::Full => conflict(
            "your organisation has as many open requests as it may have: its admin must answer some first",
        ),
    }
}

async fn shown(database: &Database, org: OrgId, id: BudgetRequestId) -> Result<Json<BudgetRequest>, Problem> {
    Ok(Json(existing(database.budget_request(org, id).await?, id)?))
}

/// Show a request for more budget
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/budget-requests/{request_id}", tag = "budgets",
    params(
        ("org_id" = OrgId, Path, description = "The organisation"),
        ("request_id" = BudgetRequestId, Path, description = "The request"),
    ),
    responses((status = 200, description = "The request", body = BudgetRequest)),
    security(("bearer" = ["operator", "operator-read", "org-admin", "member"]))
)]
pub(super) async fn show_budget_request(
    call: ReadCall<(OrgId, BudgetRequestId)>,
) -> Result<Json<BudgetRequest>, Problem> {
    let ApiCall { caller, database, path: (org, id), .. } = call;
    let request = database.budget_request(org, id).await?;
    let own =
        |request: &BudgetRequest| member(&caller).is_none_or(|principal| principal.user == request.user_id);
    Ok(Json(existing(request.filter(own), id)?))
}

/// How a request is granted; what is omitted is as it was asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BudgetRequestGrant {
    /// The raised limit in credits.
    #[schema(minimum = 1)]
    credits: Option<i64>,
    /// When the raise ends.
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
    /// An answer in words, which the member sees.
    answer: Option<Text>,
}

/// Grant a request for more budget
///
/// Raises the budget until the raise ends by itself, and marks the request, in one. Where a budget for every key, user or team
/// counts, the one that asks gets a budget of its own with the same limit, which is raised: nobody else's is. A request that is
/// granted already stays as it is. Only operators raise the budget of a whole organisation.
#[utoipa::path(
    post, path = "/admin/v1/orgs/{org_id}/budget-requests/{request_id}/grant", tag = "budgets",
    params(
        ("org_id" = OrgId, Path, description = "The organisation"),
        ("request_id" = BudgetRequestId, Path, description = "The request"),
    ),
    request_body = BudgetRequestGrant,
    responses((status = 200, description = "The request after the answer", body = BudgetRequest)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn grant_budget_request(
    call: WriteCall<(OrgId, BudgetRequestId), Body<BudgetRequestGrant>>,
) -> Result<Json<BudgetRequest>, Problem> {
    let ApiCall { caller, database, path: (org, id), input: Body(body), .. } = call;
    let grant = Grant {
        credits: body.credits.map(Credits::new),
        until: body.until.map(Timestamp::get),
        by_operator: caller.org().is_none(),
        answer: body.answer.map(Text::into_string),
    };
    let conflict = |what: &str| Err(Problem::Conflict(what.into()));
    match database.grant_budget_request(org, id, &grant).await? {
        GrantVerdict::Granted => shown(&database, org, id).await,
        GrantVerdict::Unknown => Err(Problem::NotFound(format!("there is no {id}"))),
        GrantVerdict::Declined => conflict("this request was declined: its member can ask again"),
        GrantVerdict::Operators => {
            Err(Problem::Forbidden("only operators may raise the budget of the whole organisation".into()))
        }
        GrantVerdict::Late => conflict("the raise would have ended by now: give a later until"),
        GrantVerdict::NoLimit => conflict("there is no limit any more that could be raised"),
        GrantVerdict::Below => conflict("a raise must be above the budget: give more credits, or decline"),
    }
}

/// How a request is declined.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BudgetRequestDecline {
    /// An answer in words, which the member sees.
    answer: Option<Text>,
}

/// Decline a request for more budget
#[utoipa::path(
    post, path = "/admin/v1/orgs/{org_id}/budget-requests/{request_id}/decline", tag = "budgets",
    params(
        ("org_id" = OrgId, Path, description = "The organisation"),
        ("request_id" = BudgetRequestId, Path, description = "The request"),
    ),
    request_body = BudgetRequestDecline,
    responses((status = 200, description = "The request after the answer", body = BudgetRequest)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn decline_budget_request(
    call: WriteCall<(OrgId, BudgetRequestId), Body<BudgetRequestDecline>>,
) -> Result<Json<BudgetRequest>, Problem> {
    let ApiCall { database, path: (org, id), input: Body(body), .. } = call;
    database.decline_budget_request(org, id, body.answer.as_ref().map(Text::as_str)).await?;
    shown(&database, org, id).await
}
