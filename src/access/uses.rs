//! When each key was last used: noted in memory at most once a minute for each key, and stored later by a background job.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::ids::KeyId;
use crate::store::{Database, StoreError};

/// Seconds between two notes of one key.
const APART: u64 = 60;

/// When a key was last noted, in seconds since the gateway started; 0: never.
pub(super) type LastNoted = Arc<AtomicU64>;

#[derive(Debug)]
pub(super) struct Uses {
    pending: Mutex<HashMap<KeyId, Instant>>,
    began: Instant,
    clock: Clock,
}

impl Uses {
    pub(super) fn new(clock: Clock) -> Self {
        Self { pending: Mutex::default(), began: clock.now(), clock }
    }

    /// Notes a use. Costs one atomic load, except for the first use in a minute.
    pub(super) fn note(&self, key: KeyId, last: &LastNoted) {
        let now = self.clock.since(self.began).as_secs() + APART;
        let before = last.load(Ordering::Relaxed);
        if now - before.min(now) < APART {
            return;
        }
        if last.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.pending().insert(key, self.clock.now());
        }
    }

    /// Stores what was noted since the last call.
    pub(super) async fn write_down(&self, database: &Database) -> Result<(), StoreError> {
        let noted = std::mem::take(&mut *self.pending());
        if noted.is_empty() {
            return Ok(());
        }
        let uses: Vec<(KeyId, Duration)> =
            noted.iter().map(|(key, at)| (*key, self.clock.since(*at))).collect();
        let written = database.note_key_uses(&uses).await;
        if written.is_err() {
            // Kept for the next call; notes that were added in the meantime are newer.
            let mut pending = self.pending();
            for (key, at) in noted {
                pending.entry(key).or_insert(at);
            }
        }
        written
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<KeyId, Instant>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_noted_once_a_minute() {
        let uses = Uses::new(Clock);
        let (key, last) = (KeyId::generate(), LastNoted::default());
        uses.note(key, &last);
        assert_eq!(uses.pending().drain().count(), 1);
        uses.note(key, &last);
        assert_eq!(uses.pending().len(), 0);
        last.fetch_sub(APART, Ordering::Relaxed);
        uses.note(key, &last);
        assert_eq!(uses.pending().len(), 1);
    }
}
