//! Finishing tasks, whether or not a caller asks for them: claims the tasks whose poll is due, and polls each in a task
//! of its own. Each backend has a job of its own, so that a backend that hangs delays only its own tasks.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::jobs::{Job, JobError, Next};
use crate::ids::OrgId;
use crate::poll::Poller;
use crate::shares::Shares;
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
    /// Who has the slots: an organisation that has as many as are free gets no more.
    polled: Arc<Shares<OrgId>>,
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
        let polled = Shares::new(pace.concurrency, metrics::Gauge::noop());
        Self { backend, poller, database, tasks, tracing, pace, slots, polled, some }
    }

    pub(super) fn job(self, deadline: Duration) -> Job {
        let (name, tick) = (format!("finish {}", self.backend), self.pace.tick);
        let this = Arc::new(self);
        Job::new(name, tick, deadline, move || this.clone().claim())
    }

    async fn claim(self: Arc<Self>) -> Result<Next, JobError> {
        if self.slots.available_permits() < self.some as usize {
            return Ok(self.when_are_free(self.some, None));
        }
        let limit = self.limit();
        if limit == 0 {
            return Ok(Next::Interval);
        }
        let most = u32::try_from(limit).unwrap_or(u32::MAX);
        let full = self.polled.full();
        let due = self.database.claim_due(&self.backend, most, self.pace.interval, &full).await?;
        let more = due.len() >= limit;
        for task in due {
            let Ok(slot) = self.slots.clone().acquire_owned().await else { break };
            // Also where it is more than half, once: the task is claimed.
            let slot = (slot, self.polled.take_freely(task.org, 1));
            let poller = self.poller.clone();
            self.tasks.spawn(self.tracing.own_work().around(async move {
                let mut span = Span::of_own_work("reconcile");
                span.set("tollgate.hold", task.hold);
                span.around(poller.poll(task, slot)).await;
            }));
        }
        Ok(match (more, full.is_empty()) {
            (true, _) => self.when_are_free(self.some, None),
            // Those that were left out may have their turn when polls have ended, and others may be due at the next tick.
            (false, false) => {
                self.when_are_free(self.free().saturating_add(self.some.div_ceil(2)), Some(self.pace.tick))
            }
            (false, true) => Next::Interval,
        })
    }

    fn free(&self) -> u32 {
        u32::try_from(self.slots.available_permits()).unwrap_or(u32::MAX)
    }

    /// The next claim when so many slots are free, or after this time.
    fn when_are_free(&self, some: u32, most: Option<Duration>) -> Next {
        let all = u32::try_from(self.pace.concurrency).unwrap_or(u32::MAX);
        let (slots, some) = (self.slots.clone(), some.min(all));
        let free = async move { drop(slots.acquire_many(some).await) };
        Next::Ready(match most {
            Some(most) => async move { drop(tokio::time::timeout(most, free).await) }.boxed(),
            None => free.boxed(),
        })
    }

    /// How many tasks to claim. A claimed task waits in its slot for the poll budget. So no more tasks are claimed than
    /// can be polled within a tick, and not so many that a claim expires before its task is polled. All of them may be one
    /// organisation's: the slots that are free then are for others.
    fn limit(&self) -> usize {
        let share = f64::from(self.poller.budget().share());
        let per_tick = (share * self.pace.tick.as_secs_f64()).ceil() as usize;
        let in_time = (share * self.pace.interval.as_secs_f64()).max(1.0) as usize;
        let free = self.slots.available_permits();
        let waiting = self.pace.concurrency.saturating_sub(free);
        per_tick.min(free.div_ceil(2)).min(in_time.saturating_sub(waiting))
    }
}
