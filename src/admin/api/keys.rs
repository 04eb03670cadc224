//! API keys.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::access::Acting;
use super::problem::Problem;
use super::request::{At, Body, IfMatch, Limit, Page, Path, Query, Tagged, Text, given, there};
use crate::ids::{KeyId, OrgId, UserId};
use crate::store::{KeyEdit, KeyFilter, KeyInfo, KeySpec, KeyStatus, Rates, Status};

/// Which keys.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct KeyQuery {
    /// Only those of this user.
    user_id: Option<UserId>,
    /// Only those.
    #[param(inline)]
    status: Option<KeyStatus>,
    /// Items of a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List an organisation's keys
///
/// Oldest first, the revoked ones as well.
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/keys", tag = "keys",
    params(("org_id" = OrgId, Path, description = "Of which organisation"), KeyQuery),
    responses((status = 200, body = Page<KeyInfo>)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn list_keys(
    State(api): State<Api>,
    Path(org): Path<OrgId>,
    Query(query): Query<KeyQuery>,
) -> Result<Json<Page<KeyInfo>>, Problem> {
    let slice = query.limit.behind(query.cursor.as_deref())?;
    let filter = KeyFilter { user: query.user_id, status: query.status };
    let keys = api.database.list_keys(org, filter, slice).await?;
    Ok(Page::of(keys, query.limit, |key| key.key_id))
}

/// Requests a minute, as they can be stored.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "u32")]
pub(super) struct PerMinute(u32);

impl TryFrom<u32> for PerMinute {
    type Error = &'static str;

    fn try_from(rate: u32) -> Result<Self, Self::Error> {
        (rate <= 1_000_000).then_some(Self(rate)).ok_or("requests a minute must be at most 1000000")
    }
}

/// A key to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyBody {
    /// The user it stands for.
    user_id: UserId,
    /// What people call it.
    name: Text,
    /// The second part of its text.
    #[serde(default = "live")]
    #[schema(pattern = "^[a-z0-9]{1,12}$", example = "live")]
    env: String,
    /// When it ends; left out: never.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<At>,
    /// Types it may create; left out: all.
    #[schema(min_items = 1)]
    allowed_types: Option<Vec<String>>,
    /// Networks it may be used from, such as `10.0.0.0/8`; left out: all.
    #[schema(value_type = Option<Vec<String>>, min_items = 1)]
    allowed_networks: Option<Vec<IpNet>>,
    /// Creates a minute; 0: no limit, left out: the gateway's default.
    #[schema(value_type = Option<u32>, maximum = 1_000_000)]
    create_per_minute: Option<PerMinute>,
    /// Other calls a minute; 0: no limit, left out: the gateway's default.
    #[schema(value_type = Option<u32>, maximum = 1_000_000)]
    status_per_minute: Option<PerMinute>,
}

fn live() -> String {
    "live".into()
}

/// A key with its text, the one time it is shown.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShownKey {
    /// What to send as `Authorization: Bearer`. It is not shown again.
    api_key: String,
    #[serde(flatten)]
    key: KeyInfo,
}

