//! Follows what operators change: keys, users, organisations and prices. A notification of the database wakes the
//! watcher; because notifications can be lost, it also looks every second.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::access::callers::Authenticator;
use crate::clock::Clock;
use crate::metrics as m;
use crate::price_cache::{DatabaseTime, Prices};
use crate::pricing::BookVersion;
use crate::store::{Database, Epochs, StoreError};

/// A look that takes longer has failed. A revocation must take effect within ten seconds, so the next look must not
/// come late.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a look at the prices may keep the news of credentials waiting.
const PRICES_FIRST: Duration = Duration::from_millis(300);

/// A reading of the database's clock older than this is replaced by the next one, even if that is less exact.
const CLOCK_MAX_AGE: Duration = Duration::from_secs(60);

/// The pause before the next attempt to listen for notifications.
const LISTEN_PAUSE: Duration = Duration::from_secs(1);

/// Keeps the caches of keys and prices up to date.
#[derive(Debug)]
pub struct Watcher {
    database: Database,
    authenticator: Arc<Authenticator>,
    prices: Arc<Prices>,
    clock: Clock,
    seen: Mutex<Seen>,
}

/// What the last look has found.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    epochs: Option<Epochs>,
    in_force: Option<BookVersion>,
    /// When the database's clock was last read, and how long the answer took.
    timed: Option<(Instant, Duration)>,
}

impl Watcher {
    /// A watcher that has not looked yet.
    pub fn new(
        database: Database,
        authenticator: Arc<Authenticator>,
        prices: Arc<Prices>,
        clock: Clock,
    ) -> Self {
        Self { database, authenticator, prices, clock, seen: Mutex::default() }
    }

    /// Looks once, and reads again what has changed. Concurrent calls look one after the other.
    pub async fn look(&self) -> Result<(), StoreError> {
        let seen = tokio::time::timeout(LOOK_TIMEOUT, self.see()).await.unwrap_or(Err(StoreError::Timeout));
        metrics::gauge!(m::DATABASE_UP).set(u8::from(seen.is_ok()));
        seen
    }

    async fn see(&self) -> Result<(), StoreError> {
        let before = *self.seen();
        let begun = self.clock.now();
        let epochs = self.database.epochs().await?;
        let mut reprice = before.epochs.is_none_or(|seen| seen.prices != epochs.prices);
        if reprice && before.epochs.is_some_and(|seen| seen.auth != epochs.auth) {
            // A changed default factor is in both: the former one must be known as such before callers get the new one, or
            // their quotes are refused for a moment. Callers must not wait for it, as they may have lost their access.
            let read = tokio::time::timeout(PRICES_FIRST, self.read_prices()).await;
            reprice = !read.is_ok_and(|read| read.is_ok());
        }
        if before.epochs.is_none_or(|seen| seen.auth != epochs.auth) {
            self.authenticator.invalidate();
        }
        self.authenticator.confirm(begun);
        self.look_at_the_clock(before.timed).await?;
        if reprice {
            self.read_prices().await?;
        }
        self.seen().epochs = Some(epochs);
        metrics::gauge!(m::REVOCATION_EPOCH).set(epochs.auth as f64);
        // A price book may also have come into force because its time has come, without any change.
        let book = self.prices.current()?;
        if self.seen().in_force.replace(book.version) != Some(book.version) {
            metrics::gauge!(m::PRICE_BOOK_VERSION).set(f64::from(book.version.get()));
            tracing::info!(version = %book.version, name = book.name, types = book.prices.len(), "price book in force");
        }
        Ok(())
    }

    async fn read_prices(&self) -> Result<(), StoreError> {
        self.prices.set(self.database.price_list().await?, self.database.signing_keys().await?);
        Ok(())
    }

    /// Reads the database's clock, by which prices begin and end.
    async fn look_at_the_clock(&self, last: Option<(Instant, Duration)>) -> Result<(), StoreError> {
        let asked = self.clock.now();
        let shown = self.database.clock().await?;
        let took = self.clock.since(asked);
        // A reading may be wrong by half the time it took, so a slow reading replaces a quick one only when the quick
        // one is old.
        let better = last
            .is_none_or(|(last, last_took)| took <= last_took * 2 || self.clock.since(last) > CLOCK_MAX_AGE);
        if better {
            self.prices.set_time(DatabaseTime { shown, seen: asked + took / 2 });
            self.seen().timed = Some((asked, took));
        }
        Ok(())
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notifies all of `woken` whenever the database announces a change, and whenever an announcement may have been lost.
    /// Uses a connection of its own, until `stop`.
    pub async fn listen<const N: usize>(self: Arc<Self>, woken: [Arc<Notify>; N], stop: CancellationToken) {
        let wake = || woken.iter().for_each(|job| job.notify_one());
        let listening = async {
            loop {
                match self.database.listen().await {
                    Ok(mut listener) => {
                        while listener.changed().await.is_ok() {
                            wake();
                        }
                    }
                    Err(error) => tracing::warn!(%error, "cannot listen for changes"),
                }
                wake();
                tokio::time::sleep(LISTEN_PAUSE).await;
            }
        };
        // Dropping the listener in the middle is safe, because it has nothing to finish.
        stop.run_until_cancelled(listening).await;
    }
}
