//! How many users, teams, keys and budgets an organisation may have, and how many changes its people may make.

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::call::{ApiCall, ReadCall, WriteCall};
use super::extract::{Body, existing, given};
use super::problem::Problem;
use crate::ids::OrgId;
use crate::store::{Database, Quota, QuotaKind};

/// The quotas of an organisation.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Quotas {
    items: Vec<Quota>,
}

async fn quotas(database: &Database, org: OrgId) -> Result<Json<Quotas>, Problem> {
    existing(database.org(org).await?, org)?;
    Ok(Json(Quotas { items: database.quotas(org).await? }))
}

/// Show the quotas of an organisation
///
/// How many users, teams, keys and budgets it has, and how many it may have. What is above a quota is refused with 409, and so is a
/// new user, team or key of an organisation that has revoked or deleted more than ten times as many as it may have. How many changes
/// its people have asked for today, and how many they may ask for on one UTC day; more are refused with 429. Revoking and deleting
/// is always possible.
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/quotas", tag = "organisations",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    responses((status = 200, description = "The quotas, and what is used of each", body = Quotas)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn show_quotas(call: ReadCall<OrgId>) -> Result<Json<Quotas>, Problem> {
    let ApiCall { database, path: org, .. } = call;
    quotas(&database, org).await
}

/// Changes of an organisation's quotas; a field that is omitted keeps its value.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct QuotasPatch {
    /// Users that are not deleted; null: the platform's quota.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i32>, minimum = 0)]
    users: Option<Option<i32>>,
    /// Teams that are not deleted; null: the platform's quota.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i32>, minimum = 0)]
    teams: Option<Option<i32>>,
    /// API keys that are not revoked; null: the platform's quota.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i32>, minimum = 0)]
    keys: Option<Option<i32>>,
    /// Budgets of the organisation, its teams, users and keys; null: the platform's quota.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i32>, minimum = 0)]
    budgets: Option<Option<i32>>,
    /// Changes that its own people may ask for on one UTC day; null: the platform's quota.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i32>, minimum = 0)]
    changes: Option<Option<i32>>,
}

/// Change the quotas of an organisation
///
/// What the organisation has already stays, even if it is more.
#[utoipa::path(
    patch, path = "/admin/v1/orgs/{org_id}/quotas", tag = "organisations",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    request_body = QuotasPatch,
    responses((status = 200, description = "The quotas, and what is used of each", body = Quotas)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn update_quotas(
    call: WriteCall<OrgId, Body<QuotasPatch>>,
) -> Result<Json<Quotas>, Problem> {
    let ApiCall { database, path: org, input: Body(patch), .. } = call;
    let all = [
        (QuotaKind::Users, patch.users),
        (QuotaKind::Teams, patch.teams),
        (QuotaKind::Keys, patch.keys),
        (QuotaKind::Budgets, patch.budgets),
        (QuotaKind::Changes, patch.changes),
    ];
    let given: Vec<_> = all.into_iter().filter_map(|(kind, most)| Some((kind, most?))).collect();
    if given.iter().any(|(_, most)| most.is_some_and(|most| most < 0)) {
        return Err(Problem::Invalid("a quota cannot be negative".into()));
    }
    database.set_quotas(org, &given).await?;
    quotas(&database, org).await
}
