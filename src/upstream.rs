//! The vendor's API: two backends, each with its own base URL and accounts. This module decides whether a backend may be
//! called now, calls it and reads its answers; what an answer to a create means for money is a [`CreateOutcome`].

mod account;
mod backend;
mod breaker;
mod client;
mod figures;
mod gate;
mod outcome;
mod permit;
mod report;

use std::sync::Arc;
use std::time::Duration;

pub use self::client::{BadUpstream, MaySend, StatusError};
pub use self::figures::is_left_out;
pub use self::gate::Refusal;
pub use self::outcome::CreateOutcome;
pub use self::permit::Permit;
pub use self::report::{Progress, Report};

use self::backend::Backend;
use crate::bulk::Bulk;
use crate::clock::Clock;
use crate::config::Upstreams;
use crate::https::Egress;
use crate::ids::OrgId;
use crate::order::is_o3;

#[derive(Debug)]
pub struct Upstream {
    kling_3: Arc<Backend>,
    kling_o3: Arc<Backend>,
    clock: Clock,
}

/// Alarm: the vendor refuses the master key of an account.
const ALARM_KEY: &str = "master key rejected";
/// Alarm: an account has no credits left.
const ALARM_EXHAUSTED: &str = "account exhausted";
/// Alarm: the configured URL has no endpoint for creates.
const ALARM_ENDPOINT: &str = "no such endpoint";

/// The longest that an operator's look-up takes, if `status_timeout_ms` allows more.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(10);

const KLING_3: &str = "kling-3.0";
const KLING_O3: &str = "kling-o3";

impl Upstream {
    /// Builds the clients of the configured backends; connects to none of them.
    pub fn new(config: &Upstreams, egress: &Egress, bulk: &Bulk, clock: Clock) -> Result<Self, BadUpstream> {
        let o3 = config.kling_o3.as_ref().unwrap_or(&config.kling_3);
        Ok(Self {
            kling_3: Backend::new(KLING_3, &config.kling_3, egress, bulk, clock)?.into(),
            kling_o3: Backend::new(KLING_O3, o3, egress, bulk, clock)?.into(),
            clock,
        })
    }

    /// The names of the backends in the ledger.
    pub fn names() -> [Arc<str>; 2] {
        [KLING_3.into(), KLING_O3.into()]
    }

    /// A permit for `org` to create one task of `task_type`, or why there is none now. Never waits.
    pub fn admit(&self, org: OrgId, task_type: &str) -> Result<Permit, Refusal> {
        let backend = if is_o3(task_type) { &self.kling_o3 } else { &self.kling_3 };
        let now = self.clock.now();
        let call = backend.creates.acquire(org, now)?;
        Ok(Permit { backend: backend.clone(), account: backend.accounts.pick(now), org, call })
    }

    /// Asks for the state of a task of `org`; `backend` and `account` are their names in the ledger.
    pub async fn status(
        &self,
        org: OrgId,
        backend: &str,
        account: &str,
        task: &str,
    ) -> Result<Report, StatusError> {
        let backend = self.by_name(backend).ok_or(StatusError::UnknownAccount)?;
        backend.status(org, account, task).await
    }

    /// The names of the accounts of a backend in the ledger; none: there is no such backend.
    pub fn accounts(&self, backend: &str) -> Option<Vec<Arc<str>>> {
        Some(self.by_name(backend)?.accounts.names())
    }

    /// Asks for the state of a task on behalf of an operator. `owner`: whose task it is, or shall be. Look-ups have a few places
    /// of their own, so that they take none from polls, and neither ask the breaker nor tell it anything.
    pub async fn look_up(
        &self,
        owner: OrgId,
        backend: &str,
        account: &str,
        task: &str,
    ) -> Result<Report, StatusError> {
        let backend = self.by_name(backend).ok_or(StatusError::UnknownAccount)?;
        let asked = backend.look_up(owner, account, task);
        tokio::time::timeout(LOOK_UP_TIMEOUT, Box::pin(asked))
            .await
            .unwrap_or(Err(StatusError::Unanswered("the upstream did not answer in time")))
    }

    /// Whether a poll for `org` would be admitted by the backend now.
    pub fn may_be_polled(&self, org: OrgId, backend: &str) -> bool {
        self.by_name(backend).is_some_and(|backend| backend.polls.would_admit(org, self.clock.now()))
    }

    /// Shows in metrics which accounts get new tasks.
    pub fn show_accounts(&self) {
        for backend in [&self.kling_3, &self.kling_o3] {
            backend.accounts.show(backend.name, self.clock.now());
        }
    }

    /// Each backend's accounts, and whether they get new tasks.
    pub fn usable_accounts(&self) -> Vec<(&'static str, Arc<str>, bool)> {
        let now = self.clock.now();
        let of = |backend: &Arc<Backend>| {
            let (name, accounts) = (backend.name, backend.accounts.usable(now));
            accounts.into_iter().map(move |(account, usable)| (name, account, usable))
        };
        [&self.kling_3, &self.kling_o3].into_iter().flat_map(of).collect()
    }

    fn by_name(&self, backend: &str) -> Option<&Backend> {
        [&*self.kling_3, &*self.kling_o3].into_iter().find(|known| known.name == backend)
    }
}
