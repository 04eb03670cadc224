//! Tasks whose outcome is unknown, as operators see and resolve them; and what the platform lost.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use crate::credits::Credits;
use crate::ids::{HoldId, KeyId, OrgId, UserId};
use crate::store::credits::post::{Claim, Done, Once, replayed};
use crate::store::db::change::Acting;
use crate::store::db::database::Database;
use crate::store::db::error::LedgerError;
use crate::store::db::error::is_unique_violation;
use crate::store::db::page::HoldPlace;
use crate::store::db::words::words;
use crate::store::directory::tenancy::Slice;
use crate::store::ledger::lanes::batch;
use crate::store::ledger::metered;
use crate::store::ledger::step::Applied;
use crate::store::ledger::step::Step;
use crate::store::ledger::tasks::State;
use crate::store::ledger::tasks::{COLUMNS, Task, task};
use crate::wire::success;

const SETTLE: &str = "holds.settle";
const RELEASE: &str = "holds.release";

/// A task whose outcome is unknown.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Doubt {
    /// Its hold: the reference the caller has.
    pub hold_id: HoldId,
    /// Whose credits it holds.
    pub org_id: OrgId,
    pub org: String,
    pub user_id: UserId,
    pub key_id: Option<KeyId>,
    /// The vendor's task type.
    pub task_type: String,
    pub credits: Credits,
    /// The backend it may have gone to.
    pub backend: String,
    /// The account that may have paid.
    pub account: String,
    /// The vendor's id of it, if that is known.
    pub upstream_task: Option<String>,
    pub reason: Option<String>,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When the doubt began.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
}

/// What an operator found out about a task in doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// The vendor runs or ran it under this id: it is polled to its end.
    Taken {
        /// The vendor's id of it.
        task: Arc<str>,
    },
    Succeeded {
        /// The vendor's id of it.
        task: Arc<str>,
        /// What the vendor consumed for it.
        consumed: Credits,
    },
    /// Nothing is owed for it.
    NotOwed,
}

/// What became of a task that was in doubt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Resolved {
    pub hold_id: HoldId,
    /// What it is now.
    pub state: ResolvedState,
}

words! {
    /// What an operator's word made of a task in doubt.
    pub enum ResolvedState in "idempotency.answer" {
        /// It is polled to its end.
        Polled = "POLLED",
        Settled = "SETTLED",
        /// Nothing is owed for it.
        Released = "RELEASED",
    }
}

words! {
    enum ResolveOutcome in "resolve_doubt()" {
        Resolved = "resolved",
        Unchanged = "unchanged",
        Replayed = "replayed",
        KeyReused = "key_reused",
        InProgress = "in_progress",
    }
}

/// What the platform lost, or may have lost, by one task.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Loss {
    pub hold_id: HoldId,
    /// Whose task it was.
    pub org_id: OrgId,
    /// The account that paid.
    pub account: String,
    /// The vendor's task type.
    pub task_type: String,
    /// Credits of the vendor; negative takes an earlier loss back.
    pub credits: Credits,
    /// Whether nobody knows that it was lost.
    pub possible: bool,
    pub reason: String,
    /// When it was booked.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Of several losses of one hold.
    pub seq: i32,
}

fn doubt(row: &PgRow) -> Result<Doubt, sqlx::Error> {
    Ok(Doubt {
        hold_id: HoldId::from_uuid(row.try_get("hold_id")?),
        org_id: OrgId::from_uuid(row.try_get("org_id")?),
        org: row.try_get("org")?,
        user_id: UserId::from_uuid(row.try_get("user_id")?),
        key_id: row.try_get::<Option<uuid::Uuid>, _>("key_id")?.map(KeyId::from_uuid),
        task_type: row.try_get("task_type")?,
        credits: Credits::new(row.try_get("amount")?),
        backend: row.try_get("backend")?,
        account: row.try_get("account")?,
        upstream_task: row.try_get("upstream_task")?,
        reason: row.try_get("reason")?,
        created_at: row.try_get("created_at")?,
        since: row.try_get("since")?,
    })
}

fn loss(row: &PgRow) -> Result<Loss, sqlx::Error> {
    Ok(Loss {
        hold_id: HoldId::from_uuid(row.try_get("hold_id")?),
        org_id: OrgId::from_uuid(row.try_get("org_id")?),
        account: row.try_get("account")?,
        task_type: row.try_get("task_type")?,
        credits: Credits::new(row.try_get("amount")?),
        possible: row.try_get("possible")?,
        reason: row.try_get("reason")?,
        created_at: row.try_get("created_at")?,
        seq: row.try_get("seq")?,
    })
}

