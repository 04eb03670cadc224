//! One backend of the vendor. It has its own connections, accounts, breakers and limits of calls in flight, so that trouble
//! with one backend does not affect the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::account::{Account, Accounts};
use super::breaker::Observation;
use super::client::{BadUpstream, StatusError, VendorClient};
use super::gate::{Gate, Refusal};
use super::{ALARM_ENDPOINT, ALARM_EXHAUSTED, ALARM_KEY, CreateOutcome, Report};
use crate::bulk::{Bulk, Payer};
use crate::clock::Clock;
use crate::config::{UpstreamConfig, ms};
use crate::https::Egress;
use crate::ids::OrgId;
use crate::metrics as m;
use crate::shares::Shares;
use crate::telemetry::Span;

/// The names of the two calls in metrics.
pub(super) const CREATE: &str = "create";
const STATUS: &str = "status";

/// So many look-ups of operators may be in flight: those for one organisation take half of them.
const LOOK_UPS: usize = 4;

/// One backend of the vendor.
#[derive(Debug)]
pub(super) struct Backend {
    /// The name of the backend in the ledger, in logs and in metrics.
    pub(super) name: &'static str,
    pub(super) accounts: Accounts,
    pub(super) creates: Gate,
    pub(super) polls: Gate,
    look_ups: Arc<Shares<OrgId>>,
    pub(super) client: VendorClient,
    pub(super) retry_429: Duration,
    pub(super) clock: Clock,
}

impl Backend {
    pub(super) fn new(
        name: &'static str,
        config: &UpstreamConfig,
        egress: &Egress,
        bulk: &Bulk,
        clock: Clock,
    ) -> Result<Self, BadUpstream> {
        // An alarm needs its series before it rings for the first time: monitoring watches for an increase.
        for kind in [ALARM_KEY, ALARM_EXHAUSTED, ALARM_ENDPOINT] {
            metrics::counter!(m::UPSTREAM_ALARMS, "backend" => name, "kind" => kind).increment(0);
        }
        for (call, outcomes) in [(CREATE, &CreateOutcome::LABELS[..]), (STATUS, &StatusError::LABELS)] {
            for outcome in outcomes {
                metrics::counter!(m::UPSTREAM_CALLS, "backend" => name, "call" => call, "outcome" => *outcome)
                    .increment(0);
            }
            drop(metrics::histogram!(m::UPSTREAM_SECONDS, "backend" => name, "call" => call));
        }
        let gate =
            |call, slots| Gate::new(name, call, config.breaker_failures, ms(config.breaker_open_ms), slots);
        Ok(Self {
            name,
            accounts: Accounts::new(&config.accounts)?,
            creates: gate(CREATE, config.max_creates),
            polls: gate(STATUS, config.max_polls),
            look_ups: Shares::new(LOOK_UPS, metrics::Gauge::noop()),
            client: VendorClient::new(config, egress, bulk.clone(), clock)?,
            retry_429: ms(config.retry_429_ms),
            clock,
        })
    }

    /// Asks for the state of a task of `org` on `account`.
    pub(super) async fn status(&self, org: OrgId, account: &str, task: &str) -> Result<Report, StatusError> {
        let account = self.accounts.by_name(account).ok_or(StatusError::UnknownAccount)?;
        let begun = self.clock.now();
        let permit = self.polls.acquire(org, begun)?;
        let result = self.ask(account, task, Payer::Org(org), begun).await;
        let evidence = result.as_ref().map_or_else(StatusError::evidence, |_| Observation::Works);
        permit.report(evidence, self.clock.now());
        result
    }

    /// Asks on behalf of an operator: see [`Upstream::look_up`](super::Upstream::look_up).
    pub(super) async fn look_up(
        &self,
        owner: OrgId,
        account: &str,
        task: &str,
    ) -> Result<Report, StatusError> {
        let account = self.accounts.by_name(account).ok_or(StatusError::UnknownAccount)?;
        let _place = self.look_ups.take(owner, 1).ok_or(Refusal::Full)?;
        self.ask(account, task, Payer::Operators, self.clock.now()).await
    }

    async fn ask(
        &self,
        account: &Account,
        task: &str,
        payer: Payer,
        begun: Instant,
    ) -> Result<Report, StatusError> {
        let mut span = self.span("GET /api/status", account);
        let result = self.client.status(&account.authorization, task, payer, &mut span).await;
        if let Err(error) = &result {
            span.fail(error.label());
        }
        drop(span);
        self.count(STATUS, result.as_ref().map_or_else(StatusError::label, |_| StatusError::NONE), begun);
        result
    }

    pub(super) fn span(&self, name: &'static str, account: &Account) -> Span {
        let mut span = Span::of_call(name);
        span.set_word("tollgate.backend", self.name);
        span.set("tollgate.account", &account.name);
        span
    }

    pub(super) fn count(&self, call: &'static str, outcome: &'static str, begun: Instant) {
        metrics::counter!(m::UPSTREAM_CALLS, "backend" => self.name, "call" => call, "outcome" => outcome)
            .increment(1);
        metrics::histogram!(m::UPSTREAM_SECONDS, "backend" => self.name, "call" => call)
            .record(self.clock.since(begun));
    }
}
