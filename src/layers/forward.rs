//! The last stage of a create: sends it to the vendor, records the outcome and answers. It runs in a task of its own, so
//! that a client that leaves cancels nothing (contract, "The life of a task").

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Below, Failure, Outcome, tell};
use crate::bulk::counted;
use crate::call::{Call, Held, Notes};
use crate::clock::Clock;
use crate::credits::Credits;
use crate::error::{Answer, GatewayError, json_answer};
use crate::fail_point;
use crate::order::{Excerpt, Order};
use crate::poll::Poller;
use crate::store::{Applied, HoldGuard, Lease, Step, StoreError};
use crate::telemetry::{Span, carry};
use crate::upstream::{CreateOutcome, MaySend, Permit, Progress, Report};

/// How long a client waits for a step that the database does not take.
const RECORD_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends creates and records their outcomes; shared by the stack and the tasks of all creates.
#[derive(Debug)]
pub struct Forward {
    /// Ends tasks whose create answer says that they have already ended.
    pub poller: Arc<Poller>,
    /// The lease of this gateway, without which nothing is sent.
    pub lease: Arc<Lease>,
    /// Runs the tasks of creates; a stop of the gateway waits for them.
    pub tasks: TaskTracker,
    /// Time-out after which the client is told that the outcome is unknown.
    pub client_deadline: Duration,
    /// Cancelled when the gateway is to stop.
    pub stop: CancellationToken,
    /// How long after `stop` a create may still wait for the vendor.
    pub last_wait: Duration,
    /// Time from the record of a task to its first poll.
    pub first_poll: Duration,
    /// Measures how long the vendor takes.
    pub clock: Clock,
}

impl Below<Held> for Arc<Forward> {
    fn take(&self, call: Call<Held>) -> impl Future<Output = Outcome> + Send {
        let Call { context, mut stage, .. } = call;
        let mut caller = stage.take_caller();
        let (order, excerpt, guard, permit, keeps_content) = stage.into_parts();
        let reference = guard.id();
        let (sender, mut answer) = oneshot::channel();
        let (gone, connection) = (CancellationToken::new(), context.connection);
        let client =
            WaitingClient { sender: Mutex::new(Some(sender)), gone: gone.clone(), notes: context.notes };
        let sending = Sending { order, excerpt, hold: guard, permit, keeps_content };
        self.tasks.spawn(carry(self.clone().run(sending, client, context.arrived)));
        async move {
            // Dropped with this future: when the client leaves, or has its answer.
            let leaves = gone.clone();
            let _gone = gone.drop_guard();
            let answer = tokio::select! {
                biased;
                answer = &mut answer => answer,
                // It gets its answer. But it may have left, so the create is not sent again after a refusal, and a repetition
                // of it gets the same answer.
                () = connection.half_closed() => {
                    leaves.cancel();
                    caller.iter_mut().for_each(|caller| caller.leaves());
                    answer.await
                }
            };
            // The task answers, or panics. In a panic its guard has put the hold in doubt.
            let answer = answer.unwrap_or(Err(GatewayError::OutcomeUnknown { reference }));
            // If a task comes to light after all, whoever tries again after a 504 gets it.
            if !matches!(answer, Err(GatewayError::OutcomeUnknown { .. })) {
                caller.into_iter().for_each(|caller| caller.got_answer());
            }
            answer.map_err(Failure::from)
        }
    }
}

/// A create on its way to the vendor.
struct Sending {
    order: Order,
    excerpt: Box<Excerpt>,
    hold: HoldGuard,
    permit: Permit,
    keeps_content: bool,
}

/// Why the client is answered before the vendor has.
#[derive(PartialEq, Eq)]
enum Patience {
    /// The client's deadline has passed; the call goes on without its client.
    Goes,
    /// The gateway stops and waits no longer.
    IsOver,
}

/// The waiting client, which gets the first answer only.
struct WaitingClient {
    sender: Mutex<Option<oneshot::Sender<Result<Answer, GatewayError>>>>,
    /// Cancelled when no client waits for the vendor any more.
    gone: CancellationToken,
    notes: Notes,
}

impl WaitingClient {
    fn answer(&self, result: Result<Answer, GatewayError>) {
        if let Some(sender) = self.sender.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Sending fails if the client has left, which then needs no answer.
            drop(sender.send(result));
        }
        self.gone.cancel();
    }
}

