//! What operators record of tasks by hand: whose task of the vendor a doubt is, and what is taken back of it. The management API
//! compares with what the vendor says before it comes here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::credits::Credits;
use crate::ids::{HoldId, KeyId, OrgId, UserId};
use crate::store::db::change::Acting;
use crate::store::db::database::Database;
use crate::store::db::error::{StoreError, is_unique_violation};
use crate::store::db::once::{Done, KeyClaim, Once, replayed, told};
use crate::store::db::words::words;
use crate::store::ledger::doubts::{Resolved, ResolvedState, SETTLE, settled_by_hand};
use crate::store::ledger::metered;
use crate::store::ledger::step::{Applied, Step, Terms};
use crate::store::ledger::tasks::{Late, State};

const TAKE_BACK: &str = "holds.take_back";

/// A hold, as operators see it.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct HoldInfo {
    /// The reference that the caller has.
    pub hold_id: HoldId,
    /// The organisation whose credits are held.
    pub org_id: OrgId,
    pub org: String,
    pub user_id: UserId,
    pub key_id: Option<KeyId>,
    pub state: State,
    /// What became of the task if it was reopened after its end; null: it was not.
    pub late: Option<Late>,
    /// The vendor's task type.
    pub task_type: String,
    /// Credits that are held, or were.
    pub credits: Credits,
    /// The list price, before the organisation's price factor.
    pub list_price: Credits,
    /// What the organisation paid; null: nothing was charged.
    pub charged: Option<Credits>,
    pub backend: String,
    /// The account with the vendor.
    pub account: String,
    /// The vendor's id of the task; null: it is unknown.
    pub upstream_task: Option<String>,
    /// Why the task ended, or is in doubt.
    pub reason: Option<String>,
    /// The labels that its caller gave it, by name.
    pub labels: BTreeMap<String, String>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
    /// What an operator recorded of it: the vendor's id of the task, the reason, and what was compared. `forced`: the operator
    /// insisted although it did not fit or could not be checked. `taken_back`: why it was taken back. Null: no operator did.
    #[schema(value_type = Option<Object>)]
    pub by_hand: Option<Value>,
    /// Of each field of the request, the SHA-256 of its value in URL-safe base64: it can be compared with what the vendor's
    /// pages show. Null: the task has ended, or nothing was kept.
    #[schema(value_type = Option<Object>)]
    pub digests: Option<Value>,
}

fn hold_info(row: &PgRow) -> Result<HoldInfo, sqlx::Error> {
    Ok(HoldInfo {
        hold_id: HoldId::from_uuid(row.try_get("hold_id")?),
        org_id: OrgId::from_uuid(row.try_get("org_id")?),
        org: row.try_get("org")?,
        user_id: UserId::from_uuid(row.try_get("user_id")?),
        key_id: row.try_get::<Option<Uuid>, _>("key_id")?.map(KeyId::from_uuid),
        state: row.try_get("state")?,
        late: row.try_get("late")?,
        task_type: row.try_get("task_type")?,
        credits: Credits::new(row.try_get("amount")?),
        list_price: Credits::new(row.try_get("list_price")?),
        charged: row.try_get::<Option<i64>, _>("charged")?.map(Credits::new),
        backend: row.try_get("backend")?,
        account: row.try_get("account")?,
        upstream_task: row.try_get("upstream_task")?,
        reason: row.try_get("reason")?,
        created_at: row.try_get("created_at")?,
        ended_at: row.try_get("ended_at")?,
        labels: row.try_get::<Option<Json<_>>, _>("labels")?.map(|Json(labels)| labels).unwrap_or_default(),
        by_hand: row.try_get("by_hand")?,
        digests: row.try_get("digests")?,
    })
}

impl HoldInfo {
    /// Whether it is in doubt, or ended without that anybody paid: its task of the vendor may be recorded.
    pub(super) fn may_be_settled(&self) -> bool {
        self.state == State::InDoubt
            || (matches!(self.state, State::Released | State::WrittenOff) && self.late.is_none())
    }

