//! Creates without an idempotency key that are unanswered although their callers have gone, and their repetitions: an HTTP client
//! gives up at a time-out of its own and sends the create again, perhaps to another gateway. The repetition waits for the answer
//! to the first, and nothing is bought twice (contract, "The life of a task").
//!
//! That a caller has gone is noted in the database, where every gateway's reservations look. A repetition can be faster than the
//! note, and a gateway that is killed leaves none. So a reservation that meets an unanswered create, whose caller is not here, first
//! asks that caller's gateway for a sign of life: it answers when its notes are written, or its lease lapses and the create becomes a
//! doubt. A create whose caller has gone before it is granted is noted under the balance row, where its repetition looks again, unless
//! that was faster: then it gives way.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::replay::again;
use crate::bulk::Bulk;
use crate::call::{Attended, Peer};
use crate::clock::Clock;
use crate::error::{Answer, GatewayError};
use crate::ids::{GatewayId, HoldId, OrgId, UserId};
use crate::store::{Database, Fingerprint, Ledger, Sign, State, StoreError, StoredText, Task};

/// How long a gateway that is asked for a sign of life gives its connections to report what has already arrived.
const SEEN_WITHIN: Duration = Duration::from_millis(10);

/// How long a sign of life is waited for until it is looked for again: at first, and in the end.
const FIRST_SIGN: Duration = Duration::from_millis(10);
const LAST_SIGN: Duration = Duration::from_millis(500);

/// The most notes in one statement, and the most that wait for it. Further ones are not written, which is logged.
const TOGETHER: usize = 256;
const MOST_NOTES: usize = 20_000;

/// The time-out of a statement that writes notes; the time until it is tried again; how long a note is tried.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
const WRITE_AGAIN: Duration = Duration::from_millis(50);
const GIVE_UP: Duration = Duration::from_secs(60);

/// How long a repetition waits until it looks for the outcome again: at first, and in the end.
const FIRST_LOOK: Duration = Duration::from_millis(50);
const LAST_LOOK: Duration = Duration::from_secs(1);

/// How many other creates a repetition looks for an answer at, if the answer to the one that it waited for is given already.
const MOST_OTHERS: usize = 16;

/// How often, and how long apart, the text of the vendor's answer is looked for, which is stored after the task.
const TEXT_LOOKS: u32 = 10;
const TEXT_LOOK: Duration = Duration::from_millis(100);

/// Shared by the reserve stage, which attaches repetitions, and the forward stage, whose callers may leave.
#[derive(Debug)]
pub struct Unanswered {
    pub ledger: Ledger,
    /// The pool that notes are written through, by one statement at a time: callers may have filled their own.
    pub database: Database,
    /// Counts the answers to repetitions.
    pub bulk: Bulk,
    /// Runs the task that writes notes; a stop of the gateway waits for it.
    pub tasks: TaskTracker,
    /// Time-out after which a repetition is told that the outcome is unknown, as the first caller is.
    pub client_deadline: Duration,
    /// Cancelled when the gateway is to stop.
    pub stop: CancellationToken,
    /// How long after `stop` a repetition may still wait.
    pub last_wait: Duration,
    pub clock: Clock,
    pub book: InHand,
}

/// What this gateway has in hand.
#[derive(Debug, Default)]
pub struct InHand(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    /// Creates without a key whose callers wait here.
    attended: HashMap<HoldId, (OrgId, Peer)>,
    /// Notes that are to be written.
    notes: VecDeque<GoneNote>,
    /// Whether a task writes notes.
    writing: bool,
    /// How many notes there ever were, and how many of them are written or given up.
    begun: u64,
    done: u64,
    /// Waits for outcomes; repetitions of one create share a wait.
    waits: HashMap<HoldId, WeakShared<BoxFuture<'static, ()>>>,
}

/// A note that a caller has gone.
#[derive(Debug)]
struct GoneNote {
    org: OrgId,
    hold: HoldId,
    left: Instant,
}

/// The caller of a create, while it waits for its answer. Dropped before the answer, it notes that the caller has gone.
#[derive(Debug)]
#[must_use = "the caller has gone when this is dropped"]
pub struct Attendance {
    creates: Arc<Unanswered>,
    org: OrgId,
    hold: HoldId,
    present: bool,
}

