//! The two database calls of a lane: arrays go out and verdicts come back, in one round trip each. The functions, and
//! their variants with two commits, are in `migrations/functions/ledger/`.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::config::Profile;
use crate::credits::Credits;
use crate::ids::{BudgetId, GatewayId, HoldId, OrgId};
use crate::store::db::error::StoreError;
use crate::store::db::words::words;
use crate::store::ledger::lanes::settings::LaneSettings;
use crate::store::ledger::step::{Applied, NewHold, Step};

/// How often a task in doubt is polled if its id is known.
const RARELY: Duration = Duration::from_secs(600);

/// The answer of `reserve_batch`: verdict, available credits and reference of each item.
type Verdicts = (Vec<Option<String>>, Vec<Option<i64>>, Vec<Option<Uuid>>);

/// The verdict on one item, without a guard.
pub(in crate::store) enum RowVerdict {
    Granted {
        available: Credits,
    },
    Insufficient {
        available: Credits,
    },
    OverBudget {
        budget: BudgetId,
        left: Credits,
    },
    TooManyTasks,
    Stopped,
    KeyTaken,
    InDoubt(HoldId),
    Attach(HoldId),
    Unanswered(HoldId),
    UnknownOrg,
    Ended,
    /// The organisation's balance row is locked by somebody else, and the batch does not wait.
    Busy,
    Corrupt,
}

/// The organisations of a batch in the order in which their rows are locked, and for each item the place of its
/// organisation in that order (from 1).
///
/// The order must be the same for every writer, or two batches that share organisations deadlock.
fn lock_order(orgs: impl Iterator<Item = OrgId> + Clone) -> (Vec<Uuid>, Vec<i32>) {
    let mut places: BTreeMap<OrgId, i32> = orgs.clone().map(|org| (org, 0)).collect();
    for (place, slot) in (1..).zip(places.values_mut()) {
        *slot = place;
    }
    let positions = orgs.filter_map(|org| places.get(&org).copied()).collect();
    (places.keys().map(|org| org.as_uuid()).collect(), positions)
}

pub(in crate::store) async fn reserve(
    connection: &mut PgConnection,
    owner: GatewayId,
    settings: &LaneSettings,
    items: &[&NewHold],
    resend: bool,
    wait: bool,
) -> Result<Vec<RowVerdict>, sqlx::Error> {
    let news = || items.iter().copied();
    let (orgs, positions) = lock_order(news().map(|new| new.org));
    // Both forms are answered only when all of the batch is durable: sqlx reads until the server says that it is ready,
    // which comes after the last commit.
    let labels = || {
        (1..)
            .zip(news())
            .flat_map(|(place, new): (i32, _)| new.labels.iter().map(move |label| (place, label)))
    };
    let labelled = news().any(|new| !new.labels.is_empty());
    let query = sqlx::query_as(match (settings.profile, labelled) {
        (Profile::Plain, true) => {
            "select verdict, available, reference from reserve_labelled_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, \
             $12, $13, $14, $15, $16, $17, $18, $19, $20, null, $21, $22, $23, $24)"
        }
        (Profile::TwoCommit, true) => {
            "call reserve_labelled_batch_two_commits($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, \
             $13, $14, $15, $16, $17, $18, $19, $20, null, $21, $22, $23, $24, null, null, null)"
        }
        (Profile::Plain, false) => {
            "select verdict, available, reference from reserve_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, \
             $13, $14, $15, $16, $17, $18, $19, $20, null, $21)"
        }
        (Profile::TwoCommit, false) => {
            "call reserve_batch_two_commits($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, \
             $13, $14, $15, $16, $17, $18, $19, $20, null, $21, null, null, null)"
        }
    })
    .bind(orgs)
    .bind(positions)
    .bind(news().map(|new| new.hold.as_uuid()).collect::<Vec<_>>())
    .bind(news().map(|new| new.user.as_uuid()).collect::<Vec<_>>())
    .bind(news().map(|new| new.key.map(|key| key.as_uuid())).collect::<Vec<_>>())
    .bind(news().map(|new| new.amount.get()).collect::<Vec<_>>())
    .bind(news().map(|new| new.list_price.get()).collect::<Vec<_>>())
    .bind(news().map(|new| new.factor.basis_points()).collect::<Vec<_>>())
    .bind(news().map(|new| new.book.get()).collect::<Vec<_>>())
    .bind(news().map(|new| &*new.task_type).collect::<Vec<_>>())
    .bind(news().map(|new| &*new.backend).collect::<Vec<_>>())
    .bind(news().map(|new| &*new.account).collect::<Vec<_>>())
    .bind(news().map(|new| new.fingerprint.as_bytes()).collect::<Vec<_>>())
    .bind(news().map(|new| new.idempotency_key.as_deref()).collect::<Vec<_>>())
    .bind(news().map(|new| new.idempotency_key.is_some()).collect::<Vec<_>>())
    .bind(news().map(guard).collect::<Vec<_>>())
    .bind(owner.as_uuid())
    .bind(settings.max_open_tasks)
    .bind(i64::try_from(settings.hold_grace.as_millis()).unwrap_or(i64::MAX))
    .bind(resend)
    .bind(wait);
    // Most batches have no labels, and pay nothing for those that have.
    let query = if labelled {
        query
            .bind(labels().map(|(place, _)| place).collect::<Vec<_>>())
            .bind(labels().map(|(_, (name, _))| name).collect::<Vec<_>>())
            .bind(labels().map(|(_, (_, value))| value).collect::<Vec<_>>())
    } else {
        query
    };
    let row: Verdicts = query.fetch_one(connection).await?;

    let (verdicts, available, references) = row;
    if verdicts.len() != items.len() || available.len() != items.len() || references.len() != items.len() {
        return Err(sqlx::Error::Protocol("reserve_batch answered another number of items".into()));
    }
    let rows = verdicts.into_iter().zip(available).zip(references);
    Ok(rows
        .map(|((verdict, available), reference)| row_verdict(verdict.as_deref(), available, reference))
        .collect())
}

