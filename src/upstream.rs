//! The vendor: two backends, each with its own base URL and accounts. Knows whether it may be asked, how to ask and how
//! to read the answer; what an answer means for money is decided by [`CreateOutcome`].

mod account;
mod backend;
mod breaker;
mod client;
mod gate;
mod outcome;
mod report;
mod ticket;

use std::sync::Arc;

pub use self::client::{BadUpstream, MaySend, StatusError};
pub use self::gate::Refusal;
pub use self::outcome::CreateOutcome;
pub use self::report::{Progress, Report};
pub use self::ticket::Ticket;

use self::backend::Backend;
use crate::clock::Clock;
use crate::config::Upstreams;
use crate::ids::OrgId;
use crate::order::is_o3;

/// The vendor's backends.
#[derive(Debug)]
pub struct Upstream {
    kling_3: Arc<Backend>,
    kling_o3: Arc<Backend>,
    clock: Clock,
}

/// The vendor refuses our master key.
const ALARM_KEY: &str = "master key rejected";
/// The shared account is empty.
const ALARM_EXHAUSTED: &str = "account exhausted";

const KLING_3: &str = "kling-3.0";
const KLING_O3: &str = "kling-o3";

impl Upstream {
    /// Clients for the configured backends.
    pub fn new(config: &Upstreams, clock: Clock) -> Result<Self, BadUpstream> {
        let o3 = config.kling_o3.as_ref().unwrap_or(&config.kling_3);
        Ok(Self {
            kling_3: Backend::new(KLING_3, &config.kling_3, clock)?.into(),
            kling_o3: Backend::new(KLING_O3, o3, clock)?.into(),
            clock,
        })
    }

    /// What the backends are called in the ledger.
    pub fn names() -> [Arc<str>; 2] {
        [KLING_3.into(), KLING_O3.into()]
    }

    /// Leave for `org` to create a task of `task_type`, or why not now; never waits.
    pub fn admit(&self, org: OrgId, task_type: &str) -> Result<Ticket, Refusal> {
        let backend = if is_o3(task_type) { &self.kling_o3 } else { &self.kling_3 };
        let now = self.clock.now();
        let pass = backend.creates.enter(org, now)?;
        Ok(Ticket { backend: backend.clone(), account: backend.accounts.pick(now), pass })
    }

    /// Asks for the state of a task of `org`, by what the ledger calls its backend and account.
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

    /// Whether a poll for `org` would go to the backend now.
    pub fn may_be_polled(&self, org: OrgId, backend: &str) -> bool {
        self.by_name(backend).is_some_and(|backend| backend.polls.is_passable(org, self.clock.now()))
    }

    /// Shows which accounts get new tasks.
    pub fn show_accounts(&self) {
        for backend in [&self.kling_3, &self.kling_o3] {
            backend.accounts.show(backend.name, self.clock.now());
        }
    }

    fn by_name(&self, backend: &str) -> Option<&Backend> {
        [&*self.kling_3, &*self.kling_o3].into_iter().find(|known| known.name == backend)
    }
}