impl Attendance {
    /// Nothing is to be noted any more: the create is given up, or it is noted already that its caller has gone.
    pub fn is_over(&mut self) {
        if std::mem::take(&mut self.present) {
            self.creates.entries().attended.remove(&self.hold);
        }
    }
}

impl Attended for Attendance {
    fn leaves(&mut self) {
        if std::mem::take(&mut self.present) {
            self.creates.leave(self.org, self.hold);
        }
    }

    fn got_answer(mut self: Box<Self>) {
        let caller = self.creates.entries().attended.get(&self.hold).map(|(_, caller)| caller.clone());
        // Perhaps the server has not been told yet that it has closed its connection.
        if caller.is_some_and(|caller| caller.is_half_closed()) {
            self.leaves();
        }
        self.is_over();
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.leaves();
    }
}

impl Unanswered {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.book.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The caller of a new create without an idempotency key, which waits from now on.
    pub fn attend(self: &Arc<Self>, org: OrgId, hold: HoldId, caller: &Peer) -> Attendance {
        self.entries().attended.insert(hold, (org, caller.clone()));
        Attendance { creates: self.clone(), org, hold, present: true }
    }

    /// Waits until all callers that have left one of the unanswered creates of this user with this body are noted. An error: that
    /// cannot be known in the time that the caller waits.
    pub async fn are_noted(
        &self,
        org: OrgId,
        user: UserId,
        body: Fingerprint,
        arrived: Instant,
    ) -> Result<(), GatewayError> {
        let patience = self.client_deadline.saturating_sub(self.clock.since(arrived));
        let mut last = None;
        let noted = self.until_noted(org, user, body, &mut last);
        match tokio::time::timeout(patience, noted).await {
            Ok(noted) => Ok(noted?),
            Err(_) => Err(last.map_or(GatewayError::Unavailable(StoreError::Timeout), |reference| {
                GatewayError::OutcomeUnknown { reference }
            })),
        }
    }

    /// The same, without an end; `last`: a create whose gateway has not answered.
    async fn until_noted(
        &self,
        org: OrgId,
        user: UserId,
        body: Fingerprint,
        last: &mut Option<HoldId>,
    ) -> Result<(), StoreError> {
        let elsewhere = self.elsewhere(org, user, body).await?;
        let owners: BTreeSet<GatewayId> = elsewhere.iter().map(|(_, owner)| *owner).collect();
        if owners.is_empty() {
            return Ok(());
        }
        let owners = Vec::from_iter(owners);
        let questions = self.ledger.turn_of(org).await?.ask_for_life(&owners).await?;
        let mut pause = FIRST_SIGN;
        loop {
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(LAST_SIGN);
            let signs = self.ledger.turn_of(org).await?.signs_of_life(&questions).await?;
            let still = self.elsewhere(org, user, body).await?;
            let sign = |owner| signs.iter().find(|(gateway, _)| *gateway == owner).map(|(_, sign)| *sign);
            let silent = elsewhere.iter().find(|create| match sign(create.1) {
                Some(Sign::Answered) => false,
                // It becomes a doubt.
                Some(Sign::Lapsed) => still.contains(create),
                // Also where the create has been answered: whether its caller was there is not known.
                None => true,
            });
            let Some((hold, _)) = silent else { return Ok(()) };
            *last = Some(*hold);
        }
    }

    /// The unanswered creates of this user with this body whose callers are not known to be here.
    async fn elsewhere(
        &self,
        org: OrgId,
        user: UserId,
        body: Fingerprint,
    ) -> Result<Vec<(HoldId, GatewayId)>, StoreError> {
        let mut creates = self.ledger.turn_of(org).await?.unanswered(org, user, body).await?;
        let entries = self.entries();
        let is_here =
            |hold: &HoldId| entries.attended.get(hold).is_some_and(|(_, caller)| !caller.is_half_closed());
        creates.retain(|(hold, _)| !is_here(hold));
        Ok(creates)
    }

