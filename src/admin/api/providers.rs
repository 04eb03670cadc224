//! Identity providers: callers may sign in with their tokens (JWT) instead of an API key.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::StatusCode;
use serde::Deserialize;
use url::Url;
use utoipa::{IntoParams, ToSchema};

use super::call::{ApiCall, ReadCall, WriteCall};
use super::conditions::IfMatch;
use super::extract::{Body, Query, Tagged, existing, given};
use super::names::Name;
use super::page::{Page, PageLimit};
use super::problem::Problem;
use crate::encryption::StoredSecrets;
use crate::ids::{OrgId, ProviderId};
use crate::secret::Secret;
use crate::store::{GivenRole, Provider, ProviderSpec, Serves, SigningAlgorithm, Slice};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct ProviderQuery {
    /// The most items a page may have; 50 if omitted.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: PageLimit,
    /// `next_cursor` of the previous page.
    cursor: Option<String>,
}

/// List identity providers
///
/// Oldest first.
#[utoipa::path(
    get, path = "/admin/v1/identity-providers", tag = "identity",
    responses((status = 200, description = "A page of identity providers", body = Page<Provider>)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn list_providers(
    call: ReadCall<(), Query<ProviderQuery>>,
) -> Result<Json<Page<Provider>>, Problem> {
    let ApiCall { database, input: Query(query), .. } = call;
    let slice: Slice<ProviderId> = query.limit.after(query.cursor.as_deref())?;
    // There are few of them: every gateway keeps all in memory.
    let all = database.providers().await?.into_iter();
    let behind = all.filter(|provider| slice.after.is_none_or(|after| provider.provider_id > after));
    let some = behind.take(usize::from(slice.limit)).collect();
    Ok(Page::of(some, query.limit, |provider: &Provider| provider.provider_id))
}

/// A new identity provider.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProviderBody {
    /// A unique name for people.
    name: Name,
    /// Whether its tokens identify users of organisations, or operators.
    #[serde(default = "organisations")]
    serves: Serves,
    /// The only organisation whose users it may identify; omitted: `org_claim` names the organisation.
    org_id: Option<OrgId>,
    /// The `iss` claim of its tokens.
    #[schema(min_length = 1, max_length = 500)]
    issuer: String,
    /// A token must have one of these in its `aud` claim.
    #[schema(min_items = 1)]
    audiences: Vec<String>,
    /// The URL of its JWKS: https, or http on this machine.
    #[schema(value_type = String, format = "uri")]
    jwks_url: Url,
    /// The signature algorithms that are accepted.
    #[serde(default = "all")]
    #[schema(min_items = 1)]
    algorithms: Vec<SigningAlgorithm>,
    /// Tolerance in seconds for the difference between its clock and the gateway's.
    #[serde(default = "a_minute")]
    #[schema(maximum = 300, default = 60)]
    leeway_seconds: u32,
    /// The claim that identifies the user. Its value must never be reused for another person.
    #[serde(default = "sub")]
    #[schema(default = "sub")]
    user_claim: String,
    /// The claim with the id or the name of the organisation.
    org_claim: Option<String>,
    /// The claim with the name of the team.
    team_claim: Option<String>,
    /// The claim with the role: a text or a list of texts. A name that is no claim's is a path: `realm_access.roles` is the
    /// claim `roles` within `realm_access`. The same is true of the other claims.
    role_claim: Option<String>,
    /// Maps values of `role_claim` to roles: `member` or `admin`; for operators `operator` or `operator_read`.
    #[serde(default)]
    role_map: BTreeMap<String, GivenRole>,
    /// Whether an unknown subject becomes a new user.
    #[serde(default)]
    create_users: bool,
    /// The client id that the console has with the provider: people sign in there by it. The issuer must then be a URL, and
    /// `console.public_url` be set. Omitted: the console does not offer the provider.
    #[schema(min_length = 1, max_length = 500)]
    console_client_id: Option<String>,
    /// The secret of that client, if it has one. It is never shown again.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 500, write_only)]
    console_client_secret: Option<Secret>,
    /// The scopes that the console asks for; omitted: `openid` alone.
    #[serde(default = "openid")]
    #[schema(min_items = 1, max_items = 20)]
    console_scopes: Vec<String>,
}

