//! A task as its owner sees it: the vendor's `data` verbatim, but with the credits charged *here*.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use time::format_description::well_known::Rfc3339;

use crate::bulk::Room;
use crate::clock::Clock;
use crate::credits::Credits;
use crate::store::{Late, State, StoredText, Task};
use crate::upstream::{Progress, Report};
use crate::wire::success;

#[derive(Debug)]
pub struct View {
    task: Task,
    body: Bytes,
    asked: Option<Instant>,
    tried: Option<Instant>,
    read: Instant,
    /// Whether a caller has read it.
    shown: AtomicBool,
}

/// A state that a caller is told.
#[derive(Debug)]
pub struct ShownView {
    pub view: Arc<View>,
    /// How long the caller waited for the vendor.
    pub waited: Duration,
    /// The room that the text was read in, if it is long.
    pub room: Room,
}

impl View {
    /// The state of `task`, whose data is read, read from the ledger at `read`, and last confirmed by the vendor at `asked` with the report `told`.
    pub(super) fn new(task: Task, told: Option<Report>, asked: Option<Instant>, read: Instant) -> Self {
        // If another gateway has recorded other data meanwhile, the ledger's data counts.
        let data = task.data.as_ref().and_then(StoredText::read);
        let told = told.filter(|told| data == Some(told.data()));
        let told = told.or_else(|| Report::parse(data?.clone()));
        let body = told.map_or_else(|| own(&task), |told| vendors(&task, &told)).into();
        Self { task, body, asked, tried: None, read, shown: AtomicBool::new(false) }
    }

    /// The state of `task`, last confirmed at `asked`; a poll at `tried` got no answer.
    pub(super) fn unanswered(task: Task, asked: Option<Instant>, tried: Instant) -> Self {
        Self { tried: Some(tried), ..Self::new(task, None, asked, tried) }
    }

    pub(super) fn asked(&self) -> Option<Instant> {
        self.asked
    }

    pub(super) fn tried(&self) -> Option<Instant> {
        self.tried
    }

    /// Notes that a caller reads it; whether one had read it before.
    pub(super) fn note_shown(&self) -> bool {
        self.shown.swap(true, Ordering::Relaxed)
    }

    pub fn task(&self) -> &Task {
        &self.task
    }

    pub fn body(&self) -> Bytes {
        self.body.clone()
    }

    /// Approximate size in memory, in bytes: the answer and the data that it was made from.
    pub(super) fn bytes(&self) -> usize {
        1024 + 2 * self.body.len()
    }

    /// Whether the view has the same state as `task`.
    pub(super) fn tells_of(&self, task: &Task) -> bool {
        (self.task.state, self.task.late, &self.task.upstream_task)
            == (task.state, task.late, &task.upstream_task)
    }

    /// Whether the state is terminal, as far as is known.
    pub fn is_final(&self) -> bool {
        self.task.is_over()
    }

    /// How long ago the vendor confirmed this state.
    pub fn age(&self, clock: Clock) -> Duration {
        match self.asked {
            Some(asked) => clock.since(asked),
            // The task's age is by the database's clock, because the clocks of gateways may differ.
            None => self.task.age + clock.since(self.read),
        }
    }
}

/// The `status` that callers see for a state.
pub(crate) fn word(state: State) -> &'static str {
    match state {
        State::Held | State::Running | State::InDoubt => "IN_PROGRESS",
        State::Settled => "SUCCESS",
        State::Released | State::WrittenOff => "FAILED",
    }
}

/// The `status` that callers see for a task, with late evidence taken into account.
pub(crate) fn shown_status(task: &Task) -> &'static str {
    match task.late {
        Some(Late::Open) => word(State::Running),
        Some(Late::Charged) => word(State::Settled),
        Some(Late::Lost | Late::GivenUp) | None => word(task.state),
    }
}

