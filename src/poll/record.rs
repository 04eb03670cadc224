//! What the vendor's reports mean for the ledger: the step that ends a task, evidence after its end, and what becomes of a task
//! beyond its maximum age.

use std::time::{Duration, Instant};

use super::Poller;
use super::flight::Asking;
use crate::credits::Credits;
use crate::fail_point;
use crate::ids::{HoldId, OrgId};
use crate::metrics as m;
use crate::pricing::consumption;
use crate::store::{Applied, Late, State, Step, StoreError, StoredText, Task};
use crate::telemetry::Span;
use crate::upstream::{Progress, Report, Upstream};

/// Why a task beyond its maximum age is put in doubt.
pub(super) const TOO_OLD: &str = "it ran longer than the maximum age";
pub(super) const FORGOTTEN: &str = "the upstream does not know it, and it is past the maximum age";

/// Why a task that an operator recorded is charged by the operator's figure.
const STATED: &str = "the upstream did not confirm it: an operator's figure counts";

/// How the vendor ends tasks: label values of one counter.
const ENDS: [&str; 2] = [SUCCEEDED, FAILED];
const SUCCEEDED: &str = "succeeded";
const FAILED: &str = "failed";

/// Makes the metrics of ends known before the first end.
pub(super) fn register() {
    drop(metrics::histogram!(m::SETTLE_LAG_SECONDS));
    for backend in Upstream::names() {
        for end in ENDS {
            let backend = backend.to_string();
            metrics::counter!(m::UPSTREAM_TASKS_ENDED, "backend" => backend, "end" => end).increment(0);
        }
    }
}

fn how_ended(step: &Step) -> &'static str {
    if matches!(step, Step::Fail { .. } | Step::LateFail { .. }) { FAILED } else { SUCCEEDED }
}

impl Poller {
    /// Writes what a report, which came at `told`, means for the ledger. Returns the task as it is afterwards.
    pub(super) async fn apply(
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

    pub(super) async fn check_age(&self, task: &Task, reason: &'static str, asking: &Asking) {
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
