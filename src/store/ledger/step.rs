//! The values that a lane takes: reservations to make, and the steps in the life of a hold. No connection and no
//! channel is here.

use std::sync::Arc;
use std::time::Duration;

use crate::credits::{Credits, PriceFactor};
use crate::ids::{HoldId, KeyId, OrgId, UserId};
use crate::order::Labels;
use crate::pricing::BookVersion;
use crate::store::db::once::Fingerprint;
use crate::store::db::words::words;

/// A hold that is to be made.
#[derive(Debug, Clone)]
pub struct NewHold {
    /// The gateway makes the id before it sends, so that a reservation whose answer was lost can be sent again.
    pub hold: HoldId,
    pub org: OrgId,
    pub user: UserId,
    /// The key of the caller; `None`: the caller has a token of an identity provider.
    pub key: Option<KeyId>,
    /// Credits to hold: list price × factor.
    pub amount: Credits,
    /// The list price, before the factor.
    pub list_price: Credits,
    /// The organisation's price factor. The task keeps it to its end.
    pub factor: PriceFactor,
    /// The price book that the price is from.
    pub book: BookVersion,
    /// The vendor's task type.
    pub task_type: Arc<str>,
    /// The name of the backend that the create is for.
    pub backend: Arc<str>,
    /// The name of the account with the vendor that pays.
    pub account: Arc<str>,
    /// The fingerprint of the raw body.
    pub fingerprint: Fingerprint,
    /// The caller's idempotency key, which is claimed in the same transaction as the hold.
    pub idempotency_key: Option<Arc<str>>,
    /// Refuses the hold if a create of the same user without an idempotency key, and with the same body, is in doubt.
    /// Or attaches it to such a create whose caller has gone.
    pub refuse_if_in_doubt: bool,
    /// Also grants nothing while such a create has no answer yet, wherever its caller is.
    pub refuse_if_unanswered: bool,
    /// The labels of the task, which are stored in the same transaction.
    pub labels: Labels,
}

impl NewHold {
    pub(in crate::store) fn terms(&self) -> Terms {
        Terms { amount: self.amount, list_price: self.list_price }
    }
}

/// The terms of a hold: metrics of its steps need them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    pub amount: Credits,
    pub list_price: Credits,
}

