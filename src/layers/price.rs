//! Validates a create and prices it, by the book in force or by a quote.

use std::sync::Arc;

use http::HeaderMap;

use super::{Below, Outcome, Stage, tell};
use crate::call::{Call, Fresh, Priced};
use crate::error::GatewayError;
use crate::order::Order;
use crate::price_cache::Prices;
use crate::strict;
use crate::telemetry::Span;

/// Validates a create and prices it.
#[derive(Debug, Clone)]
pub struct Price {
    /// The price books, factors and signing keys that this gateway has read.
    pub prices: Arc<Prices>,
}

impl Stage for Price {
    type In = Fresh;
    type Out = Priced;

    async fn run(&self, call: Call<Fresh>, below: &impl Below<Priced>) -> Outcome {
        let order = self.order(&call)?;
        below.take(call.advance(|fresh| Priced { fresh, order })).await
    }
}

impl Price {
    /// Validates and prices a create, in a span of its own.
    fn order(&self, call: &Call<Fresh>) -> Result<Order, GatewayError> {
        let mut span = Span::of_part("price");
        let order = self.checked(&call.stage, &call.context.headers);
        tell(&mut span, &order);
        if let Ok(order) = &order {
            span.set("tollgate.task_type", &order.task_type);
            span.set_number("tollgate.price_book", order.price.book.get());
        }
        order
    }

    fn checked(&self, fresh: &Fresh, headers: &HeaderMap) -> Result<Order, GatewayError> {
        if fresh.principal.suspended {
            return Err(GatewayError::Suspended);
        }
        self.prices.order(&fresh.principal, &fresh.raw, quote_of(headers)?)
    }
}

/// The quote that the create wants to be priced by, if it has one.
fn quote_of(headers: &HeaderMap) -> Result<Option<&str>, GatewayError> {
    let Some(value) = strict::single_header(headers, "X-Tollgate-Quote")? else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| {
        GatewayError::invalid_request("X-Tollgate-Quote must be a 'quote' from an answer of POST /api/quote")
    })
}
