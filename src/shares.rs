//! A bounded number of places that organisations share, so that none can take all of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ids::OrgId;

/// An organisation gets another place only while it has fewer than are free. One organisation alone gets half of the
/// places, the next one half of the rest.
#[derive(Debug)]
pub struct Shares {
    all: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by_org: HashMap<OrgId, usize>,
}

/// A place. Dropping it frees it.
#[derive(Debug)]
#[must_use]
pub struct Share {
    shares: Arc<Shares>,
    org: OrgId,
}

impl Shares {
    /// So many places, all of them free.
    pub fn new(all: usize) -> Arc<Self> {
        Arc::new(Self { all, taken: Mutex::default() })
    }

    /// A place for `org`; nothing if its share is used up. Never waits.
    pub fn take(self: &Arc<Self>, org: OrgId) -> Option<Share> {
        let mut taken = self.taken();
        let own = taken.by_org.get(&org).copied().unwrap_or_default();
        if own >= self.all.saturating_sub(taken.total) {
            return None;
        }
        taken.total += 1;
        taken.by_org.insert(org, own + 1);
        Some(Share { shares: self.clone(), org })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        taken.total = taken.total.saturating_sub(1);
        match taken.by_org.get_mut(&self.org) {
            Some(own @ 2..) => *own -= 1,
            _ => drop(taken.by_org.remove(&self.org)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(shares: &Arc<Shares>, org: OrgId) -> Vec<Share> {
        std::iter::from_fn(|| shares.take(org)).collect()
    }

    #[test]
    fn one_organisation_takes_half_and_there_is_room_for_the_next() {
        let shares = Shares::new(64);
        let mut taken: Vec<_> = (0..7).map(|_| fill(&shares, OrgId::generate())).collect();
        let lengths: Vec<usize> = taken.iter().map(Vec::len).collect();
        assert_eq!(lengths, [32, 16, 8, 4, 2, 1, 1]);
        assert!(shares.take(OrgId::generate()).is_none());
        taken.remove(0);
        assert_eq!(fill(&shares, OrgId::generate()).len(), 16, "half of what became free");
    }

    #[test]
    fn a_single_place_serves_one_after_the_other() {
        let (shares, org) = (Shares::new(1), OrgId::generate());
        for _ in 0..3 {
            assert_eq!(fill(&shares, org).len(), 1);
        }
        assert!(shares.taken().by_org.is_empty(), "organisations without a place are forgotten");
    }
}
