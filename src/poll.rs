//! Asks the vendor about one task and ends it if the vendor has. Status calls and the reconciler share this: one poll
//! at a time for each task and process, within one budget.

mod budget;
mod view;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use moka::sync::Cache;
use tokio_util::task::TaskTracker;

pub use self::budget::PollBudget;
pub use self::view::View;
pub(crate) use self::view::{shown_credits, shown_status, word};

use crate::clock::Clock;
use crate::config::{Reconciler, Status, ms};
use crate::credits::Credits;
use crate::fail_point;
use crate::ids::{HoldId, OrgId};
use crate::metrics as m;
use crate::pricing::consumption;
use crate::store::{Applied, Database, Late, Ledger, LedgerError, State, Step, Task};
use crate::telemetry::{Span, carry};
use crate::upstream::{Progress, Report, StatusError, Upstream};

/// A terminal view is read again from the ledger after this: late evidence may have corrected it elsewhere.
const TERMINAL_TTL: Duration = Duration::from_secs(60);

/// What the cache of their states is called in metrics.
const TASKS: &str = "tasks";

/// Why a task that is past its maximum age is given up.
const TOO_OLD: &str = "it ran longer than the maximum age";
const FORGOTTEN: &str = "the upstream does not know it, and it is past the maximum age";

type Flight = Shared<BoxFuture<'static, Option<Arc<View>>>>;

/// When the vendor was asked, and when it had answered: what those who wait for a flight wait for is not all its doing.
#[derive(Debug, Default)]
struct Asking {
    begun: OnceLock<Instant>,
    ended: OnceLock<Instant>,
}

impl Asking {
    /// How much of the time from `since` to `until` was the vendor's.
    fn within(&self, since: Instant, until: Instant) -> Duration {
        let Some(begun) = self.begun.get() else { return Duration::ZERO };
        let ended = self.ended.get().copied().unwrap_or(until);
        ended.min(until).saturating_duration_since(since.max(*begun))
    }
}

#[derive(Debug)]
pub struct Poller {
    ledger: Ledger,
    upstream: Arc<Upstream>,
    tasks: TaskTracker,
    clock: Clock,
    min_interval: Duration,
    wait: Duration,
    max_age: Duration,
    budget: PollBudget,
    /// What callers know tasks by (the vendor's id or our reference) to the last known state.
    views: Cache<(OrgId, Arc<str>), Arc<View>>,
    flights: Mutex<HashMap<HoldId, (Flight, Arc<Asking>)>>,
}

/// Takes a flight off the list, also if it crashes.
struct Landing<'a> {
    poller: &'a Poller,
    hold: HoldId,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.poller.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.hold);
    }
}

impl Poller {
    /// A poller with nothing known yet.
    pub fn new(
        ledger: Ledger,
        upstream: Arc<Upstream>,
        tasks: TaskTracker,
        status: &Status,
        reconciler: &Reconciler,
        clock: Clock,
    ) -> Self {
        for result in ["hit", "miss"] {
            metrics::counter!(m::CACHE_LOOKUPS, "cache" => TASKS, "result" => result).increment(0);
        }
        drop(metrics::histogram!(m::SETTLE_LAG_SECONDS));
        Self {
            ledger,
            upstream,
            tasks,
            clock,
            min_interval: ms(status.min_interval_ms),
            wait: ms(status.wait_ms),
            max_age: Duration::from_secs(u64::from(reconciler.max_task_age_hours) * 3600),
            budget: PollBudget::new(reconciler.polls_per_second, clock),
            views: Cache::builder()
                .max_capacity(status.cache_bytes)
                .weigher(|_, view: &Arc<View>| view.weight())
                .time_to_live(TERMINAL_TTL)
                .build(),
            flights: Mutex::new(HashMap::new()),
        }
    }

    /// Shows how many states of tasks are in memory.
    pub fn show(&self) {
        metrics::gauge!(m::CACHE_ENTRIES, "cache" => TASKS).set(self.views.entry_count() as f64);
    }

    /// How often the vendor may be asked.
    pub fn budget(&self) -> &PollBudget {
        &self.budget
    }

    fn database(&self) -> &Database {
        self.ledger.database()
    }