/// The credits that callers see for a task: held, charged, or none.
pub(crate) fn shown_credits(task: &Task) -> Credits {
    match (task.state, task.late) {
        (State::Held | State::Running | State::InDoubt, _) => task.amount,
        (State::Settled, _) => task.charged.unwrap_or(task.amount),
        (State::Released | State::WrittenOff, Some(Late::Charged)) => {
            task.raw_consumed.and_then(|raw| task.factor.apply(raw)).unwrap_or(task.amount)
        }
        (State::Released | State::WrittenOff, _) => Credits::ZERO,
    }
}

fn json(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// The vendor's report of a task, with the credits charged here. The vendor's `status` is shown unless the ledger does not
/// have that state (yet).
fn vendors(task: &Task, told: &Report) -> String {
    let shown = shown_status(task);
    let said = match told.progress {
        Progress::Running => word(State::Running),
        Progress::Succeeded => word(State::Settled),
        Progress::Failed => word(State::Released),
    };
    let mut changes = vec![("consumed_credits", shown_credits(task).to_string())];
    if said != shown {
        changes.push(("status", json(shown)));
        if !task.is_over() {
            changes.push(("response", "null".into()));
        }
    }
    if is_given_up(task) {
        changes.push(("error_message", json(GIVEN_UP)));
    }
    told.shown(&changes)
}

const GIVEN_UP: &str = "The outcome of this task stayed unknown. It was not charged.";

fn is_given_up(task: &Task) -> bool {
    task.state == State::WrittenOff && matches!(task.late, None | Some(Late::GivenUp))
}

/// The answer to the create of `task`, to which the vendor had answered with the data `first`.
pub(crate) fn created(task: Task, first: Option<Arc<str>>) -> String {
    match first.and_then(Report::parse) {
        Some(first) => first.accepted(task.amount),
        None => own(&Task { state: State::Running, late: None, ..task }),
    }
}

/// The answer for a task that the vendor has not reported anything about, or whose content is not kept any more.
fn own(task: &Task) -> String {
    #[derive(Serialize)]
    struct Own<'a> {
        task_id: String,
        status: &'static str,
        consumed_credits: Credits,
        created_at: String,
        response: (),
        error_message: Option<&'static str>,
        r#type: &'a str,
    }
    success(&Own {
        task_id: task.upstream_task.as_deref().map_or_else(|| task.hold.to_string(), ToOwned::to_owned),
        status: shown_status(task),
        consumed_credits: shown_credits(task),
        created_at: task.created_at.format(&Rfc3339).unwrap_or_default(),
        response: (),
        error_message: match task.state {
            _ if is_given_up(task) => Some(GIVEN_UP),
            // The reason is not shown: it may concern the shared account, which is the operators' business.
            // What the vendor said is not kept any more.
            _ if task.upstream_task.is_some() => None,
            State::Released if task.late.is_none() => Some("This task was not started. Nothing was charged."),
            State::InDoubt => Some("Whether the video service started this task is not known yet."),
            _ => None,
        },
        r#type: &task.task_type,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::credits::PriceFactor;
    use crate::ids::{HoldId, OrgId, UserId};
    use crate::order::Labels;

    /// A view whose answer has so many bytes.
    pub(in crate::poll) fn of(org: OrgId, bytes: usize) -> View {
        let task = Task {
            hold: HoldId::generate(),
            org,
            user: UserId::generate(),
            key: None,
            state: State::Running,
            late: None,
            amount: Credits::ZERO,
            list_price: Credits::ZERO,
            factor: PriceFactor::LIST,
            task_type: "pro-text-to-video".into(),
            backend: "kling-3.0".into(),
            account: "main".into(),
            upstream_task: None,
            raw_consumed: None,
            charged: None,
            reason: None,
            labels: Labels::default(),
            data: None,
            keeps_content: true,
            created_at: OffsetDateTime::UNIX_EPOCH,
            ended_at: None,
            age: Duration::ZERO,
            polls: 0,
            stated: None,
        };
        let body = vec![b' '; bytes].into();
        View { body, ..View::new(task, None, None, Clock.now()) }
    }
}
