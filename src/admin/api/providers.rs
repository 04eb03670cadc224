//! Identity providers: who else may say who is calling.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use url::Url;
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::access::Acting;
use super::problem::Problem;
use super::request::{Body, IfMatch, Limit, Page, Path, Query, Tagged, Text, given, there};
use crate::ids::{OrgId, ProviderId};
use crate::store::{GivenRole, Provider, ProviderSpec, Serves, SigningAlgorithm, Slice};

/// Which identity providers.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ProviderQuery {
    /// Items of a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List identity providers
///
/// Oldest first.
#[utoipa::path(
    get, path = "/admin/v1/identity-providers", tag = "identity",
    params(ProviderQuery),
    responses((status = 200, body = Page<Provider>)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn list_providers(
    State(api): State<Api>,
    Query(query): Query<ProviderQuery>,
) -> Result<Json<Page<Provider>>, Problem> {
    let slice: Slice<ProviderId> = query.limit.behind(query.cursor.as_deref())?;
    // There are few: gateways keep all of them in memory.
    let all = api.database.providers().await?.into_iter();
    let behind = all.filter(|provider| slice.after.is_none_or(|after| provider.provider_id > after));
    let some = behind.take(usize::from(slice.limit)).collect();
    Ok(Page::of(some, query.limit, |provider: &Provider| provider.provider_id))
}

/// An identity provider to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProviderBody {
    /// What people call it, unique.
    name: Text,
    /// Whom it may speak for.
    #[serde(default = "organisations")]
    serves: Serves,
    /// The one organisation it may speak for; left out: `org_claim` says which.
    org_id: Option<OrgId>,
    /// The `iss` of its tokens.
    #[schema(min_length = 1, max_length = 500)]
    issuer: String,
    /// Tokens must be for one of these.
    #[schema(min_items = 1)]
    audiences: Vec<String>,
    /// Where it publishes its keys: https, or http on this machine.
    #[schema(value_type = String, format = "uri")]
    jwks_url: Url,
    /// How it may sign.
    #[serde(default = "all")]
    #[schema(min_items = 1)]
    algorithms: Vec<SigningAlgorithm>,
    /// By how much its clock may differ.
    #[serde(default = "a_minute")]
    #[schema(maximum = 300, default = 60)]
    leeway_seconds: u32,
    /// The claim that says which user; never given to another.
    #[serde(default = "sub")]
    #[schema(default = "sub")]
    user_claim: String,
    /// The claim that says which organisation, by id or name.
    org_claim: Option<String>,
    /// The claim that says which team, by name.
    team_claim: Option<String>,
    /// The claim that says which role: a text or a list of texts.
    role_claim: Option<String>,
    /// What its values mean: `member` or `admin`; for operators `operator` or `operator_read`.
    #[serde(default)]
    role_map: BTreeMap<String, GivenRole>,
    /// Whether a subject that was never seen becomes a user.
    #[serde(default)]
    create_users: bool,
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

/// Make an identity provider
///
/// Callers then sign in with its tokens (JWT) in place of a key.
#[utoipa::path(
    post, path = "/admin/v1/identity-providers", tag = "identity",
    request_body = ProviderBody,
    responses((status = 201, body = Provider)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn create_provider(
    Acting(database): Acting,
    Body(body): Body<ProviderBody>,
) -> Result<Tagged<Provider>, Problem> {
    let spec = ProviderSpec {
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
    };
    let id = database.create_provider(&spec).await?;
    let provider = there(database.provider(id).await?, id)?;
    Ok(Tagged(StatusCode::CREATED, provider.version, provider))
}

/// Show an identity provider
#[utoipa::path(
    get, path = "/admin/v1/identity-providers/{provider_id}", tag = "identity",
    params(("provider_id" = ProviderId, Path, description = "Which")),
    responses((status = 200, body = Provider)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn show_provider(
    State(api): State<Api>,
    Path(id): Path<ProviderId>,
) -> Result<Tagged<Provider>, Problem> {
    let provider = there(api.database.provider(id).await?, id)?;
    Ok(Tagged(StatusCode::OK, provider.version, provider))
}

/// What is to change of an identity provider; what is left out stays. Whom it speaks for stays.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProviderPatch {
    /// What people call it.
    name: Option<Text>,
    /// The `iss` of its tokens.
    issuer: Option<String>,
    /// Tokens must be for one of these.
    audiences: Option<Vec<String>>,
    /// Where it publishes its keys.
    #[schema(value_type = Option<String>, format = "uri")]
    jwks_url: Option<Url>,
    /// How it may sign.
    algorithms: Option<Vec<SigningAlgorithm>>,
    /// By how much its clock may differ.
    #[schema(maximum = 300)]
    leeway_seconds: Option<u32>,
    /// The claim that says which user.
    user_claim: Option<String>,
    /// The claim that says which organisation; null: none.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    org_claim: Option<Option<String>>,
    /// The claim that says which team; null: none.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    team_claim: Option<Option<String>>,
    /// The claim that says which role; null: none.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    role_claim: Option<Option<String>>,
    /// What its values mean.
    role_map: Option<BTreeMap<String, GivenRole>>,
    /// Whether a subject that was never seen becomes a user.
    create_users: Option<bool>,
    /// Whether its tokens are refused for now.
    suspended: Option<bool>,
}

impl ProviderPatch {
    fn apply(self, spec: &mut ProviderSpec) {
        fn set<T>(field: &mut T, given: Option<T>) {
            if let Some(given) = given {
                *field = given;
            }
        }
        set(&mut spec.name, self.name.map(Text::into_string));
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
    }
}

/// Change an identity provider
#[utoipa::path(
    patch, path = "/admin/v1/identity-providers/{provider_id}", tag = "identity",
    params(
        ("provider_id" = ProviderId, Path, description = "Which"),
        IfMatch
    ),
    request_body = ProviderPatch,
    responses((status = 200, body = Provider)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn update_provider(
    Acting(database): Acting,
    Path(id): Path<ProviderId>,
    IfMatch(version): IfMatch,
    Body(patch): Body<ProviderPatch>,
) -> Result<Tagged<Provider>, Problem> {
    let provider = database.edit_provider(id, version, |spec| patch.clone().apply(spec)).await?;
    Ok(Tagged(StatusCode::OK, provider.version, provider))
}

/// Delete an identity provider
///
/// Its tokens are refused from now on; the users that came by it stay.
#[utoipa::path(
    delete, path = "/admin/v1/identity-providers/{provider_id}", tag = "identity",
    params(
        ("provider_id" = ProviderId, Path, description = "Which"),
        IfMatch
    ),
    responses((status = 204, description = "It is deleted")),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn delete_provider(
    Acting(database): Acting,
    Path(id): Path<ProviderId>,
    IfMatch(version): IfMatch,
) -> Result<StatusCode, Problem> {
    database.delete_provider(id, version).await?;
    Ok(StatusCode::NO_CONTENT)
}
