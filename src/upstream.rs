//! The vendor: two backends, each with its own base URL and account. Knows how to ask and how to read the answer;
//! what an answer means for money is decided by [`CreateOutcome`].

mod client;
mod outcome;

use std::sync::Arc;
use std::time::Duration;

pub use self::client::{BadUpstream, StatusError};
pub(crate) use self::outcome::report;
pub use self::outcome::{CreateOutcome, Progress, StatusReport};

use self::client::Client;
use crate::clock::Clock;
use crate::config::{UpstreamConfig, Upstreams, ms};
use crate::metrics as m;
use crate::task::is_o3;

/// One backend of the vendor.
#[derive(Debug)]
pub struct Backend {
    /// What it is called in the ledger, in logs and in metrics.
    pub name: Arc<str>,
    /// What its account is called in the ledger.
    pub account: Arc<str>,
    client: Client,
    retry_429: Duration,
    clock: Clock,
}

/// The vendor's backends.
#[derive(Debug)]
pub struct Upstream {
    kling_3: Backend,
    kling_o3: Backend,
}

/// The vendor refuses our master key.
pub const ALARM_KEY: &str = "master key rejected";
/// The shared account is empty.
pub const ALARM_EXHAUSTED: &str = "account exhausted";

const KLING_3: &str = "kling-3.0";
const KLING_O3: &str = "kling-o3";

impl Upstream {
    /// Clients for the configured backends.
    pub fn new(config: &Upstreams, clock: Clock) -> Result<Self, BadUpstream> {
        let o3 = config.kling_o3.as_ref().unwrap_or(&config.kling_3);
        Ok(Self {
            kling_3: Backend::new(KLING_3, &config.kling_3, clock)?,
            kling_o3: Backend::new(KLING_O3, o3, clock)?,
        })
    }

    /// What the backends are called in the ledger.
    pub fn names() -> [Arc<str>; 2] {
        [KLING_3.into(), KLING_O3.into()]
    }

    /// Where tasks of `task_type` are created.
    pub fn for_type(&self, task_type: &str) -> &Backend {
        if is_o3(task_type) { &self.kling_o3 } else { &self.kling_3 }
    }

    /// The backend that the ledger calls `name`.
    pub fn by_name(&self, name: &str) -> &Backend {
        if name == KLING_O3 { &self.kling_o3 } else { &self.kling_3 }
    }
}

impl Backend {
    fn new(name: &'static str, config: &UpstreamConfig, clock: Clock) -> Result<Self, BadUpstream> {
        // An alarm that has never rung must still be there to be watched.
        for kind in [ALARM_KEY, ALARM_EXHAUSTED] {
            metrics::counter!(m::UPSTREAM_ALARMS, "backend" => name, "kind" => kind).increment(0);
        }
        Ok(Self {
            name: name.into(),
            account: config.account.as_str().into(),
            client: Client::new(config)?,
            retry_429: ms(config.retry_429_ms),
            clock,
        })
    }

    /// Creates a task, sending again only what the vendor has certainly not taken: requests of which no byte was
    /// written (once), and definitive 429s while `client_waits`.
    pub async fn create(&self, body: String, client_waits: impl Fn() -> bool) -> CreateOutcome {
        let body = bytes::Bytes::from(body);
        let started = self.clock.now();
        let mut unsent = 0;
        loop {
            let begun = self.clock.now();
            let outcome = self.client.create(body.clone()).await;
            self.count("create", outcome.label(), begun);
            let pause = match &outcome {
                CreateOutcome::NotSent { .. } if unsent == 0 => {
                    unsent += 1;
                    Duration::from_millis(50)
                }
                // Whatever it says, a busy vendor is not hammered.
                CreateOutcome::Busy { retry_after } => {
                    retry_after.unwrap_or_default().max(Duration::from_millis(500))
                }
                _ => return outcome,
            };
            let pause = pause.mul_f64(rand::random_range(1.0..1.3));
            if self.clock.since(started) + pause > self.retry_429 || !client_waits() {
                return outcome;
            }
            tokio::time::sleep(pause).await;
            if !client_waits() {
                return outcome;
            }
        }
    }

    /// Asks for a task's state.
    pub async fn status(&self, task: &str) -> Result<StatusReport, StatusError> {
        let begun = self.clock.now();
        let result = self.client.status(task).await;
        self.count("status", result.as_ref().map_or_else(StatusError::label, |_| "ok"), begun);
        result
    }

    fn count(&self, call: &'static str, outcome: &'static str, begun: std::time::Instant) {
        metrics::counter!(m::UPSTREAM_CALLS, "backend" => self.name.clone(), "call" => call, "outcome" => outcome)
            .increment(1);
        metrics::histogram!(m::UPSTREAM_SECONDS, "backend" => self.name.clone(), "call" => call)
            .record(self.clock.since(begun));
    }
}
