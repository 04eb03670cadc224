//! The values a lane takes: reservations to be made, and the steps of a hold's life. No connection, no channel.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::credits::{Credits, PriceFactor};
use crate::ids::{HoldId, KeyId, OrgId, UserId};
use crate::pricing::BookVersion;
use crate::store::db::words::words;

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
    pub org: OrgId,
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
    pub amount: Credits,
    pub list_price: Credits,
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
    Doubt { reason: &'static str },
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
        reason: Arc<str>,
        /// The answer to the caller, for replays.
        answer: Arc<str>,
    },
    /// An operator knows that nothing is owed for a task in doubt.
    ResolveRelease {
        /// Whether the upstream took it: then its idempotency key stays bound, else it is free again.
        taken: bool,
        reason: Arc<str>,
    },
}

words! {
    /// What a step is for the table `transition`, which says what may follow what.
    pub enum StepKind in "transition.kind" {
        /// The upstream accepted the task.
        Run = "run",
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