/// Which earlier creates stop this one, as `reserve_batch` is told.
fn guard(new: &NewHold) -> Option<bool> {
    (!new.refuse_if_unanswered).then_some(new.refuse_if_in_doubt)
}

words! {
    /// The verdicts of `reserve_batch`, whose file explains them.
    enum VerdictWord in "reserve_batch()", "reserve_labelled_batch()" {
        Granted = "granted",
        GrantedBefore = "granted_before",
        Ended = "ended",
        Insufficient = "insufficient",
        TooManyTasks = "too_many_tasks",
        Stopped = "stopped",
        OverBudget = "over_budget",
        KeyTaken = "key_taken",
        InDoubt = "in_doubt",
        Attach = "attach",
        Unanswered = "unanswered",
        UnknownOrg = "unknown_org",
        Busy = "busy",
    }
}

fn row_verdict(verdict: Option<&str>, available: Option<i64>, reference: Option<Uuid>) -> RowVerdict {
    use VerdictWord as Word;
    let Some(word) = verdict.and_then(|word| Word::of_stored(word).ok()) else { return RowVerdict::Corrupt };
    match (word, available.map(Credits::new), reference) {
        (Word::Granted | Word::GrantedBefore, Some(available), _) => RowVerdict::Granted { available },
        (Word::Ended, ..) => RowVerdict::Ended,
        (Word::Insufficient, Some(available), _) => RowVerdict::Insufficient { available },
        (Word::TooManyTasks, ..) => RowVerdict::TooManyTasks,
        (Word::Stopped, ..) => RowVerdict::Stopped,
        (Word::OverBudget, Some(left), Some(budget)) => {
            RowVerdict::OverBudget { budget: BudgetId::from_uuid(budget), left }
        }
        (Word::KeyTaken, ..) => RowVerdict::KeyTaken,
        (Word::InDoubt, _, Some(hold)) => RowVerdict::InDoubt(HoldId::from_uuid(hold)),
        (Word::Attach, _, Some(hold)) => RowVerdict::Attach(HoldId::from_uuid(hold)),
        (Word::Unanswered, _, Some(hold)) => RowVerdict::Unanswered(HoldId::from_uuid(hold)),
        (Word::UnknownOrg, ..) => RowVerdict::UnknownOrg,
        (Word::Busy, ..) => RowVerdict::Busy,
        (Word::Granted | Word::GrantedBefore | Word::Insufficient | Word::OverBudget, ..)
        | (Word::InDoubt | Word::Attach | Word::Unanswered, ..) => RowVerdict::Corrupt,
    }
}

/// The columns of one step; a value that the step does not have is null.
#[derive(Default)]
pub(in crate::store) struct Columns<'a> {
    pub(in crate::store) task: Option<&'a str>,
    pub(in crate::store) raw: Option<i64>,
    pub(in crate::store) reported: Option<i64>,
    pub(in crate::store) charge: Option<i64>,
    loss: i64,
    possible: bool,
    pub(in crate::store) reason: Option<&'a str>,
    pub(in crate::store) due_ms: Option<i64>,
}

