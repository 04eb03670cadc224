//! Lanes. Each lane has a task and a database connection of its own, and sends whatever is waiting, in order of
//! arrival, in one call. There is no timer: an idle lane serves a lone request at once, and a busy lane batches what
//! arrives during a call.
//!
//! An organisation always uses the same lane, so its balance row has one writer in each process. Callers talk to lanes
//! through channels: a cancelled request cannot cancel a statement, and the paid path waits for no pool.

pub(in crate::store) mod batch;
pub(in crate::store) mod settings;
mod worker;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::settings::LaneSettings;
use self::worker::{ReserveItem, Worker};
use crate::clock::Clock;
use crate::ids::GatewayId;
use crate::log_queue;
use crate::metrics as m;
use crate::store::db::error::StoreError;
use crate::store::db::servers::Servers;
use crate::store::ledger::guard::Verdict;
use crate::store::ledger::metered;
use crate::store::ledger::step::NewHold;
use crate::store::ledger::step_queue::{Queued, StepQueue};

/// The running lanes. A clone is cheap and shares them.
#[derive(Debug, Clone)]
pub struct Lanes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    reserves: Vec<mpsc::Sender<ReserveItem>>,
    steps: StepQueue,
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
            let (reserve, waiting) = mpsc::channel(settings.queue.max(1));
            let (step, work) = mpsc::unbounded_channel();
            reserves.push(reserve);
            steps.push(step);
            workers.push((waiting, work));
        }
        metered::register();
        let steps = StepQueue::new(steps);
        let queued = metrics::gauge!(m::LEDGER_QUEUE_ITEMS, "call" => "reserve");
        let lanes = Self(Arc::new(Inner { reserves, steps, queued, stop, tasks }));
        for queues in workers {
            // The worker holds the sender of its own channel, in the queue of steps that it gives to guards. So the
            // channel never closes by itself: only `shut_down` ends the worker.
            let worker = Worker::new(
                servers.clone(),
                owner,
                settings.clone(),
                clock,
                lanes.0.steps.clone(),
                lanes.0.tasks.clone(),
                lanes.0.stop.clone(),
                queues,
            );
            lanes.0.tasks.spawn(async move {
                // What is queued in the lane would wait for ever, and so would its holds. A crash is safe: another
                // gateway, or the next start, takes over the holds of this one.
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

    /// Reserves, or says why not. Stops waiting at `deadline`; a grant that comes later is released.
    pub(in crate::store) async fn reserve(
        &self,
        new: NewHold,
        deadline: Instant,
    ) -> Result<Verdict, StoreError> {
        let (reply, answer) = oneshot::channel();
        let queued = Queued::in_queue(&self.0.queued);
        let item = ReserveItem { new, deadline, reply, _queued: queued };
        let lane = &self.0.reserves[self.0.steps.lane(item.new.org)];
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

    /// Finishes the queued work, then ends the lanes.
    pub(in crate::store) async fn shut_down(&self) {
        self.0.stop.cancel();
        self.0.tasks.wait().await;
    }
}
