//! A queue in which organisations take turns, so that a long queue of one delays no other.

use std::collections::{HashMap, VecDeque};

use crate::ids::OrgId;

/// Within an organisation, items keep the order in which they came.
pub(super) struct OrgQueue<T> {
    by_org: HashMap<OrgId, VecDeque<T>>,
    /// The organisations that have items here, the next one first.
    turns: VecDeque<OrgId>,
}

impl<T> OrgQueue<T> {
    pub(super) fn new() -> Self {
        Self { by_org: HashMap::new(), turns: VecDeque::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.by_org.values().map(VecDeque::len).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Whether an item of this organisation is such a one.
    pub(super) fn any(&self, org: OrgId, is_such: impl FnMut(&T) -> bool) -> bool {
        self.by_org.get(&org).is_some_and(|items| items.iter().any(is_such))
    }

    pub(super) fn push(&mut self, org: OrgId, item: T) {
        self.by_org
            .entry(org)
            .or_insert_with(|| {
                self.turns.push_back(org);
                VecDeque::new()
            })
            .push_back(item);
    }

    /// Takes a batch of at most `most` items: the first of each organisation, then the second of each. An item that may not
    /// join keeps those behind it of the same organisation waiting too.
    pub(super) fn take(&mut self, most: usize, mut may_join: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut batch = Vec::new();
        let mut waiting = VecDeque::new();
        while batch.len() < most
            && let Some(org) = self.turns.pop_front()
        {
            let Some(items) = self.by_org.get_mut(&org) else { continue };
            if !items.front().is_none_or(&mut may_join) {
                waiting.push_back(org);
                continue;
            }
            batch.extend(items.pop_front());
            if items.is_empty() {
                self.by_org.remove(&org);
            } else {
                self.turns.push_back(org);
            }
        }
        // Those that had to wait come first the next time.
        waiting.append(&mut self.turns);
        self.turns = waiting;
        batch
    }

    /// Takes out the items of one organisation that `which` names.
    pub(super) fn remove(&mut self, org: OrgId, mut which: impl FnMut(&T) -> bool) -> Vec<T> {
        let Some(items) = self.by_org.remove(&org) else { return Vec::new() };
        let (out, kept): (Vec<T>, Vec<T>) = items.into_iter().partition(|item| which(item));
        if kept.is_empty() {
            self.turns.retain(|other| *other != org);
        } else {
            self.by_org.insert(org, kept.into());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn organisations_take_turns_and_each_keeps_its_order() {
        let (loud, quiet) = (OrgId::generate(), OrgId::generate());
        let mut line = OrgQueue::new();
        for n in 0..100 {
            line.push(loud, ("loud", n));
        }
        line.push(quiet, ("quiet", 0));
        line.push(quiet, ("quiet", 1));
        let batch = line.take(5, |_| true);
        assert_eq!(batch, [("loud", 0), ("quiet", 0), ("loud", 1), ("quiet", 1), ("loud", 2)]);
        let rest = line.take(usize::MAX, |_| true);
        assert_eq!(rest.len(), 97);
        assert_eq!(rest[0], ("loud", 3));
        assert!(line.is_empty() && line.by_org.is_empty());
    }

    #[test]
    fn an_item_that_must_wait_is_passed_by_others_but_not_by_its_own_organisation() {
        let (a, b) = (OrgId::generate(), OrgId::generate());
        let mut line = OrgQueue::new();
        for item in [1, 2, 3] {
            line.push(a, item);
            line.push(b, item * 10);
        }
        let batch = line.take(10, |item| *item != 2);
        assert_eq!(batch, [1, 10, 20, 30]);
        assert_eq!(line.take(1, |_| true), [2]);
        assert_eq!(line.remove(a, |_| true), [3]);
        assert!(line.is_empty());
    }

    #[test]
    fn what_is_not_taken_out_stays_in_its_place() {
        let org = OrgId::generate();
        let mut line = OrgQueue::new();
        for item in 0..6 {
            line.push(org, item);
        }
        assert_eq!(line.remove(org, |item| item % 2 == 0), [0, 2, 4]);
        assert_eq!(line.take(9, |_| true), [1, 3, 5]);
        assert!(line.remove(org, |_| true).is_empty());
    }
}
