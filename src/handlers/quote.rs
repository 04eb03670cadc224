//! `POST /api/quote`: what a create would cost, without running it; on demand as a promise for some minutes.

use std::time::Duration;

use http::StatusCode;
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::Handlers;
use crate::call::{Admitted, Call, Context};
use crate::credits::{Credits, PriceFactor};
use crate::error::{Answer, GatewayError, json_answer};
use crate::layers::body::read_body;
use crate::order::CreateBody;
use crate::pricing::BookVersion;
use crate::wire::{Success, success};

/// What a create would cost.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QuoteData {
    #[serde(rename = "type")]
    task_type: String,
    /// What would be held: list price × factor, rounded up.
    credits: Credits,
    list_price: Credits,
    /// The organisation's factor, in basis points.
    price_factor_bp: PriceFactor,
    #[schema(value_type = i32)]
    price_book: BookVersion,
    /// What the organisation has available.
    available: Credits,
    /// The promise, if one was asked for: send it as `X-Tollgate-Quote` with a create of the very same body.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String)]
    quote: Option<String>,
    /// Until when it is kept.
    #[serde(skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    #[schema(value_type = String, format = DateTime)]
    valid_until: Option<OffsetDateTime>,
}

/// Price a body without running it
///
/// With `valid_for` the price is promised for so many seconds, whatever happens to price books and factors meanwhile.
#[utoipa::path(
    post, path = "/api/quote", tag = "tasks", operation_id = "quote",
    params(("valid_for" = Option<u32>, Query, minimum = 1, maximum = 3000,
            description = "Promise the price for so many seconds; the gateway may allow fewer (900, unless configured)")),
    request_body = CreateBody,
    responses((status = 200, description = "What it would cost", body = Success<QuoteData>))
)]
pub(super) async fn quote(handlers: &Handlers, call: Call<Admitted>) -> Result<Answer, GatewayError> {
    let principal = call.stage.principal;
    let valid_for = valid_for(&call.context, handlers.max_quote)?;
    let raw = read_body(call.body, handlers.body_timeout, &call.context.notes).await?;
    let order = handlers.prices.order(&principal, &raw, None)?;
    let balance = handlers.database.balance(principal.org).await?;
    let balance = balance.ok_or(GatewayError::Internal("an organisation without a balance".into()))?;
    let promise = match valid_for {
        Some(valid_for) => Some(handlers.prices.promise(&principal, &raw, &order, valid_for)?),
        None => None,
    };
    let data = QuoteData {
        task_type: order.task_type.to_string(),
        credits: order.price.hold,
        list_price: order.price.list_price,
        price_factor_bp: order.price.factor,
        price_book: order.price.book,
        available: balance.available,
        valid_until: promise.as_ref().map(|promise| promise.valid_until),
        quote: promise.map(|promise| promise.quote),
    };
    Ok(json_answer(StatusCode::OK, success(&data)))
}

/// For how long the price shall be promised; none: not at all.
fn valid_for(context: &Context, most: Duration) -> Result<Option<Duration>, GatewayError> {
    let Some(text) = context.parameter("valid_for")? else { return Ok(None) };
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
