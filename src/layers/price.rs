//! Validates a create and prices it: from the book in force, or as it was quoted.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::HeaderMap;
use tower::{Layer, Service};

use super::{LayerFuture, Stage, tell};
use crate::call::{Call, Fresh, Priced};
use crate::error::{Answer, GatewayError};
use crate::order::Order;
use crate::price_cache::Prices;
use crate::strict;
use crate::telemetry::Span;

/// See the module.
#[derive(Debug, Clone)]
pub struct PriceLayer {
    /// What creates cost.
    pub prices: Arc<Prices>,
}

impl<S> Layer<S> for PriceLayer {
    type Service = PriceService<S>;

    fn layer(&self, inner: S) -> PriceService<S> {
        PriceService { inner, prices: self.prices.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct PriceService<S> {
    inner: S,
    prices: Arc<Prices>,
}

impl<S: Stage<Priced>> Service<Call<Fresh>> for PriceService<S> {
    type Response = Answer;
    type Error = GatewayError;
    type Future = LayerFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), GatewayError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call<Fresh>) -> LayerFuture {
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let prices = self.prices.clone();
        Box::pin(async move {
            let mut span = Span::of_part("price");
            let order = order_of(&prices, &call.context.headers, &call.stage);
            tell(&mut span, &order);
            if let Ok(order) = &order {
                span.set("tollgate.task_type", &order.task_type);
                span.set_number("tollgate.price_book", order.price.book.get());
            }
            drop(span);
            let order = order?;
            inner.call(call.advance(|fresh| Priced { fresh, order })).await
        })
    }
}

/// What a create asks for and costs.
fn order_of(prices: &Prices, headers: &HeaderMap, fresh: &Fresh) -> Result<Order, GatewayError> {
    if fresh.principal.suspended {
        return Err(GatewayError::Suspended);
    }
    prices.order(&fresh.principal, &fresh.raw, quote_of(headers)?)
}

/// The quote that a create goes by.
fn quote_of(headers: &HeaderMap) -> Result<Option<&str>, GatewayError> {
    let Some(value) = strict::single_header(headers, "X-Tollgate-Quote")? else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| {
        GatewayError::invalid_request("X-Tollgate-Quote must be the 'quote' that POST /api/quote gave out")
    })
}
