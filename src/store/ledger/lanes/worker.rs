//! The worker of one lane: its queues, its batches, and how it repeats failed calls.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::ids::OrgId;
use crate::store::db::error::{BatchFailure, StoreError};
use crate::store::ledger::lanes::ReserveItem;
use crate::store::ledger::lanes::answers::{Answer, Answers, wake};
use crate::store::ledger::lanes::caller::{BatchCaller, Failed, pause};
use crate::store::ledger::lanes::line::OrgQueue;
use crate::store::ledger::lanes::side::{SPLIT_AFTER, Side};
use crate::store::ledger::step::Step;
use crate::store::ledger::step_queue::{StepItem, Work};

/// Wakes up to 16 callers itself; more are woken by a spawned task, so that the next batch can start.
const FEW: usize = 16;

pub(super) struct Worker {
    pub(super) caller: BatchCaller,
    pub(super) answers: Answers,
    /// Takes over the organisations that would keep this lane waiting.
    pub(super) side: Side,
    pub(super) max_batch: usize,
    pub(super) clock: Clock,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    pub(super) reserves: mpsc::Receiver<ReserveItem>,
    pub(super) work: mpsc::UnboundedReceiver<Work>,
    /// What was received and waits for its batch.
    pub(super) waiting: OrgQueue<ReserveItem>,
    pub(super) steps: OrgQueue<StepItem>,
    /// Until when these steps wait for company, if all of them may.
    pub(super) patience: Option<Instant>,
}

/// So long ends of tasks wait for company, or until there are so many: a transaction costs as much as the ends of dozens of
/// tasks in it.
const COMPANY_WAIT: Duration = Duration::from_millis(20);
const COMPANY: usize = 64;

/// A batch, and how often the server has refused it.
type Attempt<T> = (Vec<T>, u32);

impl Worker {
    pub(super) async fn run(mut self) {
        loop {
            if self.waiting.is_empty() && (self.steps.is_empty() || self.waits_for_company()) {
                self.more().await;
            }
            self.receive();
            if !self.waits_for_company() {
                self.patience = None;
                let steps = self.next_steps();
                self.take_steps(steps).await;
            }

            self.receive();
            let batch = self.next_reserves();
            let idle = batch.is_empty() && self.steps.is_empty() && self.waiting.is_empty();
            self.reserve_batch(batch).await;
            if idle
                && self.stop.is_cancelled()
                && self.side.is_empty()
                && self.work.is_empty()
                && self.reserves.is_empty()
            {
                return;
            }
        }
    }