    pub(super) fn terms(&self) -> Terms {
        Terms { amount: self.credits, list_price: self.list_price }
    }
}

/// The evidence on which an operator records a task.
#[derive(Debug, Clone)]
pub struct Evidence<'a> {
    /// The vendor's id of the task.
    pub task: &'a str,
    /// What the vendor consumed, as the operator read it.
    pub credits: Option<Credits>,
    /// Who says so, and how they know it.
    pub why: &'a str,
    /// Whether the operator insisted.
    pub forced: bool,
    /// What the vendor answered, and what was compared: fields of a JSON object.
    pub compared: Value,
}

impl Evidence<'_> {
    /// What is kept with the task and in the audit log. `more`: further fields.
    pub(super) fn kept(&self, more: Value) -> Value {
        let mut kept = json!({
            "task_id": self.task, "credits": self.credits, "reason": self.why, "forced": self.forced,
        });
        if let Some(object) = kept.as_object_mut() {
            for part in [self.compared.clone(), more] {
                object.extend(part.as_object().cloned().unwrap_or_default());
            }
        }
        kept
    }
}

/// A call that may have been made before.
#[derive(Debug)]
pub enum Earlier<T, F> {
    /// It was, with the same idempotency key: the stored answer.
    Answered(Done<T>),
    /// What it is about.
    Found(F),
}

/// A hold that is to be settled by hand.
#[derive(Debug)]
pub struct ToSettle {
    pub hold: HoldInfo,
    /// Another hold that has this task of the vendor.
    pub other: Option<HoldInfo>,
}

/// The result of taking a step back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TakenBack {
    pub hold_id: HoldId,
    /// The state of the task now.
    pub state: State,
}

words! {
    enum TakeBackOutcome in "take_back_step()" {
        TakenBack = "taken_back",
        Unchanged = "unchanged",
        Replayed = "replayed",
        KeyReused = "key_reused",
        InProgress = "in_progress",
    }
}

/// The columns of a row of `task` that [`hold_info`] reads, with its organisation `o` and its content `c`.
const HOLD: &str = "t.hold_id, t.org_id, o.name as org, t.user_id, t.key_id, t.state, t.late, t.task_type, t.amount, \
     t.list_price, t.charged, t.backend, t.account, t.upstream_task, t.reason, t.created_at, t.ended_at, t.by_hand, c.digests, \
     (select jsonb_object_agg(l.name, l.value) from label l where l.org_id = t.org_id and l.hold_id = t.hold_id) as labels";

