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
use crate::shares::{Distribution, Shares};
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
        let polled = Shares::new(pace.concurrency, metrics::Gauge::noop());
        Self { backend, poller, database, tasks, tracing, pace, slots, polled }
    }

    pub(super) fn job(self, deadline: Duration) -> Job {
        let (name, tick) = (format!("finish {}", self.backend), self.pace.tick);
        let this = Arc::new(self);
        Job::new(name, tick, deadline, move || this.clone().claim())
    }

    async fn claim(self: Arc<Self>) -> Result<Next, JobError> {
        self.poller.forget_old_views();
        let polls = self.polled.distribution();
        let some = self.some(&polls);
        if self.slots.available_permits() < some {
            return Ok(self.when_are_free(some));
        }
        let limit = self.limit(&polls);
        if limit == 0 {
            return Ok(Next::Interval);
        }
        let most = u32::try_from(limit).unwrap_or(u32::MAX);
        let left_out = [&polls.full[..], &self.poller.paced()].concat();
        let due = self.database.claim_due(&self.backend, most, self.pace.interval, &left_out).await?;
        let more = due.len() >= limit;
        for task in due {
            let Ok(slot) = self.slots.clone().acquire_owned().await else { break };
            // Given back in this order, so that whoever finds a slot finds a share.
            let slot = (self.polled.take_freely(task.org, 1), slot);
            let poller = self.poller.clone();
            self.tasks.spawn(self.tracing.own_work().around(async move {
                let mut span = Span::of_own_work("reconcile");
                span.set("tollgate.hold", task.hold);
                span.around(poller.poll(task, slot)).await;
            }));
        }
        Ok(if more {
            self.when_are_free(some)
        } else if polls.full.is_empty() {
            Next::Interval
        } else {
            // Those that were left out may have their turn when polls have ended.
            self.when_are_free(self.slots.available_permits().saturating_add(some))
        })
    }

    /// With so many free slots the database is asked: a quarter of those that are not taken by organisations that get no more now.
    fn some(&self, polls: &Distribution<OrgId>) -> usize {
        self.pace.concurrency.saturating_sub(polls.of_full).div_ceil(4).max(1)
    }

    /// The next claim when so many slots are free, or at the next tick.
    fn when_are_free(&self, some: usize) -> Next {
        let (slots, tick) = (self.slots.clone(), self.pace.tick);
        let some = u32::try_from(some.min(self.pace.concurrency)).unwrap_or(u32::MAX);
        let free = async move { drop(tokio::time::timeout(tick, slots.acquire_many(some)).await) };
        Next::Ready(free.boxed())
    }

    /// How many tasks to claim. A claimed task waits in its slot for the poll budget. So no more tasks are claimed than
    /// can be polled within a tick, and not so many that a claim expires before its task is polled. All of them may be one
    /// organisation's: then it has at most as many slots as are free.
    fn limit(&self, polls: &Distribution<OrgId>) -> usize {
        let share = f64::from(self.poller.budget().share());
        let per_tick = (share * self.pace.tick.as_secs_f64()).ceil() as usize;
        let in_time = (share * self.pace.interval.as_secs_f64()).max(1.0) as usize;
        let free = self.slots.available_permits();
        // Polls of organisations that get no more wait for the vendor rather than for the budget.
        let waiting = self.pace.concurrency.saturating_sub(free.saturating_add(polls.of_full));
        per_tick.min(free).min(polls.for_anybody()).min(in_time.saturating_sub(waiting))
    }
}
