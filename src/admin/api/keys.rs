//! API keys: creating, changing, rotating and revoking them.

use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::budget_requests::of_user;
use super::call::{ApiCall, ReadCall, WriteCall};
use super::conditions::IfMatch;
use super::extract::{Body, Query, Tagged, Timestamp, existing, given};
use super::key_policy::{may_manage_own, member, refused};
use super::names::Name;
use super::page::{Page, PageLimit};
use super::problem::Problem;
use crate::access::callers::Caller;
use crate::ids::{KeyId, OrgId, UserId};
use crate::store::{KeyEdit, KeyFilter, KeyInfo, KeySpec, KeyStatus, Rates, Status};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyQuery {
    /// Only keys of this user.
    user_id: Option<UserId>,
    /// Only keys with this status.
    #[param(inline)]
    status: Option<KeyStatus>,
    /// The most items a page may have; 50 if omitted.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: PageLimit,
    /// `next_cursor` of the previous page.
    cursor: Option<String>,
}

/// List an organisation's keys
///
/// Oldest first, revoked keys included. A member sees its own.
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/keys", tag = "keys",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    responses((status = 200, description = "A page of keys", body = Page<KeyInfo>)),
    security(("bearer" = ["operator", "operator-read", "org-admin", "member"]))
)]
pub(super) async fn list_keys(
    call: ReadCall<OrgId, Query<KeyQuery>>,
) -> Result<Json<Page<KeyInfo>>, Problem> {
    let ApiCall { caller, database, path: org, input: Query(query), .. } = call;
    let slice = query.limit.after(query.cursor.as_deref())?;
    let filter = KeyFilter { user: of_user(&caller, query.user_id)?, status: query.status };
    let keys = database.list_keys(org, filter, slice).await?;
    Ok(Page::of(keys, query.limit, |key| key.key_id))
}

/// Requests a minute, at most 1,000,000.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "u32")]
pub(super) struct PerMinute(u32);

impl TryFrom<u32> for PerMinute {
    type Error = &'static str;

    fn try_from(rate: u32) -> Result<Self, Self::Error> {
        (rate <= 1_000_000).then_some(Self(rate)).ok_or("requests a minute must be at most 1000000")
    }
}

/// The fields of a new key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyBody {
    /// The user whose calls the key authenticates; omitted: you.
    user_id: Option<UserId>,
    /// A name for people.
    name: Name,
    /// The environment label in the key: tg_**live**_…
    #[serde(default = "live")]
    #[schema(pattern = "^[a-z0-9]{1,12}$", example = "live")]
    env: String,
    /// When the key expires; omitted: never.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// The task types that the key may create; omitted: all.
    #[schema(min_items = 1, max_items = 100)]
    allowed_types: Option<Vec<String>>,
    /// The networks that the key may be used from, such as `10.0.0.0/8`; omitted: all.
    #[schema(value_type = Option<Vec<String>>, min_items = 1, max_items = 100)]
    allowed_networks: Option<Vec<IpNet>>,
    /// Creates a minute; 0: no limit; omitted: the gateway's default.
    #[schema(value_type = Option<u32>, maximum = 1_000_000)]
    create_per_minute: Option<PerMinute>,
    /// Other calls a minute; 0: no limit; omitted: the gateway's default.
    #[schema(value_type = Option<u32>, maximum = 1_000_000)]
    status_per_minute: Option<PerMinute>,
}

fn live() -> String {
    "live".into()
}

/// A key with its secret text, which is shown only once.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShownKey {
    /// Send it as `Authorization: Bearer …`. It cannot be shown again.
    api_key: String,
    #[serde(flatten)]
    key: KeyInfo,
}

