//! The accounts of a backend. A new task goes to one of them by weight; the task stays on its account.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderValue;

use super::client::BadUpstream;
use crate::config::AccountConfig;
use crate::metrics as m;
use crate::secret::Secret;

/// An account whose key was rejected or whose credits are exhausted is avoided for this long.
const AVOIDED_FOR: Duration = Duration::from_secs(60);

/// An account with the vendor.
#[derive(Debug)]
pub(super) struct Account {
    /// The name of the account in the ledger.
    pub(super) name: Arc<str>,
    /// The `Authorization` header with the master key.
    pub(super) authorization: HeaderValue,
    weight: i64,
    avoided_until: Mutex<Option<Instant>>,
}

/// All accounts of one backend.
#[derive(Debug)]
pub(super) struct Accounts {
    all: Vec<Arc<Account>>,
    /// The current weight of each account: the smooth weighted round-robin of nginx.
    current: Mutex<Vec<i64>>,
}

impl Account {
    fn new(config: &AccountConfig) -> Result<Self, BadUpstream> {
        let key = config.master_key.as_ref().map(Secret::expose).unwrap_or_default();
        let mut authorization = HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| {
            BadUpstream("master_key has characters that are not allowed in an HTTP header".into())
        })?;
        authorization.set_sensitive(true);
        Ok(Self {
            name: config.name.as_str().into(),
            authorization,
            weight: config.weight.into(),
            avoided_until: Mutex::new(None),
        })
    }

    /// Prefers other accounts for a while, because the vendor refused this one.
    pub(super) fn avoid(&self, now: Instant) {
        *self.avoided_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(now + AVOIDED_FOR);
    }

    /// Ends the avoidance: the vendor accepted a task on this account.
    pub(super) fn restore(&self) {
        *self.avoided_until.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn is_usable(&self, now: Instant) -> bool {
        self.avoided_until.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|until| until <= now)
    }
}

impl Accounts {
    pub(super) fn new(config: &[AccountConfig]) -> Result<Self, BadUpstream> {
        let all: Vec<Arc<Account>> =
            config.iter().map(|one| Account::new(one).map(Arc::new)).collect::<Result<_, _>>()?;
        if all.is_empty() {
            return Err(BadUpstream("has no account".into()));
        }
        let current = Mutex::new(vec![0; all.len()]);
        Ok(Self { all, current })
    }

    /// Picks the account for a new task.
    pub(super) fn pick(&self, now: Instant) -> Arc<Account> {
        let weighted = |account: &Account| account.weight > 0;
        // If all accounts are avoided, all are tried: the vendor decides, not our memory.
        let any_usable = self.all.iter().any(|account| weighted(account) && account.is_usable(now));
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut total, mut best) = (0, 0);
        for (index, account) in self.all.iter().enumerate() {
            if !weighted(account) || (any_usable && !account.is_usable(now)) {
                continue;
            }
            current[index] += account.weight;
            if total == 0 || current[index] > current[best] {
                best = index;
            }
            total += account.weight;
        }
        current[best] -= total;
        self.all[best].clone()
    }

    /// Shows in metrics which accounts get new tasks.
    pub(super) fn show(&self, backend: &'static str, now: Instant) {
        for account in &self.all {
            metrics::gauge!(m::UPSTREAM_ACCOUNT_USABLE, "backend" => backend, "account" => account.name.to_string())
                .set(u8::from(account.is_usable(now)));
        }
    }

    /// Each account, and whether it gets new tasks.
    pub(super) fn usable(&self, now: Instant) -> Vec<(Arc<str>, bool)> {
        self.all.iter().map(|account| (account.name.clone(), account.is_usable(now))).collect()
    }

    pub(super) fn names(&self) -> Vec<Arc<str>> {
        self.all.iter().map(|account| account.name.clone()).collect()
    }

    pub(super) fn by_name(&self, name: &str) -> Option<&Arc<Account>> {
        self.all.iter().find(|account| &*account.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn accounts(weights: &[(&str, u32)]) -> Accounts {
        let config: Vec<AccountConfig> = weights
            .iter()
            .map(|(name, weight)| AccountConfig {
                name: (*name).into(),
                master_key: Some(Secret::new("k")),
                master_key_file: None,
                weight: *weight,
            })
            .collect();
        Accounts::new(&config).unwrap()
    }

    fn picks(accounts: &Accounts, count: usize, now: Instant) -> String {
        (0..count).map(|_| accounts.pick(now).name.to_string()).collect()
    }

    #[test]
    fn turns_follow_the_weights() {
        assert_eq!(picks(&accounts(&[("a", 3), ("b", 1)]), 8, Clock.now()), "aabaaaba");
        assert_eq!(picks(&accounts(&[("a", 1)]), 3, Clock.now()), "aaa");
        assert_eq!(picks(&accounts(&[("a", 0), ("b", 1)]), 3, Clock.now()), "bbb");
    }

    #[test]
    fn an_account_that_cannot_be_used_is_left_out_for_a_while() {
        let (accounts, now) = (accounts(&[("a", 1), ("b", 1), ("c", 0)]), Clock.now());
        accounts.by_name("a").unwrap().avoid(now);
        assert_eq!(picks(&accounts, 4, now), "bbbb");
        accounts.by_name("b").unwrap().avoid(now);
        assert_eq!(picks(&accounts, 4, now), "abab", "all are avoided: all are tried");
        assert_eq!(picks(&accounts, 4, now + AVOIDED_FOR), "abab");
        accounts.by_name("a").unwrap().restore();
        assert_eq!(picks(&accounts, 4, now), "aaaa");
    }
}
