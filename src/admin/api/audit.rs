//! The audit log: who changed what, when and from where.

use axum::Json;
use serde::Deserialize;
use utoipa::IntoParams;

use super::call::{ApiCall, ReadCall};
use super::extract::{Query, Timestamp};
use super::page::{Page, PageLimit};
use super::problem::Problem;
use crate::ids::OrgId;
use crate::store::{AuditEntry, AuditFilter, Database, SortOrder};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditQuery {
    /// Only changes of this organisation's resources.
    org_id: Option<OrgId>,
    /// Only changes by this actor, as the log names it.
    actor: Option<String>,
    /// Only changes by this operation, as the log names it.
    action: Option<String>,
    /// Only changes of the resource with this id.
    target_id: Option<String>,
    /// Only changes at or after this instant.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// Only changes before this instant.
    #[param(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
    /// `asc`: oldest first; omitted: newest first.
    #[serde(default)]
    #[param(inline, value_type = Option<SortOrder>)]
    order: SortOrder,
    /// The most items a page may have; 50 if omitted.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: PageLimit,
    /// `next_cursor` of the previous page, or the `audit_id` of the last entry you have.
    cursor: Option<String>,
}

async fn page(
    database: &Database,
    org: Option<OrgId>,
    query: AuditQuery,
) -> Result<Json<Page<AuditEntry>>, Problem> {
    let filter = AuditFilter {
        org,
        actor: query.actor,
        action: query.action,
        target: query.target_id,
        since: query.since.map(Timestamp::get),
        until: query.until.map(Timestamp::get),
        order: query.order,
    };
    let slice = query.limit.after::<i64>(query.cursor.as_deref())?;
    let entries = database.audit_log(&filter, slice.after, slice.limit).await?;
    Ok(Page::of(entries, query.limit, |entry| entry.audit_id))
}

/// List the audit log
///
/// Each entry says who changed what, when and from which address. Entries are never removed and hold no secrets. To
/// export the log, ask for `order=asc` and follow the cursor; next time, continue with the `audit_id` of the last entry as
/// cursor: no entry is missed in between. With `order=asc` the answer is 503 while a change takes unusually long.
#[utoipa::path(
    get, path = "/admin/v1/audit-log", tag = "audit log",
    responses((status = 200, description = "A page of changes", body = Page<AuditEntry>)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn list_audit_log(
    call: ReadCall<(), Query<AuditQuery>>,
) -> Result<Json<Page<AuditEntry>>, Problem> {
    let ApiCall { database, input: Query(query), .. } = call;
    page(&database, query.org_id, query).await
}

/// List an organisation's audit log
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/audit-log", tag = "audit log",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    responses((status = 200, description = "A page of changes", body = Page<AuditEntry>)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn list_org_audit_log(
    call: ReadCall<OrgId, Query<AuditQuery>>,
) -> Result<Json<Page<AuditEntry>>, Problem> {
    let ApiCall { database, path: org, input: Query(query), .. } = call;
    if query.org_id.is_some_and(|named| named != org) {
        return Err(Problem::Invalid("org_id is given by the path: omit the parameter".into()));
    }
    page(&database, Some(org), query).await
}