fn openid() -> Vec<String> {
    vec!["openid".into()]
}

fn organisations() -> Serves {
    Serves::Organisations
}

fn all() -> Vec<SigningAlgorithm> {
    SigningAlgorithm::ALL.into()
}

fn a_minute() -> u32 {
    60
}

fn sub() -> String {
    "sub".into()
}

/// Encrypts a new client secret. What cannot be encrypted becomes nothing, which the rules refuse: it is never stored as it is.
fn encrypt(spec: &mut ProviderSpec, secrets: &StoredSecrets) {
    if let Some(secret) = &spec.console_client_secret {
        let encrypted = secrets.encrypt(secret, &spec.issuer);
        spec.console_client_secret = Some(encrypted.unwrap_or_else(|_| Secret::new("")));
    }
}

/// Create an identity provider
///
/// Callers can then sign in with its tokens (JWT) instead of a key.
#[utoipa::path(
    post, path = "/admin/v1/identity-providers", tag = "identity",
    request_body = ProviderBody,
    responses((status = 201, description = "The new identity provider", body = Provider)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn create_provider(
    call: WriteCall<(), Body<ProviderBody>>,
) -> Result<Tagged<Provider>, Problem> {
    let ApiCall { database, secrets, input: Body(body), .. } = call;
    let mut spec = ProviderSpec {
        name: body.name.into_string(),
        serves: body.serves,
        org_id: body.org_id,
        issuer: body.issuer,
        audiences: body.audiences,
        jwks_url: body.jwks_url,
        algorithms: body.algorithms,
        leeway_seconds: body.leeway_seconds,
        user_claim: body.user_claim,
        org_claim: body.org_claim,
        team_claim: body.team_claim,
        role_claim: body.role_claim,
        role_map: body.role_map,
        create_users: body.create_users,
        suspended: false,
        console_client_id: body.console_client_id,
        console_client_secret: body.console_client_secret,
        console_scopes: body.console_scopes,
    };
    spec.check()?;
    encrypt(&mut spec, &secrets);
    let id = database.create_provider(&spec).await?;
    let provider = existing(database.provider(id).await?, id)?;
    Ok(Tagged(StatusCode::CREATED, provider.version, provider))
}

/// Show an identity provider
#[utoipa::path(
    get, path = "/admin/v1/identity-providers/{provider_id}", tag = "identity",
    params(("provider_id" = ProviderId, Path, description = "The identity provider")),
    responses((status = 200, description = "The identity provider", body = Provider)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn show_provider(call: ReadCall<ProviderId>) -> Result<Tagged<Provider>, Problem> {
    let ApiCall { database, path: id, .. } = call;
    let provider = existing(database.provider(id).await?, id)?;
    Ok(Tagged(StatusCode::OK, provider.version, provider))
}

/// Changes of an identity provider; a field that is omitted keeps its value. `serves` and `org_id` cannot be changed.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProviderPatch {
    /// A unique name for people.
    name: Option<Name>,
    /// The `iss` claim of its tokens. With another issuer than before there is no client secret until one is given.
    issuer: Option<String>,
    /// A token must have one of these in its `aud` claim.
    audiences: Option<Vec<String>>,
    /// The URL of its JWKS.
    #[schema(value_type = Option<String>, format = "uri")]
    jwks_url: Option<Url>,
    /// The signature algorithms that are accepted.
    algorithms: Option<Vec<SigningAlgorithm>>,
    /// Tolerance in seconds for the difference between its clock and the gateway's.
    #[schema(maximum = 300)]
    leeway_seconds: Option<u32>,
    /// The claim that identifies the user.
    user_claim: Option<String>,
    /// The claim with the id or the name of the organisation; null: none.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    org_claim: Option<Option<String>>,
    /// The claim with the name of the team; null: none.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    team_claim: Option<Option<String>>,
    /// The claim with the role; null: none.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    role_claim: Option<Option<String>>,
    /// Maps values of `role_claim` to roles.
    role_map: Option<BTreeMap<String, GivenRole>>,
    /// Whether an unknown subject becomes a new user.
    create_users: Option<bool>,
    /// `true`: its tokens are refused.
    suspended: Option<bool>,
    /// The client id that the console has with the provider; null: people cannot sign in by it any more. Another id than before
    /// has no secret until one is given.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    console_client_id: Option<Option<String>>,
    /// The secret of that client; null: it has none.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, write_only)]
    console_client_secret: Option<Option<Secret>>,
    /// The scopes that the console asks for.
    console_scopes: Option<Vec<String>>,
}

impl ProviderPatch {
    fn apply(self, spec: &mut ProviderSpec, secrets: &StoredSecrets) {
        fn set<T>(field: &mut T, given: Option<T>) {
            if let Some(given) = given {
                *field = given;
            }
        }
        set(&mut spec.name, self.name.map(Name::into_string));
        if self.issuer.as_ref().is_some_and(|issuer| *issuer != spec.issuer) {
            // It is for that provider alone: nobody gets it by another issuer.
            spec.console_client_secret = None;
        }
        set(&mut spec.issuer, self.issuer);
        set(&mut spec.audiences, self.audiences);
        set(&mut spec.jwks_url, self.jwks_url);
        set(&mut spec.algorithms, self.algorithms);
        set(&mut spec.leeway_seconds, self.leeway_seconds);
        set(&mut spec.user_claim, self.user_claim);
        set(&mut spec.org_claim, self.org_claim);
        set(&mut spec.team_claim, self.team_claim);
        set(&mut spec.role_claim, self.role_claim);
        set(&mut spec.role_map, self.role_map);
        set(&mut spec.create_users, self.create_users);
        set(&mut spec.suspended, self.suspended);
        if self.console_client_id.as_ref().is_some_and(|id| *id != spec.console_client_id) {
            // A secret belongs to its client.
            spec.console_client_secret = None;
        }
        set(&mut spec.console_client_id, self.console_client_id);
        if let Some(secret) = self.console_client_secret {
            spec.console_client_secret = secret;
            // One that is none is left to be refused.
            if spec.has_usable_secret() {
                encrypt(spec, secrets);
            }
        }
        set(&mut spec.console_scopes, self.console_scopes);
    }
}

/// Change an identity provider
#[utoipa::path(
    patch, path = "/admin/v1/identity-providers/{provider_id}", tag = "identity",
    params(("provider_id" = ProviderId, Path, description = "The identity provider")),
    request_body = ProviderPatch,
    responses((status = 200, description = "The identity provider after the change", body = Provider)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn update_provider(
    call: WriteCall<ProviderId, (IfMatch, Body<ProviderPatch>)>,
) -> Result<Tagged<Provider>, Problem> {
    let ApiCall { database, secrets, path: id, input: (IfMatch(version), Body(patch)), .. } = call;
    let provider = database.edit_provider(id, version, |spec| patch.clone().apply(spec, &secrets)).await?;
    Ok(Tagged(StatusCode::OK, provider.version, provider))
}

/// Delete an identity provider
///
/// Its tokens are refused from now on; the users that it created stay.
#[utoipa::path(
    delete, path = "/admin/v1/identity-providers/{provider_id}", tag = "identity",
    params(("provider_id" = ProviderId, Path, description = "The identity provider")),
    responses((status = 204, description = "Deleted")),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn delete_provider(call: WriteCall<ProviderId, IfMatch>) -> Result<StatusCode, Problem> {
    let ApiCall { database, path: id, input: IfMatch(version), .. } = call;
    database.delete_provider(id, version).await?;
    Ok(StatusCode::NO_CONTENT)
}