/// A step in the life of a hold (table `transition`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The vendor accepted the task.
    Run {
        /// The vendor's id of the task.
        task: Arc<str>,
        /// What the vendor says it will consume, if that is a valid figure.
        raw: Option<Credits>,
        /// How long to wait before the first poll.
        poll_in: Duration,
    },
    /// The task succeeded and is charged.
    Settle {
        /// The vendor's task that this is the end of. A hold that has another one by now, or none any more, is not changed.
        /// `None`: whatever task the hold has.
        task: Option<Arc<str>>,
        /// The figure that the charge is calculated from.
        raw: Credits,
        /// The vendor's own final figure, if it was a valid number.
        reported: Option<Credits>,
        /// What the organisation pays: raw × factor.
        charge: Credits,
        /// Why the figure is not the vendor's last one; `None`: it is.
        flag: Option<&'static str>,
    },
    /// The vendor accepted the task and failed it: nothing is charged.
    Fail {
        /// The vendor's task that this is the end of; as for [`Step::Settle`].
        task: Option<Arc<str>>,
        /// What the vendor consumed nevertheless: the platform's loss.
        loss: Credits,
    },
    /// The vendor never accepted the task: the hold is released and the idempotency key can be used again.
    Refuse {
        reason: &'static str,
        /// The list price, if the vendor may have charged for the create (an enveloped 500).
        possible_loss: Credits,
    },
    /// Granted to a caller that no longer waits, and never sent. Only the gateway that owns the hold can know this.
    Abandon,
    /// The hold is HELD past its grace period and its own gateway does not work on it: it was never sent. A hold that
    /// has left HELD in the meantime is not changed.
    Sweep,
    /// It is unknown whether the vendor accepted the task.
    Doubt { reason: &'static str },
    /// The hold is HELD and its gateway is dead: the create may have been sent. A hold that has left HELD in the
    /// meantime is not changed.
    Orphan,
    /// The doubt has reached its age limit: the organisation is refunded, and the platform books a possible loss.
    WriteOff {
        /// What the vendor reported, or else the list price.
        possible_loss: Credits,
    },
    /// The task's id became known after the hold was RELEASED or WRITTEN_OFF, and the task is reopened: it can be read,
    /// and is polled to its end. The state stays, and no credit moves yet.
    LateRun {
        /// The vendor's id of the task.
        task: Arc<str>,
        /// Who gave the id, and how they know it; `None`: the gateway found it.
        reason: Option<Arc<str>>,
        /// How long to wait before the first poll.
        poll_in: Duration,
    },
    /// A reopened task has succeeded: its owner can read the result, a correction charges it, and what was booked as
    /// the platform's loss is taken back.
    LateSettle {
        /// The figure that the charge is calculated from.
        raw: Credits,
        /// The vendor's own final figure, if it was a valid number.
        reported: Option<Credits>,
        /// What the organisation pays: raw × factor.
        charge: Credits,
    },
    /// A reopened task has failed: what it consumed is the platform's loss, which replaces what was booked as one.
    LateFail {
        /// What the vendor consumed.
        loss: Credits,
    },
    /// A reopened task does not end in time: what was booked stays.
    LateDrop,
    /// An operator gave the id of a task in doubt: the task is polled to its end.
    ResolveRun {
        /// The vendor's id of the task.
        task: Arc<str>,
        reason: Arc<str>,
    },
    /// An operator found out that nothing is owed for a task in doubt.
    ResolveRelease {
        /// Whether the vendor accepted the task: if so, its idempotency key stays bound, else it can be used again.
        taken: bool,
        reason: Arc<str>,
    },
}

words! {
    /// The kind of a step in the table `transition`, which says what may follow what.
    pub enum StepKind in "transition.kind" {
        /// The vendor accepted the task.
        Run = "run",
        Settle = "settle",
        /// The vendor accepted the task, and nothing is owed for it.
        Fail = "fail",
        /// The vendor never accepted the task.
        Refuse = "refuse",
        /// The create was never sent, because nobody waited for it any more.
        Abandon = "abandon",
        /// The create was never sent, and nobody worked on it.
        Sweep = "sweep",
        /// It is unknown whether the vendor accepted the task.
        Doubt = "doubt",
        /// The same as a doubt, because the hold's gateway is dead.
        Orphan = "orphan",
        /// The doubt reached its age limit.
        WriteOff = "write_off",
        /// The task was reopened: its id became known after its end.
        LateRun = "late_run",
        /// A reopened task succeeded.
        LateSettle = "late_settle",
        /// A reopened task failed.
        LateFail = "late_fail",
        /// A reopened task did not end in time.
        LateDrop = "late_drop",
    }
}

impl StepKind {
    /// Whether it ends a task that the vendor had accepted, because of what the vendor said.
    pub fn ends_what_was_accepted(self) -> bool {
        matches!(self, Self::Settle | Self::Fail | Self::LateSettle | Self::LateFail)
    }
}

impl Step {
    /// The kind of the step in the table `transition`.
    pub fn kind(&self) -> StepKind {
        match self {
            Self::Run { .. } | Self::ResolveRun { .. } => StepKind::Run,
            Self::Settle { .. } => StepKind::Settle,
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

/// Whether a step changed anything. A second attempt at the same end changes nothing and says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The hold moved to its new state, with its credits and its entry.
    Yes,
    /// The step cannot start from the hold's state, or the hold does not exist: nothing moved.
    No,
    /// The vendor's task id already belongs to another hold: this hold went IN_DOUBT instead, or stayed as it was.
    DuplicateTask,
}