    /// The last known state of a task of `org`, asked for upstream if that is old and the budget allows, and how long
    /// that took the vendor. Nothing if `org` has no such task.
    pub async fn view(
        self: &Arc<Self>,
        org: OrgId,
        id: &str,
    ) -> Result<Option<(Arc<View>, Duration)>, LedgerError> {
        let cached = self.views.get(&(org, Arc::from(id)));
        count_lookup(cached.is_some());
        let known = match cached {
            Some(view) if self.is_fresh(&view) => return Ok(Some((view, Duration::ZERO))),
            Some(view) => view,
            None => match self.load(org, id).await? {
                Some(view) if self.is_fresh(&view) => return Ok(Some((view, Duration::ZERO))),
                Some(view) => view,
                None => return Ok(None),
            },
        };
        // The last known state is an answer in any case: a caller never waits longer than this.
        let begun = self.clock.now();
        let Some((flight, asking)) = self.refresh(&known, false) else {
            return Ok(Some((known, Duration::ZERO)));
        };
        let refreshed = tokio::time::timeout(self.wait, flight).await;
        let waited = asking.within(begun, self.clock.now());
        Ok(Some((refreshed.ok().flatten().unwrap_or(known), waited)))
    }

    fn is_fresh(&self, view: &View) -> bool {
        let tried = view.tried().map_or(Duration::MAX, |tried| self.clock.since(tried));
        view.is_final() || view.age(self.clock).min(tried) < self.min_interval
    }

    fn cached(&self, task: &Task) -> Option<Arc<View>> {
        self.views.get(&(task.org, task.hold.to_string().into()))
    }

    async fn load(&self, org: OrgId, id: &str) -> Result<Option<Arc<View>>, LedgerError> {
        let task = match id.parse::<HoldId>() {
            Ok(hold) => self.database().task_by_hold(org, hold).await?,
            Err(_) => self.database().task_by_upstream_id(org, id).await?,
        };
        Ok(task.map(|task| match self.cached(&task) {
            // Somebody has asked the vendor while we read.
            Some(view) if view.tells_of(&task) => self.keep(view),
            _ => self.remember(task, None, None),
        }))
    }

    /// Keeps the state of `task`; `asked` is when the vendor last confirmed it, `told` what it said then.
    fn remember(&self, task: Task, told: Option<Report>, asked: Option<Instant>) -> Arc<View> {
        self.keep(Arc::new(View::new(task, told, asked, self.clock.now())))
    }

    /// Keeps the state of `task`, which the vendor has just failed to confirm: it is not asked again at once.
    fn remember_unanswered(&self, task: Task, known: &View) -> Arc<View> {
        let asked = self.cached(&task).map_or(known.asked(), |view| view.asked());
        self.keep(Arc::new(View::unanswered(task, asked, self.clock.now())))
    }

    fn keep(&self, view: Arc<View>) -> Arc<View> {
        let task = view.task();
        self.views.insert((task.org, task.hold.to_string().into()), view.clone());
        if let Some(id) = &task.upstream_task {
            self.views.insert((task.org, id.clone()), view.clone());
        }
        view
    }

