//! Lanes. Each lane has a task and a database connection of its own, and sends whatever is waiting in one call: within
//! an organisation in order of arrival, and organisations in turns. An idle lane serves a lone request at once, and a busy
//! lane batches what arrives during a call. Only the end of a task, which nobody waits for by the millisecond, waits a little
//! for company.
//!
//! An organisation always uses the same lane, so its balance row has one writer in each process. Callers talk to lanes
//! through channels: a cancelled request cannot cancel a statement, and the paid path waits for no pool.
//!
//! A lane waits for nobody: an organisation whose rows cannot be had at once, or whose items the database refuses, goes
//! on in the side lanes ([`side`]).

mod answers;
pub(in crate::store) mod batch;
mod caller;
mod line;
pub(in crate::store) mod set_aside;
pub(in crate::store) mod settings;
mod side;
mod worker;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::answers::Answers;
use self::caller::BatchCaller;
use self::line::OrgQueue;
use self::set_aside::SetAside;
use self::settings::LaneSettings;
use self::side::{Side, SideWorker};
use self::worker::{Worker, try_again};
use crate::clock::Clock;
use crate::ids::{GatewayId, HoldId, OrgId};
use crate::log_queue;
use crate::metrics as m;
use crate::shares::{Share, Shares};
use crate::store::db::error::StoreError;
use crate::store::db::servers::Servers;
use crate::store::ledger::guard::Verdict;
use crate::store::ledger::metered;
use crate::store::ledger::step::NewHold;
use crate::store::ledger::step_queue::{Queued, StepQueue};

/// A reservation that waits in its lane.
struct ReserveItem {
    new: NewHold,
    deadline: Instant,
    reply: oneshot::Sender<Result<Verdict, StoreError>>,
    /// Whether an earlier sending may have been committed. It must then be asked for again whoever waits for it.
    resend: bool,
    _share: Share<OrgId>,
    _queued: Queued,
}

impl ReserveItem {
    fn is_wanted(&self, now: Instant) -> bool {
        self.resend || (self.deadline > now && !self.reply.is_closed())
    }
}

/// The running lanes. A clone is cheap and shares them.
#[derive(Debug, Clone)]
pub struct Lanes(Arc<LaneParts>);

#[derive(Debug)]
struct LaneParts {
    reserves: Vec<(mpsc::Sender<ReserveItem>, Arc<Shares<OrgId>>)>,
    steps: StepQueue,
    set_aside: SetAside,
    queued: metrics::Gauge,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Lanes {
    /// Starts the lanes. A lane connects when it has something to do, and reconnects by itself.
    pub(in crate::store) fn start(
        servers: &Arc<Servers>,
        owner: GatewayId,
        settings: &LaneSettings,
        clock: Clock,
    ) -> Self {
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let (mut reserves, mut steps, mut workers) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..settings.lanes.max(1) {
            // The shares keep the channel from being full.
            let (reserve, waiting) = mpsc::channel(settings.queue.max(1));
            let (step, work) = mpsc::unbounded_channel();
            reserves.push((reserve, Shares::new(settings.queue.max(1), metrics::Gauge::noop())));
            steps.push(step);
            workers.push((waiting, work));
        }
        metered::register();
        let steps = StepQueue::new(steps);
        let queued = metrics::gauge!(m::LEDGER_QUEUE_ITEMS, "call" => "reserve");
        let (set_aside, side) = (SetAside::new(), Side::new(settings.side_lanes.max(1), clock));
        let answers = Answers::new(steps.clone(), set_aside.clone());
        let caller = |wait| BatchCaller::new(servers.clone(), owner, settings.clone(), clock, wait);
        let lanes = Self(Arc::new(LaneParts { reserves, steps, set_aside, queued, stop, tasks }));
        let (tasks, stop) = (&lanes.0.tasks, &lanes.0.stop);
        let (at_work, drained) = (Arc::new(AtomicUsize::new(workers.len())), CancellationToken::new());
        for (reserves, work) in workers {
            // The worker holds the sender of its own channel, in the queue of steps that it gives to guards. So the
            // channel never closes by itself: only `shut_down` ends the worker.
            let worker = Worker {
                caller: caller(false),
                answers: answers.clone(),
                side: side.clone(),
                max_batch: settings.max_batch,
                clock,
                tasks: tasks.clone(),
                stop: stop.clone(),
                reserves,
                work,
                waiting: OrgQueue::new(),
                steps: OrgQueue::new(),
                patience: None,
            };
            let (at_work, drained) = (at_work.clone(), drained.clone());
            tasks.spawn(or_abort(async move {
                worker.run().await;
                if at_work.fetch_sub(1, Ordering::AcqRel) == 1 {
                    drained.cancel();
                }
            }));
        }
        for _ in 0..settings.side_lanes.max(1) {
            let worker = SideWorker {
                side: side.clone(),
                caller: caller(true),
                answers: answers.clone(),
                settings: settings.clone(),
                clock,
                drained: drained.clone(),
            };
            tasks.spawn(or_abort(worker.run()));
        }
        tasks.spawn(try_again(answers, side, settings.retry_aside, stop.clone()));
        tasks.close();
        lanes
    }

    /// Reserves, or says why not. Stops waiting at `deadline`; a grant that comes later is released.
    pub(in crate::store) async fn reserve(
        &self,
        new: NewHold,
        deadline: Instant,
    ) -> Result<Verdict, StoreError> {
        let (lane, shares) = &self.0.reserves[self.0.steps.lane(new.org)];
        let share = shares.take(new.org, 1).ok_or(StoreError::QueueFull)?;
        let (reply, answer) = oneshot::channel();
        let queued = Queued::in_queue(&self.0.queued);
        let item = ReserveItem { new, deadline, reply, resend: false, _share: share, _queued: queued };
        lane.try_send(item).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::QueueFull,
            mpsc::error::TrySendError::Closed(_) => StoreError::ShuttingDown,
        })?;
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) => Err(StoreError::Timeout),
            Err(_) => Err(StoreError::Timeout),
        }
    }

    /// The queue of steps of these lanes.
    pub(in crate::store) fn steps(&self) -> &StepQueue {
        &self.0.steps
    }

    /// Whether a step for this hold is set aside.
    pub(in crate::store) fn has_set_aside(&self, hold: HoldId) -> bool {
        self.0.set_aside.has(hold)
    }

    /// Finishes the queued work, then ends the lanes.
    pub(in crate::store) async fn shut_down(&self) {
        self.0.stop.cancel();
        self.0.tasks.wait().await;
    }
}

/// Runs a lane. What is queued in a lane that panicked would wait for ever, and so would its holds. A crash is safe:
/// another gateway, or the next start, takes over the holds of this one.
async fn or_abort(lane: impl Future<Output = ()>) {
    if AssertUnwindSafe(lane).catch_unwind().await.is_err() {
        tracing::error!("a lane of the ledger panicked: this process ends at once");
        log_queue::flush(Duration::from_millis(100));
        std::process::abort();
    }
}
