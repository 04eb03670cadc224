//! Lanes: each owns a database connection in its own task and takes whatever is waiting, in order of arrival, in one
//! call. There is no timer: an idle lane serves a lone request at once, a busy one batches by itself.
//!
//! An organisation always goes through one lane, so its balance row has one writer per process. Callers talk through
//! channels: a cancelled request cannot cancel SQL, and nobody checks a connection out of a pool on the paid path.

pub(in crate::store) mod batch;
mod worker;

use std::hash::{BuildHasher, Hash, RandomState};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::Profile;
use crate::ids::{GatewayId, HoldId, OrgId};
use crate::log_queue;
use crate::metrics as m;
use crate::store::db::error::LedgerError;
use crate::store::db::servers::Servers;
use crate::store::db::session::Deadline;
use crate::store::ledger::guard::{Applied, NewHold, Step, Terms, Verdict};
use crate::store::ledger::lanes::worker::Worker;
use crate::store::ledger::metered;

/// How lanes work.
#[derive(Debug, Clone)]
pub struct LaneSettings {
    /// Number of lanes, each with its own connection.
    pub lanes: usize,
    /// Items in one call, at most.
    pub max_batch: usize,
    /// Reservations that may wait in one lane.
    pub queue: usize,
    /// A database call that takes longer is given up; its connection is dropped and the same ids are sent again.
    pub call_timeout: Duration,
    /// A hold that is still HELD after this, and that its gateway does not work on, is swept.
    pub hold_grace: Duration,
    /// Unfinished tasks of an organisation that has no cap of its own; 0 is no cap.
    pub max_open_tasks: i32,
    /// How a batch is made durable.
    pub profile: Profile,
}

impl Default for LaneSettings {
    fn default() -> Self {
        Self {
            lanes: 4,
            max_batch: 256,
            queue: 4096,
            call_timeout: Duration::from_secs(10),
            hold_grace: Duration::from_secs(30),
            max_open_tasks: 0,
            profile: Profile::default(),
        }
    }
}

pub(in crate::store) struct ReserveItem {
    pub(in crate::store) new: NewHold,
    deadline: Instant,
    reply: oneshot::Sender<Result<Verdict, LedgerError>>,
    _queued: Queued,
}

pub(in crate::store) struct StepItem {
    pub(in crate::store) org: OrgId,
    pub(in crate::store) hold: HoldId,
    /// None: nobody here knows them.
    terms: Option<Terms>,
    pub(in crate::store) step: Step,
    reply: oneshot::Sender<Result<Applied, LedgerError>>,
    _queued: Queued,
}

/// Shows that an item waits or is under way, until it is dropped.
struct Queued(metrics::Gauge);