impl Doubt {
    /// Where it is in the list.
    pub fn place(&self) -> HoldPlace {
        HoldPlace { at: self.since, hold: self.hold_id, seq: 0 }
    }
}

impl Loss {
    /// Where it is in the list.
    pub fn place(&self) -> HoldPlace {
        HoldPlace { at: self.created_at, hold: self.hold_id, seq: self.seq }
    }
}

/// What a replay of the create is answered once an operator has told its id.
fn answer(task: &Task, id: &str) -> Arc<str> {
    let data = serde_json::json!({
        "task_id": id, "status": "IN_PROGRESS", "consumed_credits": task.amount, "type": &*task.task_type,
    });
    success(&data).into()
}

impl Database {
    /// Tasks in doubt, oldest doubt first; of one organisation, or of all.
    pub async fn doubts(
        &self,
        org: Option<OrgId>,
        slice: Slice<HoldPlace>,
    ) -> Result<Vec<Doubt>, LedgerError> {
        let rows = sqlx::query(
            "select h.hold_id, org_id, h.user_id, h.key_id, h.task_type, h.amount, h.backend, h.account, h.upstream_task, h.reason, \
               h.created_at, o.name as org, h.doubt_at as since from hold h join org o using (org_id) \
             where h.state = 'IN_DOUBT' and ($1::uuid is null or h.org_id = $1) \
               and ($2::timestamptz is null or (h.doubt_at, h.hold_id) > ($2, $3)) \
             order by since, h.hold_id limit $4",
        )
        .bind(org.map(OrgId::as_uuid))
        .bind(slice.after.map(|after| after.at))
        .bind(slice.after.map(|after| after.hold.as_uuid()))
        .bind(i64::from(slice.limit))
        .fetch_all(self.pool())
        .await?;
        Ok(rows.iter().map(doubt).collect::<Result<_, _>>()?)
    }

    /// Age of the oldest doubt, in seconds.
    pub async fn oldest_doubt_seconds(&self) -> Result<f64, LedgerError> {
        let age: Option<f64> = sqlx::query_scalar(
            "select extract(epoch from now() - min(doubt_at))::float8 from hold where state = 'IN_DOUBT'",
        )
        .fetch_one(self.pool())
        .await?;
        Ok(age.unwrap_or(0.0))
    }

    /// What the platform lost or may have lost in the last `days`, newest first.
    pub async fn losses(&self, days: u32, slice: Slice<HoldPlace>) -> Result<Vec<Loss>, LedgerError> {
        let rows = sqlx::query(
            "select hold_id, org_id, l.seq, h.account, h.task_type, l.amount, l.possible, l.reason, l.created_at \
             from platform_loss l join hold h using (org_id, hold_id) \
             where l.created_at > now() - $1 * interval '1 day' \
               and ($2::timestamptz is null or (l.created_at, l.hold_id, l.seq) < ($2, $3, $4)) \
             order by l.created_at desc, l.hold_id desc, l.seq desc limit $5",
        )
        .bind(f64::from(days))
        .bind(slice.after.map(|after| after.at))
        .bind(slice.after.map(|after| after.hold.as_uuid()))
        .bind(slice.after.map(|after| after.seq))
        .bind(i64::from(slice.limit))
        .fetch_all(self.pool())
        .await?;
        Ok(rows.iter().map(loss).collect::<Result<_, _>>()?)
    }
}

