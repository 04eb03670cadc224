//! Who may call an operation. The rule is the operation's own description in the OpenAPI document (`security`): an
//! operation whose description names no role lets nobody in.

use std::net::IpAddr;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::SecurityRequirement;

use super::Api;
use super::call::no_turn;
use super::caller::ApiRole;
use super::problem::Problem;
use crate::access::callers::Caller;
use crate::access::proxies::TrustedProxies;
use crate::access::sessions::SignedIn;
use crate::call::{Party, Peer};
use crate::ids::{OrgId, UserId};
use crate::store::{Actor, Owned, Principal, Role, SharedDatabase};
use crate::strict;
use crate::telemetry;

/// What an operation's description says about its callers.
#[derive(Debug, Clone)]
pub(super) struct AccessRule {
    operation: String,
    roles: Vec<String>,
}

/// Operations that only take away what other changes have made, so that there are no more of them than of those. They stop a key, a
/// user or a budget, and are not to wait for tomorrow.
const REMOVALS: [&str; 5] = ["revoke_key", "delete_user", "delete_team", "delete_budget", "delete_identity"];

impl AccessRule {
    pub(super) fn of(operation: &Operation) -> Self {
        Self {
            operation: operation.operation_id.clone().unwrap_or_default(),
            roles: operation.security.iter().flatten().flat_map(roles).collect(),
        }
    }

    pub(super) fn only_removes(&self) -> bool {
        REMOVALS.contains(&&*self.operation)
    }

    pub(super) fn names(&self, role: ApiRole) -> bool {
        self.roles.iter().any(|named| named == role.as_str())
    }

    /// Checks that the caller may call this operation on what the path names. The [`Actor`] is the caller as the audit log
    /// shall name it.
    pub(super) async fn admit(
        &self,
        api: &Api,
        caller: &Caller,
        parts: &mut Parts,
        writes: bool,
    ) -> Result<Actor, Problem> {
        if !api.audience.admits(caller) {
            return Err(Problem::Forbidden(
                "operators are not served on this address: use that of the operations listener (admin.listen)".into(),
            ));
        }
        let role = ApiRole::of(caller);
        if !self.names(role) {
            let (roles, role) = (self.roles.join(", "), role.as_str());
            return Err(Problem::Forbidden(format!("this is for {roles}; you are {role}")));
        }
        if let Caller::Tenant(principal) = caller
            && principal.suspended
            && writes
        {
            return Err(Problem::Forbidden(
                "your organisation, your team or you are suspended: you can read, but change nothing".into(),
            ));
        }
        if let Caller::Tenant(principal) = caller {
            let none = |_| Problem::NotFound("there is nothing at this path".into());
            let params = RawPathParams::from_request_parts(parts, &()).await.map_err(none)?;
            within(&api.database, principal, &params).await?;
        }
        let actor = Actor {
            name: caller.name(),
            address: Some(address(parts, &api.proxies)),
            action: Some(self.operation.clone()),
            request_id: telemetry::request_id(),
        };
        Ok(actor)
    }
}

/// The caller whose credentials a request has, or whose session the console makes it for.
pub(super) async fn caller(api: &Api, parts: &Parts) -> Result<Caller, Problem> {
    if let Some(signed_in) = parts.extensions.get::<SignedIn>() {
        return Ok(signed_in.caller().clone());
    }
    let header = strict::single_header(&parts.headers, "Authorization")?;
    let header = header.map(|value| value.to_str().unwrap_or_default());
    let caller = api.authenticator.authenticate(header, address(parts, &api.proxies), false).await?;
    Peer::of(&parts.extensions).is_known(caller.party()).await.map_err(|_| Problem::Busy)?;
    Ok(caller)
}

pub(super) fn roles(requirement: &SecurityRequirement) -> Vec<String> {
    let value = serde_json::to_value(requirement).unwrap_or_default();
    let scopes = value.get("bearer").and_then(|scopes| scopes.as_array()).cloned().unwrap_or_default();
    scopes.iter().filter_map(|scope| scope.as_str().map(str::to_owned)).collect()
}

/// The client's address, as far as the connection and trusted proxies tell it.
fn address(parts: &Parts, proxies: &TrustedProxies) -> IpAddr {
    proxies.client(Peer::of(&parts.extensions).address, &parts.headers)
}

/// Tenants may address resources of their own organisation only, and members only themselves and their own keys. Any other
/// resource is answered as one that does not exist, so that ids cannot be probed.
async fn within(
    database: &SharedDatabase<Party>,
    principal: &Principal,
    params: &RawPathParams,
) -> Result<(), Problem> {
    let org = principal.org;
    let reaches = |(owner, user): (OrgId, Option<UserId>)| {
        owner == org && (principal.role == Role::Admin || user == Some(principal.user))
    };
    for (name, text) in params {
        let missing = || Problem::NotFound(format!("there is no {text}"));
        let owned = match name {
            "org_id" => match text.parse::<OrgId>() {
                Ok(named) if named == org => continue,
                _ => return Err(missing()),
            },
            "team_id" => text.parse().map(Owned::Team),
            "user_id" => text.parse().map(Owned::User),
            "key_id" => text.parse().map(Owned::Key),
            "hold_id" => text.parse().map(Owned::Hold),
            "budget_id" => text.parse().map(Owned::Budget),
            _ => continue,
        };
        let owner = match owned {
            Ok(owned) => database.turn_of(Party::Org(org)).await.map_err(no_turn)?.owner(owned).await?,
            Err(_) => None,
        };
        if !owner.is_some_and(reaches) {
            return Err(missing());
        }
    }
    Ok(())
}
