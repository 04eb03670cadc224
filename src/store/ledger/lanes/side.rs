//! Side lanes: a few connections for the organisations that would keep their lanes waiting, because somebody has locked
//! their rows, because the database refuses what they ask for, or because they have megabytes to write. A side lane works
//! on one organisation at a time and makes one call for it; then the next organisation has its turn. So one organisation's
//! trouble is its own.
//!
//! A lane sends everything of an organisation that is here after it, so that the order is kept, until nothing of it is
//! left. An accepted create needs no row that is locked, and stays in its lane.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::ids::{HoldId, OrgId};
use crate::metrics as m;
use crate::store::db::error::{BatchFailure, StoreError};
use crate::store::ledger::lanes::ReserveItem;
use crate::store::ledger::lanes::answers::{Answers, wake};
use crate::store::ledger::lanes::caller::{BatchCaller, Failed, pause};
use crate::store::ledger::lanes::settings::LaneSettings;
use crate::store::ledger::step::Step;
use crate::store::ledger::step_queue::StepItem;

/// A batch that has failed so often for a reason of the server's is sent one by one.
pub(super) const SPLIT_AFTER: u32 = 2;

/// An item that has failed alone so often for a reason of the server's is set aside.
const ASIDE_AFTER: u32 = 3;

/// An organisation whose items failed for a reason of the server's stays in the side lanes for so long: its next item
/// may fail too.
const SUSPECT_FOR: Duration = Duration::from_secs(60);

/// The organisations in the side lanes. A clone is cheap and shares them.
#[derive(Clone)]
pub(super) struct Side(Arc<SideShared>);

struct SideShared {
    state: Mutex<SideState>,
    changed: Notify,
    shown: metrics::Gauge,
    clock: Clock,
    /// How many side lanes may work on organisations whose last call failed.
    for_troubled: usize,
}

#[derive(Default)]
struct SideState {
    orgs: HashMap<OrgId, SideOrg>,
    /// Organisations that wait for their turn, and whose last call did not fail.
    fresh: VecDeque<OrgId>,
    /// Organisations that wait for their turn after a failed call.
    troubled: VecDeque<OrgId>,
    troubled_at_work: usize,
    /// Whether the last turn was one of these.
    troubled_last: bool,
}

/// An organisation in the side lanes.
#[derive(Default)]
struct SideOrg {
    steps: Pile<StepItem>,
    reserves: Pile<ReserveItem>,
    /// The holds of the steps that are here, those at work included.
    holds: HashMap<HoldId, usize>,
    /// Whether a side lane makes a call for it, and whether an earlier call failed.
    at_work: Option<Troubled>,
    /// Whether its next call is for reservations, if it has any.
    reserves_next: bool,
    /// Calls that failed in a row.
    failures: u32,
    /// Its next call is not made earlier.
    not_before: Option<Instant>,
    suspect_until: Option<Instant>,
}

/// Whether the last call for an organisation failed.
type Troubled = bool;

/// The items of one kind of call.
struct Pile<T> {
    items: VecDeque<T>,
    /// So many items at the front are sent one by one.
    singly: usize,
    /// How often the server has refused the call for a reason of its own.
    refusals: u32,
}

impl<T> Default for Pile<T> {
    fn default() -> Self {
        Self { items: VecDeque::new(), singly: 0, refusals: 0 }
    }
}

impl<T> Pile<T> {
    /// Returns items to the front, in their order.
    fn put_back(&mut self, items: Vec<T>) {
        for item in items.into_iter().rev() {
            self.items.push_front(item);
        }
    }

