//! Validates a create and prices it: from the book in force, or as it was quoted.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use http::HeaderMap;
use time::OffsetDateTime;
use tower::{Layer, Service};

use super::{LayerFuture, Stage, tell};
use crate::call::{Call, Fresh, Priced};
use crate::clock::Clock;
use crate::error::{Answer, GatewayError};
use crate::ledger::{Fingerprint, LedgerError, Principal};
use crate::pricing::{PriceBook, PriceList};
use crate::quote::{Quote, SigningKey};
use crate::strict;
use crate::task::Order;
use crate::telemetry::Span;

/// A new key signs only when every gateway has had time to read it.
const KEY_SPREADS: Duration = Duration::from_secs(15);

/// What the database's clock shows, told by this gateway's own monotonic one: books and factors begin everywhere at the
/// same instant.
#[derive(Debug, Clone, Copy)]
pub struct DatabaseTime {
    /// What it showed.
    pub shown: OffsetDateTime,
    /// When it did.
    pub seen: Instant,
}

/// Prices as they were read.
#[derive(Debug)]
struct Read {
    list: PriceList,
    keys: Vec<SigningKey>,
}

/// The prices, as this gateway last saw them.
#[derive(Debug, Default)]
pub struct Prices {
    read: ArcSwapOption<Read>,
    time: ArcSwapOption<DatabaseTime>,
    clock: Clock,
}

/// A price that is promised.
#[derive(Debug, Clone)]
pub struct Promise {
    /// The promise, signed.
    pub quote: String,
    /// Until when it holds.
    pub valid_until: OffsetDateTime,
}

impl Prices {
    /// Takes what was read.
    pub fn set(&self, list: PriceList, keys: Vec<SigningKey>) {
        self.read.store(Some(Arc::new(Read { list, keys })));
    }

    /// Takes what the database's clock showed.
    pub fn set_time(&self, time: DatabaseTime) {
        self.time.store(Some(Arc::new(time)));
    }

    fn now(&self) -> Result<OffsetDateTime, LedgerError> {
        let time = self.time.load_full().ok_or_else(nothing_in_force)?;
        Ok(time.shown + self.clock.since(time.seen))
    }

    fn read(&self) -> Result<Arc<Read>, LedgerError> {
        self.read.load_full().ok_or_else(nothing_in_force)
    }

    /// The book in force; an error until one was loaded.
    pub fn current(&self) -> Result<Arc<PriceBook>, LedgerError> {
        self.read()?.list.book_at(self.now()?).cloned().ok_or_else(nothing_in_force)
    }

    /// Validates and prices a create of `principal`. A `quote` must bind, and then it is the price.
    pub fn order(
        &self,
        principal: &Principal,
        raw: &[u8],
        quote: Option<&str>,
    ) -> Result<Order, GatewayError> {
        let (read, now) = (self.read()?, self.now()?);
        let order = match quote {
            None => {
                let book = read.list.book_at(now).ok_or_else(nothing_in_force)?;
                let factor = read.list.factor_at(principal.org, now).unwrap_or(principal.factor);
                Order::parse(raw, book, factor)?
            }
            Some(text) => {
                let refused = |why: &dyn std::fmt::Display| GatewayError::invalid_request(why.to_string());
                let quote = Quote::open(text, &read.keys).map_err(|why| refused(&why))?;
                quote
                    .check(principal.org, Fingerprint::of(raw).as_bytes(), now)
                    .map_err(|why| refused(&why))?;
                let again = "this quote can no longer be kept: ask for another one";
                let book = read.list.books.get(&quote.book).ok_or_else(|| refused(&again))?;
                let order = Order::parse(raw, book, quote.factor)?;
                if order.price.hold != quote.hold {
                    return Err(refused(&again));
                }
                order
            }
        };
        if !principal.allows_type(&order.task_type) {
            return Err(GatewayError::TypeNotAllowed(order.task_type.to_string()));
        }
        Ok(order)
    }

    /// What a create asks for and costs.
    fn order_of(&self, headers: &HeaderMap, fresh: &Fresh) -> Result<Order, GatewayError> {
        if fresh.principal.suspended {
            return Err(GatewayError::Suspended);
        }
        self.order(&fresh.principal, &fresh.raw, quote_of(headers)?)
    }

    /// Promises the price of `order`, whose body is `raw`, for some time.
    pub fn promise(
        &self,
        principal: &Principal,
        raw: &[u8],
        order: &Order,
        valid_for: Duration,
    ) -> Result<Promise, GatewayError> {
        let (read, now) = (self.read()?, self.now()?);
        let spread = |key: &&SigningKey| key.created_at + KEY_SPREADS <= now;
        let key = read.keys.iter().rev().find(spread).or(read.keys.first());
        let key = key.ok_or(GatewayError::Internal("there is no key to sign quotes with"))?;
        let fingerprint = Fingerprint::of(raw).as_bytes().try_into().unwrap_or_default();
        let valid_until = (now + valid_for).replace_nanosecond(0).unwrap_or(now);
        let quote = Quote {
            org: principal.org,
            book: order.price.book,
            factor: order.price.factor,
            hold: order.price.hold,
            fingerprint,
            expires: valid_until.unix_timestamp(),
        };
        Ok(Promise { quote: quote.sign(key), valid_until })
    }
}

fn nothing_in_force() -> LedgerError {
    LedgerError::Schema("no price book is in force".into())
}

/// The quote that a create goes by.
fn quote_of(headers: &HeaderMap) -> Result<Option<&str>, GatewayError> {
    let Some(value) = strict::single_header(headers, "X-Tollgate-Quote")? else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| {
        GatewayError::invalid_request("X-Tollgate-Quote must be the 'quote' that POST /api/quote gave out")
    })
}

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
            let order = prices.order_of(&call.context.headers, &call.stage);
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
