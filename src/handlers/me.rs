//! `GET /api/me`: who the caller is, and what it may do.

use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::Handlers;
use crate::call::{Admitted, Call};
use crate::credits::PriceFactor;
use crate::error::{Answer, GatewayError};
use crate::ids::{KeyId, OrgId, TeamId, UserId};
use crate::layers::refusals::LastRefusal;
use crate::store::{CallerBudget, Role};
use crate::wire::{Success, success};

/// Who the caller is, and what it may do.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MeData {
    role: Role,
    /// Whether the organisation, team, user or key is suspended: creates are then refused.
    suspended: bool,
    organisation: MyOrg,
    /// The caller's team; null: it is in none.
    team: Option<MyTeam>,
    user: MyUser,
    /// The API key; null: the caller has a token of an identity provider.
    key: Option<MyKey>,
    /// The budgets that a create of the caller counts against.
    budgets: Vec<CallerBudget>,
    /// The user's last create that this gateway has refused, for a quarter of an hour; null: there is none.
    last_refusal: Option<LastRefusal>,
}

/// The organisation of the caller.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MyOrg {
    org_id: OrgId,
    name: String,
    /// The time zone by which budgets and months begin.
    time_zone: String,
    /// The default price factor, in basis points; `GET /api/prices` shows the one in force.
    price_factor_bp: PriceFactor,
}

/// The caller's team in its organisation.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MyTeam {
    team_id: TeamId,
    name: String,
}

/// The user that the caller is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MyUser {
    user_id: UserId,
    name: String,
}

/// The API key that the caller has sent, and what it may do.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MyKey {
    key_id: KeyId,
    name: String,
    /// When the key expires; null: never.
    #[serde(with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    /// Task types that the key may create; null: all.
    allowed_types: Option<Vec<String>>,
    /// Networks that the key may be used from; null: all.
    allowed_networks: Option<Vec<String>>,
    /// Creates a minute; null: the default of the gateway; 0: no limit.
    create_per_minute: Option<u32>,
    /// Other calls a minute; null: the default of the gateway; 0: no limit.
    status_per_minute: Option<u32>,
}

/// Show the caller
///
/// Organisation, team, user and key, what they may do, and their budgets.
#[utoipa::path(
    get, path = "/api/me", tag = "credits", operation_id = "me",
    responses((status = 200, description = "The caller", body = Success<MeData>))
)]
pub(super) async fn me(handlers: &Handlers, call: Call<Admitted>) -> Result<Answer, GatewayError> {
    let principal = &*call.stage.principal;
    let database = handlers.database.turn_of(principal.org).await?;
    let names = database.names_of_caller(principal.org, principal.user, principal.key).await?;
    let names = names.ok_or(GatewayError::Internal("a caller without a user".into()))?;
    let budgets = database.budgets_of_caller(principal.org, principal.user, principal.key).await?;
    let key = principal.key.zip(names.key).map(|(key_id, key)| MyKey {
        key_id,
        name: key.name,
        expires_at: key.expires_at,
        allowed_types: principal.allowed_types.clone(),
        allowed_networks: principal
            .allowed_networks
            .as_ref()
            .map(|networks| networks.iter().map(ToString::to_string).collect()),
        create_per_minute: principal.key_rates.create,
        status_per_minute: principal.key_rates.status,
    });
    let data = MeData {
        role: principal.role,
        suspended: principal.suspended,
        organisation: MyOrg {
            org_id: principal.org,
            name: names.org,
            time_zone: names.time_zone,
            price_factor_bp: principal.factor,
        },
        team: names.team.map(|(team_id, name)| MyTeam { team_id, name }),
        user: MyUser { user_id: principal.user, name: names.user },
        key,
        budgets,
        last_refusal: handlers
            .refusals
            .last(principal.org, principal.user)
            .map(|refused| LastRefusal::clone(&refused)),
    };
    handlers.success(principal.org, success(&data))
}