    /// One poll for all who wait for this task; `paid` if the budget has been asked. It goes on when they leave.
    fn refresh(self: &Arc<Self>, known: &Arc<View>, paid: bool) -> Option<(Flight, Arc<Asking>)> {
        let hold = known.task().hold;
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&hold) {
            return Some(flight.clone());
        }
        let asking = Arc::<Asking>::default();
        // The flight we came too late for may have told all there is to know.
        // But an end that we know to be none any more says nothing.
        let told = self.cached(known.task()).filter(|view| self.is_fresh(view));
        if let Some(view) = told.filter(|view| !view.is_final() || known.is_final()) {
            return Some((std::future::ready(Some(view)).boxed().shared(), asking));
        }
        if !paid && self.costs_a_poll(known.task()) && !self.budget.client_may(known.task().org) {
            return None;
        }
        let (poller, known, told) = (self.clone(), known.clone(), asking.clone());
        // In the trace of whoever is the first to wait for it.
        let work = self.tasks.spawn(carry(async move {
            let _landing = Landing { poller: &poller, hold };
            let mut span = Span::of_part("poll");
            span.set("tollgate.hold", hold);
            span.around(poller.ask(known, &told)).await
        }));
        let flight = work.map(|joined| joined.ok().flatten()).boxed().shared();
        flights.insert(hold, (flight.clone(), asking.clone()));
        Some((flight, asking))
    }

    /// What the vendor will not be asked about must not use up the budget of the other backend.
    fn costs_a_poll(&self, task: &Task) -> bool {
        task.upstream_task.is_some() && self.upstream.may_be_polled(task.org, &task.backend)
    }

    /// Polls a task the reconciler has claimed, unless somebody does already.
    pub async fn poll(self: &Arc<Self>, task: Task) {
        // To wait for a poll that hangs would take the place of another task's.
        if self.flights.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&task.hold) {
            return;
        }
        // Callers who ask often must not keep the tasks of those who never ask from ending.
        if self.costs_a_poll(&task) {
            self.budget.wait().await;
        }
        let known = Arc::new(View::new(task, None, None, self.clock.now()));
        if let Some((flight, _)) = self.refresh(&known, true) {
            flight.await;
        }
    }

    /// Asks the ledger, then the vendor, then ends what has ended.
    async fn ask(&self, known: Arc<View>, asking: &Asking) -> Option<Arc<View>> {
        let task = known.task();
        let task = match self.database().task_by_hold(task.org, task.hold).await {
            Ok(Some(task)) => task,
            Ok(None) => return None,
            // The ledger is away, the vendor may not be: what the caller sees needs no ledger unless it ends the task.
            Err(_) => task.clone(),
        };
        let Some(id) = task.upstream_task.clone().filter(|_| !task.is_over()) else {
            return Some(self.remember(task, None, Some(self.clock.now())));
        };
        fail_point::reach("poll.before");
        let begun = *asking.begun.get_or_init(|| self.clock.now());
        let told = self.upstream.status(task.org, &task.backend, &task.account, &id).await;
        let ended = *asking.ended.get_or_init(|| self.clock.now());
        match told {
            Ok(report) => match self.apply(&task, &report, ended).await {
                Ok(task) => Some(self.remember(task, Some(report), Some(begun))),
                Err(error) => {
                    tracing::warn!(hold = %task.hold, %error, "a task's end is not recorded yet");
                    Some(self.remember_unanswered(task, &known))
                }
            },
            Err(error) => {
                if error == StatusError::UnknownAccount {
                    tracing::warn!(hold = %task.hold, backend = %task.backend, account = %task.account, "a task cannot be polled: its account is not configured any more");
                } else {
                    tracing::debug!(hold = %task.hold, %error, "a poll told nothing");
                }
                let forgotten = error == StatusError::NotFound;
                self.check_age(&task, if forgotten { FORGOTTEN } else { TOO_OLD }).await;
                Some(self.remember_unanswered(task, &known))
            }
        }
    }

    /// What a report that came at `told` means for the ledger; the answer is the task as it stands then.
    async fn apply(&self, task: &Task, report: &Report, told: Instant) -> Result<Task, LedgerError> {
        let Some(step) = end(task, report)? else {
            self.check_age(task, TOO_OLD).await;
            if task.data.as_ref() != Some(report.data()) {
                self.database().note_progress(task, report.data()).await?;
            }
            return Ok(Task { data: Some(report.data().clone()), ..task.clone() });
        };
        fail_point::reach("poll.answered");
        let applied = self.step_of(task, step).await?;
        if applied == Applied::Yes {
            self.settled(told);
        }
        let now = self.reload(task).await?;
        if applied != Applied::Yes && is_news(&now, report.progress) {
            return self.apply_late(now, report, told).await;
        }
        Ok(now)
    }

    async fn step_of(&self, task: &Task, step: Step) -> Result<Applied, LedgerError> {
        let span = settling(&step);
        written(span, self.ledger.step_of(task, step)).await
    }

    /// An end that was told then is durable now.
    fn settled(&self, told: Instant) {
        metrics::histogram!(m::SETTLE_LAG_SECONDS).record(self.clock.since(told));
    }

    async fn reload(&self, task: &Task) -> Result<Task, LedgerError> {
        let found = self.database().task_by_hold(task.org, task.hold).await?;
        found.ok_or(LedgerError::Corrupt("a task that vanished".into()))
    }

    /// An end that came after ours (contract, "Evidence after the end").
    async fn apply_late(&self, task: Task, report: &Report, told: Instant) -> Result<Task, LedgerError> {
        let Some(id) = task.upstream_task.clone() else { return Ok(task) };
        let known = Step::LateRun { task: id, answer: None, reason: None, poll_in: Duration::ZERO };
        self.came_to_light(task.org, task.hold, known).await?;
        let task = self.reload(&task).await?;
        if task.late == Some(Late::Open)
            && let Some(step) = end(&task, report)?
        {
            if self.step_of(&task, step).await? == Applied::Yes {
                self.settled(told);
            }
            return self.reload(&task).await;
        }
        Ok(task)
    }

    /// Records that a task which had ended here is one of the vendor's after all; whether that was news.
    pub async fn came_to_light(&self, org: OrgId, hold: HoldId, step: Step) -> Result<bool, LedgerError> {
        let span = settling(&step);
        let news = written(span, self.ledger.step(org, hold, step)).await? == Applied::Yes;
        if news {
            tracing::error!(%org, %hold, "a task came to light after its end: a correction follows when the vendor tells its own");
            // The end that is remembered is none any more.
            self.views.invalidate(&(org, hold.to_string().into()));
        }
        Ok(news)
    }

    async fn check_age(&self, task: &Task, reason: &'static str) {
        if task.age <= self.max_age {
            return;
        }
        let step = match (task.state, task.late) {
            (State::Running, _) => Step::Doubt { reason },
            (_, Some(Late::Open)) => Step::LateDrop,
            _ => return,
        };
        tracing::error!(hold = %task.hold, org = %task.org, reason, step = step.kind().as_str(), "a task does not end");
        if let Err(error) = self.step_of(task, step).await {
            tracing::warn!(hold = %task.hold, %error, "could not give up an old task");
        }
    }

    /// Whether the ledger has `task` on this hold.
    pub async fn is_recorded(&self, org: OrgId, hold: HoldId, task: &str) -> bool {
        let row = self.database().task_by_hold(org, hold).await;
        row.is_ok_and(|row| row.is_some_and(|row| row.upstream_task.as_deref() == Some(task)))
    }

    /// Ends a task whose create already said how it ended.
    pub async fn conclude_create(&self, org: OrgId, hold: HoldId, report: &Report) {
        let told = self.clock.now();
        let result = match self.database().task_by_hold(org, hold).await {
            Ok(Some(task)) => self.apply(&task, report, told).await.map(drop),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tracing::warn!(%hold, %error, "a create that came back finished is left to the reconciler");
        }
    }
}