    /// Has notes written of all callers that have closed their connections, also where the server has not been told of that.
    fn note_closed(self: &Arc<Self>) {
        let entries = self.entries();
        let callers = Vec::from_iter(
            entries.attended.iter().map(|(hold, (org, caller))| (*org, *hold, caller.clone())),
        );
        drop(entries);
        // The system is asked about each: not while others wait for the entries.
        for (org, hold, caller) in callers {
            if caller.is_half_closed() {
                self.leave(org, hold);
            }
        }
    }

    /// Gives other gateways a sign of life if they ask for it: when the notes of all callers that have left are written.
    pub async fn show_life(self: &Arc<Self>) -> Result<(), StoreError> {
        let gateway = self.ledger.gateway();
        let Some(asked) = self.database.asked_for_life(gateway).await? else { return Ok(()) };
        tokio::time::sleep(SEEN_WITHIN).await;
        self.note_closed();
        let begun = self.entries().begun;
        while self.entries().done < begun {
            tokio::time::sleep(SEEN_WITHIN).await;
        }
        self.database.show_life(gateway, asked).await
    }

    /// Notes that the caller of a create has gone, if it was there: by the task that writes notes, which is started if there is none.
    fn leave(self: &Arc<Self>, org: OrgId, hold: HoldId) {
        let mut entries = self.entries();
        // Both at once: in between, a sign of life would say that all who have left are noted.
        if entries.attended.remove(&hold).is_none() {
            return;
        }
        // Without a runtime the process ends, and with it the create: it becomes a doubt.
        let Ok(runtime) = Handle::try_current() else { return };
        if entries.notes.len() >= MOST_NOTES {
            tracing::error!(%org, %hold, "too many callers have gone at once: that this one has is not noted, and its repetition would be a second purchase");
            return;
        }
        entries.begun = entries.begun.saturating_add(1);
        entries.notes.push_back(GoneNote { org, hold, left: self.clock.now() });
        if !std::mem::replace(&mut entries.writing, true) {
            self.tasks.spawn_on(self.clone().write_notes(), &runtime);
        }
    }

    /// Writes notes until there are none.
    async fn write_notes(self: Arc<Self>) {
        while let Some(some) = self.next_notes() {
            let creates: Vec<(OrgId, HoldId)> = some.iter().map(|note| (note.org, note.hold)).collect();
            let written =
                tokio::time::timeout(WRITE_TIMEOUT, self.database.note_gone_callers(&creates)).await;
            let Err(error) = written.unwrap_or(Err(StoreError::Timeout)) else {
                self.have_ended(creates.len());
                continue;
            };
            let (given_up, again): (Vec<GoneNote>, Vec<GoneNote>) =
                some.into_iter().partition(|note| self.clock.since(note.left) > GIVE_UP);
            tracing::warn!(%error, again = again.len(), given_up = given_up.len(), "that callers have gone is not noted yet");
            self.have_ended(given_up.len());
            self.entries().notes.extend(again);
            tokio::time::sleep(WRITE_AGAIN).await;
        }
    }

    /// So many notes are written or given up.
    fn have_ended(&self, notes: usize) {
        let mut entries = self.entries();
        entries.done = entries.done.saturating_add(u64::try_from(notes).unwrap_or(u64::MAX));
    }

    /// The notes for the next statement. None: the task ends.
    fn next_notes(&self) -> Option<Vec<GoneNote>> {
        let mut entries = self.entries();
        let some = entries.notes.len().min(TOGETHER);
        entries.writing = some > 0;
        (some > 0).then(|| entries.notes.drain(..some).collect())
    }

    /// The answer for a repetition of the create `earlier` that arrived at `arrived`, and whose answer it is. If the callers of several
    /// such creates have gone, as many repetitions get as many answers: each answer is given once before any is given twice.
    ///
    /// Nothing: that create was refused or not sent, nothing was bought, and the repetition may create a task. (What the first caller
    /// would have been told is not stored, and may not hold any more.)
    pub async fn answer(
        self: &Arc<Self>,
        (org, user, body): (OrgId, UserId, Fingerprint),
        earlier: HoldId,
        connection: &Peer,
        arrived: Instant,
    ) -> Option<(HoldId, Result<Answer, GatewayError>)> {
        let answer = self.answer_to(org, earlier, arrived).await?;
        if answer.is_err() || connection.is_half_closed() || self.forget(org, earlier).await {
            return Some((earlier, answer));
        }
        for _ in 0..MOST_OTHERS {
            let other = async { self.ledger.turn_of(org).await?.left_alone(org, user, body).await };
            let Ok::<_, StoreError>(Some(other)) = other.await else { break };
            let Some(Ok(answer)) = self.answer_to(org, other, arrived).await else { break };
            if self.forget(org, other).await {
                return Some((other, Ok(answer)));
            }
        }
        Some((earlier, answer))
    }

