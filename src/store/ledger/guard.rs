//! What a lane is asked and what it answers: reservations, transitions, and the guard that makes sure a granted
//! hold always reaches an honest end.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use crate::credits::{Credits, PriceFactor};
use crate::ids::{BudgetId, HoldId, KeyId, OrgId, UserId};
use crate::pricing::BookVersion;
use crate::store::db::error::LedgerError;
use crate::store::db::words::words;
use crate::store::ledger::lanes::Lanes;

/// SHA-256 of a create's raw body: what makes two requests "the same" (contract, "Idempotency").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of `body`.
    pub fn of(body: &[u8]) -> Self {
        Self(Sha256::digest(body).into())
    }

    /// The digest, as the database stores it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A stored digest; nothing if it has another length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

/// A reservation to be made.
#[derive(Debug, Clone)]
pub struct NewHold {
    /// Minted by the caller, so that a reserve whose answer was lost can simply be sent again.
    pub hold: HoldId,
    /// Whose balance.
    pub org: OrgId,
    /// On whose behalf.
    pub user: UserId,
    /// With which key; none for callers without one.
    pub key: Option<KeyId>,
    /// Credits to hold: list price × factor.
    pub amount: Credits,
    /// The list price, before the factor.
    pub list_price: Credits,
    /// The organisation's factor, used to the end of this task.
    pub factor: PriceFactor,
    /// The book the price is from.
    pub book: BookVersion,
    /// The vendor's task type.
    pub task_type: Arc<str>,
    /// Name of the backend it goes to.
    pub backend: Arc<str>,
    /// Name of the upstream account it is charged to.
    pub account: Arc<str>,
    /// Of the raw body.
    pub fingerprint: Fingerprint,
    /// The caller's idempotency key; claimed in the same transaction as the hold.
    pub idempotency_key: Option<Arc<str>>,
    /// Refuse if a create with the same body and key (without a key: of the same user), and no idempotency key, is in
    /// doubt.
    pub refuse_if_in_doubt: bool,
}

impl NewHold {
    pub(in crate::store) fn terms(&self) -> Terms {
        Terms { amount: self.amount, list_price: self.list_price }
    }
}

/// What a hold was made for. What a step of it moves is counted by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Credits held.
    pub amount: Credits,
    /// The list price.
    pub list_price: Credits,
}

/// The answer to a reservation.
#[derive(Debug)]
pub enum Verdict {
    /// Granted and durable.
    Granted(HoldGuard),
    /// Not enough credits: this many were available.
    Insufficient {
        /// What was there.
        available: Credits,
    },
    /// A budget does not allow it.
    OverBudget {
        /// Which one.
        budget: BudgetId,
        /// What is left of it; below zero after an overrun, or when it was lowered.
        left: Credits,
    },
    /// The organisation has as many unfinished tasks as it may.
    TooManyTasks,
    /// Somebody else holds this idempotency key.
    KeyTaken,
    /// The same body from the same key (from the same user, if without a key) is in doubt under this reference.
    InDoubt(HoldId),
    /// No such organisation.
    UnknownOrg,
    /// The id was granted by an earlier sending and has ended since.
    Ended,
}