/// Create a key
///
/// The answer shows the text of the key; it cannot be shown again. A member creates keys of its own within the organisation's
/// key policy: what the key is not given (its task types, its end) is as the policy has it, with the budget that it says. Rates,
/// networks and task types of the key that a member calls with hold for the new one as well.
#[utoipa::path(
    post, path = "/admin/v1/orgs/{org_id}/keys", tag = "keys",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    request_body = KeyBody,
    responses((status = 201, description = "The key with its secret text", body = ShownKey)),
    security(("bearer" = ["operator", "org-admin", "member"]))
)]
pub(super) async fn create_key(call: WriteCall<OrgId, Body<KeyBody>>) -> Result<Tagged<ShownKey>, Problem> {
    let ApiCall { caller, database, path: org, input: Body(body), .. } = call;
    let user = of_user(&caller, body.user_id)?.or(match &caller {
        Caller::Tenant(principal) => Some(principal.user),
        Caller::Operator(_) => None,
    });
    let user = user.ok_or_else(|| Problem::Invalid("user_id is missing: say whose key this is".into()))?;
    if member(&caller).is_some() && (body.create_per_minute.is_some() || body.status_per_minute.is_some()) {
        return Err(Problem::Forbidden("members do not set the rates of their keys: omit them".into()));
    }
    let spec = KeySpec {
        name: body.name.into_string(),
        env: body.env,
        expires_at: body.expires_at.map(Timestamp::get),
        allowed_types: body.allowed_types,
        allowed_networks: body.allowed_networks,
        rates: Rates {
            create: body.create_per_minute.map(|rate| rate.0),
            status: body.status_per_minute.map(|rate| rate.0),
        },
    };
    let (id, text) = match member(&caller) {
        None => database.create_key(org, user, &spec).await?,
        Some(principal) => {
            let (verdict, id, text) = database.create_member_key((org, user), principal.key, &spec).await?;
            let policy = existing(database.key_policy(org).await?, org)?;
            refused(verdict, &policy, principal).map_or(Ok((id, text)), Err)?
        }
    };
    let key = existing(database.key(id).await?, id)?;
    Ok(Tagged(StatusCode::CREATED, key.version, ShownKey { api_key: text.expose().to_owned(), key }))
}

/// Show a key
#[utoipa::path(
    get, path = "/admin/v1/keys/{key_id}", tag = "keys",
    params(("key_id" = KeyId, Path, description = "The key")),
    responses((status = 200, description = "The key", body = KeyInfo)),
    security(("bearer" = ["operator", "operator-read", "org-admin", "member"]))
)]
pub(super) async fn show_key(call: ReadCall<KeyId>) -> Result<Tagged<KeyInfo>, Problem> {
    let ApiCall { database, path: id, .. } = call;
    let key = existing(database.key(id).await?, id)?;
    Ok(Tagged(StatusCode::OK, key.version, key))
}

/// Changes of a key; a field that is omitted keeps its value.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyPatch {
    /// A name for people.
    name: Option<Name>,
    /// `suspended`: creates with this key are refused.
    status: Option<Status>,
    /// When the key expires; null: never.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Option<Timestamp>>,
    /// The task types that the key may create; null: all.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>, min_items = 1, max_items = 100)]
    allowed_types: Option<Option<Vec<String>>>,
    /// The networks that the key may be used from; null: all.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>, min_items = 1, max_items = 100)]
    allowed_networks: Option<Option<Vec<IpNet>>>,
    /// Creates a minute; 0: no limit; null: the gateway's default.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u32>, maximum = 1_000_000)]
    create_per_minute: Option<Option<PerMinute>>,
    /// Other calls a minute; 0: no limit; null: the gateway's default.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u32>, maximum = 1_000_000)]
    status_per_minute: Option<Option<PerMinute>>,
}

impl KeyPatch {
    fn only_renames(&self) -> bool {
        let Self {
            name: _,
            status,
            expires_at,
            allowed_types,
            allowed_networks,
            create_per_minute,
            status_per_minute,
        } = self;
        status.is_none()
            && expires_at.is_none()
            && allowed_types.is_none()
            && allowed_networks.is_none()
            && create_per_minute.is_none()
            && status_per_minute.is_none()
    }
}

