//! Organisations: the tenants of the platform.

use axum::Json;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::call::{ApiCall, ReadCall, WriteCall};
use super::conditions::IfMatch;
use super::extract::{Body, Query, Tagged, existing, given};
use super::idempotent::{AnsweredEmpty, IdempotentQuery};
use super::names::{Name, TimeZone};
use super::page::{Page, PageLimit};
use super::problem::Problem;
use crate::credits::{Credits, PriceFactor};
use crate::ids::OrgId;
use crate::store::{Database, DeletedOrg, NewOrg, Org, OrgChange, OrgFilter, RemainingCredits, Status};

/// An organisation with its current price factor.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShownOrg {
    #[serde(flatten)]
    org: Org,
    /// What the organisation pays of the list price now, in basis points: its price factor in force, or else its default.
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
    let org = existing(database.org(id).await?, id)?;
    let org = existing(shown(database, vec![org]).await?.pop(), id)?;
    Ok(Tagged(status, org.org.version, org))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct OrgQuery {
    /// Only the organisation with this name.
    name: Option<String>,
    /// Only organisations whose name contains this text; capital letters do not matter.
    #[param(max_length = 200)]
    search: Option<String>,
    /// Only organisations with this status.
    #[param(inline)]
    status: Option<Status>,
    /// `true`: only organisations whose creates are stopped because of what their tasks cost the platform.
    #[serde(default)]
    stopped: bool,
    /// `true`: only deleted organisations.
    #[serde(default)]
    deleted: bool,
    /// The most items a page may have; 50 if omitted.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: PageLimit,
    /// `next_cursor` of the previous page.
    cursor: Option<String>,
}

/// List organisations
///
/// Oldest first. An organisation's admin sees its own organisation only.
#[utoipa::path(
    get, path = "/admin/v1/orgs", tag = "organisations",
    responses((status = 200, description = "A page of organisations", body = Page<ShownOrg>)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn list_orgs(call: ReadCall<(), Query<OrgQuery>>) -> Result<Json<Page<ShownOrg>>, Problem> {
    let ApiCall { caller, database, input: Query(query), .. } = call;
    let filter = OrgFilter {
        org: caller.org(),
        name: query.name,
        search: query.search,
        status: query.status,
        stopped: query.stopped,
        deleted: query.deleted,
    };
    let slice = query.limit.after(query.cursor.as_deref())?;
    let orgs = database.list_orgs(&filter, slice).await?;
    Ok(Page::of(shown(&database, orgs).await?, query.limit, |shown| shown.org.org_id))
}

/// The fields of a new organisation.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OrgBody {
    /// A name that no other organisation has.
    name: Name,
    /// A name of the IANA time zone database: days, weeks and months of the organisation begin in this time zone.
    #[serde(default = "TimeZone::utc")]
    time_zone: TimeZone,
}

/// Create an organisation
#[utoipa::path(
    post, path = "/admin/v1/orgs", tag = "organisations",
    request_body = OrgBody,
    responses((status = 201, description = "The new organisation", body = ShownOrg)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn create_org(call: WriteCall<(), Body<OrgBody>>) -> Result<Tagged<ShownOrg>, Problem> {
    let ApiCall { database, input: Body(body), .. } = call;
    let new = NewOrg { name: body.name.into_string(), time_zone: body.time_zone.into_string() };
    let id = database.add_org(&new).await?;
    tagged(StatusCode::CREATED, &database, id).await
}

/// Show an organisation
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}", tag = "organisations",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    responses((status = 200, description = "The organisation", body = ShownOrg)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn show_org(call: ReadCall<OrgId>) -> Result<Tagged<ShownOrg>, Problem> {
    let ApiCall { database, path: id, .. } = call;
    tagged(StatusCode::OK, &database, id).await
}

/// Changes of an organisation; a field that is omitted keeps its value.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OrgPatch {
    name: Option<Name>,
    /// `suspended`: creates are refused; running tasks finish and can be read.
    status: Option<Status>,
    /// A name of the IANA time zone database.
    time_zone: Option<TimeZone>,
    /// Creates a minute; 0: no limit; null: the gateway's default.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i32>, minimum = 0)]
    create_per_minute: Option<Option<i32>>,
    /// Other calls a minute; 0: no limit; null: the gateway's default.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i32>, minimum = 0)]
    status_per_minute: Option<Option<i32>>,
    /// Unfinished tasks at one time; 0: no limit; null: the gateway's default.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i32>, minimum = 0)]
    max_open_tasks: Option<Option<i32>>,
    /// Credits that new tasks may take the balance below zero.
    #[schema(minimum = 0)]
    overdraft: Option<i64>,
    /// What the organisation pays of the list price by default, in basis points: 10000 is the list price. A price factor
    /// with a validity replaces it while that factor is in force.
    #[schema(value_type = Option<i32>, minimum = 0, maximum = 1_000_000)]
    price_factor_bp: Option<PriceFactor>,
}

