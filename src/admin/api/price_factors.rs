//! What an organisation pays of the list price for a time.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use super::Api;
use super::access::Acting;
use super::price_books::PageQuery;
use super::problem::Problem;
use super::request::{At, Body, IfMatch, Page, Path, Query, Tagged, Text, there};
use crate::credits::PriceFactor;
use crate::ids::{FactorId, OrgId};
use crate::store::PriceFactorInfo;

/// List an organisation's price factors
///
/// Newest first: those in force, to come and past. At any other time the organisation's own `price_factor_bp` counts.
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/price-factors", tag = "prices",
    params(("org_id" = OrgId, Path, description = "Of which organisation"), PageQuery),
    responses((status = 200, body = Page<PriceFactorInfo>)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn list_price_factors(
    State(api): State<Api>,
    Path(org): Path<OrgId>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<PriceFactorInfo>>, Problem> {
    let slice = query.limit.behind(query.cursor.as_deref())?;
    let factors = api.database.price_factors(org, slice).await?;
    Ok(Page::of(factors, query.limit, |factor| factor.factor_id))
}

/// A factor with its validity.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FactorBody {
    /// What is paid of the list price, in basis points: 10000 is the list price.
    #[schema(value_type = i32, minimum = 0, maximum = 1_000_000)]
    factor_bp: PriceFactor,
    /// From when on; none: from now.
    #[schema(value_type = Option<String>, format = DateTime)]
    valid_from: Option<At>,
    /// Until just before; none: until it is ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    valid_until: Option<At>,
    /// Why.
    reason: Text,
}

/// Give an organisation a price factor for a time
///
/// It must not overlap with another one. It begins and ends on every gateway at its instants; running tasks keep the
/// factor they have.
#[utoipa::path(
    post, path = "/admin/v1/orgs/{org_id}/price-factors", tag = "prices",
    params(("org_id" = OrgId, Path, description = "Which organisation")),
    request_body = FactorBody,
    responses((status = 201, body = PriceFactorInfo)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn create_price_factor(
    Acting(database): Acting,
    Path(org): Path<OrgId>,
    Body(body): Body<FactorBody>,
) -> Result<Tagged<PriceFactorInfo>, Problem> {
    let reason = body.reason.into_string();
    let id = database
        .create_price_factor(
            org,
            body.factor_bp,
            body.valid_from.map(At::get),
            body.valid_until.map(At::get),
            &reason,
        )
        .await?;
    let factor = there(database.price_factor(org, id).await?, id)?;
    Ok(Tagged(StatusCode::CREATED, factor.version, factor))
}

/// Show a price factor
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/price-factors/{factor_id}", tag = "prices",
    params(
        ("org_id" = OrgId, Path, description = "Of which organisation"),
        ("factor_id" = FactorId, Path, description = "Which")
    ),
    responses((status = 200, body = PriceFactorInfo)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn show_price_factor(
    State(api): State<Api>,
    Path((org, id)): Path<(OrgId, FactorId)>,
) -> Result<Tagged<PriceFactorInfo>, Problem> {
    let factor = there(api.database.price_factor(org, id).await?, id)?;
    Ok(Tagged(StatusCode::OK, factor.version, factor))
}

/// When a factor shall end.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EndBody {
    /// An instant to come, earlier than it would end anyway; none: now.
    #[schema(value_type = Option<String>, format = DateTime)]
    at: Option<At>,
}

/// End a price factor
///
/// One that would end before it begins is taken back altogether.
#[utoipa::path(
    post, path = "/admin/v1/orgs/{org_id}/price-factors/{factor_id}/end", tag = "prices",
    params(
        ("org_id" = OrgId, Path, description = "Of which organisation"),
        ("factor_id" = FactorId, Path, description = "Which"),
        IfMatch
    ),
    request_body = EndBody,
    responses((status = 204, description = "It ends then")),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn end_price_factor(
    Acting(database): Acting,
    Path((org, id)): Path<(OrgId, FactorId)>,
    IfMatch(version): IfMatch,
    Body(body): Body<EndBody>,
) -> Result<StatusCode, Problem> {
    database.end_price_factor(org, id, body.at.map(At::get), version).await?;
    Ok(StatusCode::NO_CONTENT)
}
