//! Validates a create and prices it, by the book in force or by a quote.

use std::sync::Arc;

use http::HeaderMap;

use super::{Below, Outcome, Stage, tell};
use crate::bulk::{BulkWorkers, Payer, counted};
use crate::call::{Call, Fresh, Priced, ReadBody};
use crate::error::GatewayError;
use crate::order::{Excerpt, Labels, Order};
use crate::price_cache::Prices;
use crate::store::Principal;
use crate::strict;
use crate::telemetry::Span;

/// Validates a create and prices it.
#[derive(Debug, Clone)]
pub struct Pricing {
    /// The price books, factors and signing keys that this gateway has read.
    pub prices: Arc<Prices>,
    pub workers: BulkWorkers,
}

impl Stage for Pricing {
    type In = Fresh;
    type Out = Priced;

    async fn run(&self, call: Call<Fresh>, below: &impl Below<Priced>) -> Outcome {
        let Call { context, body: unread, stage: Fresh { create, body } } = call;
        let mut span = Span::of_part("price");
        let order = self.order(&create.principal, body, &context.headers).await;
        tell(&mut span, &order);
        if let Ok((order, _)) = &order {
            span.set("tollgate.task_type", &order.task_type);
            span.set_number("tollgate.price_book", order.price.book.get());
        }
        drop(span);
        let (order, excerpt) = order?;
        let stage = Priced { create, order, excerpt };
        below.take(Call { context, body: unread, stage }).await
    }
}

impl Pricing {
    /// Validates and prices a create. Of its body only the copy is left that will be sent, and an excerpt.
    async fn order(
        &self,
        principal: &Arc<Principal>,
        body: ReadBody,
        headers: &HeaderMap,
    ) -> Result<(Order, Box<Excerpt>), GatewayError> {
        if principal.suspended {
            return Err(GatewayError::Suspended);
        }
        let ReadBody { bytes, mut share } = body;
        let size = bytes.len();
        let quote = quote_of(headers)?.map(str::to_owned);
        let labels = labels_of(headers)?;
        let (prices, payer) = (self.prices.clone(), principal.clone());
        let price = move || {
            let order = prices.order(&payer, &bytes, quote.as_deref())?;
            let excerpt = Excerpt::of(&order.body);
            Ok::<_, GatewayError>((order, excerpt))
        };
        let (mut order, excerpt) = self.workers.run(Payer::Org(principal.org), size, price).await??;
        order.labels = labels.and(order.labels)?;
        share.shrink(order.body.len());
        order.body = counted(order.body, share);
        Ok((order, excerpt))
    }
}

/// The quote that the create wants to be priced by, if it has one.
fn quote_of(headers: &HeaderMap) -> Result<Option<&str>, GatewayError> {
    let Some(value) = strict::single_header(headers, "X-Tollgate-Quote")? else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| {
        GatewayError::invalid_request("X-Tollgate-Quote must be a 'quote' from an answer of POST /api/quote")
    })
}

/// The labels that the header names.
fn labels_of(headers: &HeaderMap) -> Result<Labels, GatewayError> {
    let Some(value) = strict::single_header(headers, "X-Tollgate-Labels")? else {
        return Ok(Labels::default());
    };
    Ok(Labels::of_header(value.as_bytes())?)
}
