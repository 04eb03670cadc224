//! The caller, as the gateway knows it.

use std::sync::Arc;

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

use super::call::{ApiCall, ReadCall};
use super::caller::ApiRole;
use super::extract::existing;
use super::problem::Problem;
use crate::access::callers::Caller;
use crate::credits::Credits;
use crate::ids::{KeyId, OrgId, TeamId, UserId};
use crate::store::{CallerBudget, Database, Principal};

/// A budget that a create of the caller counts against.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MyBudget {
    #[serde(flatten)]
    budget: CallerBudget,
    /// The credits of the window that are neither used nor held; null: no limit.
    left: Option<Credits>,
}

impl From<CallerBudget> for MyBudget {
    fn from(budget: CallerBudget) -> Self {
        let spent = budget.used.get().saturating_add(budget.held.get());
        let left = budget.limit.map(|limit| Credits::new(limit.get().saturating_sub(spent).max(0)));
        Self { budget, left }
    }
}

/// The caller, as its credentials identify it. Of an operator only the role is known.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct Me {
    /// `operator`, `operator-read`, `org-admin` or `member`.
    role: &'static str,
    /// The caller's organisation; null: an operator.
    org_id: Option<OrgId>,
    org_name: Option<String>,
    /// The time zone of the organisation's days, weeks and months.
    time_zone: Option<String>,
    /// The calling user; null: an operator.
    user_id: Option<UserId>,
    user_name: Option<String>,
    /// The user's team; null: none.
    team_id: Option<TeamId>,
    /// The key of this call; null: you signed in with a token.
    key_id: Option<KeyId>,
    /// Whether creates are refused because the organisation, the team, the user or the key is suspended.
    suspended: bool,
    /// The budgets that a create with these credentials counts against, narrowest first, with what is left of each.
    budgets: Vec<MyBudget>,
}

/// Show the caller
///
/// Tells which role your credentials have, whose they are, and what is left of the budgets that count for you.
#[utoipa::path(
    get, path = "/admin/v1/me", tag = "caller",
    responses((status = 200, description = "The caller", body = Me)),
    security(("bearer" = ["operator", "operator-read", "org-admin", "member"]))
)]
pub(super) async fn show_caller(call: ReadCall) -> Result<Json<Me>, Problem> {
    let ApiCall { caller, database, .. } = call;
    let role = ApiRole::of(&caller).as_str();
    Ok(Json(match caller {
        Caller::Operator(_) => Me { role, ..Me::default() },
        Caller::Tenant(principal) => tenant(&database, role, principal).await?,
    }))
}

async fn tenant(database: &Database, role: &'static str, principal: Arc<Principal>) -> Result<Me, Problem> {
    let org = existing(database.org(principal.org).await?, principal.org)?;
    let user = existing(database.user(principal.user).await?, principal.user)?;
    let budgets = database.budgets_of_caller(principal.org, principal.user, principal.key).await?;
    Ok(Me {
        role,
        org_id: Some(org.org_id),
        org_name: Some(org.name),
        time_zone: Some(org.time_zone),
        user_id: Some(user.user_id),
        user_name: Some(user.name),
        team_id: user.team_id,
        key_id: principal.key,
        suspended: principal.suspended,
        budgets: budgets.into_iter().map(MyBudget::from).collect(),
    })
}
