//! Polls the vendor about one task, and settles the task once it has ended there. Status calls and the reconciler share the
//! poller: it makes one poll at a time of each task, within one budget.

mod budget;
mod content;
mod view;
mod views;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use moka::sync::Cache;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::budget::PollBudget;
pub use self::view::View;
pub(crate) use self::view::{created, shown_credits, shown_status, word};
use self::views::Views;
use crate::bulk::{Bulk, Room};
use crate::clock::Clock;
use crate::config::{Config, ms};
use crate::credits::Credits;
use crate::fail_point;
use crate::ids::{HoldId, OrgId};
use crate::metrics as m;
use crate::pricing::consumption;
use crate::shares::Shares;
use crate::store::{Applied, Contents, Late, Ledger, State, Step, StoreError, StoredText, Task, TaskText};
use crate::telemetry::{Span, carry};
use crate::upstream::{Progress, Report, StatusError, Upstream};

/// How long a view is cached. A terminal one is then read again, because late evidence may have corrected the task.
const TERMINAL_TTL: Duration = Duration::from_secs(60);

/// The progress of a task is stored at most so often; the progress of so many tasks is remembered as stored.
const NOTED_FOR: Duration = Duration::from_secs(60);
const MOST_NOTED: u64 = 100_000;

/// The name of the cache of task states in metrics.
const TASKS: &str = "tasks";

/// Why a task beyond its maximum age is put in doubt.
const TOO_OLD: &str = "it ran longer than the maximum age";
const FORGOTTEN: &str = "the upstream does not know it, and it is past the maximum age";

/// Why a task that an operator recorded is charged by the operator's figure.
const STATED: &str = "the upstream did not confirm it: an operator's figure counts";

type Flight = Shared<BoxFuture<'static, Option<Arc<View>>>>;

/// When a poll was sent and when it was answered. A caller waits for other parts of the poll too, and only this part counts
/// as the vendor's time.
#[derive(Debug, Default)]
struct Asking {
    begun: OnceLock<Instant>,
    ended: OnceLock<Instant>,
    /// Cancelled when the vendor has answered and a step waits in the ledger.
    recording: CancellationToken,
}

impl Asking {
    /// How much of the time from `since` to `until` the vendor took.
    fn within(&self, since: Instant, until: Instant) -> Duration {
        let Some(begun) = self.begun.get() else { return Duration::ZERO };
        let ended = self.ended.get().copied().unwrap_or(until);
        ended.min(until).saturating_duration_since(since.max(*begun))
    }
}

#[derive(Debug)]
pub struct Poller {
    ledger: Ledger,
    contents: Contents,
    upstream: Arc<Upstream>,
    tasks: TaskTracker,
    clock: Clock,
    min_interval: Duration,
    wait: Duration,
    max_age: Duration,
    budget: PollBudget,
    bulk: Bulk,
    views: Views,
    flights: Mutex<HashMap<HoldId, (Flight, Arc<Asking>)>>,
    /// Tasks whose progress was stored less than [`NOTED_FOR`] ago.
    noted: Cache<HoldId, ()>,
    /// The reconciler's polls that are not recorded yet. They keep the vendor's answers in memory, and need no slot of the
    /// reconciler while they wait for the ledger: an organisation whose rows are locked must not take all the room.
    unrecorded: Arc<Shares<OrgId>>,
}

/// So many polls for each slot of the reconciler may be under way or wait for the ledger.
const UNRECORDED_PER_SLOT: usize = 8;

/// Removes a poll from `flights` when it ends, even by a panic.
struct Landing<'a> {
    poller: &'a Poller,
    hold: HoldId,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.poller.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.hold);
    }
}

/// How the vendor ends tasks: label values of one counter.
const ENDS: [&str; 2] = [SUCCEEDED, FAILED];
const SUCCEEDED: &str = "succeeded";
const FAILED: &str = "failed";

fn how_ended(step: &Step) -> &'static str {
    if matches!(step, Step::Fail { .. } | Step::LateFail { .. }) { FAILED } else { SUCCEEDED }
}

