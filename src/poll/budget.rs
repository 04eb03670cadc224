//! The budget of polls. Each gateway takes an equal share of the configured rate. Clients' status calls get at most half of
//! that share, so that tasks that no client asks for end too, and the organisations share this half evenly.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::clock::Clock;
use crate::ids::OrgId;

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct PollBudget {
    rate: u32,
    share: AtomicU32,
    total: ArcSwap<DefaultDirectRateLimiter>,
    clients: Mutex<Window>,
    clock: Clock,
}

/// The polls for clients in the current second.
#[derive(Debug)]
struct Window {
    began: Instant,
    used: u32,
    by_org: HashMap<OrgId, u32>,
    /// The number of organisations that polled in the second before.
    orgs_before: usize,
}

fn limiter(per_second: u32) -> DefaultDirectRateLimiter {
    let some = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
    // A burst of a whole second's polls would double the rate in that second.
    RateLimiter::direct(Quota::per_second(some(per_second)).allow_burst(some(per_second / 4)))
}

impl PollBudget {
    /// A budget of `rate` polls per second, all of it this gateway's until `share_with` is called.
    pub fn new(rate: u32, clock: Clock) -> Self {
        let window = Window { began: clock.now(), used: 0, by_org: HashMap::new(), orgs_before: 0 };
        Self {
            rate,
            share: AtomicU32::new(rate),
            total: ArcSwap::from_pointee(limiter(rate)),
            clients: Mutex::new(window),
            clock,
        }
    }

    /// Divides the rate by the number of live gateways.
    pub fn share_with(&self, gateways: u32) {
        let share = (self.rate / gateways.max(1)).max(1);
        if self.share.swap(share, Ordering::Relaxed) != share {
            tracing::info!(gateways, polls_per_second = share, "sharing the poll budget");
            self.total.store(limiter(share).into());
        }
    }

    /// This gateway's share, in polls per second.
    pub fn share(&self) -> u32 {
        self.share.load(Ordering::Relaxed)
    }

    /// Whether a status call of `org` may poll the vendor now; if so, the poll is counted.
    pub fn client_may(&self, org: OrgId) -> bool {
        let half = (self.share() / 2).max(1);
        let now = self.clock.now();
        let mut window = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(window.began);
        if passed >= SECOND {
            let asked = if passed < 2 * SECOND { window.by_org.len() } else { 0 };
            *window = Window { began: now, used: 0, by_org: HashMap::new(), orgs_before: asked };
        }
        let mine = *window.by_org.entry(org).or_default();
        let orgs = u32::try_from(window.orgs_before.max(window.by_org.len())).unwrap_or(u32::MAX);
        if window.used >= half || mine >= (half / orgs.max(1)).max(1) || self.total.load().check().is_err() {
            return false;
        }
        window.used += 1;
        window.by_org.insert(org, mine + 1);
        true
    }

    /// Waits until the reconciler may poll once.
    pub async fn wait(&self) {
        self.total.load_full().until_ready().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_share_half_of_it_evenly() {
        let budget = PollBudget::new(4000, Clock);
        let (loud, quiet) = (OrgId::generate(), OrgId::generate());
        let grants = |org, times: u32| (0..times).filter(|_| budget.client_may(org)).count();
        // The burst is a quarter of a second.
        assert!(grants(loud, 900) >= 900, "alone it may have all of it");
        assert!(budget.client_may(quiet), "and still somebody else is served");
        budget.share_with(1000);
        assert_eq!(budget.share(), 4);
        let fresh = PollBudget::new(40, Clock);
        assert_eq!((0..100).filter(|_| fresh.client_may(loud)).count(), 10, "a burst");
        assert_eq!((0..100).filter(|_| fresh.client_may(quiet)).count(), 0);
    }

    #[test]
    fn an_organisation_has_its_part_and_no_more() {
        let budget = PollBudget::new(4000, Clock);
        let orgs: Vec<OrgId> = (0..10).map(|_| OrgId::generate()).collect();
        for org in &orgs {
            assert!(budget.client_may(*org));
        }
        let first = (0..1000).filter(|_| budget.client_may(orgs[0])).count();
        assert_eq!(first, 199, "a tenth of half of 4,000, of which it has had one");
        assert!(budget.client_may(orgs[9]));
    }
}
