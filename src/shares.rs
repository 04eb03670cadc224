//! A bounded quantity that many owners share, so that none of them can take it all: connections, places, bytes.
//!
//! An owner gets more only if it then has at most as much as was free before. So one owner alone gets half of the
//! quantity, the next one half of the rest, and there is always something left for an owner that has nothing yet.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// What an owner may be.
pub trait Owner: Copy + Eq + Hash + fmt::Debug + Send + Sync + 'static {}

impl<T: Copy + Eq + Hash + fmt::Debug + Send + Sync + 'static> Owner for T {}

/// A quantity, and who has how much of it.
#[derive(Debug)]
pub struct Shares<K: Owner> {
    total: usize,
    /// How many may wait for a share, all owners together.
    most_waiting: usize,
    state: Mutex<Holdings<K>>,
    taken: metrics::Gauge,
}

#[derive(Debug)]
struct Holdings<K: Owner> {
    taken: usize,
    by_owner: HashMap<K, usize>,
    waiting: usize,
    /// The number of the last waiter: in each queue they rise.
    last: u64,
    queues: HashMap<K, VecDeque<Waiter<K>>>,
    /// The owners that wait, in the order of their turns.
    turns: VecDeque<K>,
}

#[derive(Debug)]
struct Waiter<K: Owner> {
    id: u64,
    amount: usize,
    reply: oneshot::Sender<Share<K>>,
}

/// Who has how much of a quantity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution<K> {
    /// The owners that may not have one more.
    pub full: Vec<K>,
    /// What these have together.
    pub of_full: usize,
    /// The most that one of the others has.
    pub most: usize,
    pub free: usize,
}

impl<K> Distribution<K> {
    /// How much may be given away without a look at who gets it: even if it is all one owner's that is not full, that one has no more
    /// than is free then.
    pub fn for_anybody(&self) -> usize {
        self.free.saturating_sub(self.most).div_ceil(2)
    }
}

/// A part of the quantity, which is given back when it is dropped.
#[derive(Debug)]
#[must_use = "a share that is dropped is given back"]
pub struct Share<K: Owner> {
    /// None: it was never the owner's, because its waiter had gone.
    of: Option<Arc<Shares<K>>>,
    owner: K,
    amount: usize,
}

/// A place in a queue, which is given up when it is dropped.
struct InQueue<'a, K: Owner> {
    shares: &'a Shares<K>,
    owner: K,
    id: u64,
}

impl<K: Owner> Drop for InQueue<'_, K> {
    fn drop(&mut self) {
        let mut state = self.shares.state();
        let Some(queue) = state.queues.get_mut(&self.owner) else { return };
        // Whoever was served is not there any more.
        let Ok(place) = queue.binary_search_by_key(&self.id, |waiter| waiter.id) else { return };
        drop(queue.remove(place));
        if queue.is_empty() {
            state.queues.remove(&self.owner);
            state.turns.retain(|owner| *owner != self.owner);
        }
        state.waiting -= 1;
    }
}

/// More owners wait for a share than may wait, or this owner more often than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many are waiting")]
pub struct TooManyWait;

impl<K: Owner> Shares<K> {
    /// A quantity of which nothing is taken. `taken` shows how much is.
    pub fn new(total: usize, taken: metrics::Gauge) -> Arc<Self> {
        Self::with_queue(total, 0, taken)
    }

    /// A quantity for which at most `most_waiting` callers wait.
    pub fn with_queue(total: usize, most_waiting: usize, taken: metrics::Gauge) -> Arc<Self> {
        taken.set(0.0);
        let state = Holdings {
            taken: 0,
            by_owner: HashMap::new(),
            waiting: 0,
            last: 0,
            queues: HashMap::new(),
            turns: VecDeque::new(),
        };
        Arc::new(Self { total, most_waiting, state: Mutex::new(state), taken })
    }