impl Poller {
    /// A poller with an empty cache.
    pub fn new(
        ledger: Ledger,
        contents: Contents,
        upstream: Arc<Upstream>,
        tasks: TaskTracker,
        bulk: Bulk,
        config: &Config,
        clock: Clock,
    ) -> Self {
        let (status, reconciler) = (&config.status, &config.reconciler);
        for result in ["hit", "miss"] {
            metrics::counter!(m::CACHE_LOOKUPS, "cache" => TASKS, "result" => result).increment(0);
        }
        drop(metrics::histogram!(m::SETTLE_LAG_SECONDS));
        for backend in Upstream::names() {
            for end in ENDS {
                let backend = backend.to_string();
                metrics::counter!(m::UPSTREAM_TASKS_ENDED, "backend" => backend, "end" => end).increment(0);
            }
        }
        Self {
            ledger,
            contents,
            upstream,
            tasks,
            clock,
            min_interval: ms(status.min_interval_ms),
            wait: ms(status.wait_ms),
            max_age: Duration::from_secs(u64::from(reconciler.max_task_age_hours) * 3600),
            budget: PollBudget::new(reconciler.polls_per_second, clock),
            bulk,
            views: Views::new(status.cache_bytes, TERMINAL_TTL, clock),
            flights: Mutex::new(HashMap::new()),
            noted: Cache::builder().max_capacity(MOST_NOTED).time_to_live(NOTED_FOR).build(),
            unrecorded: Shares::new(
                reconciler.concurrency.saturating_mul(UNRECORDED_PER_SLOT),
                metrics::Gauge::noop(),
            ),
        }
    }

    /// Sets the metric of the number of cached task states.
    pub fn show(&self) {
        metrics::gauge!(m::CACHE_ENTRIES, "cache" => TASKS).set(self.views.count() as f64);
        self.contents.show_pool();
    }

    /// The budget that limits polls.
    pub fn budget(&self) -> &PollBudget {
        &self.budget
    }

    /// The task as the ledger has it.
    async fn read(&self, org: OrgId, hold: HoldId) -> Result<Option<Task>, StoreError> {
        self.ledger.turn_of(org).await?.task_by_hold(org, hold).await
    }

    /// The state of a task of `org`, and how long the caller waited for the vendor. An old state is asked for at the vendor
    /// if the budget allows. Nothing if `org` has no such task.
    pub async fn view(
        self: &Arc<Self>,
        org: OrgId,
        id: &str,
    ) -> Result<Option<(Arc<View>, Duration)>, StoreError> {
        let cached = self.views.get(org, id);
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
        // The last known state can be answered at any time, so a caller never waits longer than `wait`.
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
        self.views.get(task.org, &task.hold.to_string())
    }

    /// The task of `org` with this id, as the ledger has it: the vendor's id, or our reference.
    pub async fn find(&self, org: OrgId, id: &str) -> Result<Option<Task>, StoreError> {
        match id.parse::<HoldId>() {
            Ok(hold) => self.read(org, hold).await,
            Err(_) => self.ledger.turn_of(org).await?.task_by_upstream_id(org, id).await,
        }
    }

    async fn load(&self, org: OrgId, id: &str) -> Result<Option<Arc<View>>, StoreError> {
        let Some(task) = self.find(org, id).await? else { return Ok(None) };
        // Another call may have polled the vendor while we read the ledger.
        if let Some(view) = self.cached(&task).filter(|view| view.tells_of(&task)) {
            return Ok(Some(self.keep(view)));
        }
        let (task, _room) = self.whole(task).await?;
        Ok(Some(self.remember(task, None, None)))
    }

    /// `task` with its data, also if that is long, and room for it.
    async fn whole(&self, task: Task) -> Result<(Task, Room), StoreError> {
        if !matches!(task.data, Some(StoredText::Unread(_))) {
            return Ok((task, Room::default()));
        }
        let (readers, of) = (self.ledger.readers(), (task.org, task.hold));
        let (data, room) =
            readers.read_text(of, TaskText::Last, task.data.clone(), &self.bulk.budget).await?;
        Ok((Task { data: data.map(StoredText::Read), ..task }, room))
    }

    /// The same where the text may be known already.
    async fn whole_as(&self, task: Task, known: &View) -> Result<(Task, Room), StoreError> {
        match &known.task().data {
            Some(data @ StoredText::Read(_)) if matches!(task.data, Some(StoredText::Unread(_))) => {
                Ok((Task { data: Some(data.clone()), ..task }, Room::default()))
            }
            _ => self.whole(task).await,
        }
    }

