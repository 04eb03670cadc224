//! The caller, as the gateway knows it.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

use super::call::{ApiCall, ReadCall};
use super::caller::ApiRole;
use crate::access::callers::Caller;
use crate::ids::{OrgId, UserId};

/// The caller, as its credentials identify it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Me {
    /// `operator`, `operator-read`, `org-admin` or `member`.
    role: &'static str,
    /// The caller's organisation; null: an operator.
    org_id: Option<OrgId>,
    /// The calling user; null: an operator.
    user_id: Option<UserId>,
}

/// Show the caller
///
/// Tells which role your credentials have.
#[utoipa::path(
    get, path = "/admin/v1/me", tag = "caller",
    responses((status = 200, description = "The caller", body = Me)),
    security(("bearer" = ["operator", "operator-read", "org-admin", "member"]))
)]
pub(super) async fn show_caller(call: ReadCall) -> Json<Me> {
    let ApiCall { caller, .. } = call;
    let user_id = match &caller {
        Caller::Operator(_) => None,
        Caller::Tenant(principal) => Some(principal.user),
    };
    Json(Me { role: ApiRole::of(&caller).as_str(), org_id: caller.org(), user_id })
}
