//! The last known states of tasks, in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use moka::sync::Cache;

use super::View;
use crate::bulk::SMALL;
use crate::clock::Clock;
use crate::ids::{HoldId, OrgId};

/// Views of megabytes that are final are kept for so long at most: while their callers read them again. They are in the database.
const LARGE_KEPT_FOR: Duration = Duration::from_secs(15);

/// By the ids that callers use: the vendor's, and our reference.
#[derive(Debug)]
pub(super) struct Views {
    small: Cache<(OrgId, Arc<str>), Arc<View>>,
    large: Mutex<LargeViews>,
    clock: Clock,
    kept_for: Duration,
}

/// Views of megabytes. They are few, and one that is taken out is gone at once: the cache of small ones gives back what it has
/// evicted when it comes to it, which may be hundreds of megabytes later.
#[derive(Debug)]
struct LargeViews {
    most: usize,
    /// In the order in which they came.
    list: Vec<(Instant, Arc<View>)>,
}

impl LargeViews {
    fn add(&mut self, view: Arc<View>, now: Instant) {
        self.list.push((now, view));
        while self.list.iter().map(|(_, view)| view.bytes()).sum::<usize>() > self.most {
            // Whoever has the most gives way.
            let mut of: HashMap<OrgId, usize> = HashMap::new();
            self.list.iter().for_each(|(_, view)| *of.entry(view.task().org).or_default() += view.bytes());
            let most = of.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(org, _)| org);
            let Some(at) = self.list.iter().position(|(_, view)| Some(view.task().org) == most) else {
                return;
            };
            self.list.remove(at);
        }
    }

    fn forget(&mut self, hold: HoldId) {
        self.list.retain(|(_, view)| view.task().hold != hold);
    }
}

impl Views {
    /// At most `bytes` of them, a quarter of that for large ones, each for `kept_for` at most.
    pub(super) fn new(bytes: u64, kept_for: Duration, clock: Clock) -> Self {
        let large = bytes / 4;
        Self {
            small: Cache::builder()
                .max_capacity(bytes - large)
                .weigher(|_, view: &Arc<View>| u32::try_from(view.bytes()).unwrap_or(u32::MAX))
                .time_to_live(kept_for)
                .build(),
            large: Mutex::new(LargeViews {
                most: usize::try_from(large).unwrap_or(usize::MAX),
                list: Vec::new(),
            }),
            clock,
            kept_for,
        }
    }

    pub(super) fn get(&self, org: OrgId, id: &str) -> Option<Arc<View>> {
        self.small.get(&(org, id.into())).or_else(|| {
            let hold = id.parse::<HoldId>().ok();
            let large = self.large();
            let known = large.list.iter().map(|(_, view)| view).find(|view| {
                let task = view.task();
                task.org == org && (hold == Some(task.hold) || task.upstream_task.as_deref() == Some(id))
            });
            known.cloned()
        })
    }

    pub(super) fn insert(&self, view: &Arc<View>) {
        let task = view.task();
        let keys = keys(task.org, task.hold, task.upstream_task.as_ref());
        let mut large = self.large();
        large.forget(task.hold);
        if view.body().len() > SMALL {
            large.add(view.clone(), self.clock.now());
            drop(large);
            return keys.for_each(|key| self.small.invalidate(&key));
        }
        drop(large);
        keys.for_each(|key| self.small.insert(key, view.clone()));
    }

    /// Forgets the state of a task, by its reference and by the vendor's id if that is given.
    pub(super) fn forget(&self, org: OrgId, hold: HoldId, upstream_task: Option<&Arc<str>>) {
        keys(org, hold, upstream_task).for_each(|key| self.small.invalidate(&key));
        self.large().forget(hold);
    }

    /// Forgets large views that are too old.
    pub(super) fn forget_old(&self) {
        drop(self.large());
    }

    pub(super) fn count(&self) -> u64 {
        self.small.entry_count() + self.large().list.len() as u64
    }

    /// Those that are not too old.
    fn large(&self) -> MutexGuard<'_, LargeViews> {
        let mut large = self.large.lock().unwrap_or_else(PoisonError::into_inner);
        large.list.retain(|(since, view)| {
            let kept_for = if view.is_final() { LARGE_KEPT_FOR } else { self.kept_for };
            self.clock.since(*since) < kept_for
        });
        large
    }
}

fn keys(
    org: OrgId,
    hold: HoldId,
    upstream_task: Option<&Arc<str>>,
) -> impl Iterator<Item = (OrgId, Arc<str>)> {
    [Some(hold.to_string().into()), upstream_task.cloned()].into_iter().flatten().map(move |id| (org, id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poll::view::tests::of;

    #[test]
    fn large_views_are_few_and_whoever_has_the_most_gives_way() {
        let [one, other] = [OrgId::generate(), OrgId::generate()];
        let views = Views::new(40 << 20, Duration::from_secs(60), Clock);
        let mine: Vec<_> = (0..4).map(|_| Arc::new(of(one, 2 << 20))).collect();
        let its = Arc::new(of(other, 2 << 20));
        views.insert(&mine[0]);
        views.insert(&its);
        mine[1..].iter().for_each(|view| views.insert(view));
        // Each has 4 MiB and something, and there is room for 10 MiB.
        let known = |view: &Arc<View>| views.get(view.task().org, &view.task().hold.to_string()).is_some();
        assert!(known(&its) && known(&mine[3]));
        assert!(!mine[..3].iter().any(known));
        assert_eq!(Arc::strong_count(&mine[0]), 1, "it is gone at once");
        views.forget(other, its.task().hold, None);
        assert!(!known(&its));
        assert_eq!(views.count(), 1);
    }
}