    /// Puts a failed batch back, or returns its only item if that must be given up.
    fn failed(&mut self, mut items: Vec<T>, failure: BatchFailure, attempts: u32) -> Option<T> {
        let alone = items.len() == 1;
        match failure {
            BatchFailure::Retry | BatchFailure::Locked | BatchFailure::Connection => {}
            BatchFailure::Item if alone => return self.given_up(items.pop()),
            BatchFailure::Item => self.singly = items.len(),
            BatchFailure::Server => {
                self.refusals += 1;
                if alone && self.refusals >= attempts {
                    return self.given_up(items.pop());
                }
                if !alone && self.refusals >= SPLIT_AFTER {
                    self.singly = items.len();
                    self.refusals = 0;
                }
            }
        }
        self.put_back(items);
        None
    }

    fn given_up(&mut self, item: Option<T>) -> Option<T> {
        self.done();
        item
    }

    /// A call came to its end.
    fn done(&mut self) {
        self.singly = self.singly.saturating_sub(1);
        self.refusals = 0;
    }
}

impl SideOrg {
    fn is_empty(&self) -> bool {
        self.steps.items.is_empty() && self.reserves.items.is_empty()
    }

    fn is_suspect(&self, now: Instant) -> bool {
        self.suspect_until.is_some_and(|until| until > now)
    }

    fn add_step(&mut self, item: StepItem) {
        *self.holds.entry(item.hold).or_default() += 1;
        self.steps.items.push_back(item);
    }

    fn forget(&mut self, hold: HoldId) {
        match self.holds.get_mut(&hold) {
            Some(steps @ 2..) => *steps -= 1,
            _ => drop(self.holds.remove(&hold)),
        }
    }

    /// The items of its next call.
    fn next(&mut self, most: usize) -> Batch {
        let reserves = !self.reserves.items.is_empty() && (self.reserves_next || self.steps.items.is_empty());
        self.reserves_next = !reserves;
        if reserves {
            let most = if self.reserves.singly > 0 { 1 } else { most };
            let some = most.min(self.reserves.items.len());
            return Batch::Reserves(self.reserves.items.drain(..some).collect());
        }
        let most = if self.steps.singly > 0 { 1 } else { most };
        let mut batch: Vec<StepItem> = Vec::new();
        while batch.len() < most
            && let Some(item) = self.steps.items.front()
        {
            // A step that is tried again goes alone, so that it is known at once whether it fails.
            let alone = item.aside.is_some() || batch.last().is_some_and(|last| last.aside.is_some());
            // No hold may stand twice in a batch.
            let again = self.holds.get(&item.hold).is_some_and(|steps| *steps > 1)
                && batch.iter().any(|other| other.hold == item.hold);
            if !batch.is_empty() && (again || alone) {
                break;
            }
            batch.extend(self.steps.items.pop_front());
        }
        Batch::Steps(batch)
    }
}

/// The items of one call.
enum Batch {
    Steps(Vec<StepItem>),
    Reserves(Vec<ReserveItem>),
}

enum Pick {
    Turn(OrgId, Batch),
    /// Nobody is ready before this instant.
    Wait(Instant),
    Nobody,
}

impl Side {
    /// `lanes`: how many side lanes there will be.
    pub(super) fn new(lanes: usize, clock: Clock) -> Self {
        let shown = metrics::gauge!(m::LEDGER_SIDE_ORGS);
        shown.set(0);
        let (state, changed) = (Mutex::default(), Notify::new());
        Self(Arc::new(SideShared { state, changed, shown, clock, for_troubled: lanes.div_ceil(2) }))
    }

    fn state(&self) -> MutexGuard<'_, SideState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a new step of this organisation must come here.
    pub(super) fn wants_step(&self, item: &StepItem) -> bool {
        let now = self.0.clock.now();
        self.state().orgs.get(&item.org).is_some_and(|entry| wants(entry, item, now))
    }

    /// Whether a new reservation of this organisation must come here.
    pub(super) fn wants_reserve(&self, org: OrgId) -> bool {
        let now = self.0.clock.now();
        self.state().orgs.get(&org).is_some_and(|entry| counts(entry, now))
    }

