//! Organisations.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::access::{Acting, Caller};
use super::problem::Problem;
use super::request::{Body, IfMatch, Limit, Page, Path, Query, Tagged, Text, given, there};
use crate::credits::{Credits, PriceFactor};
use crate::ids::OrgId;
use crate::store::{Database, NewOrg, Org, OrgChange, OrgFilter, Status};

/// An organisation, with what it pays now.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShownOrg {
    #[serde(flatten)]
    org: Org,
    /// What it pays of the list price now, in basis points: by its price factor in force, else by default.
    #[schema(value_type = i32)]
    price_factor_in_force_bp: PriceFactor,
}

async fn shown(database: &Database, orgs: Vec<Org>) -> Result<Vec<ShownOrg>, Problem> {
    let ids: Vec<OrgId> = orgs.iter().map(|org| org.org_id).collect();
    let factors = database.price_factors_in_force(&ids).await?;
    let shown = |org: Org| {
        let factor = factors.get(&org.org_id).copied();
        ShownOrg { price_factor_in_force_bp: factor.unwrap_or(org.price_factor_bp), org }
    };
    Ok(orgs.into_iter().map(shown).collect())
}

async fn tagged(status: StatusCode, database: &Database, id: OrgId) -> Result<Tagged<ShownOrg>, Problem> {
    let org = there(database.org(id).await?, id)?;
    let org = there(shown(database, vec![org]).await?.pop(), id)?;
    Ok(Tagged(status, org.org.version, org))
}

/// Which organisations.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OrgQuery {
    /// Only that of this name.
    name: Option<String>,
    /// Only those.
    #[param(inline)]
    status: Option<Status>,
    /// Those that were deleted, in place of the others.
    #[serde(default)]
    deleted: bool,
    /// Items of a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List organisations
///
/// Oldest first. An organisation's admin sees its own.
#[utoipa::path(
    get, path = "/admin/v1/orgs", tag = "organisations",
    params(OrgQuery),
    responses((status = 200, body = Page<ShownOrg>)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn list_orgs(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<OrgQuery>,
) -> Result<Json<Page<ShownOrg>>, Problem> {
    let filter =
        OrgFilter { org: caller.org(), name: query.name, status: query.status, deleted: query.deleted };
    let slice = query.limit.behind(query.cursor.as_deref())?;
    let orgs = api.database.list_orgs(&filter, slice).await?;
    Ok(Page::of(shown(&api.database, orgs).await?, query.limit, |shown| shown.org.org_id))
}

/// An organisation to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OrgBody {
    /// Its name, unique.
    name: Text,
    /// A name of the IANA time zone database: its days, weeks and months begin by that clock.
    #[serde(default = "utc")]
    #[schema(example = "Europe/Berlin")]
    time_zone: String,
}

fn utc() -> String {
    "UTC".into()
}

/// Make an organisation
#[utoipa::path(
    post, path = "/admin/v1/orgs", tag = "organisations",
    request_body = OrgBody,
    responses((status = 201, body = ShownOrg)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn create_org(
    Acting(database): Acting,
    Body(body): Body<OrgBody>,
) -> Result<Tagged<ShownOrg>, Problem> {
    let new = NewOrg { name: body.name.into_string(), time_zone: body.time_zone };
    let id = database.add_org(&new).await?;
    tagged(StatusCode::CREATED, &database, id).await
}

/// Show an organisation
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}", tag = "organisations",
    params(("org_id" = OrgId, Path, description = "Which")),
    responses((status = 200, body = ShownOrg)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn show_org(
    State(api): State<Api>,
    Path(id): Path<OrgId>,
) -> Result<Tagged<ShownOrg>, Problem> {
    tagged(StatusCode::OK, &api.database, id).await
}

/// What is to change of an organisation; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OrgPatch {
    /// Its name.
    name: Option<Text>,
    /// `suspended`: its creates are refused; its tasks can be read and end as they would.
    status: Option<Status>,
    /// A name of the IANA time zone database.
    time_zone: Option<String>,
    /// Creates a minute; 0: no limit, null: the gateway's default.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i32>, minimum = 0)]
    create_per_minute: Option<Option<i32>>,
    /// Other calls a minute; 0: no limit, null: the gateway's default.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i32>, minimum = 0)]
    status_per_minute: Option<Option<i32>>,
    /// Unfinished tasks at one time; 0: no limit, null: the gateway's default.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i32>, minimum = 0)]
    max_open_tasks: Option<Option<i32>>,
    /// How far below zero new tasks may go.
    #[schema(minimum = 0)]
    overdraft: Option<i64>,
    /// What it pays of the list price by default, in basis points: 10000 is the list price. One of its price factors with
    /// a validity counts in its place while it is in force.
    #[schema(value_type = Option<i32>, minimum = 0, maximum = 1_000_000)]
    price_factor_bp: Option<PriceFactor>,
}

/// Change an organisation
///
/// Every gateway follows within a second.
#[utoipa::path(
    patch, path = "/admin/v1/orgs/{org_id}", tag = "organisations",
    params(
        ("org_id" = OrgId, Path, description = "Which"),
        IfMatch
    ),
    request_body = OrgPatch,
    responses((status = 200, body = ShownOrg)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn update_org(
    Acting(database): Acting,
    Path(id): Path<OrgId>,
    IfMatch(version): IfMatch,
    Body(patch): Body<OrgPatch>,
) -> Result<Tagged<ShownOrg>, Problem> {
    let limits = [patch.create_per_minute, patch.status_per_minute, patch.max_open_tasks];
    if limits.into_iter().flatten().flatten().any(|limit| limit < 0) || patch.overdraft.is_some_and(|o| o < 0)
    {
        return Err(Problem::Invalid("a limit cannot be negative".into()));
    }
    let change = OrgChange {
        name: patch.name.map(Text::into_string),
        status: patch.status,
        time_zone: patch.time_zone,
        create_per_minute: patch.create_per_minute,
        status_per_minute: patch.status_per_minute,
        max_open_tasks: patch.max_open_tasks,
        overdraft: patch.overdraft.map(Credits::new),
        price_factor: patch.price_factor_bp,
    };
    database.update_org(id, change, version).await?;
    tagged(StatusCode::OK, &database, id).await
}

/// Delete an organisation
///
/// Its keys are refused; its balance, its tasks and its entries stay, and its tasks end as they would.
#[utoipa::path(
    delete, path = "/admin/v1/orgs/{org_id}", tag = "organisations",
    params(
        ("org_id" = OrgId, Path, description = "Which"),
        IfMatch
    ),
    responses((status = 204, description = "It is deleted")),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn delete_org(
    Acting(database): Acting,
    Path(id): Path<OrgId>,
    IfMatch(version): IfMatch,
) -> Result<StatusCode, Problem> {
    database.delete_org(id, version).await?;
    Ok(StatusCode::NO_CONTENT)
}
