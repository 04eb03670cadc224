//! `GET /api/credits`: the caller's balance.

use http::StatusCode;
use serde_json::json;

use super::Handlers;
use crate::call::{Admitted, Call};
use crate::error::{Answer, GatewayError, json_answer};
use crate::ledger::Principal;
use crate::wire::success;

pub(super) async fn credits(handlers: Handlers, call: Call<Admitted>) -> Result<Answer, GatewayError> {
    let balance = handlers.database.balance(call.stage.principal.org).await?;
    let balance = balance.ok_or(GatewayError::Internal("an organisation without a balance"))?;
    let Principal { org, user, key, .. } = *call.stage.principal;
    let budgets = handlers.database.budgets_of_caller(org, user, Some(key)).await?;
    let data = json!({
        "available": balance.available,
        "held": balance.held,
        "consumed": balance.consumed,
        "granted": balance.granted,
        "overdraft": balance.overdraft,
        "open_tasks": balance.open_tasks,
        "in_doubt": balance.in_doubt,
        "budgets": budgets,
    });
    Ok(json_answer(StatusCode::OK, success(&data)))
}