    /// Waits for the next item, the end of the lane, or the end of the patience.
    async fn more(&mut self) {
        let (stop, side, patience) = (self.stop.clone(), self.side.clone(), self.patience);
        let ended = async {
            stop.cancelled().await;
            // A hold that a side lane grants to nobody comes back here.
            side.empty().await;
        };
        let waited = async {
            match patience {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(work) = self.work.recv() => self.take(work),
            Some(item) = self.reserves.recv() => self.enter(item),
            () = ended => {}
            () = waited => {}
        }
    }

    fn waits_for_company(&self) -> bool {
        let patient = self.patience.is_some_and(|until| self.clock.now() < until);
        patient && self.steps.len() < COMPANY && !self.stop.is_cancelled()
    }

    /// Takes everything out of the channels, so that organisations take turns and not calls.
    fn receive(&mut self) {
        while let Ok(work) = self.work.try_recv() {
            self.take(work);
        }
        while let Ok(item) = self.reserves.try_recv() {
            self.enter(item);
        }
    }

    fn take(&mut self, work: Work) {
        match work {
            Work::Step(item) => self.queue(item),
            Work::Sweep(candidates) => {
                for (org, hold, terms) in candidates {
                    if self.answers.active().contains(&hold) {
                        continue;
                    }
                    let (reply, _) = oneshot::channel();
                    let queue = &self.answers.queue;
                    if let Some(item) = queue.item_once(org, hold, Some(terms), Step::Sweep, reply) {
                        self.queue(item);
                    }
                }
            }
        }
    }

    fn queue(&mut self, item: StepItem) {
        // What comes after an accepted create that is still here stays behind it.
        if self.side.wants_step(&item) && !self.steps.any(item.org, |earlier| earlier.hold == item.hold) {
            self.side.push_step(item);
        } else {
            let patient = item.step.kind().ends_what_was_accepted();
            self.patience = match self.patience {
                None if patient && self.steps.is_empty() => Some(self.clock.now() + COMPANY_WAIT),
                until => until.filter(|_| patient),
            };
            self.steps.push(item.org, item);
        }
    }

    fn enter(&mut self, item: ReserveItem) {
        if self.side.wants_reserve(item.new.org) {
            self.side.push_reserve(item);
        } else {
            self.waiting.push(item.new.org, item);
        }
    }

    /// Hands organisations over to the side lanes: the `items` of a batch, with what is `left` of it and what waits behind
    /// them. An accepted create stays, and so does what comes after it for the same hold.
    fn hand_over_steps(&mut self, items: Vec<StepItem>, left: &mut VecDeque<Attempt<StepItem>>) {
        for (org, mut items) in by_org(items, |item| item.org) {
            let mut leaves = self.side.leaves(org, &items);
            take_out(left, |item| item.org == org && leaves(item), &mut items);
            items.extend(self.steps.remove(org, leaves));
            self.side.push(org, items, self.waiting.remove(org, |_| true));
        }
    }

    fn hand_over_reserves(&mut self, items: Vec<ReserveItem>, left: &mut VecDeque<Attempt<ReserveItem>>) {
        for (org, mut items) in by_org(items, |item| item.new.org) {
            take_out(left, |item| item.new.org == org, &mut items);
            items.extend(self.waiting.remove(org, |_| true));
            let steps = self.steps.remove(org, self.side.leaves(org, &[]));
            self.side.push(org, steps, items);
        }
    }

    fn next_reserves(&mut self) -> Vec<ReserveItem> {
        let mut batch = self.waiting.take(self.max_batch, |_| true);
        // A reservation past its deadline is refused before it enters a batch, never afterwards.
        let now = self.clock.now();
        batch.retain(|item| item.is_wanted(now));
        batch
    }

    async fn reserve_batch(&mut self, items: Vec<ReserveItem>) {
        self.answers.active().extend(items.iter().map(|item| item.new.hold));
        let mut batches: VecDeque<Attempt<ReserveItem>> = VecDeque::from([(items, 0)]);
        let mut failures = 0;
        while let Some((mut items, refusals)) = batches.pop_front() {
            if items.is_empty() {
                continue;
            }
            let Failed { failure, error, maybe_done } = match self.caller.reserve(&items).await {
                Ok(verdicts) => {
                    let (answers, busy) = self.answers.verdicts(items, verdicts);
                    self.wake(answers);
                    self.hand_over_reserves(busy, &mut batches);
                    continue;
                }
                Err(failed) => failed,
            };
            items.iter_mut().for_each(|item| item.resend |= maybe_done);
            match failure {
                BatchFailure::Item => {
                    if let ([_], Some(error)) = (&*items, &error) {
                        let refused = StoreError::Refused(error.to_string().into());
                        items
                            .into_iter()
                            .for_each(|item| self.answers.without_verdict(item, refused.clone()));
                    } else {
                        items.into_iter().rev().for_each(|item| batches.push_front((vec![item], 0)));
                    }
                    continue;
                }
                BatchFailure::Locked | BatchFailure::Server if refusals + 1 >= SPLIT_AFTER => {
                    self.hand_over_reserves(items, &mut batches);
                    continue;
                }
                BatchFailure::Locked | BatchFailure::Server => batches.push_front((items, refusals + 1)),
                BatchFailure::Retry | BatchFailure::Connection => batches.push_front((items, refusals)),
            }
            self.give_up_late(&mut batches);
            failures += 1;
            tokio::time::sleep(pause(failures)).await;
        }
    }

    /// Drops reservations that were certainly not granted and that nobody waits for any more.
    fn give_up_late(&self, batches: &mut VecDeque<Attempt<ReserveItem>>) {
        let now = self.clock.now();
        for (items, _) in batches {
            items.retain(|item| {
                let wanted = item.is_wanted(now);
                if !wanted {
                    self.answers.active().remove(&item.new.hold);
                }
                wanted
            });
        }
    }

    /// Waking hundreds of callers takes as long as sending the next batch.
    fn wake(&self, answers: Vec<Answer>) {
        if answers.len() > FEW {
            self.tasks.spawn(async move { wake(answers) });
        } else {
            wake(answers);
        }
    }

    /// Takes one batch of the queued steps. A second step for the same hold waits for the next batch, so that the order
    /// is kept.
    fn next_steps(&mut self) -> Vec<StepItem> {
        let mut seen = HashSet::new();
        self.steps.take(self.max_batch, |item| seen.insert(item.hold))
    }

    async fn take_steps(&mut self, items: Vec<StepItem>) {
        let mut batches: VecDeque<Attempt<StepItem>> = VecDeque::from([(items, 0)]);
        let mut failures = 0;
        while let Some((items, refusals)) = batches.pop_front() {
            if items.is_empty() {
                continue;
            }
            let Failed { failure, error, .. } = match self.caller.transition(&items).await {
                Ok(outcomes) => {
                    let busy = self.answers.outcomes(items, outcomes);
                    self.hand_over_steps(busy, &mut batches);
                    continue;
                }
                Err(failed) => failed,
            };
            match failure {
                BatchFailure::Item => {
                    if let ([_], Some(error)) = (&*items, &error) {
                        let follow: Vec<StepItem> =
                            items.into_iter().filter_map(|item| self.answers.refused(item, error)).collect();
                        batches.push_front((follow, 0));
                    } else {
                        items.into_iter().rev().for_each(|item| batches.push_front((vec![item], 0)));
                    }
                    continue;
                }
                BatchFailure::Locked | BatchFailure::Server if refusals + 1 >= SPLIT_AFTER => {
                    self.hand_over_steps(items, &mut batches);
                    continue;
                }
                BatchFailure::Locked | BatchFailure::Server => batches.push_front((items, refusals + 1)),
                BatchFailure::Retry | BatchFailure::Connection => batches.push_front((items, refusals)),
            }
            failures += 1;
            tokio::time::sleep(pause(failures)).await;
        }
    }
}

/// Moves the items that `which` names out of the batches, in their order.
fn take_out<T>(batches: &mut VecDeque<Attempt<T>>, mut which: impl FnMut(&T) -> bool, out: &mut Vec<T>) {
    for (items, _) in batches {
        out.extend(items.extract_if(.., |item| which(item)));
    }
}

/// The items of each organisation, in their order.
fn by_org<T>(items: Vec<T>, org: impl Fn(&T) -> OrgId) -> Vec<(OrgId, Vec<T>)> {
    let mut found: Vec<(OrgId, Vec<T>)> = Vec::new();
    for item in items {
        let own = org(&item);
        match found.iter_mut().find(|(other, _)| *other == own) {
            Some((_, items)) => items.push(item),
            None => found.push((own, vec![item])),
        }
    }
    found
}

/// Tries the steps that are set aside again, each `interval`, until `stop`.
pub(super) async fn try_again(answers: Answers, side: Side, interval: Duration, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = stop.cancelled() => break,
        }
        answers.set_aside.take().into_iter().for_each(|item| side.push_step(item));
    }
    for item in answers.set_aside.take() {
        tracing::error!(hold = %item.hold, org = %item.org, step = item.step.kind().as_str(), "a step that is set aside is left to the next gateway");
    }
}
