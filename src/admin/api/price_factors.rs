//! Price factors: what an organisation pays of the list price for a limited time.

use axum::Json;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use super::call::{ApiCall, ReadCall, WriteCall};
use super::conditions::IfMatch;
use super::extract::{Body, Query, Tagged, Text, Timestamp, existing};
use super::page::{Page, PageQuery};
use super::problem::Problem;
use crate::credits::PriceFactor;
use crate::ids::{FactorId, OrgId};
use crate::store::PriceFactorInfo;

/// List an organisation's price factors
///
/// Newest first: past, in force and future ones. At any other time the organisation's `price_factor_bp` applies.
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/price-factors", tag = "prices",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    responses((status = 200, description = "A page of price factors", body = Page<PriceFactorInfo>)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn list_price_factors(
    call: ReadCall<OrgId, Query<PageQuery>>,
) -> Result<Json<Page<PriceFactorInfo>>, Problem> {
    let ApiCall { database, path: org, input: Query(query), .. } = call;
    let slice = query.limit.after(query.cursor.as_deref())?;
    let factors = database.price_factors(org, slice).await?;
    Ok(Page::of(factors, query.limit, |factor| factor.factor_id))
}

/// A new price factor with its validity.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FactorBody {
    /// The share of the list price that is paid, in basis points: 10000 is the list price.
    #[schema(value_type = i32, minimum = 0, maximum = 1_000_000)]
    factor_bp: PriceFactor,
    /// When the factor begins; omitted: now.
    #[schema(value_type = Option<String>, format = DateTime)]
    valid_from: Option<Timestamp>,
    /// The instant before which the factor ends; omitted: until it is ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    valid_until: Option<Timestamp>,
    /// Why the organisation pays this price.
    reason: Text,
}

/// Create a price factor
///
/// It must not overlap with another price factor of the organisation. It begins and ends at its instants on every gateway;
/// running tasks keep their factor.
#[utoipa::path(
    post, path = "/admin/v1/orgs/{org_id}/price-factors", tag = "prices",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    request_body = FactorBody,
    responses((status = 201, description = "The new price factor", body = PriceFactorInfo)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn create_price_factor(
    call: WriteCall<OrgId, Body<FactorBody>>,
) -> Result<Tagged<PriceFactorInfo>, Problem> {
    let ApiCall { database, path: org, input: Body(body), .. } = call;
    let reason = body.reason.into_string();
    let id = database
        .create_price_factor(
            org,
            body.factor_bp,
            body.valid_from.map(Timestamp::get),
            body.valid_until.map(Timestamp::get),
            &reason,
        )
        .await?;
    let factor = existing(database.price_factor(org, id).await?, id)?;
    Ok(Tagged(StatusCode::CREATED, factor.version, factor))
}

/// Show a price factor
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/price-factors/{factor_id}", tag = "prices",
    params(
        ("org_id" = OrgId, Path, description = "The organisation"),
        ("factor_id" = FactorId, Path, description = "The price factor")
    ),
    responses((status = 200, description = "The price factor", body = PriceFactorInfo)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn show_price_factor(
    call: ReadCall<(OrgId, FactorId)>,
) -> Result<Tagged<PriceFactorInfo>, Problem> {
    let ApiCall { database, path: (org, id), .. } = call;
    let factor = existing(database.price_factor(org, id).await?, id)?;
    Ok(Tagged(StatusCode::OK, factor.version, factor))
}

/// When a price factor ends.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EndBody {
    /// An instant in the future, before the factor would end anyway; omitted: now.
    #[schema(value_type = Option<String>, format = DateTime)]
    at: Option<Timestamp>,
}

/// End a price factor
///
/// A factor that would end before it begins is removed.
#[utoipa::path(
    post, path = "/admin/v1/orgs/{org_id}/price-factors/{factor_id}/end", tag = "prices",
    params(
        ("org_id" = OrgId, Path, description = "The organisation"),
        ("factor_id" = FactorId, Path, description = "The price factor")
    ),
    request_body = EndBody,
    responses((status = 204, description = "The price factor ends at that instant")),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn end_price_factor(
    call: WriteCall<(OrgId, FactorId), (IfMatch, Body<EndBody>)>,
) -> Result<StatusCode, Problem> {
    let ApiCall { database, path: (org, id), input: (IfMatch(version), Body(body)), .. } = call;
    database.end_price_factor(org, id, body.at.map(Timestamp::get), version).await?;
    Ok(StatusCode::NO_CONTENT)
}
