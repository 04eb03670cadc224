//! The worker of one lane: its connection, its batches, and how it repeats failed calls.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnection;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::Profile;
use crate::fail_point;
use crate::ids::{GatewayId, HoldId};
use crate::metrics as m;
use crate::store::db::error::{Failure, StoreError, classify, is_unique_violation};
use crate::store::db::servers::{Servers, Turn};
use crate::store::ledger::guard::{HoldGuard, Verdict};
use crate::store::ledger::lanes::batch;
use crate::store::ledger::lanes::settings::{LaneSettings, lane_options};
use crate::store::ledger::metered;
use crate::store::ledger::step::{Applied, NewHold, Step};
use crate::store::ledger::step_queue::{Queued, StepItem, StepQueue, Work};

/// Wakes up to 16 callers itself; more are woken by a spawned task, so that the next batch can start.
const FEW: usize = 16;

/// The most text in one batch of steps (a single item may exceed it): Postgres refuses messages of 1 GiB.
const MAX_BATCH_BYTES: usize = 64 << 20;

type Reply = oneshot::Sender<Result<Verdict, StoreError>>;

/// A reservation that waits in its lane.
pub(super) struct ReserveItem {
    pub(super) new: NewHold,
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Result<Verdict, StoreError>>,
    pub(super) _queued: Queued,
}

pub(super) struct Worker {
    servers: Arc<Servers>,
    owner: GatewayId,
    settings: LaneSettings,
    clock: Clock,
    queue: StepQueue,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// The connection, and the turn of the primary that it was made in.
    connection: Option<(PgConnection, Turn)>,
    /// Holds that this process works on and that may be HELD in the database.
    active: HashSet<HoldId>,
    reserves: mpsc::Receiver<ReserveItem>,
    work: mpsc::UnboundedReceiver<Work>,
    steps: VecDeque<StepItem>,
}