    /// Which of the steps of an organisation that wait in its lane go over to the side lanes after `first`, asked in their
    /// order: all but accepted creates, and what comes after these for the same holds.
    pub(super) fn leaves(&self, org: OrgId, first: &[StepItem]) -> impl FnMut(&StepItem) -> bool + use<> {
        let now = self.0.clock.now();
        let state = self.state();
        let entry = state.orgs.get(&org);
        let is_suspect = entry.is_some_and(|entry| entry.is_suspect(now));
        let mut gone: HashSet<HoldId> = first.iter().map(|item| item.hold).collect();
        gone.extend(entry.into_iter().flat_map(|entry| entry.holds.keys()));
        let mut stay = HashSet::new();
        move |item| {
            let is_light = matches!(item.step, Step::Run { .. }) && !is_suspect && !gone.contains(&item.hold);
            if is_light || stay.contains(&item.hold) {
                stay.insert(item.hold);
                return false;
            }
            gone.insert(item.hold);
            true
        }
    }

    pub(super) fn push_step(&self, item: StepItem) {
        self.with(item.org, |entry| entry.add_step(item));
    }

    /// Adds all of it at once, so that nothing can have come to its end before what belongs behind it is here.
    pub(super) fn push(&self, org: OrgId, steps: Vec<StepItem>, reserves: Vec<ReserveItem>) {
        self.with(org, |entry| {
            steps.into_iter().for_each(|item| entry.add_step(item));
            entry.reserves.items.extend(reserves);
        });
    }

    pub(super) fn push_reserve(&self, item: ReserveItem) {
        self.with(item.new.org, |entry| entry.reserves.items.push_back(item));
    }

    fn with(&self, org: OrgId, add: impl FnOnce(&mut SideOrg)) {
        let mut state = self.state();
        let entry = state.orgs.entry(org).or_default();
        let idle = entry.is_empty() && entry.at_work.is_none();
        add(entry);
        if idle && !entry.is_empty() {
            state.fresh.push_back(org);
        }
        self.show(&state);
        drop(state);
        self.0.changed.notify_waiters();
    }

    fn show(&self, state: &SideState) {
        self.0
            .shown
            .set(state.orgs.values().filter(|entry| !entry.is_empty() || entry.at_work.is_some()).count()
                as f64);
    }

    /// Whether nothing waits here and nothing is at work.
    pub(super) fn is_empty(&self) -> bool {
        self.state().orgs.values().all(|entry| entry.is_empty() && entry.at_work.is_none())
    }