    /// Caches the state of `task`; the vendor last confirmed it at `asked`, with the report `told`.
    fn remember(&self, task: Task, told: Option<Report>, asked: Option<Instant>) -> Arc<View> {
        self.keep(Arc::new(View::new(task, told, asked, self.clock.now())))
    }

    /// Caches the state of `task` after a poll without an answer, so that the vendor is not asked again at once.
    async fn remember_unanswered(&self, task: Task, known: &View) -> Option<Arc<View>> {
        let asked = self.cached(&task).map_or(known.asked(), |view| view.asked());
        let (task, _room) = self.whole_as(task, known).await.ok()?;
        Some(self.keep(Arc::new(View::unanswered(task, asked, self.clock.now()))))
    }

    fn keep(&self, view: Arc<View>) -> Arc<View> {
        self.views.insert(&view);
        view
    }

    /// Joins the poll of this task that is in flight, or starts one; `paid` if the budget has already been charged. The poll
    /// goes on when its callers leave.
    fn refresh(self: &Arc<Self>, known: &Arc<View>, paid: bool) -> Option<(Flight, Arc<Asking>)> {
        let hold = known.task().hold;
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&hold) {
            return Some(flight.clone());
        }
        if self.ledger.is_set_aside(hold) {
            return None;
        }
        let asking = Arc::<Asking>::default();
        // A poll that has just ended may have refreshed the cache already. But ignore a cached terminal state if the task
        // was reopened since.
        let told = self.cached(known.task()).filter(|view| self.is_fresh(view));
        if let Some(view) = told.filter(|view| !view.is_final() || known.is_final()) {
            return Some((std::future::ready(Some(view)).boxed().shared(), asking));
        }
        if !paid && self.costs_a_poll(known.task()) && !self.budget.client_may(known.task().org) {
            return None;
        }
        let (poller, known, told) = (self.clone(), known.clone(), asking.clone());
        // The poll belongs to the trace of its first caller.
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

    /// Whether polling the task needs the budget. A task that will not be polled must not use up budget.
    fn costs_a_poll(&self, task: &Task) -> bool {
        task.upstream_task.is_some() && self.upstream.may_be_polled(task.org, &task.backend)
    }

