//! Identities: subjects of identity providers that are linked to users.

use axum::Json;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::call::{ApiCall, ReadCall, WriteCall};
use super::extract::{Body, Query, Text};
use super::page::{Page, PageLimit};
use super::problem::Problem;
use crate::ids::{IdentityId, OrgId, ProviderId, UserId};
use crate::store::IdentityInfo;
use crate::strict::is_unseen;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct IdentityQuery {
    /// Only identities of this user.
    user_id: Option<UserId>,
    /// The most items a page may have; 50 if omitted.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: PageLimit,
    /// `next_cursor` of the previous page.
    cursor: Option<String>,
}

/// List an organisation's identities
///
/// The subjects of identity providers that sign in as users of this organisation.
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/identities", tag = "identity",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    responses((status = 200, description = "A page of linked identities", body = Page<IdentityInfo>)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn list_identities(
    call: ReadCall<OrgId, Query<IdentityQuery>>,
) -> Result<Json<Page<IdentityInfo>>, Problem> {
    let ApiCall { database, path: org, input: Query(query), .. } = call;
    let slice = query.limit.after(query.cursor.as_deref())?;
    let identities = database.list_identities(org, query.user_id, slice).await?;
    Ok(Page::of(identities, query.limit, |identity| identity.identity_id))
}

/// The fields of a new identity.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct IdentityBody {
    /// The identity provider that issues the subject's tokens.
    provider_id: ProviderId,
    /// The value of the provider's user claim in the subject's tokens.
    subject: Text,
    /// The user that the subject signs in as.
    user_id: UserId,
}

/// The identity that was linked.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LinkedIdentity {
    identity_id: IdentityId,
}

/// Link an identity to a user
///
/// For users that exist already, and for identity providers that may not create users.
#[utoipa::path(
    post, path = "/admin/v1/orgs/{org_id}/identities", tag = "identity",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    request_body = IdentityBody,
    responses((status = 201, description = "The linked identity", body = LinkedIdentity)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn create_identity(
    call: WriteCall<OrgId, Body<IdentityBody>>,
) -> Result<(StatusCode, Json<LinkedIdentity>), Problem> {
    let ApiCall { database, path: org, input: Body(body), .. } = call;
    let subject = body.subject.into_string();
    if let Some(c) = subject.chars().find(|c| is_unseen(*c)) {
        let code = u32::from(c);
        let why = format!("subject has the invisible character U+{code:04X}: no token with it is taken");
        return Err(Problem::Invalid(why));
    }
    let identity_id = database.link_identity(body.provider_id, org, body.user_id, &subject).await?;
    Ok((StatusCode::CREATED, Json(LinkedIdentity { identity_id })))
}

/// Unlink an identity
///
/// The subject's tokens are refused from now on, or create a new user if the identity provider may create users.
#[utoipa::path(
    delete, path = "/admin/v1/orgs/{org_id}/identities/{identity_id}", tag = "identity",
    params(
        ("org_id" = OrgId, Path, description = "The organisation"),
        ("identity_id" = IdentityId, Path, description = "The identity")
    ),
    responses((status = 204, description = "Unlinked")),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn delete_identity(call: WriteCall<(OrgId, IdentityId)>) -> Result<StatusCode, Problem> {
    let ApiCall { database, path: (org, id), .. } = call;
    database.unlink_identity(org, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