impl Worker {
    #[expect(clippy::too_many_arguments, reason = "each is a part of its own, given once")]
    pub(super) fn new(
        servers: Arc<Servers>,
        owner: GatewayId,
        settings: LaneSettings,
        clock: Clock,
        queue: StepQueue,
        tasks: TaskTracker,
        stop: CancellationToken,
        (reserves, work): (mpsc::Receiver<ReserveItem>, mpsc::UnboundedReceiver<Work>),
    ) -> Self {
        let (active, steps) = (HashSet::new(), VecDeque::new());
        Self {
            servers,
            owner,
            settings,
            clock,
            queue,
            tasks,
            stop,
            connection: None,
            active,
            reserves,
            work,
            steps,
        }
    }

    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        loop {
            let mut first = None;
            if self.steps.is_empty() {
                tokio::select! {
                    biased;
                    Some(work) = self.work.recv() => self.take(work),
                    Some(item) = self.reserves.recv() => first = Some(item),
                    () = stop.cancelled() => {}
                }
            }
            while self.steps.len() < self.settings.max_batch
                && let Ok(work) = self.work.try_recv()
            {
                self.take(work);
            }
            self.step_batch().await;

            let mut batch: Vec<ReserveItem> = first.into_iter().collect();
            while batch.len() < self.settings.max_batch
                && let Ok(item) = self.reserves.try_recv()
            {
                batch.push(item);
            }
            // A reservation past its deadline is refused before it enters a batch, never afterwards.
            let now = self.clock.now();
            batch.retain(|item| item.deadline > now && !item.reply.is_closed());
            let idle = batch.is_empty() && self.steps.is_empty();
            self.reserve_batch(batch, false).await;
            if idle && stop.is_cancelled() && self.work.is_empty() && self.reserves.is_empty() {
                return;
            }
        }
    }

    fn take(&mut self, work: Work) {
        match work {
            Work::Step(item) => self.steps.push_back(item),
            Work::Sweep(candidates) => {
                for (org, hold, terms) in candidates {
                    if !self.active.contains(&hold) {
                        let (reply, _) = oneshot::channel();
                        let item = self.queue.item(org, hold, Some(terms), Step::Sweep, reply);
                        self.steps.push_back(item);
                    }
                }
            }
        }
    }

    /// Reserves a batch. `resend`: an earlier sending of these ids may have been committed.
    async fn reserve_batch(&mut self, mut items: Vec<ReserveItem>, mut resend: bool) {
        self.active.extend(items.iter().map(|item| item.new.hold));
        let mut attempt = 0;
        while !items.is_empty() {
            let started = self.clock.now();
            let (servers, owner, settings) = (self.servers.clone(), self.owner, self.settings.clone());
            let result = match self.connect().await {
                Ok((connection, turn)) => {
                    fail_point::reach("reserve.before");
                    let news: Vec<&NewHold> = items.iter().map(|item| &item.new).collect();
                    let call = batch::reserve(connection, owner, &settings, &news, resend);
                    in_time(&servers, turn, settings.call_timeout, call).await
                }
                Err(error) => Some(Err(error)),
            };
            let failure = match result {
                Some(Ok(verdicts)) => {
                    fail_point::reach("reserve.committed");
                    metrics::histogram!(m::LEDGER_CALL_SECONDS, "call" => "reserve")
                        .record(self.clock.since(started));
                    metrics::histogram!(m::LEDGER_BATCH_ITEMS, "call" => "reserve")
                        .record(items.len() as f64);
                    let answers: Vec<_> = items
                        .drain(..)
                        .zip(verdicts)
                        .map(|(item, verdict)| self.answer(item, verdict))
                        .collect();
                    // Waking hundreds of callers takes as long as sending the next batch.
                    if answers.len() > FEW {
                        self.tasks.spawn(async move { wake(answers) });
                    } else {
                        wake(answers);
                    }
                    return;
                }
                Some(Err(error)) => {
                    let failure = classify(&error);
                    log_failure("reserve", items.len(), &error);
                    if failure == Failure::Item && items.len() == 1 {
                        for item in items.drain(..) {
                            self.active.remove(&item.new.hold);
                            drop(item.reply.send(Err(StoreError::Refused(error.to_string().into()))));
                        }
                        return;
                    }
                    failure
                }
                None => {
                    metrics::counter!(m::LEDGER_CALL_FAILURES, "call" => "reserve").increment(1);
                    tracing::warn!(
                        items = items.len(),
                        "a reserve call was not answered in time; sending it again"
                    );
                    Failure::Connection
                }
            };
            match failure {
                // The call was rolled back as far as it had come; with two commits, the first may have been made.
                Failure::Retry => resend |= self.settings.profile == Profile::TwoCommit,
                Failure::Item => {
                    for item in items.drain(..) {
                        Box::pin(self.reserve_batch(vec![item], resend)).await;
                    }
                    return;
                }
                Failure::Connection => {
                    // A connection that failed to open sent nothing; a call that failed may have been committed.
                    resend |= self.connection.take().is_some();
                    self.servers.look_again();
                }
            }
            if !resend {
                let now = self.clock.now();
                items.retain(|item| {
                    let wanted = item.deadline > now && !item.reply.is_closed();
                    if !wanted {
                        self.active.remove(&item.new.hold);
                    }
                    wanted
                });
            }
            self.back_off(&mut attempt).await;
        }
    }

    fn answer(
        &mut self,
        item: ReserveItem,
        verdict: batch::RowVerdict,
    ) -> (Reply, Result<Verdict, StoreError>) {
        use batch::RowVerdict as Row;
        let answer = match verdict {
            Row::Granted { available } => {
                metered::granted(item.new.amount);
                let guard = HoldGuard::new(self.queue.clone(), &item.new, available);
                return (item.reply, Ok(Verdict::Granted(guard)));
            }
            Row::Insufficient { available } => Ok(Verdict::Insufficient { available }),
            Row::OverBudget { budget, left } => Ok(Verdict::OverBudget { budget, left }),
            Row::TooManyTasks => Ok(Verdict::TooManyTasks),
            Row::KeyTaken => Ok(Verdict::KeyTaken),
            Row::InDoubt(hold) => Ok(Verdict::InDoubt(hold)),
            Row::UnknownOrg => Ok(Verdict::UnknownOrg),
            Row::Ended => {
                // An earlier sending whose answer was lost was granted, and a gateway that counted this one as dead
                // took the hold over. Nothing was sent to the vendor, and only this gateway can know that.
                let (reply, _) = oneshot::channel();
                let new = &item.new;
                let abandon = self.queue.item(new.org, new.hold, Some(new.terms()), Step::Abandon, reply);
                self.steps.push_back(abandon);
                Ok(Verdict::Ended)
            }
            Row::Corrupt => Err(StoreError::Corrupt("a verdict of reserve_batch".into())),
        };
        self.active.remove(&item.new.hold);
        (item.reply, answer)
    }

    /// Takes one batch of the queued steps. A second step for the same hold waits for the next batch, so that the order
    /// is kept.
    async fn step_batch(&mut self) {
        let mut seen = HashSet::new();
        let mut items = Vec::new();
        let mut later = VecDeque::new();
        let mut bytes = 0;
        while let Some(item) = self.steps.pop_front() {
            bytes += item.step.text_bytes();
            let fits =
                items.is_empty() || (items.len() < self.settings.max_batch && bytes <= MAX_BATCH_BYTES);
            if seen.insert(item.hold) && fits {
                items.push(item);
            } else {
                later.push_back(item);
            }
        }
        self.steps = later;
        self.take_steps(items).await;
    }

    async fn take_steps(&mut self, mut items: Vec<StepItem>) {
        let mut attempt = 0;
        while !items.is_empty() {
            let started = self.clock.now();
            let (servers, settings) = (self.servers.clone(), self.settings.clone());
            let result = match self.connect().await {
                Ok((connection, turn)) => {
                    let steps: Vec<_> = items.iter().map(|item| (item.org, item.hold, &item.step)).collect();
                    let call = batch::transition(connection, settings.profile, &steps);
                    in_time(&servers, turn, settings.call_timeout, call).await
                }
                Err(error) => Some(Err(error)),
            };
            let failure = match result {
                Some(Ok(outcomes)) => {
                    reached(&items);
                    metrics::histogram!(m::LEDGER_CALL_SECONDS, "call" => "transition")
                        .record(self.clock.since(started));
                    metrics::histogram!(m::LEDGER_BATCH_ITEMS, "call" => "transition")
                        .record(items.len() as f64);
                    for (item, outcome) in items.drain(..).zip(outcomes) {
                        self.active.remove(&item.hold);
                        // A step that was sent twice answers No the second time, although the first sending moved the
                        // hold; callers read No as "it has happened already".
                        if let Ok(applied) = outcome {
                            metered::step(item.hold, item.terms, &item.step, applied);
                        }
                        drop(item.reply.send(outcome));
                    }
                    return;
                }
                Some(Err(error)) => {
                    log_failure("transition", items.len(), &error);
                    if items.len() == 1 && classify(&error) == Failure::Item {
                        self.refused(items, &error).await;
                        return;
                    }
                    classify(&error)
                }
                None => {
                    metrics::counter!(m::LEDGER_CALL_FAILURES, "call" => "transition").increment(1);
                    tracing::warn!(
                        items = items.len(),
                        "a transition call was not answered in time; sending it again"
                    );
                    Failure::Connection
                }
            };
            match failure {
                Failure::Retry => {}
                Failure::Item => {
                    for item in items.drain(..) {
                        Box::pin(self.take_steps(vec![item])).await;
                    }
                    return;
                }
                Failure::Connection => {
                    self.connection = None;
                    self.servers.look_again();
                }
            }
            self.back_off(&mut attempt).await;
        }
    }

    /// Handles a step that the database refuses for good.
    async fn refused(&mut self, items: Vec<StepItem>, error: &sqlx::Error) {
        for item in items {
            if is_unique_violation(error, "hold_by_upstream_task") {
                tracing::error!(hold = %item.hold, org = %item.org, "the upstream gave one task id to two creates: the second is in doubt");
                metrics::counter!(m::DUPLICATE_TASKS).increment(1);
                self.doubt(&item, "the upstream gave this task id to another create").await;
                drop(item.reply.send(Ok(Applied::DuplicateTask)));
                continue;
            }
            tracing::error!(hold = %item.hold, org = %item.org, step = item.step.kind().as_str(), %error, "a step was refused");
            if let Step::Run { .. } = item.step {
                // The vendor accepted the task, but the ledger has no id to poll. The hold must not stay HELD, because
                // nobody works on it.
                self.doubt(&item, "the upstream's answer could not be stored").await;
            }
            self.active.remove(&item.hold);
            drop(item.reply.send(Err(StoreError::Refused(error.to_string().into()))));
        }
    }

    async fn doubt(&mut self, item: &StepItem, reason: &'static str) {
        let (reply, _) = oneshot::channel();
        let doubt = self.queue.item(item.org, item.hold, item.terms, Step::Doubt { reason }, reply);
        Box::pin(self.take_steps(vec![doubt])).await;
    }

    async fn connect(&mut self) -> Result<(&mut PgConnection, Turn), sqlx::Error> {
        let present = self.servers.turn();
        if self.connection.as_ref().is_none_or(|(_, turn)| *turn != present) {
            self.connection = None;
            let (server, turn) = self.servers.options();
            let connect = async {
                let mut connection = lane_options(server, &self.settings).connect().await?;
                self.servers.admit(&mut connection).await?;
                Ok::<_, sqlx::Error>(connection)
            };
            let connection = in_time(&self.servers, turn, self.settings.call_timeout, connect)
                .await
                .ok_or(sqlx::Error::PoolTimedOut)??;
            self.connection = Some((connection, turn));
        }
        self.connection.as_mut().map(|(connection, turn)| (connection, *turn)).ok_or(sqlx::Error::PoolClosed)
    }

    async fn back_off(&self, attempt: &mut u32) {
        let ceiling = Duration::from_millis(10 << (*attempt).min(7));
        *attempt += 1;
        tokio::time::sleep(ceiling.mul_f64(rand::random_range(0.5..1.0))).await;
    }
}

/// Waits for the answer; `None` if it does not come within `limit`, or if another server became the primary meanwhile:
/// a former primary may never answer, and its answer does not count.
async fn in_time<T>(
    servers: &Servers,
    turn: Turn,
    limit: Duration,
    call: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        answer = tokio::time::timeout(limit, call) => answer.ok(),
        () = servers.changed_from(turn) => None,
    }
}

/// Reaches the fail points of the steps that have just become durable.
fn reached(items: &[StepItem]) {
    for item in items {
        match &item.step {
            Step::Run { .. } => fail_point::reach("record.committed"),
            Step::Settle { .. } | Step::Fail { .. } | Step::LateSettle { .. } => {
                fail_point::reach("settle.committed")
            }
            _ => {}
        }
    }
}

fn wake(answers: Vec<(Reply, Result<Verdict, StoreError>)>) {
    for (reply, answer) in answers {
        // If nobody waits any more, the guard of a granted hold comes back, is dropped, and releases the hold.
        drop(reply.send(answer));
    }
}

fn log_failure(call: &'static str, items: usize, error: &sqlx::Error) {
    metrics::counter!(m::LEDGER_CALL_FAILURES, "call" => call).increment(1);
    tracing::warn!(call, items, %error, "a ledger call failed");
}