    /// Polls a task that the reconciler has claimed, unless a poll of it is in flight or its end is set aside. Returns when
    /// the poll is recorded; `slot` is given back as soon as only the ledger is waited for.
    pub async fn poll<S>(self: &Arc<Self>, task: Task, slot: S) {
        // Waiting for a poll that hangs would take the slot of another task's poll.
        if self.flights.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&task.hold)
            || self.ledger.is_set_aside(task.hold)
        {
            return;
        }
        // Without a share too many tasks of this organisation wait for the ledger. This one is due again later.
        let Some(_share) = self.unrecorded.take(task.org, 1) else { return };
        // The reconciler waits for the budget instead of giving up, so that tasks of callers who never ask end too.
        if self.costs_a_poll(&task) {
            self.budget.wait().await;
        }
        let known = Arc::new(View::new(task, None, None, self.clock.now()));
        if let Some((mut flight, asking)) = self.refresh(&known, true) {
            tokio::select! {
                _ = &mut flight => return,
                () = asking.recording.cancelled() => {}
            }
            drop(slot);
            flight.await;
        }
    }

    /// Reads the task from the ledger, polls the vendor, and settles the task if it has ended.
    async fn ask(&self, known: Arc<View>, asking: &Asking) -> Option<Arc<View>> {
        let task = known.task();
        let task = match self.read(task.org, task.hold).await {
            Ok(Some(task)) => task,
            Ok(None) => return None,
            // The ledger is unavailable, but the vendor may not be: a state that is not terminal can be shown without the ledger.
            Err(_) => task.clone(),
        };
        let Some(id) = task.upstream_task.clone().filter(|_| !task.is_over()) else {
            let (task, _room) = self.whole(task).await.ok()?;
            return Some(self.remember(task, None, Some(self.clock.now())));
        };
        fail_point::reach("poll.before");
        let begun = *asking.begun.get_or_init(|| self.clock.now());
        let told = self.upstream.status(task.org, &task.backend, &task.account, &id).await;
        let ended = *asking.ended.get_or_init(|| self.clock.now());
        match told {
            Ok(report) => match self.apply(&task, &report, ended, asking).await {
                Ok(task) => Some(self.remember(task, Some(report), Some(begun))),
                Err(error) => {
                    tracing::warn!(hold = %task.hold, %error, "the end of a task is not recorded yet");
                    self.remember_unanswered(task, &known).await
                }
            },
            Err(error) => {
                if error == StatusError::UnknownAccount {
                    tracing::warn!(hold = %task.hold, backend = %task.backend, account = %task.account, "a task cannot be polled: its account is not configured any more");
                } else {
                    tracing::debug!(hold = %task.hold, %error, "a poll failed");
                }
                let forgotten = error.is_404();
                self.check_age(&task, if forgotten { FORGOTTEN } else { TOO_OLD }, asking).await;
                self.remember_unanswered(task, &known).await
            }
        }
    }

    /// Writes what a report, which came at `told`, means for the ledger. Returns the task as it is afterwards.
    async fn apply(
        &self,
        task: &Task,
        report: &Report,
        told: Instant,
        asking: &Asking,
    ) -> Result<Task, StoreError> {
        let Some(step) = end(task, report)? else {
            self.check_age(task, TOO_OLD, asking).await;
            self.note_progress(task, report).await?;
            return Ok(with_data(task.clone(), report));
        };
        fail_point::reach("poll.answered");
        asking.recording.cancel();
        self.contents.note_end(task.org, task.hold, report.data()).await?;
        let end = how_ended(&step);
        let applied = self.step_of(task, step).await?;
        if applied == Applied::Yes {
            self.settled(task, end, told);
        }
        let now = self.reload(task).await?;
        if applied == Applied::Yes {
            // What was stored is still in memory: to read it back would take as much again.
            return Ok(with_data(now, report));
        }
        if is_news(&now, report.progress) {
            return self.apply_late(now, report, told).await;
        }
        Ok(self.whole(now).await?.0)
    }

    async fn step_of(&self, task: &Task, step: Step) -> Result<Applied, StoreError> {
        let span = settling(&step);
        written(span, self.ledger.step_of(task, step)).await
    }

    /// Counts the end of a task, and measures the time from the vendor's report of it, at `told`, to now, when it is durable.
    fn settled(&self, task: &Task, end: &'static str, told: Instant) {
        let backend = task.backend.to_string();
        metrics::counter!(m::UPSTREAM_TASKS_ENDED, "backend" => backend, "end" => end).increment(1);
        metrics::histogram!(m::SETTLE_LAG_SECONDS).record(self.clock.since(told));
    }

    async fn reload(&self, task: &Task) -> Result<Task, StoreError> {
        let found = self.read(task.org, task.hold).await?;
        found.ok_or(StoreError::Corrupt("a task that vanished".into()))
    }

    /// Applies a report of an end to a task that had already ended here (contract, "Evidence after the end").
    async fn apply_late(&self, task: Task, report: &Report, told: Instant) -> Result<Task, StoreError> {
        let Some(id) = task.upstream_task.clone() else { return Ok(task) };
        let known = Step::LateRun { task: id, reason: None, poll_in: Duration::ZERO };
        self.came_to_light(task.org, task.hold, known).await?;
        let task = self.reload(&task).await?;
        if task.late == Some(Late::Open)
            && let Some(step) = end(&task, report)?
        {
            self.contents.note_end(task.org, task.hold, report.data()).await?;
            let end = how_ended(&step);
            if self.step_of(&task, step).await? == Applied::Yes {
                self.settled(&task, end, told);
            }
            return Ok(with_data(self.reload(&task).await?, report));
        }
        Ok(self.whole(task).await?.0)
    }

    /// Reopens a task that had ended here although the vendor has it. Returns whether this was unknown before.
    pub async fn came_to_light(&self, org: OrgId, hold: HoldId, step: Step) -> Result<bool, StoreError> {
        let span = settling(&step);
        let news = written(span, self.ledger.step(org, hold, step)).await? == Applied::Yes;
        if news {
            tracing::error!(%org, %hold, "a task came to light after its end: a correction follows when the vendor reports how it ended");
            // The cached terminal state is stale: drop it.
            self.views.forget(org, hold, None);
        }
        Ok(news)
    }

    async fn check_age(&self, task: &Task, reason: &'static str, asking: &Asking) {
        if task.age <= self.max_age {
            return;
        }
        let step = match (task.state, task.late) {
            (State::Running, _) => stated_end(task).unwrap_or(Step::Doubt { reason }),
            (_, Some(Late::Open)) => Step::LateDrop,
            _ => return,
        };
        tracing::error!(hold = %task.hold, org = %task.org, reason, step = step.kind().as_str(), "a task is beyond its maximum age");
        asking.recording.cancel();
        if let Err(error) = self.step_of(task, step).await {
            tracing::warn!(hold = %task.hold, %error, "an old task could not be put in doubt");
        }
    }

    /// Whether the ledger has `task` on this hold.
    pub async fn is_recorded(&self, org: OrgId, hold: HoldId, task: &str) -> bool {
        let row = self.read(org, hold).await;
        row.is_ok_and(|row| row.is_some_and(|row| row.upstream_task.as_deref() == Some(task)))
    }

    /// Settles a task whose create answer already reported its end.
    pub async fn conclude_create(&self, org: OrgId, hold: HoldId, report: &Report) {
        let told = self.clock.now();
        let result = match self.read(org, hold).await {
            Ok(Some(task)) => self.apply(&task, report, told, &Asking::default()).await.map(drop),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tracing::warn!(%hold, %error, "a task that ended in its create answer is left to the reconciler");
        }
    }
}

