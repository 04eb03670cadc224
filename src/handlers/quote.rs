//! `POST /api/quote`: what a create would cost, without running it; on demand as a promise for some minutes.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use time::format_description::well_known::Rfc3339;

use super::Handlers;
use crate::call::{Admitted, Call, Context};
use crate::error::{Answer, GatewayError, json_answer};
use crate::layers::replay::read_body;
use crate::wire::success;

pub(super) async fn quote(handlers: Handlers, call: Call<Admitted>) -> Result<Answer, GatewayError> {
    let principal = call.stage.principal;
    let valid_for = valid_for(&call.context, handlers.max_quote)?;
    let raw = read_body(call.body, handlers.body_timeout).await?;
    let order = handlers.prices.order(&principal, &raw, None)?;
    let balance = handlers.database.balance(principal.org).await?;
    let balance = balance.ok_or(GatewayError::Internal("an organisation without a balance"))?;
    let mut data = json!({
        "type": &*order.task_type,
        "credits": order.price.hold,
        "list_price": order.price.list_price,
        "price_factor_bp": order.price.factor,
        "price_book": order.price.book,
        "available": balance.available,
    });
    if let Some(valid_for) = valid_for {
        let promise = handlers.prices.promise(&principal, &raw, &order, valid_for)?;
        data["quote"] = promise.quote.into();
        data["valid_until"] = promise.valid_until.format(&Rfc3339).unwrap_or_default().into();
    }
    Ok(json_answer(StatusCode::OK, success(&data)))
}

/// For how long the price shall be promised; none: not at all.
fn valid_for(context: &Context, most: Duration) -> Result<Option<Duration>, GatewayError> {
    let Some(text) = context.parameter("valid_for") else { return Ok(None) };
    let most = most.as_secs();
    if most == 0 {
        return Err(GatewayError::invalid_request("'valid_for': this gateway does not promise prices"));
    }
    match text.parse() {
        Ok(seconds) if (1..=most).contains(&seconds) => Ok(Some(Duration::from_secs(seconds))),
        _ => Err(GatewayError::invalid_request(format!(
            "'valid_for' must be a whole number of seconds from 1 to {most}"
        ))),
    }
}