/// Change a key
///
/// Members change only the names of their keys.
#[utoipa::path(
    patch, path = "/admin/v1/keys/{key_id}", tag = "keys",
    params(("key_id" = KeyId, Path, description = "The key")),
    request_body = KeyPatch,
    responses((status = 200, description = "The key after the change", body = KeyInfo)),
    security(("bearer" = ["operator", "org-admin", "member"]))
)]
pub(super) async fn update_key(
    call: WriteCall<KeyId, (IfMatch, Body<KeyPatch>)>,
) -> Result<Tagged<KeyInfo>, Problem> {
    let ApiCall { caller, database, path: id, input: (IfMatch(version), Body(patch)), .. } = call;
    may_manage_own(&database, &caller).await?;
    if member(&caller).is_some() && !patch.only_renames() {
        return Err(Problem::Forbidden("members change only the names of their keys: ask an admin".into()));
    }
    let rate = |given: Option<Option<PerMinute>>| given.map(|rate| rate.map(|rate| rate.0));
    let edit = KeyEdit {
        name: patch.name.map(Name::into_string),
        status: patch.status,
        expires_at: patch.expires_at.map(|end| end.map(Timestamp::get)),
        allowed_types: patch.allowed_types,
        allowed_networks: patch.allowed_networks,
        create_per_minute: rate(patch.create_per_minute),
        status_per_minute: rate(patch.status_per_minute),
    };
    let key = database.edit_key(id, version, &edit).await?;
    Ok(Tagged(StatusCode::OK, key.version, key))
}

/// How a key is rotated.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RotationBody {
    /// How many seconds the current text keeps working beside the new one, at most 30 days; 0: it stops now.
    #[serde(default = "a_day")]
    #[schema(maximum = 2_592_000, default = 86_400)]
    overlap_seconds: u32,
}

fn a_day() -> u32 {
    86_400
}

/// Rotate a key
///
/// The key keeps its id and gets a new text, which is shown only once. The current text works until the overlap ends; the
/// text from an earlier rotation stops working now.
#[utoipa::path(
    post, path = "/admin/v1/keys/{key_id}/rotate", tag = "keys",
    params(("key_id" = KeyId, Path, description = "The key")),
    request_body = RotationBody,
    responses((status = 200, description = "The key with its secret text", body = ShownKey)),
    security(("bearer" = ["operator", "org-admin", "member"]))
)]
pub(super) async fn rotate_key(
    call: WriteCall<KeyId, Body<RotationBody>>,
) -> Result<Tagged<ShownKey>, Problem> {
    let ApiCall { caller, database, path: id, input: Body(body), .. } = call;
    may_manage_own(&database, &caller).await?;
    let overlap = Duration::from_secs(body.overlap_seconds.into());
    let rotated = database.rotate_key(id, overlap).await?;
    let shown = ShownKey { api_key: rotated.text.expose().to_owned(), key: rotated.key };
    Ok(Tagged(StatusCode::OK, shown.key.version, shown))
}

/// Revoke a key
///
/// All texts of the key stop working on every gateway within a second, permanently. Its tasks continue.
#[utoipa::path(
    post, path = "/admin/v1/keys/{key_id}/revoke", tag = "keys",
    params(("key_id" = KeyId, Path, description = "The key")),
    responses((status = 200, description = "The key after the change", body = KeyInfo)),
    security(("bearer" = ["operator", "org-admin", "member"]))
)]
pub(super) async fn revoke_key(call: WriteCall<KeyId>) -> Result<Tagged<KeyInfo>, Problem> {
    let ApiCall { caller, database, path: id, .. } = call;
    may_manage_own(&database, &caller).await?;
    database.revoke_key(id).await?;
    let key = existing(database.key(id).await?, id)?;
    Ok(Tagged(StatusCode::OK, key.version, key))
}
