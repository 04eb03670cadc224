//! Validates a create and prices it from the book in force.

use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwapOption;
use tower::{Layer, Service};

use super::{LayerFuture, Stage};
use crate::call::{Call, Fresh, Priced};
use crate::error::{Answer, GatewayError};
use crate::ledger::{LedgerError, Principal};
use crate::pricing::PriceBook;
use crate::task::Order;

/// The price book in force, as this gateway last saw it.
#[derive(Debug, Default)]
pub struct Prices(ArcSwapOption<PriceBook>);

impl Prices {
    /// Puts `book` in force.
    pub fn set(&self, book: PriceBook) {
        self.0.store(Some(Arc::new(book)));
    }

    /// The book in force; an error until one was loaded.
    pub fn current(&self) -> Result<Arc<PriceBook>, LedgerError> {
        self.0.load_full().ok_or_else(|| LedgerError::Schema("no price book is in force".into()))
    }

    /// Validates and prices a create of `principal`.
    pub fn order(&self, principal: &Principal, raw: &[u8]) -> Result<Order, GatewayError> {
        let order = Order::parse(raw, &*self.current()?, principal.factor)?;
        if !principal.allows_type(&order.task_type) {
            return Err(GatewayError::TypeNotAllowed(order.task_type.to_string()));
        }
        Ok(order)
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct PriceLayer {
    /// The book in force.
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
            if call.stage.principal.suspended {
                return Err(GatewayError::Suspended);
            }
            let order = prices.order(&call.stage.principal, &call.stage.raw)?;
            inner.call(call.advance(|fresh| Priced { fresh, order })).await
        })
    }
}