impl Acting {
    /// Ends a doubt by what an operator found out; `why` is kept with the task. One that was released or written off can
    /// still be told apart by its id. The same idempotency key does it once.
    pub async fn resolve(
        &self,
        hold: HoldId,
        resolution: Resolution,
        why: &str,
        once: Option<Once<'_>>,
    ) -> Result<Done<Resolved>, LedgerError> {
        let (endpoint, state) = match &resolution {
            Resolution::Taken { .. } => (SETTLE, ResolvedState::Polled),
            Resolution::Succeeded { .. } => (SETTLE, ResolvedState::Settled),
            Resolution::NotOwed => (RELEASE, ResolvedState::Released),
        };
        let claim = Claim::of(endpoint, hold.as_uuid(), once);
        // One that was carried out left nothing in doubt: its answer must be found before the hold is looked at.
        if let Some(earlier) = self.answered(&claim).await? {
            return Ok(earlier);
        }
        // By way of the organisations: a hold is found under its own, and there are few of them.
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select h.* from (select org_id as owner from org) o cross join lateral \
             (select {COLUMNS} from hold h where h.org_id = o.owner and h.hold_id = $1 limit 1) h \
             where h.state = 'IN_DOUBT' or (h.state in ('RELEASED', 'WRITTEN_OFF') and h.late is null)"
        )))
        .bind(hold.as_uuid())
        .fetch_optional(self.pool())
        .await?;
        let gone = || LedgerError::Conflict(format!("{hold} is not in doubt (any more)"));
        let found = task(row.as_ref().ok_or_else(gone)?)?;
        // After its end only evidence counts: the vendor's own word, by which it is corrected.
        let ended = found.state.is_terminal();
        if ended && !matches!(resolution, Resolution::Taken { .. }) {
            return Err(LedgerError::Conflict(format!(
                "{hold} is not in doubt any more: it was {}. If the vendor ran it, give its task id and no credits: it is \
                 polled, and charged by a correction if it succeeded",
                if found.state == State::WrittenOff { "written off" } else { "released" }
            )));
        }
        let known = found.upstream_task.clone();
        let same = |task: &Arc<str>| match &known {
            Some(known) if known != task => {
                Err(LedgerError::Invalid(format!("{hold} is the vendor's task '{known}', not '{task}'")))
            }
            _ => Ok(()),
        };
        let reason: Arc<str> = why.into();
        let step = match resolution {
            Resolution::Taken { task } => {
                same(&task)?;
                let answer = answer(&found, &task);
                if ended {
                    Step::LateRun {
                        task,
                        answer: Some(answer),
                        reason: Some(reason),
                        poll_in: Duration::ZERO,
                    }
                } else {
                    Step::ResolveRun { answer, task, reason }
                }
            }
            Resolution::Succeeded { task, consumed } => {
                same(&task)?;
                // As for the vendor's own figures: what cannot be is a slip.
                let sane = found.list_price.checked_mul(100).is_none_or(|ceiling| consumed <= ceiling);
                let charge = found.factor.apply(consumed).filter(|_| sane).ok_or_else(|| {
                    LedgerError::Invalid(format!(
                        "{consumed} credits cannot be: the list price of this task is {}",
                        found.list_price
                    ))
                })?;
                let reported = found.raw_consumed.is_none().then_some(consumed);
                Step::ResolveSettle {
                    answer: answer(&found, &task),
                    task,
                    raw: consumed,
                    reported,
                    charge,
                    reason,
                }
            }
            Resolution::NotOwed => Step::ResolveRelease { taken: known.is_some(), reason },
        };
        let columns = batch::columns(&step);
        let reply = Resolved { hold_id: hold, state };
        let resolved: Result<(ResolveOutcome, Option<String>), _> = sqlx::query_as(
            "select outcome, answer from resolve_doubt($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        )
        .bind(claim.endpoint)
        .bind(claim.key)
        .bind(claim.fingerprint())
        .bind(found.org.as_uuid())
        .bind(hold.as_uuid())
        .bind(step.kind())
        .bind(columns.task)
        .bind(columns.raw)
        .bind(columns.reported)
        .bind(columns.charge)
        .bind(columns.reason)
        .bind(columns.answer)
        .bind(columns.due_ms)
        .bind(serde_json::to_string(&reply).unwrap_or_default())
        .fetch_one(self.change())
        .await;
        let (outcome, answer) = resolved.map_err(|error| match &error {
            error if is_unique_violation(error, "hold_by_upstream_task") => {
                LedgerError::Invalid("the vendor's task of that id belongs to another hold already".into())
            }
            sqlx::Error::Database(e) if e.code().as_deref() == Some("22003") => {
                LedgerError::Invalid("so many credits do not fit into a balance".into())
            }
            _ => error.into(),
        })?;
        match outcome {
            ResolveOutcome::Resolved => {
                metered::step(hold, Some(found.terms()), &step, Applied::Yes);
                Ok(Done { answer: reply, replayed: false })
            }
            ResolveOutcome::Unchanged => Err(gone()),
            ResolveOutcome::Replayed => replayed(answer),
            ResolveOutcome::KeyReused => Err(LedgerError::KeyReused),
            ResolveOutcome::InProgress => Err(LedgerError::InProgress),
        }
    }

    /// What an earlier call with this idempotency key was answered.
    async fn answered(&self, claim: &Claim<'_>) -> Result<Option<Done<Resolved>>, LedgerError> {
        let Some(key) = claim.key else { return Ok(None) };
        let stored: Option<(Vec<u8>, Option<String>)> = sqlx::query_as(
            "select fingerprint, answer from idempotency where org_id = $1 and endpoint = $2 and key = $3",
        )
        .bind(uuid::Uuid::nil())
        .bind(claim.endpoint)
        .bind(key)
        .fetch_optional(self.pool())
        .await?;
        let Some((fingerprint, answer)) = stored else { return Ok(None) };
        if fingerprint == claim.fingerprint() {
            replayed(answer).map(Some)
        } else {
            Err(LedgerError::KeyReused)
        }
    }
}
