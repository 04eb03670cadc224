//! What was read from the database is used again for as long as it is certain that it has not changed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, hash::Hash};

use moka::sync::Cache;

use crate::clock::Clock;
use crate::metrics as m;
use crate::store::LedgerError;

/// What is in memory is trusted for this long after the last proof that none of it has changed.
const TRUST: Duration = Duration::from_secs(5);

/// Something in memory.
#[derive(Debug)]
pub(super) struct Stored<V> {
    /// Entries of an older generation count as absent. A fill that began before a revocation therefore cannot revive
    /// the key.
    generation: u64,
    pub(super) value: Arc<V>,
}

impl<V> Clone for Stored<V> {
    fn clone(&self) -> Self {
        Self { generation: self.generation, value: self.value.clone() }
    }
}

/// How sure this gateway is of what it has in memory.
#[derive(Debug)]
pub(super) struct Trust {
    generation: AtomicU64,
    /// When it was last proved that the generation is current.
    confirmed: Mutex<Instant>,
    stale_max: Duration,
    clock: Clock,
}

impl Trust {
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

    /// What `cache` has under `key`, if that is certain, or what is read now. If that fails, what the cache has may do
    /// for a while.
    pub(super) async fn get<K, V, R>(
        &self,
        (name, cache): (&'static str, &Cache<K, Stored<V>>),
        key: K,
        stale_will_do: bool,
        read: impl FnOnce() -> R,
    ) -> Result<Option<Arc<V>>, LedgerError>
    where
        R: Future<Output = Result<Option<V>, LedgerError>>,
        K: Hash + Eq + Send + Sync + fmt::Debug + 'static,
        V: Send + Sync + 'static,
    {
        // Before anything is read: what changes from here on belongs to another generation.
        let generation = self.generation.load(Ordering::Acquire);
        let cached = cache.get(&key).filter(|stored| stored.generation == generation);
        if let Some(stored) = &cached
            && self.unconfirmed_for() < TRUST
        {
            count(name, HIT);
            return Ok(Some(stored.value.clone()));
        }
        // Boxed: it is rare, and every call would carry the room for it.
        let read = Box::pin(read()).await;
        let stale =
            read.is_err() && cached.is_some() && stale_will_do && self.unconfirmed_for() < self.stale_max;
        count(name, if stale { STALE } else { MISS });
        match read {
            Ok(Some(value)) => {
                let value = Arc::new(value);
                cache.insert(key, Stored { generation, value: value.clone() });
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

/// The look-ups of such a cache begin at 0.
pub(super) fn register(cache: &'static str) {
    for result in [HIT, MISS, STALE] {
        metrics::counter!(m::CACHE_LOOKUPS, "cache" => cache, "result" => result).increment(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust() -> (Trust, Cache<u8, Stored<&'static str>>) {
        (Trust::new(Duration::from_secs(60), Clock), Cache::new(10))
    }

    async fn get(trust: &Trust, cache: &Cache<u8, Stored<&'static str>>, now: &'static str) -> &'static str {
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
        // It has read what was, and is only then told that this has changed.
        let fill = || async {
            trust.invalidate();
            Ok(Some("revoked meanwhile"))
        };
        assert_eq!(*trust.get(("test", &cache), 1, false, fill).await.unwrap().unwrap(), "revoked meanwhile");
        assert_eq!(get(&trust, &cache, "new").await, "new", "the next one reads again");
    }

    #[tokio::test]
    async fn what_is_not_confirmed_is_read_again_and_stale_only_where_that_will_do() {
        let (trust, cache) = trust();
        get(&trust, &cache, "old").await;
        let ago = |seconds| Clock.now().checked_sub(Duration::from_secs(seconds)).unwrap();
        trust.confirm(ago(6));
        assert_eq!(get(&trust, &cache, "new").await, "new");
        let away = async |stale| {
            let read = || async { Err(LedgerError::Unreachable) };
            trust.get(("test", &cache), 1, stale, read).await.map(|found| *found.unwrap())
        };
        assert!(away(false).await.is_err());
        assert_eq!(away(true).await.unwrap(), "new");
        trust.confirm(ago(61));
        assert!(away(true).await.is_err(), "not for ever");
    }
}