/// A step in the life of a hold (table `transition`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The upstream accepted the task.
    Run {
        /// The upstream's id of it.
        task: Arc<str>,
        /// What the upstream says it will consume; only a valid figure.
        raw: Option<Credits>,
        /// The upstream's `data`, verbatim.
        data: Arc<str>,
        /// The answer to the caller, for replays.
        answer: Arc<str>,
        /// When the reconciler should first look at it.
        poll_in: Duration,
    },
    /// The task succeeded and is charged.
    Settle {
        /// What the upstream consumed.
        raw: Credits,
        /// The upstream's own final figure, if it was a valid number.
        reported: Option<Credits>,
        /// What the tenant pays: raw × factor.
        charge: Credits,
        /// Why the figure is not simply the upstream's last word, if so.
        flag: Option<&'static str>,
        /// The upstream's final `data`, verbatim.
        data: Arc<str>,
    },
    /// The upstream took the task and failed it: nothing is charged.
    Fail {
        /// What the upstream consumed all the same: the platform's loss.
        loss: Credits,
        /// The upstream's final `data`, verbatim.
        data: Arc<str>,
    },
    /// The upstream never took it: everything is released and the idempotency key is free again.
    Refuse {
        /// Why.
        reason: &'static str,
        /// List price, if the upstream may have charged for it (an enveloped 500).
        possible_loss: Credits,
    },
    /// Granted to somebody who no longer waits, and never sent: only the gateway that owns the hold can know.
    Abandon,
    /// HELD past its time, and its own gateway does not work on it: it was never sent. What has moved on since it was
    /// seen HELD is left alone.
    Sweep,
    /// Whether the upstream took it is unknown.
    Doubt {
        /// Why.
        reason: &'static str,
    },
    /// HELD, and its gateway is dead: it may have been sent. What has been recorded since it was seen is left alone.
    Orphan,
    /// The age limit of a doubt: the tenant is refunded, the platform may have lost.
    WriteOff {
        /// What the upstream reported, or the list price.
        possible_loss: Credits,
    },
    /// After its end (RELEASED or WRITTEN_OFF) the task's id comes to light: the task can be read, and is polled until
    /// the upstream tells its end. No state changes and no credit moves yet.
    LateRun {
        /// The upstream's id of it.
        task: Arc<str>,
        /// The answer to the caller, for replays.
        answer: Option<Arc<str>>,
        /// Who brought it to light, and how they know; none: the gateway itself.
        reason: Option<Arc<str>>,
        /// When the reconciler should first look at it.
        poll_in: Duration,
    },
    /// A task that came to light after its end has succeeded: its tenant gets it and is charged by a correcting entry,
    /// and what was booked as the platform's loss is taken back.
    LateSettle {
        /// What the upstream consumed.
        raw: Credits,
        /// The upstream's own final figure, if it was a valid number.
        reported: Option<Credits>,
        /// What the tenant pays: raw × factor.
        charge: Credits,
        /// The upstream's final `data`, verbatim.
        data: Arc<str>,
    },
    /// A task that came to light after its end has failed: what it consumed is the platform's loss, in place of what
    /// was booked as one.
    LateFail {
        /// What the upstream consumed.
        loss: Credits,
        /// The upstream's final `data`, verbatim.
        data: Arc<str>,
    },
    /// A task that came to light after its end never ends: what was booked stays.
    LateDrop,
    /// An operator knows the id of a task in doubt: it is polled on.
    ResolveRun {
        /// The upstream's id of it.
        task: Arc<str>,
        /// Who, and why.
        reason: Arc<str>,
        /// The answer to the caller, for replays.
        answer: Arc<str>,
    },
    /// An operator knows that a task in doubt succeeded, and what it consumed.
    ResolveSettle {
        /// The upstream's id of it.
        task: Arc<str>,
        /// What the upstream consumed.
        raw: Credits,
        /// The same, where the upstream itself never reported a figure: then the operator's word is all there is.
        reported: Option<Credits>,
        /// What the tenant pays: raw × factor.
        charge: Credits,
        /// Who, and why.
        reason: Arc<str>,
        /// The answer to the caller, for replays.
        answer: Arc<str>,
    },
    /// An operator knows that nothing is owed for a task in doubt.
    ResolveRelease {
        /// Whether the upstream took it: then its idempotency key stays bound, else it is free again.
        taken: bool,
        /// Who, and why.
        reason: Arc<str>,
    },
}

words! {
    /// What may follow what is said of these: the table `transition`.
    pub enum StepKind in "transition.kind" {
        /// The upstream accepted the task.
        Run = "run",
        /// It succeeded.
        Settle = "settle",
        /// The upstream took it, and nothing is owed for it.
        Fail = "fail",
        /// The upstream never took it.
        Refuse = "refuse",
        /// It was never sent: nobody waited for it any more.
        Abandon = "abandon",
        /// It was never sent: nobody worked on it.
        Sweep = "sweep",
        /// Whether the upstream took it is unknown.
        Doubt = "doubt",
        /// The same, because its gateway is dead.
        Orphan = "orphan",
        /// It was in doubt for too long.
        WriteOff = "write_off",
        /// Its id came to light after its end.
        LateRun = "late_run",
        /// It came to light after its end, and succeeded.
        LateSettle = "late_settle",
        /// It came to light after its end, and failed.
        LateFail = "late_fail",
        /// It came to light after its end, and never ended.
        LateDrop = "late_drop",
    }
}