impl Forward {
    async fn run(self: Arc<Self>, sending: Sending, client: WaitingClient, arrived: Instant) {
        let Sending { mut order, excerpt, mut hold, permit, keeps_content } = sending;
        fail_point::reach("create.held");
        if !keeps_content && let Err(error) = self.poller.keep_none(hold.org(), hold.id()).await {
            self.refuse(
                &mut hold,
                "never sent: it could not be noted that no content is kept",
                Credits::ZERO,
            )
            .await;
            client.answer(Err(error.into()));
            return;
        }
        // While the vendor works on it: nobody waits for this.
        let (noting, org, id) = (self.clone(), hold.org(), hold.id());
        self.tasks.spawn(carry(async move { noting.poller.note_request(org, id, excerpt).await }));
        let backend = permit.backend();
        let body = std::mem::take(&mut order.body);
        let mut span = Span::of_part("forward");
        span.set("tollgate.hold", hold.id());
        let sent = span.around(self.send(permit, body, &mut hold, &client, arrived)).await;
        let Some(outcome) = sent else {
            span.fail("stopped");
            return;
        };
        span.set_word("tollgate.outcome", outcome.label());
        fail_point::reach("create.answered");
        let result = span.around(self.conclude(&mut hold, backend, outcome, &order)).await;
        tell(&mut span, &result);
        drop(span);
        client.answer(result);
    }

    /// Sends the create. Returns its outcome, or nothing if the gateway stops first. The permit is kept until the outcome,
    /// even when the client has been answered.
    async fn send(
        &self,
        permit: Permit,
        body: Bytes,
        hold: &mut HoldGuard,
        client: &WaitingClient,
        arrived: Instant,
    ) -> Option<CreateOutcome> {
        let lease = self.lease.clone();
        // If the lease has lapsed since, another gateway may have taken this one for dead and put the hold in doubt.
        let may_send: MaySend = Arc::new(move || lease.has_held_since(arrived));
        hold.about_to_send();
        let asked = self.clock.now();
        let waited = || client.notes.add(|notes| notes.waited += self.clock.since(asked));
        let mut create = std::pin::pin!(permit.create(body, may_send, &client.gone));
        let mut last_call = std::pin::pin!(self.last_call());
        let patience = tokio::select! {
            biased;
            outcome = &mut create => {
                waited();
                return Some(outcome);
            }
            () = tokio::time::sleep(self.client_deadline) => Patience::Goes,
            () = &mut last_call => Patience::IsOver,
        };
        waited();
        if patience == Patience::Goes {
            permit.overdue();
        }
        tracing::warn!(hold = %hold.id(), org = %hold.org(), backend = permit.backend(), "no answer from upstream yet: the client gets a 504");
        self.doubt(hold, "the upstream did not answer in time").await;
        client.answer(Err(GatewayError::OutcomeUnknown { reference: hold.id() }));
        if patience == Patience::IsOver {
            return None;
        }
        tokio::select! {
            biased;
            outcome = create => Some(outcome),
            () = last_call => None,
        }
    }

    /// Completes when the gateway is stopping and can wait for the vendor no longer.
    async fn last_call(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep(self.last_wait).await;
    }

    /// Records the outcome of the create, and returns the client's answer.
    async fn conclude(
        &self,
        hold: &mut HoldGuard,
        backend: &'static str,
        outcome: CreateOutcome,
        order: &Order,
    ) -> Result<Answer, GatewayError> {
        let nothing = Credits::ZERO;
        match outcome {
            CreateOutcome::Accepted { task, report } => {
                self.record(hold, backend, &task, &report, order).await
            }
            CreateOutcome::Refused { error, message } => {
                self.refuse(hold, "refused by the upstream", nothing).await;
                Err(GatewayError::RefusedByVendor { error, message })
            }
            CreateOutcome::RefusedBare => {
                self.refuse(hold, "refused by the upstream without a reason", nothing).await;
                Err(GatewayError::UpstreamError("the video service refused this request without saying why"))
            }
            CreateOutcome::NoEndpoint { .. } => {
                self.refuse(hold, "the upstream has no such endpoint: base_url is wrong", nothing).await;
                Err(GatewayError::UpstreamError(
                    "the video service cannot be used as it is configured here; the operators are notified, and nothing is charged",
                ))
            }
            CreateOutcome::KeyRejected => {
                self.refuse(hold, "the upstream rejected the master key", nothing).await;
                Err(GatewayError::UpstreamUnavailable(
                    "the video service cannot be used right now; the operators are notified",
                ))
            }
            CreateOutcome::Exhausted => {
                self.refuse(hold, "the upstream account is exhausted", nothing).await;
                Err(GatewayError::UpstreamUnavailable(
                    "the video service cannot be used right now; the operators are notified",
                ))
            }
            CreateOutcome::Busy { retry_after } => {
                self.refuse(hold, "the upstream is busy", nothing).await;
                Err(GatewayError::UpstreamBusy { retry_after: retry_after.unwrap_or(Duration::from_secs(5)) })
            }
            CreateOutcome::Failed => {
                tracing::warn!(hold = %hold.id(), backend, credits = %order.price.list_price, "the upstream failed on a create: possible loss");
                self.refuse(hold, "the upstream failed", order.price.list_price).await;
                Err(GatewayError::UpstreamError(
                    "the video service failed on this request; nothing is charged",
                ))
            }
            CreateOutcome::Redirected => Err(self.not_sent(hold, backend, "the upstream redirects").await),
            CreateOutcome::NotSent { reason } => Err(self.not_sent(hold, backend, reason).await),
            CreateOutcome::Withheld => {
                tracing::warn!(hold = %hold.id(), "not sent: this gateway has not renewed its lease");
                self.refuse(hold, "never sent: the gateway had lost its lease", nothing).await;
                Err(GatewayError::UpstreamUnavailable("the gateway cannot send this now: try again"))
            }
            CreateOutcome::Unknown { reason } => {
                tracing::error!(hold = %hold.id(), org = %hold.org(), backend, reason, "the outcome of a create is unknown");
                self.doubt(hold, reason).await;
                Err(GatewayError::OutcomeUnknown { reference: hold.id() })
            }
        }
    }