pub(in crate::store) fn columns(step: &Step) -> Columns<'_> {
    let ms = |time: &Duration| i64::try_from(time.as_millis()).ok();
    match step {
        Step::Run { task, raw, poll_in } => Columns {
            task: Some(task),
            raw: raw.map(Credits::get),
            reported: raw.map(Credits::get),
            due_ms: ms(poll_in),
            ..Columns::default()
        },
        Step::Settle { task, raw, reported, charge, flag } => Columns {
            task: task.as_deref(),
            raw: Some(raw.get()),
            reported: reported.map(Credits::get),
            charge: Some(charge.get()),
            reason: *flag,
            ..Columns::default()
        },
        Step::Fail { task, loss } => Columns {
            task: task.as_deref(),
            raw: (*loss > Credits::ZERO).then_some(loss.get()),
            reported: Some(loss.get()),
            loss: loss.get(),
            reason: Some("the task failed"),
            ..Columns::default()
        },
        Step::Refuse { reason, possible_loss } => {
            Columns { reason: Some(reason), loss: possible_loss.get(), possible: true, ..Columns::default() }
        }
        Step::Sweep => Columns { reason: Some("nobody worked on it"), ..Columns::default() },
        Step::Abandon => Columns { reason: Some("abandoned before it was sent"), ..Columns::default() },
        // If the task's id is known, it is still polled, but rarely.
        Step::Doubt { reason } => Columns { reason: Some(reason), due_ms: ms(&RARELY), ..Columns::default() },
        Step::Orphan => {
            Columns { reason: Some("its gateway died before it recorded an answer"), ..Columns::default() }
        }
        Step::WriteOff { possible_loss } => Columns {
            reason: Some("in doubt for too long"),
            loss: possible_loss.get(),
            possible: true,
            ..Columns::default()
        },
        Step::LateRun { task, reason, poll_in } => {
            Columns { task: Some(task), reason: reason.as_deref(), due_ms: ms(poll_in), ..Columns::default() }
        }
        Step::LateSettle { raw, reported, charge } => Columns {
            raw: Some(raw.get()),
            reported: reported.map(Credits::get),
            charge: Some(charge.get()),
            reason: Some("it came to light after its end, and succeeded"),
            ..Columns::default()
        },
        Step::LateFail { loss } => Columns {
            reported: Some(loss.get()),
            loss: loss.get(),
            reason: Some("it came to light after its end, and failed"),
            ..Columns::default()
        },
        Step::LateDrop => {
            Columns { reason: Some("it came to light after its end, and never ended"), ..Columns::default() }
        }
        Step::ResolveRun { task, reason } => {
            Columns { task: Some(task), reason: Some(reason), ..Columns::default() }
        }
        Step::ResolveRelease { reason, .. } => Columns { reason: Some(reason), ..Columns::default() },
    }
}

words! {
    /// The outcomes of `transition_batch`, whose file explains them.
    enum StepOutcome in "transition_batch()" {
        Applied = "applied",
        Unchanged = "unchanged",
        Busy = "busy",
    }
}

/// What became of one step of a batch.
#[derive(Debug)]
pub(in crate::store) enum RowOutcome {
    Taken(Applied),
    /// A row that it needs is locked by somebody else, and the batch does not wait.
    Busy,
    /// The outcome cannot be read: an error of this item and not of the others in the batch.
    Corrupt(StoreError),
}

fn outcome(word: Option<&str>) -> RowOutcome {
    match StepOutcome::of_stored(word.unwrap_or_default()) {
        Ok(StepOutcome::Applied) => RowOutcome::Taken(Applied::Yes),
        Ok(StepOutcome::Unchanged) => RowOutcome::Taken(Applied::No),
        Ok(StepOutcome::Busy) => RowOutcome::Busy,
        Err(unknown) => RowOutcome::Corrupt(StoreError::Corrupt(unknown.to_string().into())),
    }
}

