//! A permit to create one upstream task: acquired before credits are held, required to send.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::account::Account;
use super::backend::{Backend, CREATE};
use super::breaker::Observation;
use super::client::MaySend;
use super::gate::CallPermit;
use super::{ALARM_ENDPOINT, ALARM_EXHAUSTED, ALARM_KEY, CreateOutcome};
use crate::bulk::Payer;
use crate::ids::OrgId;
use crate::metrics as m;

/// The pause before a create that was refused by a 429 is sent again; it doubles with each attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// A permit to create one task on one account of one backend. Dropping it frees its slot.
#[derive(Debug)]
#[must_use = "a permit that is dropped frees its slot for another create"]
pub struct Permit {
    pub(super) backend: Arc<Backend>,
    pub(super) account: Arc<Account>,
    pub(super) org: OrgId,
    pub(super) call: CallPermit,
}

impl Permit {
    /// The name of the backend in the ledger.
    pub fn backend(&self) -> &'static str {
        self.backend.name
    }

    /// The name of the account in the ledger.
    pub fn account(&self) -> Arc<str> {
        self.account.name.clone()
    }

    /// Creates a task. Sends again only what the vendor has certainly not accepted: a request of which no byte was written
    /// (once), and a definitive 429 until `client_gone`. From then on the body is not kept. `may_send` is asked before each
    /// attempt, at the last instant before the first byte.
    pub async fn create(
        &self,
        body: Bytes,
        may_send: MaySend,
        client_gone: &CancellationToken,
    ) -> CreateOutcome {
        let outcome = self.backend.create(self, body, may_send, client_gone).await;
        match &outcome {
            CreateOutcome::Accepted { .. } => self.account.restore(),
            CreateOutcome::KeyRejected => self.set_aside(ALARM_KEY),
            CreateOutcome::Exhausted => self.set_aside(ALARM_EXHAUSTED),
            CreateOutcome::NoEndpoint { status } => {
                tracing::error!(
                    backend = self.backend.name,
                    url = self.backend.client.endpoint(),
                    %status,
                    kind = ALARM_ENDPOINT,
                    "the upstream has no such endpoint: is upstream.*.base_url right?"
                );
                self.alarm(ALARM_ENDPOINT);
            }
            _ => {}
        }
        if let Some(evidence) = outcome.evidence() {
            self.call.report(evidence, self.backend.clock.now());
        }
        outcome
    }

    /// Counts the call as failed, because its client has been told that the vendor did not answer in time. A later answer
    /// does not change that.
    pub fn overdue(&self) {
        self.call.report(Observation::FailedRequest, self.backend.clock.now());
    }

    /// Gives the account no new tasks for a while.
    fn set_aside(&self, kind: &'static str) {
        self.account.avoid(self.backend.clock.now());
        tracing::error!(backend = self.backend.name, account = %self.account.name, kind, "an upstream account needs an operator");
        self.alarm(kind);
    }

    fn alarm(&self, kind: &'static str) {
        metrics::counter!(m::UPSTREAM_ALARMS, "backend" => self.backend.name, "kind" => kind).increment(1);
    }
}

impl Backend {
    async fn create(
        &self,
        permit: &Permit,
        body: Bytes,
        may_send: MaySend,
        client_gone: &CancellationToken,
    ) -> CreateOutcome {
        let (account, payer) = (&*permit.account, Payer::Org(permit.org));
        let mut body = Some(body);
        let started = self.clock.now();
        let mut unsent = 0;
        let mut attempts = 0;
        let mut busy = FIRST_PAUSE;
        while let Some(sent) = body.clone() {
            let begun = self.clock.now();
            let mut span = self.span("POST /api/generate", account);
            if attempts > 0 {
                span.set_number("http.request.resend_count", attempts);
            }
            attempts += 1;
            let outcome = {
                let sending =
                    self.client.create(&account.authorization, sent, may_send.clone(), payer, &mut span);
                let mut sending = std::pin::pin!(sending);
                tokio::select! {
                    biased;
                    outcome = &mut sending => outcome,
                    () = client_gone.cancelled() => {
                        // It is not sent again, and its megabytes are not kept while the vendor takes its time.
                        body = None;
                        sending.await
                    }
                }
            };
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
                    // A `Retry-After` of 0 must not make us send again at once.
                    retry_after.map_or(own, |theirs| theirs.max(FIRST_PAUSE))
                }
                _ => return outcome,
            };
            let pause = pause.mul_f64(rand::random_range(1.0..1.3));
            if self.clock.since(started) + pause > self.retry_429 || client_gone.is_cancelled() {
                return outcome;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = client_gone.cancelled() => return outcome,
            }
        }
        // Not reached: without a body there is no further attempt, and each attempt returns its outcome.
        CreateOutcome::NotSent { reason: "the client has gone" }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::bulk::Bulk;
    use crate::clock::Clock;
    use crate::config::Config;
    use crate::https::Egress;

    struct Kept {
        _mark: Arc<()>,
        text: &'static [u8],
    }

    impl AsRef<[u8]> for Kept {
        fn as_ref(&self) -> &[u8] {
            self.text
        }
    }

    #[tokio::test]
    async fn a_body_that_cannot_be_sent_again_is_not_kept() {
        let vendor = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = Config::from_toml(&format!(
            "[database]\nurl = \"postgres://x\"\n[upstream.kling_3]\nbase_url = \"http://{}\"\nmaster_key = \"k\"\n",
            vendor.local_addr().unwrap()
        ));
        let config = config.unwrap().upstream.kling_3;
        let backend = Arc::new(
            Backend::new("kling-3.0", &config, &Egress::default(), &Bulk::new(100 << 20), Clock).unwrap(),
        );
        let (org, now) = (OrgId::generate(), Clock.now());
        let (call, account) = (backend.creates.acquire(org, now).unwrap(), backend.accounts.pick(now));
        let permit = Permit { backend, account, org, call };
        let kept = Arc::new(());
        let body = Bytes::from_owner(Kept { _mark: kept.clone(), text: b"{\"type\":\"x\"}" });
        let gone = CancellationToken::new();
        let mut creating = std::pin::pin!(permit.create(body, Arc::new(|| true), &gone));
        let (mut stream, _) = tokio::select! {
            accepted = vendor.accept() => accepted.unwrap(),
            _ = &mut creating => panic!("the vendor has not answered"),
        };
        let mut read = Vec::new();
        while !read.ends_with(b"\"x\"}") {
            tokio::select! {
                some = stream.read_buf(&mut read) => drop(some.unwrap()),
                _ = &mut creating => panic!("the vendor has not answered"),
            }
        }
        assert_eq!(Arc::strong_count(&kept), 2, "it may be sent again after a 429");
        gone.cancel();
        while Arc::strong_count(&kept) > 1 {
            assert!(futures_util::poll!(creating.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
    }
}
