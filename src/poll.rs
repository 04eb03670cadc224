//! Polls the vendor about one task, and settles the task once it has ended there. Status calls and the reconciler share the
//! poller: it makes one poll at a time of each task, within one budget.

mod budget;
mod content;
mod flight;
mod record;
mod view;
mod views;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use moka::sync::Cache;
use tokio_util::task::TaskTracker;

pub use self::budget::PollBudget;
use self::flight::{Asking, Flight};
use self::record::{FORGOTTEN, TOO_OLD};
pub use self::view::{ShownView, View};
pub(crate) use self::view::{created, shown_credits, shown_status, word};
use self::views::Views;
use crate::bulk::{Bulk, Room};
use crate::clock::Clock;
use crate::config::{Config, ms};
use crate::fail_point;
use crate::ids::{HoldId, OrgId};
use crate::metrics as m;
use crate::shares::Shares;
use crate::store::{Contents, Ledger, StoreError, StoredText, Task, TaskText};
use crate::upstream::{Report, StatusError, Upstream};

/// How long a view is cached. A terminal one is then read again, because late evidence may have corrected the task.
const TERMINAL_TTL: Duration = Duration::from_secs(60);

/// The progress of a task is stored at most so often; the progress of so many tasks is remembered as stored.
const NOTED_FOR: Duration = Duration::from_secs(60);
const MOST_NOTED: u64 = 100_000;

/// The name of the cache of task states in metrics.
const TASKS: &str = "tasks";

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
        record::register();
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
        metrics::gauge!(m::ORGS_PACED).set(self.paced().len() as f64);
        metrics::gauge!(m::CACHE_ENTRIES, "cache" => TASKS).set(self.views.count() as f64);
        self.contents.show_pool();
    }

    /// The organisations whose tasks are not polled now, because they have had too many megabytes.
    pub fn paced(&self) -> Vec<OrgId> {
        self.bulk.pace.waiting()
    }

    /// Gives back the memory of states of megabytes that are not kept any more, whether or not anybody calls.
    pub fn forget_old_views(&self) {
        self.views.forget_old();
    }

    /// The budget that limits polls.
    pub fn budget(&self) -> &PollBudget {
        &self.budget
    }

    /// The task as the ledger has it.
    async fn read(&self, org: OrgId, hold: HoldId) -> Result<Option<Task>, StoreError> {
        self.ledger.turn_of(org).await?.task_by_hold(org, hold).await
    }

    /// The state of a task of `org`. An old state is asked for at the vendor if the budget allows. Nothing if `org` has no such task.
    pub async fn view(self: &Arc<Self>, org: OrgId, id: &str) -> Result<Option<ShownView>, StoreError> {
        let at_once = |view| ShownView { view, waited: Duration::ZERO, room: Room::default() };
        let cached = self.views.get(org, id);
        count_lookup(cached.is_some());
        let known = match cached {
            Some(view) if self.is_fresh(&view) => return Ok(Some(at_once(view))),
            Some(view) => view,
            None => match self.load(org, id).await? {
                Some((view, room)) if self.is_fresh(&view) => {
                    return Ok(Some(ShownView { room, ..at_once(view) }));
                }
                Some((view, _)) => view,
                None => return Ok(None),
            },
        };
        // The last known state can be answered at any time, so a caller never waits longer than `wait`.
        let begun = self.clock.now();
        let Some((flight, asking)) = self.refresh(&known, false) else {
            return Ok(Some(at_once(known)));
        };
        let refreshed = tokio::time::timeout(self.wait, flight).await;
        let waited = asking.within(begun, self.clock.now());
        Ok(Some(ShownView { waited, ..at_once(refreshed.ok().flatten().unwrap_or(known)) }))
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

    async fn load(&self, org: OrgId, id: &str) -> Result<Option<(Arc<View>, Room)>, StoreError> {
        let Some(task) = self.find(org, id).await? else { return Ok(None) };
        // Another call may have polled the vendor while we read the ledger.
        if let Some(view) = self.cached(&task).filter(|view| view.tells_of(&task)) {
            return Ok(Some((self.keep(view), Room::default())));
        }
        let (task, room) = self.whole(task).await?;
        Ok(Some((self.remember(task, None, None), room)))
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

    /// Polls a task that the reconciler has claimed, unless a poll of it is in flight or its end is set aside. Returns when
    /// the poll is recorded; `slot` is given back as soon as only the ledger is waited for.
    pub async fn poll<S>(self: &Arc<Self>, task: Task, slot: S) {
        // Tasks of those who have had too many megabytes are due again later, and those whose poll is under way:
        // waiting for a poll that hangs would take the slot of another task's poll.
        if self.flights.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&task.hold)
            || self.ledger.is_set_aside(task.hold)
            || (self.costs_a_poll(&task) && self.bulk.pace.has_to_wait(task.org))
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
}

fn count_lookup(found: bool) {
    let result = if found { "hit" } else { "miss" };
    metrics::counter!(m::CACHE_LOOKUPS, "cache" => TASKS, "result" => result).increment(1);
}