/// Takes one step for each of several holds. Without `wait`, what needs a row that somebody else has locked is busy.
pub(in crate::store) async fn transition(
    connection: &mut PgConnection,
    profile: Profile,
    items: &[(OrgId, HoldId, &Step)],
    wait: bool,
) -> Result<Vec<RowOutcome>, sqlx::Error> {
    let (orgs, positions) = lock_order(items.iter().map(|(org, ..)| *org));
    let columns: Vec<Columns<'_>> = items.iter().map(|(.., step)| columns(step)).collect();
    let outcomes: Vec<Option<String>> = sqlx::query_scalar(match profile {
        Profile::Plain => {
            "select outcome from transition_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, '{}', '{}', \
             $12, null, $13)"
        }
        Profile::TwoCommit => {
            "call transition_batch_two_commits($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, '{}', '{}', \
             $12, null, $13, null)"
        }
    })
    .bind(orgs)
    .bind(positions)
    .bind(items.iter().map(|(_, hold, _)| hold.as_uuid()).collect::<Vec<_>>())
    .bind(items.iter().map(|(.., step)| step.kind()).collect::<Vec<_>>())
    .bind(columns.iter().map(|c| c.task).collect::<Vec<_>>())
    .bind(columns.iter().map(|c| c.raw).collect::<Vec<_>>())
    .bind(columns.iter().map(|c| c.reported).collect::<Vec<_>>())
    .bind(columns.iter().map(|c| c.charge).collect::<Vec<_>>())
    .bind(columns.iter().map(|c| c.loss).collect::<Vec<_>>())
    .bind(columns.iter().map(|c| c.possible).collect::<Vec<_>>())
    .bind(columns.iter().map(|c| c.reason).collect::<Vec<_>>())
    .bind(columns.iter().map(|c| c.due_ms).collect::<Vec<_>>())
    .bind(wait)
    .fetch_one(connection)
    .await?;
    if outcomes.len() != items.len() {
        return Err(sqlx::Error::Protocol("transition_batch answered another number of items".into()));
    }
    Ok(outcomes.iter().map(|word| outcome(word.as_deref())).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const RESERVE: &str =
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/functions/ledger/reserve_batch.sql"));
    const TRANSITION: &str = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/migrations/functions/ledger/transition_batch.sql"
    ));

    /// The words that a function assigns to the elements of `array`; the state of the hold is none of them.
    fn words(function: &'static str, array: &str) -> BTreeSet<&'static str> {
        let assignment = |line: &'static str| {
            let line = line.trim_start();
            let (_, assigned) = line[line.find(&format!("{array}["))?..].split_once(":= ")?;
            Some(assigned.split(';').next().unwrap_or_default())
        };
        let texts =
            function.lines().filter_map(assignment).flat_map(|text| text.split('\'').skip(1).step_by(2));
        texts.filter(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '_')).collect()
    }

    #[test]
    fn the_words_of_a_verdict_are_those_of_the_function() {
        let known: BTreeSet<_> = VerdictWord::ALL.iter().map(|word| word.as_str()).collect();
        assert_eq!(words(RESERVE, "verdict"), known);
        for word in known {
            let verdict = row_verdict(Some(word), Some(1), Some(Uuid::nil()));
            assert!(!matches!(verdict, RowVerdict::Corrupt), "{word}");
        }
    }

    #[test]
    fn an_unknown_word_or_a_verdict_without_its_figures_is_corrupt() {
        for (word, available, reference) in [
            (None, Some(1), None),
            (Some("1"), Some(1), None),
            (Some("Granted"), Some(1), None),
            (Some("granted"), None, None),
            (Some("insufficient"), None, None),
            (Some("over_budget"), Some(1), None),
            (Some("in_doubt"), Some(1), None),
            (Some("attach"), Some(1), None),
            (Some("unanswered"), Some(1), None),
        ] {
            let verdict = row_verdict(word, available, reference);
            assert!(matches!(verdict, RowVerdict::Corrupt), "{word:?}");
        }
    }

    #[test]
    fn the_words_of_a_step_are_those_of_the_function() {
        let assigned = words(TRANSITION, "outcome");
        assert_eq!(assigned, BTreeSet::from(["applied", "busy"]));
        assert!(TRANSITION.contains("outcome := array_fill('unchanged'::text"));
        assert!(matches!(outcome(Some("applied")), RowOutcome::Taken(Applied::Yes)));
        assert!(matches!(outcome(Some("unchanged")), RowOutcome::Taken(Applied::No)));
        assert!(matches!(outcome(Some("busy")), RowOutcome::Busy));
        for word in [None, Some("true"), Some("")] {
            assert!(matches!(outcome(word), RowOutcome::Corrupt(StoreError::Corrupt(_))), "{word:?}");
        }
    }
}