impl Database {
    /// The hold with this id, of whichever organisation.
    pub async fn hold(&self, hold: HoldId) -> Result<Option<HoldInfo>, StoreError> {
        // The statement goes through the organisations, which are few: a hold is indexed under its organisation.
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {HOLD} from org o cross join lateral ( \
                 select hold_id, org_id, user_id, key_id, state, late, task_type, amount, list_price, charged, backend, account, \
                        upstream_task, reason, created_at, ended_at, by_hand \
                 from task own where own.org_id = o.org_id and own.hold_id = $1 limit 1) t \
             left join content c on c.org_id = t.org_id and c.hold_id = t.hold_id"
        )));
        let row = row.bind(hold.as_uuid()).fetch_optional(self.pool()).await?;
        Ok(row.as_ref().map(hold_info).transpose()?)
    }

    /// The hold with this reference, or with this id of the vendor's.
    pub async fn hold_by_any_id(&self, id: &str) -> Result<Option<HoldInfo>, StoreError> {
        if let Ok(hold) = id.parse() {
            return self.hold(hold).await;
        }
        let holds: Vec<Uuid> = sqlx::query_scalar(
            "select hold_id from vendor_task where upstream_task = $1 order by account limit 2",
        )
        .bind(id)
        .fetch_all(self.pool())
        .await?;
        match *holds.as_slice() {
            [] => Ok(None),
            [hold] => self.hold(HoldId::from_uuid(hold)).await,
            [one, other, ..] => Err(StoreError::Conflict(format!(
                "several accounts have given the id '{id}': ask by the reference, such as {} or {}",
                HoldId::from_uuid(one),
                HoldId::from_uuid(other)
            ))),
        }
    }

    /// The hold that has this task of the vendor, on one of these accounts.
    pub(super) async fn hold_of_task(
        &self,
        task: &str,
        accounts: &[&str],
    ) -> Result<Option<HoldInfo>, StoreError> {
        let hold: Option<Uuid> = sqlx::query_scalar(
            "select hold_id from vendor_task where upstream_task = $1 and account = any($2) limit 1",
        )
        .bind(task)
        .bind(accounts)
        .fetch_optional(self.pool())
        .await?;
        match hold {
            Some(hold) => self.hold(HoldId::from_uuid(hold)).await,
            None => Ok(None),
        }
    }

    /// The hold that is to be settled with this task of the vendor.
    pub async fn to_settle(
        &self,
        hold: HoldId,
        task: &str,
        credits: Option<Credits>,
        once: Option<Once<'_>>,
    ) -> Result<Earlier<Resolved, ToSettle>, StoreError> {
        let claim = KeyClaim::of(SETTLE, hold.as_uuid(), once);
        // An earlier call with this key has ended the doubt, so its stored answer must be looked up before the state is.
        if let Some(earlier) = self.answered(&claim).await? {
            return Ok(Earlier::Answered(earlier));
        }
        let Some(found) = self.hold(hold).await?.filter(HoldInfo::may_be_settled) else {
            return Err(StoreError::Conflict(format!("{hold} is not in doubt (any more)")));
        };
        // After the end of a task only the vendor's own word counts, which the poll gets.
        if found.state != State::InDoubt && credits.is_some() {
            return Err(StoreError::Conflict(format!(
                "{hold} is not in doubt any more: it was {}. If the vendor ran it, give its task id and no credits: it is \
                 polled, and charged by a correction if it succeeded",
                if found.state == State::WrittenOff { "written off" } else { "released" }
            )));
        }
        if let Some(known) = found.upstream_task.as_deref().filter(|known| *known != task) {
            return Err(StoreError::Conflict(format!("{hold} is the vendor's task '{known}', not '{task}'")));
        }
        // The rule for the vendor's own figures holds here too: an implausible figure is a mistake.
        if let Some(credits) = credits
            && found.list_price.checked_mul(100).is_some_and(|ceiling| credits > ceiling)
        {
            return Err(StoreError::Invalid(format!(
                "{credits} credits cannot be: the list price of this task is {}",
                found.list_price
            )));
        }
        let other = self.hold_of_task(task, &[&found.account]).await?;
        let other = other.filter(|other| other.hold_id != hold);
        Ok(Earlier::Found(ToSettle { hold: found, other }))
    }
}

