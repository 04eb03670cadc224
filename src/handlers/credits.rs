//! `GET /api/credits`: the balance of the caller's organisation, and the caller's budgets.

use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Handlers;
use crate::call::{Admitted, Call};
use crate::error::{Answer, GatewayError, json_answer};
use crate::store::{Balance, CallerBudget, Principal};
use crate::wire::{Success, success};

/// The balance of the caller's organisation, and the caller's budgets.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CreditsData {
    #[serde(flatten)]
    balance: Balance,
    /// The budgets that a create of the caller counts against.
    budgets: Vec<CallerBudget>,
}

/// Show the balance
#[utoipa::path(
    get, path = "/api/credits", tag = "credits", operation_id = "credits",
    responses((status = 200, description = "The balance and the budgets", body = Success<CreditsData>))
)]
pub(super) async fn credits(handlers: &Handlers, call: Call<Admitted>) -> Result<Answer, GatewayError> {
    let Principal { org, user, key, .. } = *call.stage.principal;
    let database = handlers.database.turn_of(org).await?;
    let balance = database.balance(org).await?;
    let balance = balance.ok_or(GatewayError::Internal("an organisation without a balance".into()))?;
    let budgets = database.budgets_of_caller(org, user, key).await?;
    let data = CreditsData { balance, budgets };
    Ok(json_answer(StatusCode::OK, success(&data)))
}