impl Step {
    pub(in crate::store) fn text_bytes(&self) -> usize {
        match self {
            Self::Run { data, answer, .. } => data.len() + answer.len(),
            Self::Settle { data, .. }
            | Self::Fail { data, .. }
            | Self::LateSettle { data, .. }
            | Self::LateFail { data, .. } => data.len(),
            Self::LateRun { answer, .. } => answer.as_ref().map_or(0, |answer| answer.len()),
            Self::Refuse { .. }
            | Self::Abandon
            | Self::Sweep
            | Self::Doubt { .. }
            | Self::Orphan
            | Self::WriteOff { .. }
            | Self::LateDrop
            | Self::ResolveRun { .. }
            | Self::ResolveSettle { .. }
            | Self::ResolveRelease { .. } => 0,
        }
    }

    /// What it is for the table `transition`.
    pub fn kind(&self) -> StepKind {
        match self {
            Self::Run { .. } | Self::ResolveRun { .. } => StepKind::Run,
            Self::Settle { .. } | Self::ResolveSettle { .. } => StepKind::Settle,
            Self::Fail { .. } | Self::ResolveRelease { taken: true, .. } => StepKind::Fail,
            Self::Refuse { .. } | Self::ResolveRelease { taken: false, .. } => StepKind::Refuse,
            Self::Abandon => StepKind::Abandon,
            Self::Sweep => StepKind::Sweep,
            Self::Doubt { .. } => StepKind::Doubt,
            Self::Orphan => StepKind::Orphan,
            Self::WriteOff { .. } => StepKind::WriteOff,
            Self::LateRun { .. } => StepKind::LateRun,
            Self::LateSettle { .. } => StepKind::LateSettle,
            Self::LateFail { .. } => StepKind::LateFail,
            Self::LateDrop => StepKind::LateDrop,
        }
    }
}

/// Whether a step changed anything. A second attempt at the same end is a no-op that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The hold moved, with its money and its entry.
    Yes,
    /// The hold is in no state this step starts from (or does not exist): nothing moved.
    No,
    /// The upstream's task id already belongs to another hold: this one went IN_DOUBT instead, or stayed as it was.
    DuplicateTask,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    No,
    Maybe,
    Settled,
}

/// A granted hold, owned by whoever must bring it to its end.
///
/// Dropping it is safe at any point (a caller that left, a panic): before [`HoldGuard::about_to_send`] the hold is
/// released, after it the hold goes IN_DOUBT, because the upstream may have taken the task.
#[must_use = "a hold that is dropped is released"]
#[derive(Debug)]
pub struct HoldGuard {
    lanes: Lanes,
    org: OrgId,
    hold: HoldId,
    terms: Terms,
    available: Credits,
    sent: Sent,
}

impl HoldGuard {
    pub(in crate::store) fn new(lanes: Lanes, new: &NewHold, available: Credits) -> Self {
        Self { lanes, org: new.org, hold: new.hold, terms: new.terms(), available, sent: Sent::No }
    }

    /// Its id, also the reference shown to callers.
    pub fn id(&self) -> HoldId {
        self.hold
    }

    /// Whose balance it is held from.
    pub fn org(&self) -> OrgId {
        self.org
    }

    /// What was available after it was granted.
    pub fn available(&self) -> Credits {
        self.available
    }

    /// Must be called before the first byte may reach the upstream.
    pub fn about_to_send(&mut self) {
        self.sent = Sent::Maybe;
    }

    /// Whether [`HoldGuard::about_to_send`] was called.
    pub fn may_have_been_sent(&self) -> bool {
        self.sent != Sent::No
    }

    /// Takes a step, and waits for it to be durable. The step is retried until the database takes it, whether or
    /// not anybody waits.
    pub async fn step(&mut self, step: Step) -> Result<Applied, LedgerError> {
        let answer = self.queue(step);
        answer.await.unwrap_or(Err(LedgerError::ShuttingDown))
    }

    /// Hands the step to the ledger without waiting; the receiver tells when it is durable.
    pub fn queue(&mut self, step: Step) -> oneshot::Receiver<Result<Applied, LedgerError>> {
        self.sent = Sent::Settled;
        self.lanes.step(self.org, self.hold, Some(self.terms), step)
    }
}

impl Drop for HoldGuard {
    fn drop(&mut self) {
        let step = match self.sent {
            Sent::No => Step::Abandon,
            Sent::Maybe => Step::Doubt { reason: "the gateway lost track of the call" },
            Sent::Settled => return,
        };
        drop(self.lanes.step(self.org, self.hold, Some(self.terms), step));
    }
}