    /// Returns when nothing waits here and nothing is at work.
    pub(super) async fn empty(&self) {
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            if self.is_empty() {
                return;
            }
            changed.await;
        }
    }

    fn pick(&self, most: usize) -> Pick {
        let now = self.0.clock.now();
        let mut guard = self.state();
        let state = &mut *guard;
        state.orgs.retain(|_, entry| !entry.is_empty() || entry.at_work.is_some() || entry.is_suspect(now));
        let mut soonest: Option<Instant> = None;
        let ready =
            |entry: Option<&SideOrg>, soonest: &mut Option<Instant>| match entry.and_then(|e| e.not_before) {
                Some(at) if at > now => {
                    *soonest = Some(soonest.map_or(at, |other| other.min(at)));
                    false
                }
                _ => true,
            };
        // Those in trouble have a turn after each turn of others, and at most half of the side lanes.
        let due = (state.troubled_at_work < self.0.for_troubled)
            .then(|| state.troubled.iter().position(|org| ready(state.orgs.get(org), &mut soonest)))
            .flatten();
        let their_turn = state.fresh.is_empty() || (state.troubled_at_work == 0 && !state.troubled_last);
        let (org, troubled) = match due.filter(|_| their_turn) {
            Some(place) => (state.troubled.remove(place), true),
            None => (state.fresh.pop_front(), false),
        };
        let Some(org) = org else { return soonest.map_or(Pick::Nobody, Pick::Wait) };
        let Some(entry) = state.orgs.get_mut(&org) else { return Pick::Nobody };
        entry.at_work = Some(troubled);
        state.troubled_last = troubled;
        state.troubled_at_work += usize::from(troubled);
        Pick::Turn(org, entry.next(most))
    }

    /// The next call to make; nothing if `drained` comes first.
    async fn next(&self, most: usize, drained: &CancellationToken) -> Option<(OrgId, Batch)> {
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            let pause = match self.pick(most) {
                Pick::Turn(org, batch) => return Some((org, batch)),
                Pick::Wait(until) => Some(until),
                Pick::Nobody => None,
            };
            let pause = async {
                match pause {
                    Some(until) => tokio::time::sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changed => {}
                () = pause => {}
                () = drained.cancelled() => return None,
            }
        }
    }

    /// Ends a turn. `settle` says what has become of the items, and returns the failure of the call, if it failed. All of
    /// it at once, so that nothing is ever neither here nor answered.
    fn end(&self, org: OrgId, settle: impl FnOnce(&mut SideOrg) -> Option<BatchFailure>) {
        let now = self.0.clock.now();
        let mut guard = self.state();
        let state = &mut *guard;
        let entry = state.orgs.entry(org).or_default();
        let failure = settle(entry);
        if let Some(troubled) = entry.at_work.take() {
            state.troubled_at_work = state.troubled_at_work.saturating_sub(usize::from(troubled));
        }
        entry.failures = if failure.is_some() { entry.failures.saturating_add(1) } else { 0 };
        entry.not_before = match failure {
            // It has waited for the lock already.
            None | Some(BatchFailure::Locked | BatchFailure::Item) => None,
            Some(BatchFailure::Retry | BatchFailure::Connection | BatchFailure::Server) => {
                Some(now + pause(entry.failures))
            }
        };
        if failure == Some(BatchFailure::Server) {
            entry.suspect_until = Some(now + SUSPECT_FOR);
        }
        let queue = if entry.failures > 0 { &mut state.troubled } else { &mut state.fresh };
        if !entry.is_empty() {
            queue.push_back(org);
        }
        self.show(state);
        drop(guard);
        self.0.changed.notify_waiters();
    }
}

/// Whether what else its organisation sends must come here: while something of it is here, and for a while after the
/// server has refused something of it.
fn counts(entry: &SideOrg, now: Instant) -> bool {
    !entry.is_empty() || entry.at_work.is_some() || entry.is_suspect(now)
}

fn wants(entry: &SideOrg, item: &StepItem, now: Instant) -> bool {
    let light = matches!(item.step, Step::Run { .. });
    counts(entry, now) && (!light || entry.is_suspect(now) || entry.holds.contains_key(&item.hold))
}

/// Works until `drained`: all side lanes share the organisations.
pub(super) struct SideWorker {
    pub(super) side: Side,
    pub(super) caller: BatchCaller,
    pub(super) answers: Answers,
    pub(super) settings: LaneSettings,
    pub(super) clock: Clock,
    /// Cancelled when all lanes have ended.
    pub(super) drained: CancellationToken,
}

impl SideWorker {
    pub(super) async fn run(mut self) {
        while let Some((org, batch)) = self.side.next(self.settings.max_batch, &self.drained).await {
            match batch {
                Batch::Steps(items) => self.steps(org, items).await,
                Batch::Reserves(items) => self.reserves(org, items).await,
            }
        }
    }

