//! Subjects of identity providers, tied to users.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::access::Acting;
use super::problem::Problem;
use super::request::{Body, Limit, Page, Path, Query, Text};
use crate::ids::{IdentityId, OrgId, ProviderId, UserId};
use crate::store::IdentityInfo;

/// Which identities.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct IdentityQuery {
    /// Only those of this user.
    user_id: Option<UserId>,
    /// Items of a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List an organisation's identities
///
/// Who signs in with tokens of an identity provider, and which user that is.
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/identities", tag = "identity",
    params(("org_id" = OrgId, Path, description = "Of which organisation"), IdentityQuery),
    responses((status = 200, body = Page<IdentityInfo>)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn list_identities(
    State(api): State<Api>,
    Path(org): Path<OrgId>,
    Query(query): Query<IdentityQuery>,
) -> Result<Json<Page<IdentityInfo>>, Problem> {
    let slice = query.limit.behind(query.cursor.as_deref())?;
    let identities = api.database.list_identities(org, query.user_id, slice).await?;
    Ok(Page::of(identities, query.limit, |identity| identity.identity_id))
}

/// An identity to be tied.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct IdentityBody {
    /// Who vouches for it.
    provider_id: ProviderId,
    /// The provider's word for it: the value of its user claim.
    subject: Text,
    /// Which user it is.
    user_id: UserId,
}

/// An identity that was tied.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TiedIdentity {
    /// Its id.
    identity_id: IdentityId,
}

/// Tie an identity to a user
///
/// For users that are there already, and for providers that may not make any.
#[utoipa::path(
    post, path = "/admin/v1/orgs/{org_id}/identities", tag = "identity",
    params(("org_id" = OrgId, Path, description = "Of which organisation")),
    request_body = IdentityBody,
    responses((status = 201, body = TiedIdentity)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn create_identity(
    Acting(database): Acting,
    Path(org): Path<OrgId>,
    Body(body): Body<IdentityBody>,
) -> Result<(StatusCode, Json<TiedIdentity>), Problem> {
    let subject = body.subject.into_string();
    let identity_id = database.link_identity(body.provider_id, org, body.user_id, &subject).await?;
    Ok((StatusCode::CREATED, Json(TiedIdentity { identity_id })))
}

/// Untie an identity
///
/// Its tokens are refused, or make a new user.
#[utoipa::path(
    delete, path = "/admin/v1/orgs/{org_id}/identities/{identity_id}", tag = "identity",
    params(
        ("org_id" = OrgId, Path, description = "Of which organisation"),
        ("identity_id" = IdentityId, Path, description = "Which")
    ),
    responses((status = 204, description = "It is untied")),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn delete_identity(
    Acting(database): Acting,
    Path((org, id)): Path<(OrgId, IdentityId)>,
) -> Result<StatusCode, Problem> {
    database.unlink_identity(org, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