/// Change an organisation
///
/// Takes effect on every gateway within a second.
#[utoipa::path(
    patch, path = "/admin/v1/orgs/{org_id}", tag = "organisations",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    request_body = OrgPatch,
    responses((status = 200, description = "The organisation after the change", body = ShownOrg)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn update_org(
    call: WriteCall<OrgId, (IfMatch, Body<OrgPatch>)>,
) -> Result<Tagged<ShownOrg>, Problem> {
    let ApiCall { database, path: id, input: (IfMatch(version), Body(patch)), .. } = call;
    let limits = [patch.create_per_minute, patch.status_per_minute, patch.max_open_tasks];
    if limits.into_iter().flatten().flatten().any(|limit| limit < 0) || patch.overdraft.is_some_and(|o| o < 0)
    {
        return Err(Problem::Invalid("a limit cannot be negative".into()));
    }
    let change = OrgChange {
        name: patch.name.map(Name::into_string),
        status: patch.status,
        time_zone: patch.time_zone.map(TimeZone::into_string),
        create_per_minute: patch.create_per_minute,
        status_per_minute: patch.status_per_minute,
        max_open_tasks: patch.max_open_tasks,
        overdraft: patch.overdraft.map(Credits::new),
        price_factor: patch.price_factor_bp,
    };
    database.update_org(id, change, version).await?;
    tagged(StatusCode::OK, &database, id).await
}

/// What becomes of the credits of an organisation that is deleted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct DeletionQuery {
    /// The organisation that gets the remaining credits. They do not expire there.
    move_credits_to: Option<OrgId>,
    /// `true`: the remaining credits are taken away.
    #[serde(default)]
    forfeit_credits: bool,
}

/// Delete an organisation
///
/// Its keys are refused from now on; its tasks and entries stay. Refused (409, with what stands in the way) while a task is
/// unfinished or in doubt, and while it has or owes credits, unless the query says what becomes of its credits.
#[utoipa::path(
    delete, path = "/admin/v1/orgs/{org_id}", tag = "organisations",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    responses((status = 204, description = "Deleted")),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn delete_org(
    call: WriteCall<OrgId, (IfMatch, IdempotentQuery<DeletionQuery>)>,
) -> Result<AnsweredEmpty<DeletedOrg>, Problem> {
    let ApiCall { database, path: id, input: (IfMatch(version), sent), .. } = call;
    let remaining = match (sent.query.move_credits_to, sent.query.forfeit_credits) {
        (None, false) => RemainingCredits::Keep,
        (Some(to), false) => RemainingCredits::MoveTo(to),
        (None, true) => RemainingCredits::Forfeit,
        (Some(_), true) => {
            return Err(Problem::Invalid("give move_credits_to or forfeit_credits, not both".into()));
        }
    };
    Ok(AnsweredEmpty(database.delete_org(id, version, remaining, sent.once()).await?))
}

/// How a deletion is taken back.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RestoreBody {
    /// A new name, if another organisation has taken the name by now; omitted: the name it had.
    name: Option<Name>,
}

/// Take the deletion of an organisation back
///
/// Its users and keys are accepted again. Credits that were moved or forfeited do not come back. An organisation that is not
/// deleted stays as it is.
#[utoipa::path(
    post, path = "/admin/v1/orgs/{org_id}/restore", tag = "organisations",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    request_body = RestoreBody,
    responses((status = 200, description = "The organisation after the change", body = ShownOrg)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn restore_org(
    call: WriteCall<OrgId, Body<RestoreBody>>,
) -> Result<Tagged<ShownOrg>, Problem> {
    let ApiCall { database, path: id, input: Body(body), .. } = call;
    database.restore_org(id, body.name.map(Name::into_string).as_deref()).await?;
    tagged(StatusCode::OK, &database, id).await
}
