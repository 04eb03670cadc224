//! Cached rows of the database, used for as long as it is known that they did not change.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, hash::Hash};

use moka::sync::Cache;

use crate::clock::Clock;
use crate::metrics as m;
use crate::store::StoreError;

/// Cached entries are used for this long after the last confirmation that none of them is stale.
const TRUST: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Cached<V> {
    /// Entries of an older generation count as absent. A read that began before a revocation therefore cannot revive the
    /// key.
    generation: u64,
    pub(super) value: Arc<V>,
}

impl<V> Clone for Cached<V> {
    fn clone(&self) -> Self {
        Self { generation: self.generation, value: self.value.clone() }
    }
}

/// Whether cached entries are fresh.
#[derive(Debug)]
pub(super) struct Freshness {
    generation: AtomicU64,
    /// When it was last confirmed that the generation is current.
    confirmed: Mutex<Instant>,
    stale_max: Duration,
    clock: Clock,
}

impl Freshness {
    pub(super) fn new(stale_max: Duration, clock: Clock) -> Self {
        Self { generation: AtomicU64::new(0), confirmed: Mutex::new(clock.now()), stale_max, clock }
    }

    pub(super) fn invalidate(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn confirm(&self, instant: Instant) {
        *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner) = instant;
    }

    pub(super) fn unconfirmed_for(&self) -> Duration {
        self.clock.since(*self.confirmed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The fresh entry of `cache` under `key`, or else what `read` returns. If the read fails and `stale_will_do`, a stale
    /// entry is returned for a while.
    pub(super) async fn get<K, V, R>(
        &self,
        (name, cache): (&'static str, &Cache<K, Cached<V>>),
        key: K,
        stale_will_do: bool,
        read: impl FnOnce() -> R,
    ) -> Result<Option<Arc<V>>, StoreError>
    where
        R: Future<Output = Result<Option<V>, StoreError>>,
        K: Hash + Eq + Send + Sync + fmt::Debug + 'static,
        V: Send + Sync + 'static,
    {
        // Taken before the read: a change from here on belongs to a later generation.
        let generation = self.generation.load(Ordering::Acquire);
        let cached = cache.get(&key).filter(|stored| stored.generation == generation);
        if let Some(stored) = &cached
            && self.unconfirmed_for() < TRUST
        {
            count(name, HIT);
            return Ok(Some(stored.value.clone()));
        }
        // Boxed: reads are rare, and the future of every call would have room for one.
        let read = Box::pin(read()).await;
        let stale =
            read.is_err() && cached.is_some() && stale_will_do && self.unconfirmed_for() < self.stale_max;
        count(name, if stale { STALE } else { MISS });
        match read {
            Ok(Some(value)) => {
                let value = Arc::new(value);
                cache.insert(key, Cached { generation, value: value.clone() });
                Ok(Some(value))
            }
            Ok(None) => Ok(None),
            Err(error) => cached.filter(|_| stale).map(|stored| Some(stored.value)).ok_or(error),
        }
    }
}

const HIT: &str = "hit";
const MISS: &str = "miss";
const STALE: &str = "stale";

fn count(cache: &'static str, result: &'static str) {
    metrics::counter!(m::CACHE_LOOKUPS, "cache" => cache, "result" => result).increment(1);
}

/// Shows the series of a cache from the start, with the value 0.
pub(super) fn register(cache: &'static str) {
    for result in [HIT, MISS, STALE] {
        metrics::counter!(m::CACHE_LOOKUPS, "cache" => cache, "result" => result).increment(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust() -> (Freshness, Cache<u8, Cached<&'static str>>) {
        (Freshness::new(Duration::from_secs(60), Clock), Cache::new(10))
    }

    async fn get(
        trust: &Freshness,
        cache: &Cache<u8, Cached<&'static str>>,
        now: &'static str,
    ) -> &'static str {
        *trust.get(("test", cache), 1, false, || async { Ok(Some(now)) }).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn what_is_certain_is_not_read_again() {
        let (trust, cache) = trust();
        assert_eq!(get(&trust, &cache, "old").await, "old");
        assert_eq!(get(&trust, &cache, "new").await, "old");
        trust.invalidate();
        assert_eq!(get(&trust, &cache, "new").await, "new");
    }

    #[tokio::test]
    async fn a_fill_that_began_before_a_change_does_not_outlive_it() {
        let (trust, cache) = trust();
        // The read got the old row, and only then the change is announced.
        let fill = || async {
            trust.invalidate();
            Ok(Some("revoked meanwhile"))
        };
        assert_eq!(*trust.get(("test", &cache), 1, false, fill).await.unwrap().unwrap(), "revoked meanwhile");
        assert_eq!(get(&trust, &cache, "new").await, "new", "the next look-up reads again");
    }

    #[tokio::test]
    async fn what_is_not_confirmed_is_read_again_and_stale_only_where_that_will_do() {
        let (trust, cache) = trust();
        get(&trust, &cache, "old").await;
        let ago = |seconds| Clock.now().checked_sub(Duration::from_secs(seconds)).unwrap();
        trust.confirm(ago(6));
        assert_eq!(get(&trust, &cache, "new").await, "new");
        let away = async |stale| {
            let read = || async { Err(StoreError::Unreachable) };
            trust.get(("test", &cache), 1, stale, read).await.map(|found| *found.unwrap())
        };
        assert!(away(false).await.is_err());
        assert_eq!(away(true).await.unwrap(), "new");
        trust.confirm(ago(61));
        assert!(away(true).await.is_err(), "not for ever");
    }
}
