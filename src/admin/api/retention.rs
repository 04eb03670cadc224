//! How long an organisation keeps content.

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::call::{ApiCall, ReadCall, WriteCall};
use super::extract::{Body, existing};
use super::problem::Problem;
use crate::ids::OrgId;
use crate::store::Database;

/// How long an organisation keeps content.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Retention {
    /// Days for which content is kept; null: as many as the platform keeps it (`retention.content_days`).
    content_days: Option<i32>,
}

async fn retention(database: &Database, org: OrgId) -> Result<Json<Retention>, Problem> {
    let content_days = existing(database.content_days(org).await?, org)?;
    Ok(Json(Retention { content_days }))
}

/// Show how long an organisation keeps content
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/retention", tag = "organisations",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    responses((status = 200, description = "How long content is kept", body = Retention)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn show_retention(call: ReadCall<OrgId>) -> Result<Json<Retention>, Problem> {
    let ApiCall { database, path: org, .. } = call;
    retention(&database, org).await
}

/// How long an organisation is to keep content.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RetentionPatch {
    /// Days for which content is kept; null: as many as the platform keeps it.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(required = true, minimum = 0, maximum = 3650)]
    content_days: Option<i32>,
}

/// Change how long an organisation keeps content
///
/// Content is what the video service says about a task, with the prompts and links in it. Balances, entries and states of tasks
/// stay. What is older is erased within some minutes.
#[utoipa::path(
    patch, path = "/admin/v1/orgs/{org_id}/retention", tag = "organisations",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    request_body = RetentionPatch,
    responses((status = 200, description = "How long content is kept", body = Retention)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn update_retention(
    call: WriteCall<OrgId, Body<RetentionPatch>>,
) -> Result<Json<Retention>, Problem> {
    let ApiCall { database, path: org, input: Body(patch), .. } = call;
    if patch.content_days.is_some_and(|days| !(0..=3650).contains(&days)) {
        return Err(Problem::Invalid("content_days must be from 0 to 3650, or null".into()));
    }
    existing(database.set_content_days(org, patch.content_days).await?.then_some(()), org)?;
    retention(&database, org).await
}
