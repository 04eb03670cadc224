//! Metrics of the ledger. Each event is counted where it becomes durable, by the gateway that made it so. A step whose
//! answer was lost is sent again, moves nothing the second time and is not counted. The books are exact, counters are
//! not.

use crate::clock::Clock;
use crate::credits::Credits;
use crate::ids::HoldId;
use crate::metrics as m;
use crate::store::db::error::StoreError;
use crate::store::ledger::entry_kind::EntryKind;
use crate::store::ledger::guard::Verdict;
use crate::store::ledger::step::{Applied, Step, StepKind, Terms};
use crate::store::ledger::tasks::State;

/// The reasons for which reservations are refused: label values of one counter.
const REFUSALS: [&str; 14] = [
    "credits",
    "budget",
    "open tasks",
    "stopped",
    "key taken",
    "in doubt",
    "attached",
    "unknown organisation",
    "ended",
    "queue full",
    "timeout",
    "shutting down",
    "database",
    "defect",
];

const LOSS_OF_FAILED: &str = "failed task";
const POSSIBLE_LOSS: &str = "possible";

/// Sets all counters of lanes and credits to 0, because an alarm on an increase misses the first event of a counter
/// that did not exist.
pub(in crate::store) fn register() {
    for call in ["reserve", "transition"] {
        drop(metrics::histogram!(m::LEDGER_CALL_SECONDS, "call" => call));
        drop(metrics::histogram!(m::LEDGER_BATCH_ITEMS, "call" => call));
        metrics::counter!(m::LEDGER_CALL_FAILURES, "call" => call).increment(0);
        metrics::counter!(m::LEDGER_SETTINGS_ASIDE, "call" => call).increment(0);
        metrics::gauge!(m::LEDGER_QUEUE_ITEMS, "call" => call).increment(0);
    }
    for kind in StepKind::ALL {
        for applied in ["yes", "no"] {
            metrics::counter!(m::STEPS, "kind" => kind.as_str(), "applied" => applied).increment(0);
        }
    }
    for reason in REFUSALS {
        metrics::counter!(m::HOLDS_REFUSED, "reason" => reason).increment(0);
    }
    for end in [State::Settled, State::Released, State::WrittenOff] {
        drop(metrics::histogram!(m::HOLD_SECONDS, "end" => end.as_str()));
    }
    for kind in [LOSS_OF_FAILED, POSSIBLE_LOSS] {
        metrics::counter!(m::PLATFORM_LOSS, "kind" => kind).increment(0);
    }
    for direction in ["up", "down"] {
        metrics::counter!(m::CREDITS_ADJUSTED, "direction" => direction).increment(0);
    }
    for tens in (0..=100).step_by(10) {
        metrics::counter!(m::BUDGET_EVENTS, "threshold" => tens.to_string()).increment(0);
    }
    for plain in [
        m::HOLDS_GRANTED,
        m::HOLDS_SWEPT,
        m::DUPLICATE_TASKS,
        m::LATE_EVIDENCE,
        m::CREDITS_GRANTED,
        m::CREDITS_EXPIRED,
        m::CREDITS_HELD,
        m::CREDITS_CONSUMED,
        m::CREDITS_RELEASED,
        m::CREDITS_OVERRUN,
        m::OVERRUNS,
        m::FLAGGED_CHARGES,
        m::LOW_BALANCE_EVENTS,
    ] {
        metrics::counter!(plain).increment(0);
    }
}

/// Adds credits to a counter. Counters take no negative numbers; none is ever passed.
fn count(counter: &'static str, credits: Credits) {
    metrics::counter!(counter).increment(whole(credits));
}

fn whole(credits: Credits) -> u64 {
    u64::try_from(credits.get()).unwrap_or_default()
}

/// By how much `of` exceeds `than`; 0 if it does not.
fn excess(of: Credits, than: Credits) -> Credits {
    of.checked_sub(than).filter(|more| *more > Credits::ZERO).unwrap_or(Credits::ZERO)
}

/// Counts a hold that was granted, whether or not its caller still waits.
pub(in crate::store) fn granted(amount: Credits) {
    metrics::counter!(m::HOLDS_GRANTED).increment(1);
    count(m::CREDITS_HELD, amount);
}

/// Counts the verdict that a caller was told.
pub(in crate::store) fn verdict(told: &Result<Verdict, StoreError>) {
    let reason = match told {
        // What is unanswered is asked for again.
        Ok(Verdict::Granted(_) | Verdict::Unanswered(_)) => return,
        Ok(Verdict::Insufficient { .. }) => "credits",
        Ok(Verdict::OverBudget { .. }) => "budget",
        Ok(Verdict::TooManyTasks) => "open tasks",
        Ok(Verdict::Stopped) => "stopped",
        Ok(Verdict::KeyTaken) => "key taken",
        Ok(Verdict::InDoubt(_)) => "in doubt",
        Ok(Verdict::Attach(_)) => "attached",
        Ok(Verdict::UnknownOrg) => "unknown organisation",
        Ok(Verdict::Ended) => "ended",
        Err(error) => unanswered(error),
    };
    metrics::counter!(m::HOLDS_REFUSED, "reason" => reason).increment(1);
}

/// The label value for a reservation that got no verdict.
fn unanswered(error: &StoreError) -> &'static str {
    match error {
        StoreError::QueueFull => "queue full",
        StoreError::Timeout => "timeout",
        StoreError::ShuttingDown => "shutting down",
        StoreError::Unreachable
        | StoreError::NoPrimary(_)
        | StoreError::Database(_)
        | StoreError::Schema(_) => "database",
        // A row, a value or an answer that none of our reservations should cause.
        StoreError::Refused(_)
        | StoreError::Unstorable(_)
        | StoreError::Corrupt(_)
        | StoreError::Invalid(_)
        | StoreError::NotFound(_)
        | StoreError::Conflict(_)
        | StoreError::KeyReused
        | StoreError::InProgress
        | StoreError::Stale { .. } => "defect",
    }
}