    /// The answer to this create.
    async fn answer_to(
        self: &Arc<Self>,
        org: OrgId,
        earlier: HoldId,
        arrived: Instant,
    ) -> Option<Result<Answer, GatewayError>> {
        let unknown = Some(Err(GatewayError::OutcomeUnknown { reference: earlier }));
        let patience = self.client_deadline.saturating_sub(self.clock.since(arrived));
        tokio::select! {
            biased;
            () = self.until_recorded(org, earlier) => {}
            () = tokio::time::sleep(patience) => return unknown,
            () = self.last_call() => return unknown,
        }
        let Ok(found) = self.outcome(org, earlier).await else { return unknown };
        let (task, first) = found?;
        match (task.state, &task.upstream_task) {
            (_, Some(_)) => Some(again(task, first, &self.bulk, self.ledger.readers()).await),
            (State::Released | State::WrittenOff, None) => None,
            (State::Held | State::InDoubt | State::Running | State::Settled, None) => unknown,
        }
    }

    /// Completes when the outcome of a create is recorded.
    fn until_recorded(self: &Arc<Self>, org: OrgId, hold: HoldId) -> Shared<BoxFuture<'static, ()>> {
        let mut entries = self.entries();
        if let Some(wait) = entries.waits.get(&hold).and_then(WeakShared::upgrade) {
            return wait;
        }
        let creates = self.clone();
        let wait = async move {
            let mut pause = FIRST_LOOK;
            while creates.is_held(org, hold).await {
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2).min(LAST_LOOK);
            }
        };
        let wait = wait.boxed().shared();
        entries.waits.retain(|_, other| other.upgrade().is_some_and(|other| other.peek().is_none()));
        if let Some(weak) = wait.downgrade() {
            entries.waits.insert(hold, weak);
        }
        wait
    }

    /// Whether the create is HELD, as far as is known.
    async fn is_held(&self, org: OrgId, hold: HoldId) -> bool {
        let held = async { self.ledger.turn_of(org).await?.is_held(org, hold).await };
        held.await.unwrap_or_else(|error: StoreError| {
            tracing::warn!(%org, %hold, %error, "the outcome of a create that a repetition waits for cannot be looked up");
            true
        })
    }

    /// The task of a create whose outcome is recorded, and the vendor's answer to it.
    async fn outcome(
        &self,
        org: OrgId,
        hold: HoldId,
    ) -> Result<Option<(Task, Option<StoredText>)>, StoreError> {
        let mut looks = 1;
        loop {
            let found = self.ledger.turn_of(org).await?.created_task(org, hold).await?;
            let text_is_missing =
                found.as_ref().is_some_and(|(task, first)| task.upstream_task.is_some() && first.is_none());
            if !text_is_missing || looks == TEXT_LOOKS {
                return Ok(found);
            }
            looks += 1;
            tokio::time::sleep(TEXT_LOOK).await;
        }
    }

    /// A repetition gets the answer to this create: the next create with that body is a purchase. False: another repetition has got it.
    async fn forget(&self, org: OrgId, hold: HoldId) -> bool {
        let forgotten = async { self.ledger.turn_of(org).await?.forget_gone_caller(org, hold).await };
        let forgotten = tokio::time::timeout(WRITE_TIMEOUT, forgotten).await;
        forgotten.unwrap_or(Err(StoreError::Timeout)).unwrap_or_else(|error| {
            // The same body gets this answer again, for a minute.
            tracing::warn!(%org, %hold, %error, "that a repetition is answered is not noted");
            true
        })
    }

    /// Completes when the gateway is stopping and can wait no longer.
    async fn last_call(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep(self.last_wait).await;
    }
}
