//! How fast an organisation gets long answers of the vendor's. What each of them costs (to receive, to read, to store) is everybody's
//! time. The length of an answer is known only after it was read, so an organisation pays afterwards: while it is too far ahead of
//! its rate, its tasks are not polled.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Payer, SMALL};
use crate::clock::Clock;
use crate::ids::OrgId;

/// How far an organisation may be ahead of its rate before its tasks are no longer polled.
const AHEAD: Duration = Duration::from_secs(4);

/// The same for polls that callers ask for, so that tasks that nobody asks for have their part.
const AHEAD_BY_CALLERS: Duration = Duration::from_secs(2);

/// Nobody is farther ahead, whatever came at once.
const FARTHEST: Duration = Duration::from_secs(34);

/// How far each organisation is ahead of its rate.
#[derive(Debug, Clone)]
pub struct AnswerPace {
    /// Of each organisation; 0: any number.
    bytes_per_second: u32,
    /// The time at which an organisation is not ahead any more. Those that are not ahead are absent.
    until: Arc<Mutex<HashMap<OrgId, Instant>>>,
}

/// Counts the bytes of an answer while they come, and for its organisation when it is dropped.
#[derive(Debug)]
pub struct CountedAnswer<'a> {
    pace: &'a AnswerPace,
    payer: Payer,
    bytes: usize,
}

impl CountedAnswer<'_> {
    /// Counts more bytes of it.
    pub fn add(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

impl Drop for CountedAnswer<'_> {
    fn drop(&mut self) {
        if let Payer::Org(org) = self.payer {
            self.pace.count(org, self.bytes);
        }
    }
}

impl AnswerPace {
    /// At most so many bytes a second of each organisation; 0: any number.
    pub fn new(bytes_per_second: u32) -> Self {
        Self { bytes_per_second, until: Arc::default() }
    }

    /// An answer of which nothing has come.
    pub fn counted(&self, payer: Payer) -> CountedAnswer<'_> {
        CountedAnswer { pace: self, payer, bytes: 0 }
    }

    /// Whether an organisation is so far ahead that its tasks are not polled.
    pub fn has_to_wait(&self, org: OrgId) -> bool {
        self.is_ahead(org, AHEAD)
    }

    /// Whether an organisation is so far ahead that its callers' questions do not poll its tasks.
    pub fn callers_have_to_wait(&self, org: OrgId) -> bool {
        self.is_ahead(org, AHEAD_BY_CALLERS)
    }

    fn is_ahead(&self, org: OrgId, by: Duration) -> bool {
        let limit = Clock.now() + by;
        self.until().get(&org).is_some_and(|until| *until > limit)
    }

    /// All organisations whose tasks are not polled.
    pub fn waiting(&self) -> Vec<OrgId> {
        let limit = Clock.now() + AHEAD;
        self.until().iter().filter(|(_, until)| **until > limit).map(|(org, _)| *org).collect()
    }

    fn count(&self, org: OrgId, bytes: usize) {
        if bytes <= SMALL || self.bytes_per_second == 0 {
            return;
        }
        let cost = bytes as f64 / f64::from(self.bytes_per_second);
        let cost = Duration::from_secs_f64(cost.min(FARTHEST.as_secs_f64()));
        let now = Clock.now();
        let mut all = self.until();
        all.retain(|_, until| *until > now);
        let until = all.entry(org).or_insert(now);
        *until = (*until + cost).min(now + FARTHEST);
    }

    fn until(&self) -> MutexGuard<'_, HashMap<OrgId, Instant>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gets_megabytes_waits_and_others_do_not() {
        let pace = AnswerPace::new(1_000_000);
        let (loud, quiet) = (OrgId::generate(), OrgId::generate());
        for _ in 0..1_000 {
            pace.counted(Payer::Org(quiet)).add(SMALL);
        }
        pace.counted(Payer::Operators).add(1 << 40);
        assert_eq!(pace.waiting(), []);
        let mut answer = pace.counted(Payer::Org(loud));
        answer.add(20_000_000);
        answer.add(20_000_000);
        assert!(!pace.has_to_wait(loud), "it has not come yet");
        drop(answer);
        assert!(pace.has_to_wait(loud) && pace.callers_have_to_wait(loud));
        assert!(!pace.has_to_wait(quiet) && !pace.callers_have_to_wait(quiet));
        assert_eq!(pace.waiting(), [loud]);
    }

    #[test]
    fn a_few_seconds_of_long_answers_may_come_at_once() {
        let pace = AnswerPace::new(1_000_000);
        let org = OrgId::generate();
        pace.counted(Payer::Org(org)).add(1_900_000);
        assert!(!pace.callers_have_to_wait(org));
        pace.counted(Payer::Org(org)).add(1_900_000);
        assert!(!pace.has_to_wait(org));
        let any = AnswerPace::new(0);
        any.counted(Payer::Org(org)).add(usize::MAX);
        assert!(!any.has_to_wait(org));
    }

    #[test]
    fn however_much_comes_at_once_the_wait_has_an_end() {
        let pace = AnswerPace::new(1);
        let org = OrgId::generate();
        let began = Clock.now();
        for _ in 0..3 {
            pace.counted(Payer::Org(org)).add(usize::MAX);
        }
        let until = pace.until().get(&org).copied().unwrap();
        assert!(until >= began + FARTHEST && until <= Clock.now() + FARTHEST);
    }
}