impl Acting {
    /// Records that `found` is the vendor's task that `evidence` names. It is polled to its end, which charges it; until then
    /// this can be taken back. Calls with the same idempotency key take effect once.
    pub async fn settle_by_hand(
        &self,
        found: &HoldInfo,
        evidence: &Evidence<'_>,
        once: Option<Once<'_>>,
    ) -> Result<Done<Resolved>, StoreError> {
        let hold = found.hold_id;
        let claim = KeyClaim::of(SETTLE, hold.as_uuid(), once);
        let (task, reason): (Arc<str>, Arc<str>) = (evidence.task.into(), evidence.why.into());
        let step = if found.state == State::InDoubt {
            Step::ResolveRun { task, reason }
        } else {
            Step::LateRun { task, reason: Some(reason), poll_in: Duration::ZERO }
        };
        let reply = Resolved { hold_id: hold, state: ResolvedState::Polled };
        let recorded = sqlx::query_as(
            "select outcome, answer from settle_by_hand($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(claim.endpoint)
        .bind(claim.key)
        .bind(claim.fingerprint())
        .bind(found.org_id.as_uuid())
        .bind(hold.as_uuid())
        .bind(step.kind())
        .bind(evidence.task)
        .bind(evidence.why)
        .bind(evidence.kept(json!({"known": found.upstream_task.is_some()})))
        .bind(serde_json::to_string(&reply).unwrap_or_default())
        .fetch_one(self.change())
        .await;
        let done = settled_by_hand(hold, recorded.map_err(of_another), reply)?;
        if !done.replayed {
            metered::step(hold, Some(found.terms()), &step, Applied::Yes);
        }
        Ok(done)
    }

    /// Takes back what an operator recorded of a task whose end the vendor has not reported since. Calls with the same idempotency key take
    /// effect once.
    pub async fn take_back(
        &self,
        hold: HoldId,
        why: &str,
        once: Option<Once<'_>>,
    ) -> Result<Done<TakenBack>, StoreError> {
        let claim = KeyClaim::of(TAKE_BACK, hold.as_uuid(), once);
        if let Some(earlier) = self.answered(&claim).await? {
            return Ok(earlier);
        }
        let found = self.hold(hold).await?;
        let found = found.ok_or_else(|| StoreError::NotFound(format!("there is no {hold}")))?;
        let (outcome, answer): (TakeBackOutcome, Option<String>) =
            sqlx::query_as("select outcome, answer from take_back_step($1, $2, $3, $4, $5, $6, $7)")
                .bind(claim.endpoint)
                .bind(claim.key)
                .bind(claim.fingerprint())
                .bind(found.org_id.as_uuid())
                .bind(hold.as_uuid())
                .bind(why)
                .bind(json!({"hold_id": hold}))
                .fetch_one(self.change())
                .await?;
        match outcome {
            TakeBackOutcome::TakenBack => Ok(Done { answer: told(answer)?, replayed: false }),
            TakeBackOutcome::Unchanged => Err(StoreError::Conflict(not_taken_back(&found))),
            TakeBackOutcome::Replayed => replayed(answer),
            TakeBackOutcome::KeyReused => Err(StoreError::KeyReused),
            TakeBackOutcome::InProgress => Err(StoreError::InProgress),
        }
    }

    /// Notes in the audit log that an operator's evidence about `found` was refused, with what was compared; returns the excerpt
    /// of its request, which the refusal shows.
    pub async fn note_refusal(
        &self,
        found: &HoldInfo,
        evidence: &Evidence<'_>,
    ) -> Result<Option<Value>, StoreError> {
        let excerpt: Option<String> = sqlx::query_scalar(
            "with noted as (insert into audit_log (actor, address, action, request_id, target_kind, target_id, org_id, after) \
                 select who.actor ->> 'actor', who.actor ->> 'address', who.actor ->> 'action', who.actor ->> 'request_id', \
                        'hold', $1::uuid::text, $2, $3 from (select current_setting('tollgate.audit')::jsonb as actor) who) \
             select (select c.excerpt from content c where c.org_id = $2 and c.hold_id = $1)",
        )
        .bind(found.hold_id.as_uuid())
        .bind(found.org_id.as_uuid())
        .bind(evidence.kept(json!({"refused": true})))
        .fetch_one(self.change())
        .await?;
        Ok(excerpt.and_then(|text| crate::strict::read_json(text.as_bytes()).ok()))
    }
}

/// The error of a step with a task id that a hold has by now.
pub(super) fn of_another(error: sqlx::Error) -> StoreError {
    if is_unique_violation(&error, "vendor_task_pkey") {
        StoreError::Conflict("the vendor's task of that id belongs to another hold already".into())
    } else {
        error.into()
    }
}

/// Why nothing of a hold can be taken back.
fn not_taken_back(found: &HoldInfo) -> String {
    let hold = found.hold_id;
    match &found.by_hand {
        None => format!("no operator has recorded a task for {hold}: there is nothing to take back"),
        Some(step) if step.get("taken_back").is_some() => {
            format!("what an operator recorded for {hold} was taken back already")
        }
        Some(_) => format!(
            "the end of {hold} is confirmed and booked: what is wrong with it is made good by a correction of \
             the balance (credits/adjustments)"
        ),
    }
}
