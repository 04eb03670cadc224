//! The audit log.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Api;
use super::problem::Problem;
use super::request::{At, Limit, Page, Path, Query};
use crate::ids::OrgId;
use crate::store::{AuditEntry, AuditFilter, Order};

/// Which changes.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditQuery {
    /// Only of this organisation.
    org_id: Option<OrgId>,
    /// Only by this actor, as the log names it.
    actor: Option<String>,
    /// Only by this operation, as the log names it.
    action: Option<String>,
    /// Only to what has this id.
    target_id: Option<String>,
    /// Only from then on.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<At>,
    /// Only before then.
    #[param(value_type = Option<String>, format = DateTime)]
    until: Option<At>,
    /// `asc`: oldest first; left out: newest first.
    #[serde(default)]
    #[param(inline, value_type = Option<Order>)]
    order: Order,
    /// Items of a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// `next_cursor` of the page before, or the `audit_id` of the last one seen.
    cursor: Option<String>,
}

async fn page(api: &Api, org: Option<OrgId>, query: AuditQuery) -> Result<Json<Page<AuditEntry>>, Problem> {
    let filter = AuditFilter {
        org,
        actor: query.actor,
        action: query.action,
        target: query.target_id,
        since: query.since.map(At::get),
        until: query.until.map(At::get),
        order: query.order,
    };
    let slice = query.limit.behind::<i64>(query.cursor.as_deref())?;
    let entries = api.database.audit_log(&filter, slice.after, slice.limit).await?;
    Ok(Page::of(entries, query.limit, |entry| entry.audit_id))
}

/// List changes
///
/// Who did what to what, from where. Nothing is ever removed, and no secret is in it. To export it, ask for `order=asc` and
/// follow the cursor; later go on with the `audit_id` of the last one as cursor: nothing is missed in between. While a
/// change is under way for long, that is 503.
#[utoipa::path(
    get, path = "/admin/v1/audit-log", tag = "audit log",
    params(AuditQuery),
    responses((status = 200, body = Page<AuditEntry>)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn list_audit_log(
    State(api): State<Api>,
    Query(query): Query<AuditQuery>,
) -> Result<Json<Page<AuditEntry>>, Problem> {
    page(&api, query.org_id, query).await
}

/// List an organisation's changes
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/audit-log", tag = "audit log",
    params(("org_id" = OrgId, Path, description = "Which organisation"), AuditQuery),
    responses((status = 200, body = Page<AuditEntry>)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn list_org_audit_log(
    State(api): State<Api>,
    Path(org): Path<OrgId>,
    Query(query): Query<AuditQuery>,
) -> Result<Json<Page<AuditEntry>>, Problem> {
    if query.org_id.is_some_and(|named| named != org) {
        return Err(Problem::Invalid("org_id is already said by the path".into()));
    }
    page(&api, Some(org), query).await
}