    /// Takes a share; none: it would be more than the owner may have now.
    pub fn take(self: &Arc<Self>, owner: K, amount: usize) -> Option<Share<K>> {
        let mut state = self.state();
        self.add(&mut state, owner, amount).then(|| Share { of: Some(self.clone()), owner, amount })
    }

    /// Takes a share of what is free, however much the owner has: for owners that stand for many.
    pub fn take_freely(self: &Arc<Self>, owner: K, amount: usize) -> Option<Share<K>> {
        let mut state = self.state();
        let free = amount <= self.total.saturating_sub(state.taken);
        if free {
            self.count(&mut state, owner, amount);
        }
        free.then(|| Share { of: Some(self.clone()), owner, amount })
    }

    /// Takes a share as soon as the owner may have it. Owners take turns, however often each of them waits.
    pub async fn wait(self: &Arc<Self>, owner: K, amount: usize) -> Result<Share<K>, TooManyWait> {
        // The answer is dropped before the place in the queue.
        let (_queued, answer) = {
            let mut state = self.state();
            let queue = state.queues.get(&owner).map_or(0, VecDeque::len);
            if queue == 0 && self.add(&mut state, owner, amount) {
                return Ok(Share { of: Some(self.clone()), owner, amount });
            }
            // The places in the queue are shared as the quantity itself is.
            if queue + 1 > self.most_waiting.saturating_sub(state.waiting) {
                return Err(TooManyWait);
            }
            let (reply, answer) = oneshot::channel();
            state.waiting += 1;
            if queue == 0 {
                state.turns.push_back(owner);
            }
            state.last += 1;
            let id = state.last;
            state.queues.entry(owner).or_default().push_back(Waiter { id, amount, reply });
            (InQueue { shares: self, owner, id }, answer)
        };
        // The sender is dropped only with this quantity itself, of which we hold a reference.
        answer.await.map_err(|_| TooManyWait)
    }

    /// Whether the owner might take this much now.
    pub fn has_room(&self, owner: K, amount: usize) -> bool {
        self.fits(&self.state(), owner, amount)
    }

    /// How much is taken.
    pub fn taken(&self) -> usize {
        self.state().taken
    }

    /// How much is not taken.
    pub fn free(&self) -> usize {
        self.total.saturating_sub(self.taken())
    }

    /// How much this owner has.
    pub fn taken_by(&self, owner: K) -> usize {
        self.state().by_owner.get(&owner).copied().unwrap_or_default()
    }

    /// Who has how much now.
    pub fn distribution(&self) -> Distribution<K> {
        let state = self.state();
        let free = self.total.saturating_sub(state.taken);
        let mut found = Distribution { full: Vec::new(), of_full: 0, most: 0, free };
        for (owner, taken) in &state.by_owner {
            if self.fits(&state, *owner, 1) {
                found.most = found.most.max(*taken);
            } else {
                found.full.push(*owner);
                found.of_full = found.of_full.saturating_add(*taken);
            }
        }
        found
    }

    fn fits(&self, state: &Holdings<K>, owner: K, amount: usize) -> bool {
        let own = state.by_owner.get(&owner).copied().unwrap_or_default();
        own.saturating_add(amount) <= self.total.saturating_sub(state.taken)
    }

    fn add(&self, state: &mut Holdings<K>, owner: K, amount: usize) -> bool {
        let fits = self.fits(state, owner, amount);
        if fits {
            self.count(state, owner, amount);
        }
        fits
    }

    fn count(&self, state: &mut Holdings<K>, owner: K, amount: usize) {
        if amount > 0 {
            state.taken += amount;
            *state.by_owner.entry(owner).or_default() += amount;
            self.taken.set(state.taken as f64);
        }
    }

    fn give_back(self: &Arc<Self>, owner: K, amount: usize) {
        let mut state = self.state();
        self.subtract(&mut state, owner, amount);
        self.serve(&mut state);
    }

