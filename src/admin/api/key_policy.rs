//! What members of an organisation may do with keys of their own: the policy that its admin sets, and its refusals in words.

use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use super::call::{ApiCall, ReadCall, WriteCall};
use super::conditions::IfMatch;
use super::extract::{Body, Tagged, existing, given};
use super::problem::Problem;
use crate::access::callers::Caller;
use crate::ids::OrgId;
use crate::store::{Database, KeyBudget, KeyPolicy, KeyPolicyChange, KeyVerdict, Principal, Role};

/// The caller, if it is a member, who reaches only what is its own.
pub(super) fn member(caller: &Caller) -> Option<&Principal> {
    match caller {
        Caller::Tenant(principal) if principal.role == Role::Member => Some(principal),
        Caller::Tenant(_) | Caller::Operator(_) => None,
    }
}

/// Refuses a member whose organisation does not let members manage keys of their own.
pub(super) async fn may_manage_own(database: &Database, caller: &Caller) -> Result<(), Problem> {
    let Some(principal) = member(caller) else { return Ok(()) };
    let policy = existing(database.key_policy(principal.org).await?, principal.org)?;
    if policy.enabled { Ok(()) } else { Err(off()) }
}

fn off() -> Problem {
    Problem::Forbidden(
        "members of your organisation do not manage keys: an admin can allow it in the key policy".into(),
    )
}

/// Why a member gets no key, in words that say what the policy allows.
pub(super) fn refused(verdict: KeyVerdict, policy: &KeyPolicy, principal: &Principal) -> Option<Problem> {
    let forbidden = |what: String| Some(Problem::Forbidden(what));
    match verdict {
        KeyVerdict::Made => None,
        KeyVerdict::Unknown => Some(Problem::NotFound(format!("there is no {}", principal.user))),
        KeyVerdict::Off => Some(off()),
        KeyVerdict::TooMany => Some(Problem::Conflict(format!(
            "a member of your organisation may have {} keys that are neither revoked nor expired: revoke one first",
            policy.max_keys
        ))),
        KeyVerdict::TooOften => Some(Problem::Conflict(
            "you have created too many keys within a day: use one that you have, or try again tomorrow".into(),
        )),
        KeyVerdict::TooLong => {
            let days = policy.max_days.map_or("a limited number of".into(), |days| days.to_string());
            forbidden(format!(
                "a key of a member may live for {days} days: choose an earlier expires_at, or omit it for the longest life"
            ))
        }
        KeyVerdict::Types => {
            let of_key = principal.allowed_types.as_ref().map(|_| " and that your own key may create");
            let types = policy.allowed_types.as_ref().map_or("all".into(), |types| types.join(", "));
            forbidden(format!(
                "a key of a member may create only task types that the key policy allows ({types}){}",
                of_key.unwrap_or_default()
            ))
        }
        KeyVerdict::Networks => forbidden(
            "a key may be used from no more networks than the key that you create it with: name some of those, or omit \
             allowed_networks"
                .into(),
        ),
    }
}

/// Show the key policy of an organisation
///
/// What members may do with keys of their own. Until an admin sets a policy they may do nothing: `enabled` is false.
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/key-policy", tag = "keys",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    responses((status = 200, description = "The policy", body = KeyPolicy)),
    security(("bearer" = ["operator", "operator-read", "org-admin", "member"]))
)]
pub(super) async fn show_key_policy(call: ReadCall<OrgId>) -> Result<Tagged<KeyPolicy>, Problem> {
    let ApiCall { database, path: org, .. } = call;
    let policy = existing(database.key_policy(org).await?, org)?;
    Ok(Tagged(StatusCode::OK, policy.version, policy))
}

/// Changes of a key policy; a field that is omitted keeps its value.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyPolicyPatch {
    /// Whether members may create, rename, rotate and revoke keys of their own.
    enabled: Option<bool>,
    /// How many keys a member may have that are neither revoked nor expired.
    #[schema(minimum = 0, maximum = 1000)]
    max_keys: Option<i32>,
    /// The longest life of a key that a member creates, in days; null: no end is needed.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 3650)]
    max_days: Option<Option<i32>>,
    /// Task types that keys of members may create; null: all.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>, min_items = 1, max_items = 100)]
    allowed_types: Option<Option<Vec<String>>>,
    /// The budget that each key of a member is created with; null: none.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<KeyBudget>)]
    key_budget: Option<Option<KeyBudget>>,
}

/// Change the key policy of an organisation
///
/// It holds for keys that members create from now on. Keys that exist stay as they are, but count.
#[utoipa::path(
    patch, path = "/admin/v1/orgs/{org_id}/key-policy", tag = "keys",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    request_body = KeyPolicyPatch,
    responses((status = 200, description = "The policy after the change", body = KeyPolicy)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn update_key_policy(
    call: WriteCall<OrgId, (IfMatch, Body<KeyPolicyPatch>)>,
) -> Result<Tagged<KeyPolicy>, Problem> {
    let ApiCall { database, path: org, input: (IfMatch(version), Body(patch)), .. } = call;
    let change = KeyPolicyChange {
        enabled: patch.enabled,
        max_keys: patch.max_keys,
        max_days: patch.max_days,
        allowed_types: patch.allowed_types,
        key_budget: patch.key_budget,
    };
    let policy = database.change_key_policy(org, &change, version).await?;
    Ok(Tagged(StatusCode::OK, policy.version, policy))
}
