//! The prices that this gateway has read: price books, price factors, and the keys that sign quotes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use time::OffsetDateTime;

use crate::clock::Clock;
use crate::config::Quotes;
use crate::credits::PriceFactor;
use crate::error::GatewayError;
use crate::ids::OrgId;
use crate::order::Order;
use crate::pricing::{PriceBook, PriceList};
use crate::quote::{BadQuote, Promises, Quote, SPREAD, SigningKey};
use crate::secret::Secret;
use crate::store::{Fingerprint, Principal, StoreError};

/// A reading of the database's clock, with the instant of this gateway's monotonic clock at which it was taken. Because all
/// gateways go by the database's clock, books and factors come into force everywhere at the same instant.
#[derive(Debug, Clone, Copy)]
pub struct DatabaseTime {
    pub shown: OffsetDateTime,
    pub seen: Instant,
}

/// The prices of one reading of the database.
#[derive(Debug)]
struct Read {
    list: PriceList,
    keys: Vec<SigningKey>,
}

/// The prices, as this gateway last read them.
#[derive(Debug)]
pub struct Prices {
    read: ArcSwapOption<Read>,
    time: ArcSwapOption<DatabaseTime>,
    clock: Clock,
    /// The longest validity of a quote.
    longest: Duration,
    /// What the keys of the database sign with together.
    secret: Option<Secret>,
}

/// A quote that promises a price.
#[derive(Debug, Clone)]
pub struct Promise {
    pub quote: String,
    /// When the promise expires.
    pub valid_until: OffsetDateTime,
}

impl Prices {
    /// Prices of which nothing was read yet.
    pub fn new(quotes: &Quotes) -> Self {
        Self {
            read: ArcSwapOption::empty(),
            time: ArcSwapOption::empty(),
            clock: Clock,
            longest: Duration::from_secs(quotes.max_valid_seconds.into()),
            secret: quotes.secret.clone(),
        }
    }

    /// Replaces the prices with newly read ones.
    pub fn set(&self, list: PriceList, mut keys: Vec<SigningKey>) {
        if let Some(secret) = &self.secret {
            keys = keys.into_iter().map(|key| key.under(secret)).collect();
        }
        self.read.store(Some(Arc::new(Read { list, keys })));
    }

    /// Replaces the reading of the database's clock.
    pub fn set_time(&self, time: DatabaseTime) {
        self.time.store(Some(Arc::new(time)));
    }

    fn now(&self) -> Result<OffsetDateTime, StoreError> {
        let time = self.time.load_full().ok_or_else(nothing_in_force)?;
        Ok(time.shown + self.clock.since(time.seen))
    }

    fn read(&self) -> Result<Arc<Read>, StoreError> {
        self.read.load_full().ok_or_else(nothing_in_force)
    }

    /// The price book in force; an error until a book was read.
    pub fn current(&self) -> Result<Arc<PriceBook>, StoreError> {
        self.read()?.list.book_at(self.now()?).cloned().ok_or_else(nothing_in_force)
    }

    /// The price book in force, and the price factor of `principal`.
    pub fn in_force(&self, principal: &Principal) -> Result<(Arc<PriceBook>, PriceFactor), StoreError> {
        let (read, now) = (self.read()?, self.now()?);
        let book = read.list.book_at(now).cloned().ok_or_else(nothing_in_force)?;
        Ok((book, read.list.factor_at(principal.org, now).unwrap_or(principal.factor)))
    }

    /// Validates and prices a create of `principal`. A `quote` must be valid, and then sets the price.
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
                let (list, longest) = (&read.list, self.longest);
                let promises = Promises { list, default_factor: principal.factor, longest };
                let checked = quote.check(principal.org, Fingerprint::of(raw).as_bytes(), now, &promises);
                if let Err(why) = checked {
                    if matches!(why, BadQuote::TooLong | BadQuote::NeverInForce) {
                        tracing::error!(org = %principal.org, %why, "a quote with a valid signature promises what no gateway has promised: if no gateway has another configuration, the key was stolen; rotate it and set quotes.secret_file");
                    }
                    return Err(refused(&why));
                }
                let again = "the price of this quote is no longer known: request a new one";
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

    /// Prices `raw`, a request that the vendor has taken already, for `org`, by the book in force; `default`: the factor that the
    /// organisation pays if none is in force for it.
    pub fn appraise(&self, org: OrgId, default: PriceFactor, raw: &[u8]) -> Result<Order, GatewayError> {
        let (read, now) = (self.read()?, self.now()?);
        let book = read.list.book_at(now).ok_or_else(nothing_in_force)?;
        Ok(Order::parse(raw, book, read.list.factor_at(org, now).unwrap_or(default))?)
    }

    /// Promises the price of `order`, whose body is `raw`, for `valid_for`.
    pub fn promise(
        &self,
        principal: &Principal,
        raw: &[u8],
        order: &Order,
        valid_for: Duration,
    ) -> Result<Promise, GatewayError> {
        let (read, now) = (self.read()?, self.now()?);
        // Every gateway must have read a new key before it signs.
        let spread = |key: &&SigningKey| key.created_at + SPREAD <= now;
        let key = read.keys.iter().rev().find(spread).or(read.keys.first());
        let key = key.ok_or(GatewayError::Internal("there is no key to sign quotes with".into()))?;
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

fn nothing_in_force() -> StoreError {
    StoreError::Schema("no price book is in force".into())
}