    fn subtract(&self, state: &mut Holdings<K>, owner: K, amount: usize) {
        state.taken = state.taken.saturating_sub(amount);
        self.taken.set(state.taken as f64);
        let left = state.by_owner.get(&owner).copied().unwrap_or_default().saturating_sub(amount);
        if left == 0 {
            state.by_owner.remove(&owner);
        } else {
            state.by_owner.insert(owner, left);
        }
    }

    /// Gives what is free to those who wait, each owner in its turn.
    fn serve(self: &Arc<Self>, state: &mut Holdings<K>) {
        let mut passed_over = 0;
        while passed_over < state.turns.len()
            && let Some(owner) = state.turns.pop_front()
        {
            let Some(queue) = state.queues.get_mut(&owner) else { continue };
            let Some(amount) = queue.front().map(|waiter| waiter.amount) else {
                state.queues.remove(&owner);
                continue;
            };
            if !self.add(state, owner, amount) {
                state.turns.push_back(owner);
                passed_over += 1;
                continue;
            }
            passed_over = 0;
            let queue = state.queues.get_mut(&owner);
            let waiter = queue.and_then(VecDeque::pop_front);
            if state.queues.get(&owner).is_some_and(VecDeque::is_empty) {
                state.queues.remove(&owner);
            } else {
                state.turns.push_back(owner);
            }
            state.waiting -= 1;
            let share = Share { of: Some(self.clone()), owner, amount };
            if let Some(Err(mut share)) = waiter.map(|waiter| waiter.reply.send(share)) {
                // The waiter has gone this instant. Its share must not be given back by its drop: the lock is ours.
                share.of = None;
                self.subtract(state, owner, amount);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, Holdings<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Owner> Share<K> {
    /// Makes the share larger, if the owner may have that much more now.
    pub fn grow(&mut self, more: usize) -> bool {
        let Some(shares) = &self.of else { return false };
        let grown = shares.add(&mut shares.state(), self.owner, more);
        if grown {
            self.amount += more;
        }
        grown
    }

    /// Gives back all but `amount`.
    pub fn shrink(&mut self, amount: usize) {
        let less = self.amount.saturating_sub(amount);
        if let Some(shares) = &self.of
            && less > 0
        {
            self.amount -= less;
            shares.give_back(self.owner, less);
        }
    }

    pub fn amount(&self) -> usize {
        self.amount
    }
}

impl<K: Owner> Drop for Share<K> {
    fn drop(&mut self) {
        if let Some(shares) = self.of.take() {
            shares.give_back(self.owner, self.amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio_util::task::TaskTracker;

    use super::*;

    fn shares(total: usize) -> Arc<Shares<u8>> {
        Shares::with_queue(total, 100, metrics::Gauge::noop())
    }

    #[test]
    fn what_anybody_may_have_leaves_as_much_to_others() {
        let shares = shares(48);
        let mut held = Vec::new();
        // One after the other takes all that anybody may have, and no more of it comes to those.
        for (owner, amount) in [(1, 24), (2, 12), (3, 6), (4, 3), (5, 2), (6, 1)] {
            let before = shares.distribution();
            assert_eq!(before.for_anybody(), amount, "{owner}");
            held.push(shares.take(owner, amount).unwrap());
            assert_eq!(shares.distribution().full.len(), held.len(), "{owner}");
        }
        assert_eq!(shares.distribution().free, 0);
        drop(held.remove(0));
        let freed = shares.distribution();
        assert_eq!((freed.of_full, freed.most, freed.free, freed.for_anybody()), (0, 12, 24, 6));
    }

    fn fill(shares: &Arc<Shares<u8>>, owner: u8) -> Vec<Share<u8>> {
        std::iter::from_fn(|| shares.take(owner, 1)).collect()
    }

    #[test]
    fn an_owner_takes_half_and_there_is_something_left_for_the_next() {
        let shares = shares(512);
        let mut taken: Vec<Vec<Share<u8>>> = (0..10).map(|owner| fill(&shares, owner)).collect();
        let lengths: Vec<usize> = taken.iter().map(Vec::len).collect();
        assert_eq!(lengths, [256, 128, 64, 32, 16, 8, 4, 2, 1, 1]);
        assert!(shares.take(10, 1).is_none());
        taken.remove(0);
        assert_eq!(fill(&shares, 10).len(), 128, "half of what became free");
    }

    #[test]
    fn a_single_place_serves_one_after_the_other() {
        let shares = shares(1);
        for _ in 0..3 {
            let taken = fill(&shares, 1);
            assert_eq!(taken.len(), 1);
            assert!(!shares.has_room(1, 1) && !shares.has_room(2, 1));
        }
        assert!(shares.has_room(1, 1));
        assert!(shares.state().by_owner.is_empty(), "owners of nothing are forgotten");
    }

    #[test]
    fn a_share_grows_and_shrinks_within_what_the_owner_may_have() {
        let shares = shares(100);
        let mut share = shares.take(1, 30).unwrap();
        assert!(share.grow(20) && !share.grow(1));
        assert_eq!((share.amount(), shares.taken()), (50, 50));
        share.shrink(10);
        assert_eq!((share.amount(), shares.taken()), (10, 10));
        drop(share);
        assert_eq!(shares.taken(), 0);
    }

    #[tokio::test]
    async fn those_who_wait_take_turns_by_owner() {
        let shares = shares(1);
        let (order, mut served) = tokio::sync::mpsc::unbounded_channel();
        let first = shares.take(9, 1).unwrap();
        let waiting = |owner| {
            let (shares, order) = (shares.clone(), order.clone());
            async move {
                let _share = shares.wait(owner, 1).await.unwrap();
                order.send(owner).unwrap();
            }
        };
        let mut tasks = Vec::new();
        for owner in [1, 1, 1, 1, 2, 3] {
            tasks.push(TaskTracker::new().spawn(waiting(owner)));
            tokio::task::yield_now().await;
        }
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        let order: Vec<u8> = std::iter::from_fn(|| served.try_recv().ok()).collect();
        assert_eq!(order, [1, 2, 3, 1, 1, 1]);
        assert_eq!(shares.taken(), 0);
    }

    #[tokio::test]
    async fn the_queue_is_shared_too_and_those_who_left_are_forgotten() {
        let shares: Arc<Shares<u8>> = Shares::with_queue(1, 4, metrics::Gauge::noop());
        let taken = shares.take(0, 1).unwrap();
        let mut waiting: Vec<_> = Vec::new();
        for (owner, fits) in [(1, true), (1, true), (1, false), (2, true), (3, true), (4, false)] {
            let (there, owned) = (shares.clone(), owner);
            let mut wait = Box::pin(async move { there.wait(owned, 1).await });
            let refused = futures_util::poll!(&mut wait).is_ready();
            assert_eq!(refused, !fits, "{owner}");
            waiting.push(wait);
        }
        drop(waiting);
        // Before anything is given back: else those who left would keep others out of the queue.
        assert_eq!(shares.state().waiting, 0);
        assert!(shares.state().queues.is_empty() && shares.state().turns.is_empty());
        drop(taken);
        assert_eq!(shares.taken(), 0);
        drop(shares.wait(4, 1).await.unwrap());
    }

    proptest! {
        #[test]
        fn never_more_than_the_whole_is_taken(moves in prop::collection::vec((0u8..4, 0usize..40, any::<bool>()), 0..200)) {
            let shares = shares(100);
            let mut taken: Vec<Share<u8>> = Vec::new();
            for (owner, amount, give_back) in moves {
                if give_back && !taken.is_empty() {
                    drop(taken.remove(amount % taken.len()));
                } else if let Some(share) = shares.take(owner, amount) {
                    taken.push(share);
                }
                let sum: usize = taken.iter().map(Share::amount).sum();
                prop_assert!(sum <= 100);
                prop_assert_eq!(sum, shares.taken());
            }
        }
    }
}
