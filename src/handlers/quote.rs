//! `POST /api/quote`: the price of a create, without running it; on request the price is promised for some minutes.

use std::time::Duration;

use http::StatusCode;
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::Handlers;
use crate::bulk::Payer;
use crate::call::{Admitted, Call, Context};
use crate::credits::{Credits, PriceFactor};
use crate::error::{Answer, GatewayError, json_answer};
use crate::layers::body::Coding;
use crate::order::CreateBody;
use crate::pricing::BookVersion;
use crate::wire::{Success, success};

/// The price of a create.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QuoteData {
    #[serde(rename = "type")]
    task_type: String,
    /// Credits that a create would hold: list price × factor, rounded up.
    credits: Credits,
    list_price: Credits,
    /// The organisation's price factor, in basis points.
    price_factor_bp: PriceFactor,
    #[schema(value_type = i32)]
    price_book: BookVersion,
    /// Credits that the organisation has available.
    available: Credits,
    /// The promised price, if `valid_for` was given: send this text as `X-Tollgate-Quote` with a create of exactly the same body.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String)]
    quote: Option<String>,
    /// When the promise expires.
    #[serde(skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    #[schema(value_type = String, format = DateTime)]
    valid_until: Option<OffsetDateTime>,
}

/// Price a body without running it
///
/// With `valid_for` the price is promised for that number of seconds, even if price books or factors change meanwhile.
#[utoipa::path(
    post, path = "/api/quote", tag = "tasks", operation_id = "quote",
    params(("valid_for" = Option<u32>, Query, minimum = 1, maximum = 3000,
            description = "Number of seconds to promise the price for; the gateway may allow fewer (900, unless configured otherwise)")),
    request_body = CreateBody,
    responses((status = 200, description = "The price", body = Success<QuoteData>))
)]
pub(super) async fn quote(handlers: &Handlers, call: Call<Admitted>) -> Result<Answer, GatewayError> {
    let principal = call.stage.principal;
    let valid_for = valid_for(&call.context, handlers.max_quote)?;
    let payer = Payer::Org(principal.org);
    let coding = Coding::of(&call.context.headers)?;
    let body = handlers.bodies.read_call(call.body, coding, payer, &call.context.notes).await?;
    let size = body.bytes.len();
    let (prices, caller) = (handlers.prices.clone(), principal.clone());
    let price = move || {
        let raw = &body.bytes;
        let order = prices.order(&caller, raw, None)?;
        let promise =
            valid_for.map(|valid_for| prices.promise(&caller, raw, &order, valid_for)).transpose()?;
        Ok::<_, GatewayError>((order, promise))
    };
    let (order, promise) = handlers.bulk.workers.run(payer, size, price).await??;
    let balance = handlers.database.turn_of(principal.org).await?.balance(principal.org).await?;
    let balance = balance.ok_or(GatewayError::Internal("an organisation without a balance".into()))?;
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

/// How long the price is to be promised; none without `valid_for`.
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