/// `task` with what the vendor has just said, where that is what is stored.
fn with_data(task: Task, report: &Report) -> Task {
    Task { data: Some(StoredText::Read(report.data().clone())), ..task }
}

fn count_lookup(found: bool) {
    let result = if found { "hit" } else { "miss" };
    metrics::counter!(m::CACHE_LOOKUPS, "cache" => TASKS, "result" => result).increment(1);
}

/// The span of writing `step`.
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
    step: impl Future<Output = Result<Applied, StoreError>>,
) -> Result<Applied, StoreError> {
    let result = span.around(step).await;
    if result.is_err() {
        span.fail("not recorded yet");
    }
    result
}

/// The step by which `report` ends `task`; nothing if the task goes on.
fn end(task: &Task, report: &Report) -> Result<Option<Step>, StoreError> {
    let late = task.late == Some(Late::Open);
    Ok(Some(match report.progress {
        Progress::Running => return Ok(None),
        Progress::Succeeded => {
            let judged = consumption(report.raw, task.raw_consumed, task.list_price, task.factor)
                .ok_or(StoreError::Corrupt("a charge that does not fit".into()))?;
            if let Some(flag) = judged.flag {
                tracing::warn!(hold = %task.hold, task_type = %task.task_type, consumed = %judged.raw, price = %task.list_price, flag, "a charge is unusual");
            }
            let (raw, reported, charge) = (judged.raw, report.raw, judged.charge);
            if late {
                Step::LateSettle { raw, reported, charge }
            } else {
                Step::Settle { task: task.upstream_task.clone(), raw, reported, charge, flag: judged.flag }
            }
        }
        Progress::Failed => {
            // An implausible figure (over 100 × the list price) counts as the list price, as for charges.
            let sane = |raw: Credits| task.list_price.checked_mul(100).is_none_or(|ceiling| raw <= ceiling);
            let loss = report.raw.map_or(Credits::ZERO, |raw| if sane(raw) { raw } else { task.list_price });
            if loss > Credits::ZERO {
                tracing::warn!(hold = %task.hold, consumed = ?report.raw, %loss, "a failed task consumed credits: the platform's loss");
            }
            if late { Step::LateFail { loss } } else { Step::Fail { task: task.upstream_task.clone(), loss } }
        }
    }))
}

/// The end of a task that an operator recorded with a figure, and that the vendor has not confirmed within its maximum age;
/// nothing if there is no such figure.
fn stated_end(task: &Task) -> Option<Step> {
    let raw = task.stated?;
    let judged = consumption(Some(raw), None, task.list_price, task.factor)?;
    Some(Step::Settle {
        task: task.upstream_task.clone(),
        raw: judged.raw,
        // If the vendor never reported a figure, the operator's is the only one.
        reported: task.raw_consumed.is_none().then_some(raw),
        charge: judged.charge,
        flag: Some(STATED),
    })
}

/// Whether a later report of the vendor contradicts the end that is in the ledger.
fn is_news(task: &Task, progress: Progress) -> bool {
    task.late.is_none()
        && match task.state {
            State::WrittenOff => true,
            State::Released => progress == Progress::Succeeded,
            State::Held | State::Running | State::InDoubt | State::Settled => false,
        }
}
