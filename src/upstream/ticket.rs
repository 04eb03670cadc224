//! Leave to create one task. It is had before any credit is held, and nothing is created without it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::account::Account;
use super::backend::{Backend, CREATE};
use super::client::MaySend;
use super::gate::Pass;
use super::{ALARM_EXHAUSTED, ALARM_KEY, CreateOutcome};
use crate::metrics as m;

/// The first pause before a create that was refused by a 429 is tried again; each one is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Leave to create one task on one account of one backend. Dropping it gives its place to another.
#[derive(Debug)]
#[must_use = "a ticket that is dropped gives its place to another create"]
pub struct Ticket {
    pub(super) backend: Arc<Backend>,
    pub(super) account: Arc<Account>,
    pub(super) pass: Pass,
}

impl Ticket {
    /// What its backend is called in the ledger.
    pub fn backend(&self) -> &'static str {
        self.backend.name
    }

    /// What its account is called in the ledger.
    pub fn account(&self) -> Arc<str> {
        self.account.name.clone()
    }

    /// Creates a task. Sends again only what the vendor has certainly not taken: requests of which no byte was
    /// written (once), and definitive 429s while `client_waits`. `may_send` is asked at the last instant before the
    /// first byte, each time.
    pub async fn create(
        &self,
        body: String,
        may_send: MaySend,
        client_waits: impl Fn() -> bool,
    ) -> CreateOutcome {
        let outcome = self.backend.create(&self.account, body.into(), may_send, client_waits).await;
        match &outcome {
            CreateOutcome::Accepted { .. } => self.account.take_back(),
            CreateOutcome::KeyRejected => self.alarm(ALARM_KEY),
            CreateOutcome::Exhausted => self.alarm(ALARM_EXHAUSTED),
            _ => {}
        }
        if let Some(failed) = outcome.tells_failure() {
            self.pass.report(failed, self.backend.clock.now());
        }
        outcome
    }

    /// The client has been told that there is no answer: the backend counts as failing now, whatever comes later.
    pub fn overdue(&self) {
        self.pass.report(true, self.backend.clock.now());
    }

    fn alarm(&self, kind: &'static str) {
        self.account.set_aside(self.backend.clock.now());
        tracing::error!(backend = self.backend.name, account = %self.account.name, kind, "the upstream account needs its operator");
        metrics::counter!(m::UPSTREAM_ALARMS, "backend" => self.backend.name, "kind" => kind).increment(1);
    }
}

impl Backend {
    async fn create(
        &self,
        account: &Account,
        body: Bytes,
        may_send: MaySend,
        client_waits: impl Fn() -> bool,
    ) -> CreateOutcome {
        let started = self.clock.now();
        let mut unsent = 0;
        let mut attempts = 0;
        let mut busy = FIRST_PAUSE;
        loop {
            let begun = self.clock.now();
            let mut span = self.span("POST /api/generate", account);
            if attempts > 0 {
                span.set_number("http.request.resend_count", attempts);
            }
            attempts += 1;
            let outcome =
                self.client.create(&account.authorization, body.clone(), may_send.clone(), &mut span).await;
            if !matches!(outcome, CreateOutcome::Accepted { .. }) {
                span.fail(outcome.label());
            }
            drop(span);
            self.count(CREATE, outcome.label(), begun);
            let pause = match &outcome {
                CreateOutcome::NotSent { .. } if unsent == 0 => {
                    unsent += 1;
                    Duration::from_millis(50)
                }
                CreateOutcome::Busy { retry_after } => {
                    let next = busy.saturating_mul(2);
                    let own = std::mem::replace(&mut busy, next);
                    // Whatever it says, a busy vendor is not hammered.
                    retry_after.map_or(own, |theirs| theirs.max(FIRST_PAUSE))
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
}