    async fn not_sent(
        &self,
        hold: &mut HoldGuard,
        backend: &'static str,
        reason: &'static str,
    ) -> GatewayError {
        tracing::warn!(hold = %hold.id(), backend, reason, "a create was not sent");
        self.refuse(hold, reason, Credits::ZERO).await;
        GatewayError::UpstreamUnavailable("the video service cannot be reached right now; nothing is charged")
    }

    /// Records an accepted create. The task's id is durable before the client gets its answer.
    async fn record(
        &self,
        hold: &mut HoldGuard,
        backend: &'static str,
        task: &Arc<str>,
        report: &Report,
        order: &Order,
    ) -> Result<Answer, GatewayError> {
        let run = Step::Run { task: task.clone(), raw: report.raw, poll_in: self.first_poll };
        let recorded = match write(hold, run).await {
            Ok(Applied::Yes) => true,
            // The step may have been sent twice: then the first one has already recorded the task.
            Ok(Applied::No) => {
                let recorded = self.poller.is_recorded(hold.org(), hold.id(), task).await;
                if !recorded {
                    Box::pin(self.came_late(hold, task)).await;
                }
                recorded
            }
            Ok(Applied::DuplicateTask) => false,
            Err(error) => {
                tracing::error!(hold = %hold.id(), org = %hold.org(), backend, task = %task, %error, "an accepted create is not recorded yet; the lane retries");
                false
            }
        };
        if !recorded {
            tracing::error!(hold = %hold.id(), org = %hold.org(), backend, task = %task, "an accepted create is not recorded on its own hold");
            return Err(GatewayError::OutcomeUnknown { reference: hold.id() });
        }
        // Only now: what belongs to another hold's task must not be stored with this one. Without its text the create is
        // accepted all the same.
        let noted = self.poller.note_create(hold.org(), hold.id(), report);
        if tokio::time::timeout(RECORD_TIMEOUT, noted).await.is_err() {
            tracing::warn!(hold = %hold.id(), org = %hold.org(), "the text of the vendor's answer to a create is not stored in time");
        }
        if report.progress != Progress::Running {
            // A task that has ended in its create answer is settled as if a poll had said so.
            let ended = Box::pin(self.poller.conclude_create(hold.org(), hold.id(), report));
            let _ = tokio::time::timeout(RECORD_TIMEOUT, ended).await;
        }
        let answer = report.accepted(order.price.hold).into_bytes();
        Ok(json_answer(StatusCode::OK, counted(answer, report.room())))
    }

    /// Records a task whose hold had already ended, because an operator released it or its doubt was written off. The task
    /// can then be read, and a correction charges it when it succeeds.
    async fn came_late(&self, hold: &HoldGuard, task: &Arc<str>) {
        let step = Step::LateRun { task: task.clone(), reason: None, poll_in: self.first_poll };
        if let Err(error) = self.poller.came_to_light(hold.org(), hold.id(), step).await {
            tracing::error!(hold = %hold.id(), task = %task, %error, "a task that came to light after its end is not recorded");
        }
    }

    async fn refuse(&self, hold: &mut HoldGuard, reason: &'static str, possible_loss: Credits) {
        let result = write(hold, Step::Refuse { reason, possible_loss }).await;
        self.settle_in_time(result, hold);
        self.poller.forget_request(hold.org(), hold.id());
    }

    async fn doubt(&self, hold: &mut HoldGuard, reason: &'static str) {
        let result = write(hold, Step::Doubt { reason }).await;
        self.settle_in_time(result, hold);
    }

    /// Logs a failed step. The lane goes on retrying it, and the client need not wait for that.
    fn settle_in_time(&self, result: Result<Applied, StoreError>, hold: &HoldGuard) {
        if let Err(error) = result {
            tracing::warn!(hold = %hold.id(), %error, "the end of a create is not recorded yet; the lane retries");
        }
    }
}

async fn write(hold: &mut HoldGuard, step: Step) -> Result<Applied, StoreError> {
    let mut span = Span::of_part("record");
    span.set_word("tollgate.step", step.kind().as_str());
    let written = span.around(tokio::time::timeout(RECORD_TIMEOUT, hold.step(step))).await;
    let result = written.unwrap_or(Err(StoreError::Timeout));
    if result.is_err() {
        span.fail("not recorded yet");
    }
    result
}
