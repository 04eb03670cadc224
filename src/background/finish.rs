//! Finishing tasks, whether or not a caller asks for them: claims the tasks whose poll is due, and polls each in a task
//! of its own. Each backend has a job of its own, so that a backend that hangs delays only its own tasks.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::jobs::{Job, JobError, Next};
use crate::poll::Poller;
use crate::store::Database;
use crate::telemetry::{Span, Tracing};

/// How often and how fast tasks are polled.
#[derive(Debug, Clone)]
pub struct FinishPace {
    /// How often the database is asked for due tasks.
    pub tick: Duration,
    /// The time between two polls of one task.
    pub interval: Duration,
    /// The most concurrent polls of one backend.
    pub concurrency: usize,
}

/// Claims the due tasks of one backend and polls them.
pub(super) struct Finisher {
    backend: Arc<str>,
    poller: Arc<Poller>,
    database: Database,
    tasks: TaskTracker,
    tracing: Tracing,
    pace: FinishPace,
    /// As many slots as polls may run concurrently. A poll that only waits for the ledger has given its slot back.
    slots: Arc<Semaphore>,
    /// The database is asked for due tasks only when at least this many slots are free.
    some: u32,
}

impl Finisher {
    pub(super) fn new(
        backend: Arc<str>,
        poller: Arc<Poller>,
        database: Database,
        tasks: TaskTracker,
        tracing: Tracing,
        pace: FinishPace,
    ) -> Self {
        let slots = Arc::new(Semaphore::new(pace.concurrency));
        let some = u32::try_from(pace.concurrency.div_ceil(4)).unwrap_or(u32::MAX);
        Self { backend, poller, database, tasks, tracing, pace, slots, some }
    }

    pub(super) fn job(self, deadline: Duration) -> Job {
        let (name, tick) = (format!("finish {}", self.backend), self.pace.tick);
        let this = Arc::new(self);
        Job::new(name, tick, deadline, move || this.clone().claim())
    }

    async fn claim(self: Arc<Self>) -> Result<Next, JobError> {
        if self.slots.available_permits() < self.some as usize {
            return Ok(self.when_there_is_room());
        }
        let limit = self.limit();
        if limit == 0 {
            return Ok(Next::Interval);
        }
        let most = u32::try_from(limit).unwrap_or(u32::MAX);
        let due = self.database.claim_due(&self.backend, most, self.pace.interval).await?;
        let more = due.len() >= limit;
        for task in due {
            let Ok(slot) = self.slots.clone().acquire_owned().await else { break };
            let poller = self.poller.clone();
            self.tasks.spawn(self.tracing.own_work().around(async move {
                let mut span = Span::of_own_work("reconcile");
                span.set("tollgate.hold", task.hold);
                span.around(poller.poll(task, slot)).await;
            }));
        }
        Ok(if more { self.when_there_is_room() } else { Next::Interval })
    }

    fn when_there_is_room(&self) -> Next {
        let (slots, some) = (self.slots.clone(), self.some);
        Next::Ready(async move { drop(slots.acquire_many(some).await) }.boxed())
    }

    /// How many tasks to claim. A claimed task waits in its slot for the poll budget. So no more tasks are claimed than
    /// can be polled within a tick, and not so many that a claim expires before its task is polled.
    fn limit(&self) -> usize {
        let share = f64::from(self.poller.budget().share());
        let per_tick = (share * self.pace.tick.as_secs_f64()).ceil() as usize;
        let in_time = (share * self.pace.interval.as_secs_f64()).max(1.0) as usize;
        let free = self.slots.available_permits();
        let waiting = self.pace.concurrency.saturating_sub(free);
        per_tick.min(free).min(in_time.saturating_sub(waiting))
    }
}
