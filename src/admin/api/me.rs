//! Who the caller is.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

use super::call::{ApiCall, ReadCall};
use super::caller::ApiRole;
use crate::access::callers::Caller;
use crate::ids::{OrgId, UserId};

/// Who calls.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Me {
    /// `operator`, `operator-read`, `org-admin` or `member`.
    role: &'static str,
    /// Its organisation; none: it runs the platform.
    org_id: Option<OrgId>,
    /// The user; none: it runs the platform.
    user_id: Option<UserId>,
}

/// Show who you are
#[utoipa::path(
    get, path = "/admin/v1/me", tag = "you",
    responses((status = 200, body = Me)),
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