/// Counts a step that was taken. Without the terms of its hold, released credits cannot be counted.
pub(in crate::store) fn step(hold: HoldId, terms: Option<Terms>, step: &Step, applied: Applied) {
    let moved = applied == Applied::Yes;
    metrics::counter!(m::STEPS, "kind" => step.kind().as_str(), "applied" => if moved { "yes" } else { "no" })
        .increment(1);
    if !moved {
        return;
    }
    match step {
        Step::Settle { raw, charge, flag, .. } => {
            charged(terms, *raw, *charge);
            if flag.is_some() {
                metrics::counter!(m::FLAGGED_CHARGES).increment(1);
            }
            ended(hold, State::Settled, terms.map(|terms| excess(terms.amount, *charge)));
        }
        // The hold of this task was released long before.
        Step::LateSettle { raw, charge, .. } => charged(terms, *raw, *charge),
        Step::Fail { loss, .. } => {
            lost(LOSS_OF_FAILED, *loss);
            ended(hold, State::Released, terms.map(|terms| terms.amount));
        }
        Step::LateFail { loss, .. } => lost(LOSS_OF_FAILED, *loss),
        Step::Refuse { possible_loss, .. } => {
            lost(POSSIBLE_LOSS, *possible_loss);
            ended(hold, State::Released, terms.map(|terms| terms.amount));
        }
        Step::WriteOff { possible_loss } => {
            lost(POSSIBLE_LOSS, *possible_loss);
            ended(hold, State::WrittenOff, terms.map(|terms| terms.amount));
        }
        Step::Sweep => {
            metrics::counter!(m::HOLDS_SWEPT).increment(1);
            ended(hold, State::Released, terms.map(|terms| terms.amount));
        }
        Step::Abandon | Step::ResolveRelease { .. } => {
            ended(hold, State::Released, terms.map(|terms| terms.amount));
        }
        Step::LateRun { .. } => metrics::counter!(m::LATE_EVIDENCE).increment(1),
        Step::Run { .. } | Step::Doubt { .. } | Step::Orphan | Step::LateDrop | Step::ResolveRun { .. } => {}
    }
}

fn charged(terms: Option<Terms>, raw: Credits, charge: Credits) {
    count(m::CREDITS_CONSUMED, charge);
    let Some(terms) = terms else { return };
    // Compares the vendor's figures, without the factor: a factor is not an overrun.
    if raw > terms.list_price {
        metrics::counter!(m::OVERRUNS).increment(1);
    }
    count(m::CREDITS_OVERRUN, excess(charge, terms.amount));
}

fn ended(hold: HoldId, end: State, released: Option<Credits>) {
    if let Some(released) = released {
        count(m::CREDITS_RELEASED, released);
    }
    // The id of a hold contains the time at which a gateway made it, by that gateway's clock.
    if let Some(made) = hold.as_uuid().get_timestamp() {
        let (seconds, nanoseconds) = made.to_unix();
        let made = std::time::Duration::new(seconds, nanoseconds);
        let now = Clock.wall().unix_timestamp_nanos();
        let now = std::time::Duration::from_nanos(u64::try_from(now).unwrap_or_default());
        metrics::histogram!(m::HOLD_SECONDS, "end" => end.as_str()).record(now.saturating_sub(made));
    }
}

fn lost(kind: &'static str, loss: Credits) {
    metrics::counter!(m::PLATFORM_LOSS, "kind" => kind).increment(whole(loss));
}

/// Counts an entry that is not a task's.
pub(in crate::store) fn posted(kind: EntryKind, amount: Credits) {
    let size = amount.get().unsigned_abs();
    if kind == EntryKind::Grant {
        metrics::counter!(m::CREDITS_GRANTED).increment(size);
    } else {
        let direction = if amount > Credits::ZERO { "up" } else { "down" };
        metrics::counter!(m::CREDITS_ADJUSTED, "direction" => direction).increment(size);
    }
}

/// Counts credits that were taken back because their grant expired.
pub(in crate::store) fn expired(credits: Credits) {
    count(m::CREDITS_EXPIRED, credits);
}

/// Counts a threshold that a budget reached. Organisations choose thresholds freely, so the label has them rounded down
/// to tens: its values must be a closed set.
pub(in crate::store) fn threshold_reached(percent: i32) {
    let tens = percent.clamp(0, 100) / 10 * 10;
    metrics::counter!(m::BUDGET_EVENTS, "threshold" => tens.to_string()).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::db::error::samples;

    #[test]
    fn a_reservation_without_a_verdict_is_counted_by_what_kept_it() {
        for error in samples::all() {
            let expected = match samples::name(&error) {
                "QueueFull" => "queue full",
                "Timeout" => "timeout",
                "ShuttingDown" => "shutting down",
                "Unreachable" | "NoPrimary" | "Database" | "Schema" => "database",
                _ => "defect",
            };
            assert_eq!(unanswered(&error), expected, "{error:?}");
            assert!(REFUSALS.contains(&expected));
        }
    }

    #[test]
    fn a_charge_above_its_hold_is_told_and_nothing_is_negative() {
        let credits = Credits::new;
        assert_eq!(excess(credits(5), credits(3)), credits(2));
        assert_eq!(excess(credits(3), credits(5)), Credits::ZERO);
        assert_eq!(whole(credits(-3)), 0);
    }
}