fn count_lookup(found: bool) {
    let result = if found { "hit" } else { "miss" };
    metrics::counter!(m::CACHE_LOOKUPS, "cache" => TASKS, "result" => result).increment(1);
}

/// The span in which `step` is written.
fn settling(step: &Step) -> Span {
    let mut span = Span::of_part("settle");
    span.set_word("tollgate.step", step.kind().as_str());
    if let Step::Settle { charge, .. } | Step::LateSettle { charge, .. } = step {
        span.set_number("tollgate.credits", charge.get());
    }
    span
}

async fn written(
    mut span: Span,
    step: impl Future<Output = Result<Applied, LedgerError>>,
) -> Result<Applied, LedgerError> {
    let result = span.around(step).await;
    if result.is_err() {
        span.fail("not recorded yet");
    }
    result
}

/// The step by which `report` ends `task`; nothing if it does not.
fn end(task: &Task, report: &Report) -> Result<Option<Step>, LedgerError> {
    let late = task.late == Some(Late::Open);
    let data = report.data().clone();
    Ok(Some(match report.progress {
        Progress::Running => return Ok(None),
        Progress::Succeeded => {
            let judged = consumption(report.raw, task.raw_consumed, task.list_price, task.factor)
                .ok_or(LedgerError::Corrupt("a charge that does not fit".into()))?;
            if let Some(flag) = judged.flag {
                tracing::warn!(hold = %task.hold, task_type = %task.task_type, consumed = %judged.raw, price = %task.list_price, flag, "a charge deserves a look");
            }
            let (raw, reported, charge) = (judged.raw, report.raw, judged.charge);
            if late {
                Step::LateSettle { raw, reported, charge, data }
            } else {
                Step::Settle { raw, reported, charge, flag: judged.flag, data }
            }
        }
        Progress::Failed => {
            // A figure that cannot be (as for charges) stands for the price.
            let sane = |raw: Credits| task.list_price.checked_mul(100).is_none_or(|ceiling| raw <= ceiling);
            let loss = report.raw.map_or(Credits::ZERO, |raw| if sane(raw) { raw } else { task.list_price });
            if loss > Credits::ZERO {
                tracing::warn!(hold = %task.hold, consumed = ?report.raw, %loss, "a failed task consumed credits: the platform's loss");
            }
            if late { Step::LateFail { loss, data } } else { Step::Fail { loss, data } }
        }
    }))
}

/// Whether the vendor's end says something else than ours, which came first.
fn is_news(task: &Task, progress: Progress) -> bool {
    task.late.is_none()
        && match task.state {
            State::WrittenOff => true,
            State::Released => progress == Progress::Succeeded,
            State::Held | State::Running | State::InDoubt | State::Settled => false,
        }
}
