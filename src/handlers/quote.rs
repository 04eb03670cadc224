//! `POST /api/quote`: what a create would cost, without running it.

use http::StatusCode;
use serde_json::json;

use super::Handlers;
use crate::call::{Admitted, Call};
use crate::error::{Answer, GatewayError, json_answer};
use crate::layers::replay::read_body;
use crate::wire::success;

pub(super) async fn quote(handlers: Handlers, call: Call<Admitted>) -> Result<Answer, GatewayError> {
    let principal = call.stage.principal;
    let raw = read_body(call.body, handlers.body_timeout).await?;
    let order = handlers.prices.order(&principal, &raw)?;
    let balance = handlers.database.balance(principal.org).await?;
    let balance = balance.ok_or(GatewayError::Internal("an organisation without a balance"))?;
    let data = json!({
        "type": &*order.task_type,
        "credits": order.price.hold,
        "list_price": order.price.list_price,
        "price_factor_bp": order.price.factor,
        "price_book": order.price.book,
        "available": balance.available,
    });
    Ok(json_answer(StatusCode::OK, success(&data)))
}