/// Make a key
///
/// Its text is shown once.
#[utoipa::path(
    post, path = "/admin/v1/orgs/{org_id}/keys", tag = "keys",
    params(("org_id" = OrgId, Path, description = "Of which organisation")),
    request_body = KeyBody,
    responses((status = 201, body = ShownKey)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn create_key(
    Acting(database): Acting,
    Path(org): Path<OrgId>,
    Body(body): Body<KeyBody>,
) -> Result<Tagged<ShownKey>, Problem> {
    let spec = KeySpec {
        name: body.name.into_string(),
        env: body.env,
        expires_at: body.expires_at.map(At::get),
        allowed_types: body.allowed_types,
        allowed_networks: body.allowed_networks,
        rates: Rates {
            create: body.create_per_minute.map(|rate| rate.0),
            status: body.status_per_minute.map(|rate| rate.0),
        },
    };
    let (id, text) = database.create_key(org, body.user_id, &spec).await?;
    let key = there(database.key(id).await?, id)?;
    Ok(Tagged(StatusCode::CREATED, key.version, ShownKey { api_key: text.expose().to_owned(), key }))
}

/// Show a key
#[utoipa::path(
    get, path = "/admin/v1/keys/{key_id}", tag = "keys",
    params(("key_id" = KeyId, Path, description = "Which")),
    responses((status = 200, body = KeyInfo)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn show_key(
    State(api): State<Api>,
    Path(id): Path<KeyId>,
) -> Result<Tagged<KeyInfo>, Problem> {
    let key = there(api.database.key(id).await?, id)?;
    Ok(Tagged(StatusCode::OK, key.version, key))
}

/// What is to change of a key; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyPatch {
    /// What people call it.
    name: Option<Text>,
    /// `suspended`: its creates are refused.
    status: Option<Status>,
    /// When it ends; null: never.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Option<At>>,
    /// Types it may create; null: all.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>, min_items = 1)]
    allowed_types: Option<Option<Vec<String>>>,
    /// Networks it may be used from; null: all.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>, min_items = 1)]
    allowed_networks: Option<Option<Vec<IpNet>>>,
    /// Creates a minute; 0: no limit, null: the gateway's default.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u32>, maximum = 1_000_000)]
    create_per_minute: Option<Option<PerMinute>>,
    /// Other calls a minute; 0: no limit, null: the gateway's default.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u32>, maximum = 1_000_000)]
    status_per_minute: Option<Option<PerMinute>>,
}

/// Change a key
#[utoipa::path(
    patch, path = "/admin/v1/keys/{key_id}", tag = "keys",
    params(
        ("key_id" = KeyId, Path, description = "Which"),
        IfMatch
    ),
    request_body = KeyPatch,
    responses((status = 200, body = KeyInfo)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn update_key(
    Acting(database): Acting,
    Path(id): Path<KeyId>,
    IfMatch(version): IfMatch,
    Body(patch): Body<KeyPatch>,
) -> Result<Tagged<KeyInfo>, Problem> {
    let rate = |given: Option<Option<PerMinute>>| given.map(|rate| rate.map(|rate| rate.0));
    let edit = KeyEdit {
        name: patch.name.map(Text::into_string),
        status: patch.status,
        expires_at: patch.expires_at.map(|end| end.map(At::get)),
        allowed_types: patch.allowed_types,
        allowed_networks: patch.allowed_networks,
        create_per_minute: rate(patch.create_per_minute),
        status_per_minute: rate(patch.status_per_minute),
    };
    let key = database.edit_key(id, version, &edit).await?;
    Ok(Tagged(StatusCode::OK, key.version, key))
}

/// How to rotate a key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RotationBody {
    /// For so long the present text works as well, at most 30 days; 0: it ends now.
    #[serde(default = "a_day")]
    #[schema(maximum = 2_592_000, default = 86_400)]
    overlap_seconds: u32,
}

fn a_day() -> u32 {
    86_400
}

/// Rotate a key
///
/// It keeps its id and gets another text, which is shown once. The present one works until the overlap ends, one from an
/// earlier rotation no more.
#[utoipa::path(
    post, path = "/admin/v1/keys/{key_id}/rotate", tag = "keys",
    params(("key_id" = KeyId, Path, description = "Which")),
    request_body = RotationBody,
    responses((status = 200, body = ShownKey)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn rotate_key(
    Acting(database): Acting,
    Path(id): Path<KeyId>,
    Body(body): Body<RotationBody>,
) -> Result<Tagged<ShownKey>, Problem> {
    let overlap = Duration::from_secs(body.overlap_seconds.into());
    let rotated = database.rotate_key(id, overlap).await?;
    let shown = ShownKey { api_key: rotated.text.expose().to_owned(), key: rotated.key };
    Ok(Tagged(StatusCode::OK, shown.key.version, shown))
}

/// Revoke a key
///
/// With all its texts, everywhere within a second, for good. Its tasks stay.
#[utoipa::path(
    post, path = "/admin/v1/keys/{key_id}/revoke", tag = "keys",
    params(("key_id" = KeyId, Path, description = "Which")),
    responses((status = 200, body = KeyInfo)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn revoke_key(
    Acting(database): Acting,
    Path(id): Path<KeyId>,
) -> Result<Tagged<KeyInfo>, Problem> {
    database.revoke_key(id).await?;
    let key = there(database.key(id).await?, id)?;
    Ok(Tagged(StatusCode::OK, key.version, key))
}