    async fn steps(&mut self, org: OrgId, items: Vec<StepItem>) {
        let holds: Vec<HoldId> = items.iter().map(|item| item.hold).collect();
        match self.caller.transition(&items).await {
            Ok(outcomes) => {
                let busy = self.answers.outcomes(items, outcomes);
                self.side.end(org, |entry| {
                    holds.into_iter().for_each(|hold| entry.forget(hold));
                    busy.iter().for_each(|item| *entry.holds.entry(item.hold).or_default() += 1);
                    let failure = (!busy.is_empty()).then_some(BatchFailure::Locked);
                    entry.steps.done();
                    entry.steps.put_back(busy);
                    failure
                });
            }
            Err(Failed { failure, error, .. }) => {
                let again = items.iter().any(|item| item.aside.is_some());
                let attempts = if again { 1 } else { ASIDE_AFTER };
                self.side.end(org, |entry| {
                    if let (Some(item), Some(error)) = (entry.steps.failed(items, failure, attempts), error) {
                        entry.forget(item.hold);
                        if failure != BatchFailure::Item {
                            self.answers.set_aside.keep(item, &error);
                        } else if let Some(item) = self.answers.refused(item, &error) {
                            *entry.holds.entry(item.hold).or_default() += 1;
                            entry.steps.put_back(vec![item]);
                        }
                    }
                    Some(failure)
                });
            }
        }
    }

    async fn reserves(&mut self, org: OrgId, mut items: Vec<ReserveItem>) {
        // A reservation past its deadline is refused before it enters a batch, unless it may have been granted already.
        let now = self.clock.now();
        items.retain(|item| {
            let wanted = item.is_wanted(now);
            if !wanted {
                self.answers.active().remove(&item.new.hold);
            }
            wanted
        });
        if items.is_empty() {
            self.side.end(org, |entry| {
                entry.reserves.singly = entry.reserves.singly.saturating_sub(1);
                None
            });
            return;
        }
        self.answers.active().extend(items.iter().map(|item| item.new.hold));
        match self.caller.reserve(&items).await {
            Ok(verdicts) => {
                let (answers, busy) = self.answers.verdicts(items, verdicts);
                // A guard that comes back queues a step, which must happen before the turn ends.
                wake(answers);
                self.side.end(org, |entry| {
                    let failure = (!busy.is_empty()).then_some(BatchFailure::Locked);
                    entry.reserves.done();
                    entry.reserves.put_back(busy);
                    failure
                });
            }
            Err(Failed { failure, error, maybe_done }) => {
                items.iter_mut().for_each(|item| item.resend |= maybe_done);
                self.side.end(org, |entry| {
                    match (entry.reserves.failed(items, failure, ASIDE_AFTER), error) {
                        (Some(item), Some(error)) if failure == BatchFailure::Item => {
                            let refused = StoreError::Refused(error.to_string().into());
                            self.answers.without_verdict(item, refused);
                        }
                        (Some(item), Some(error)) => self.answers.unforeseen(item, &error),
                        _ => {}
                    }
                    Some(failure)
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ledger::step_queue::StepQueue;

    #[test]
    fn accepted_creates_stay_in_their_lane_and_what_comes_after_them_too() {
        let (side, org) = (Side::new(1, Clock), OrgId::generate());
        let [accepted, doubted, given_up, swept] = std::array::from_fn(|_| HoldId::generate());
        let queue = StepQueue::new(Vec::new());
        let item = |hold, step| queue.item(org, hold, None, step, tokio::sync::oneshot::channel().0);
        let run = || Step::Run { task: "t".into(), raw: None, poll_in: Duration::ZERO };
        let doubt = || Step::Doubt { reason: "no answer" };
        side.push_step(item(doubted, doubt()));
        let mut leaves = side.leaves(org, &[item(given_up, Step::Abandon)]);
        let waiting = [
            (item(accepted, run()), false),
            (item(accepted, doubt()), false),
            (item(doubted, run()), true),
            (item(given_up, run()), true),
            (item(swept, Step::Sweep), true),
            (item(swept, run()), true),
            (item(accepted, run()), false),
        ];
        let found = waiting.each_ref().map(|(item, _)| leaves(item));
        assert_eq!(found, waiting.each_ref().map(|(_, expected)| *expected));
    }
}