impl Queued {
    fn in_queue(gauge: &metrics::Gauge) -> Self {
        gauge.increment(1);
        Self(gauge.clone())
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

enum Work {
    Step(StepItem),
    /// HELD rows of ours that are past their time: those this lane does not work on were never sent.
    Sweep(Vec<(OrgId, HoldId, Terms)>),
}

#[derive(Debug)]
struct Lane {
    reserves: mpsc::Sender<ReserveItem>,
    // Unbounded on purpose: an end must never be refused. There is at most one in flight for each open hold.
    work: mpsc::UnboundedSender<Work>,
}

/// The running lanes; cheap to clone.
#[derive(Debug, Clone)]
pub struct Lanes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lanes: Vec<Lane>,
    hasher: RandomState,
    queued_reserves: metrics::Gauge,
    queued_steps: metrics::Gauge,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Lanes {
    /// Starts the lanes. They connect when there is something to do, and reconnect by themselves.
    pub(in crate::store) fn start(
        servers: &Arc<Servers>,
        owner: GatewayId,
        settings: &LaneSettings,
        clock: Clock,
    ) -> Self {
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let mut handles = Vec::new();
        let mut workers = Vec::new();
        for _ in 0..settings.lanes.max(1) {
            let (reserve_sender, reserves) = mpsc::channel(settings.queue.max(1));
            let (work_sender, work) = mpsc::unbounded_channel();
            handles.push(Lane { reserves: reserve_sender, work: work_sender });
            workers.push((reserves, work));
        }
        metered::register();
        let queued = |call| metrics::gauge!(m::LEDGER_QUEUE_ITEMS, "call" => call);
        let lanes = Self(Arc::new(Inner {
            lanes: handles,
            hasher: RandomState::new(),
            queued_reserves: queued("reserve"),
            queued_steps: queued("transition"),
            stop,
            tasks,
        }));
        for queues in workers {
            // It keeps the lanes for the guards it makes, and with them its own channels: only `shut_down` ends it.
            let worker = Worker::new(servers.clone(), owner, settings.clone(), clock, lanes.clone(), queues);
            lanes.0.tasks.spawn(async move {
                // What was queued in it would wait for ever, with its holds. A crash is provided for: another gateway,
                // or the next start, takes over what this one leaves.
                if AssertUnwindSafe(worker.run()).catch_unwind().await.is_err() {
                    tracing::error!("a lane of the ledger panicked: this process ends at once");
                    log_queue::flush(Duration::from_millis(100));
                    std::process::abort();
                }
            });
        }
        lanes.0.tasks.close();
        lanes
    }

    fn lane(&self, org: OrgId) -> &Lane {
        let mut hasher = self.0.hasher.build_hasher();
        org.hash(&mut hasher);
        let index = std::hash::Hasher::finish(&hasher) as usize % self.0.lanes.len();
        &self.0.lanes[index]
    }

    /// Reserves, or says why not. Gives up waiting at `deadline`; a grant that comes later is released.
    pub(in crate::store) async fn reserve(
        &self,
        new: NewHold,
        deadline: Instant,
    ) -> Result<Verdict, LedgerError> {
        let (reply, answer) = oneshot::channel();
        let queued = Queued::in_queue(&self.0.queued_reserves);
        let item = ReserveItem { new, deadline, reply, _queued: queued };
        self.lane(item.new.org).reserves.try_send(item).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => LedgerError::QueueFull,
            mpsc::error::TrySendError::Closed(_) => LedgerError::ShuttingDown,
        })?;
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) => Err(LedgerError::Timeout),
            Err(_) => Err(LedgerError::Timeout),
        }
    }

    /// Queues a step; it is tried until the database takes it.
    pub(in crate::store) fn step(
        &self,
        org: OrgId,
        hold: HoldId,
        terms: Option<Terms>,
        step: Step,
    ) -> oneshot::Receiver<Result<Applied, LedgerError>> {
        let (reply, answer) = oneshot::channel();
        let item = self.item(org, hold, terms, step, reply);
        if self.lane(org).work.send(Work::Step(item)).is_err() {
            tracing::error!(%org, %hold, "a step came after the ledger had shut down; its hold stays as it is");
        }
        answer
    }

    fn item(
        &self,
        org: OrgId,
        hold: HoldId,
        terms: Option<Terms>,
        step: Step,
        reply: oneshot::Sender<Result<Applied, LedgerError>>,
    ) -> StepItem {
        StepItem { org, hold, terms, step, reply, _queued: Queued::in_queue(&self.0.queued_steps) }
    }

    pub(in crate::store) fn sweep(&self, candidates: Vec<(OrgId, HoldId, Terms)>) {
        for lane in &self.0.lanes {
            let mine: Vec<_> =
                candidates.iter().copied().filter(|(org, ..)| std::ptr::eq(self.lane(*org), lane)).collect();
            if !mine.is_empty() {
                drop(lane.work.send(Work::Sweep(mine)));
            }
        }
    }

    /// Finishes what is queued, then ends the lanes.
    pub(in crate::store) async fn shut_down(&self) {
        self.0.stop.cancel();
        self.0.tasks.wait().await;
    }
}

/// What a lane's connection is like, whichever server it leads to.
fn lane_options(server: PgConnectOptions, settings: &LaneSettings) -> PgConnectOptions {
    server
        .application_name("tollgate-lane")
        // The two functions are planned once. Statistics of an empty table must not lead to a plan that scans.
        .options([
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_seqscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
            ("jit", "off"),
        ])
        // Before the call's own deadline: a call that waits for a row somebody else has locked is rolled back for
        // sure, and leaves no backend behind that waits on.
        .options([
            ("lock_timeout", format!("{}ms", settings.call_timeout.as_millis() / 2)),
            ("statement_timeout", Deadline::of_lane(settings.call_timeout).setting()),
        ])
        .disable_statement_logging()
}
