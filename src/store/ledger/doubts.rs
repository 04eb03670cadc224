//! Tasks in doubt, as operators see and resolve them, and the platform's losses.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use crate::credits::Credits;
use crate::ids::{HoldId, KeyId, OrgId, UserId};
use crate::store::db::change::Acting;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::once::{Done, KeyClaim, Once, replayed};
use crate::store::db::page::HoldPosition;
use crate::store::db::page::Slice;
use crate::store::db::words::words;
use crate::store::ledger::by_hand::{Earlier, HoldInfo};
use crate::store::ledger::metered;
use crate::store::ledger::step::Applied;
use crate::store::ledger::step::Step;
use crate::store::ledger::tasks::State;

pub(in crate::store) const SETTLE: &str = "holds.settle";
const RELEASE: &str = "holds.release";

/// A task in doubt: its outcome is unknown.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Doubt {
    /// The hold of the task: the reference that the caller has.
    pub hold_id: HoldId,
    /// The organisation whose credits are held.
    pub org_id: OrgId,
    pub org: String,
    pub user_id: UserId,
    pub key_id: Option<KeyId>,
    /// The vendor's task type.
    pub task_type: String,
    pub credits: Credits,
    /// The backend that the create was meant for.
    pub backend: String,
    /// The account with the vendor that the create was meant for.
    pub account: String,
    /// The vendor's id of the task; null: it is unknown.
    pub upstream_task: Option<String>,
    /// The SHA-256 of the prompt's characters in URL-safe base64: it can be compared with a prompt on the vendor's pages. Null:
    /// nothing was kept of the request.
    pub prompt_digest: Option<String>,
    pub reason: Option<String>,
    /// When the task was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When the doubt began.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
}

/// The result of resolving a task in doubt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Resolved {
    pub hold_id: HoldId,
    /// The state of the task after the resolution.
    pub state: ResolvedState,
}

words! {
    /// The state of a task after an operator resolved its doubt.
    pub enum ResolvedState in "idempotency.answer" {
        /// The task is polled to its end.
        Polled = "POLLED",
        Settled = "SETTLED",
        /// Nothing is owed for the task.
        Released = "RELEASED",
    }
}

words! {
    pub(in crate::store) enum ResolveOutcome in "resolve_doubt()", "settle_by_hand()" {
        Resolved = "resolved",
        Unchanged = "unchanged",
        Replayed = "replayed",
        KeyReused = "key_reused",
        InProgress = "in_progress",
    }
}

/// A loss, or possible loss, of the platform by one task.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Loss {
    pub hold_id: HoldId,
    /// The organisation of the task.
    pub org_id: OrgId,
    /// The account with the vendor that paid for the task.
    pub account: String,
    /// The vendor's task type.
    pub task_type: String,
    /// Credits of the vendor; a negative number takes an earlier loss back.
    pub credits: Credits,
    /// Whether it is unknown that the vendor took the credits.
    pub possible: bool,
    pub reason: String,
    /// When the loss was booked.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Orders the losses of one hold.
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
        prompt_digest: row.try_get("prompt_digest")?,
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
    /// The position in the list, for the cursor.
    pub fn place(&self) -> HoldPosition {
        HoldPosition { at: self.since, hold: self.hold_id, seq: 0 }
    }
}

impl Loss {
    /// The position in the list, for the cursor.
    pub fn place(&self) -> HoldPosition {
        HoldPosition { at: self.created_at, hold: self.hold_id, seq: self.seq }
    }
}

impl Database {
    /// Tasks in doubt of one organisation or of all, oldest doubt first.
    pub async fn doubts(
        &self,
        org: Option<OrgId>,
        slice: Slice<HoldPosition>,
    ) -> Result<Vec<Doubt>, StoreError> {
        let rows = sqlx::query(
            "select d.hold_id, org_id, h.user_id, h.key_id, h.task_type, h.amount, h.backend, h.account, d.upstream_task, d.reason, \
               h.created_at, o.name as org, d.doubt_at as since, c.digests ->> 'prompt' as prompt_digest \
             from open_task d join hold h using (org_id, hold_id) join org o using (org_id) \
             left join content c using (org_id, hold_id) \
             where d.state = 'IN_DOUBT' and ($1::uuid is null or d.org_id = $1) \
               and ($2::timestamptz is null or (d.doubt_at, d.hold_id) > ($2, $3)) \
             order by d.doubt_at, d.hold_id limit $4",
        )
        .bind(org.map(OrgId::as_uuid))
        .bind(slice.after.map(|after| after.at))
        .bind(slice.after.map(|after| after.hold.as_uuid()))
        .bind(i64::from(slice.limit))
        .fetch_all(self.pool())
        .await?;
        Ok(rows.iter().map(doubt).collect::<Result<_, _>>()?)
    }

    /// The age of the oldest doubt in seconds; 0 without doubts.
    pub async fn oldest_doubt_seconds(&self) -> Result<f64, StoreError> {
        let age: Option<f64> = sqlx::query_scalar(
            "select extract(epoch from now() - min(doubt_at))::float8 from open_task where state = 'IN_DOUBT'",
        )
        .fetch_one(self.pool())
        .await?;
        Ok(age.unwrap_or(0.0))
    }

    /// Losses and possible losses of the last `days`, newest first.
    pub async fn losses(&self, days: u32, slice: Slice<HoldPosition>) -> Result<Vec<Loss>, StoreError> {
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

impl Database {
    /// The hold in doubt that is to be released.
    pub async fn to_release(
        &self,
        hold: HoldId,
        once: Option<Once<'_>>,
    ) -> Result<Earlier<Resolved, HoldInfo>, StoreError> {
        let claim = KeyClaim::of(RELEASE, hold.as_uuid(), once);
        // An earlier call with this key has ended the doubt, so its stored answer must be looked up before the hold's
        // state is.
        if let Some(earlier) = self.answered(&claim).await? {
            return Ok(Earlier::Answered(earlier));
        }
        let found = self.hold(hold).await?.filter(HoldInfo::may_be_settled).ok_or_else(|| gone(hold))?;
        if found.state != State::InDoubt {
            return Err(StoreError::Conflict(format!(
                "{hold} is not in doubt any more: it was {}. If the vendor ran it, give its task id and no credits: it is \
                 polled, and charged by a correction if it succeeded",
                if found.state == State::WrittenOff { "written off" } else { "released" }
            )));
        }
        Ok(Earlier::Found(found))
    }
}

impl Acting {
    /// Ends a doubt because nothing is owed for the task; `why` is stored with it, and in the audit log `compared` too: what the
    /// vendor said, as fields of a JSON object. Calls with the same idempotency key take effect once.
    pub async fn release(
        &self,
        found: &HoldInfo,
        why: &str,
        compared: Value,
        once: Option<Once<'_>>,
    ) -> Result<Done<Resolved>, StoreError> {
        let hold = found.hold_id;
        let claim = KeyClaim::of(RELEASE, hold.as_uuid(), once);
        let step = Step::ResolveRelease { taken: found.upstream_task.is_some(), reason: why.into() };
        let reply = Resolved { hold_id: hold, state: ResolvedState::Released };
        let resolved = sqlx::query_as(
            "select outcome, answer from resolve_doubt($1, $2, $3, $4, $5, $6, null, null, null, null, $7, $9, null, $8)",
        )
        .bind(claim.endpoint)
        .bind(claim.key)
        .bind(claim.fingerprint())
        .bind(found.org_id.as_uuid())
        .bind(hold.as_uuid())
        .bind(step.kind())
        .bind(why)
        .bind(serde_json::to_string(&reply).unwrap_or_default())
        .bind(compared.to_string())
        .fetch_one(self.change())
        .await;
        let done = settled_by_hand(hold, resolved.map_err(StoreError::from), reply)?;
        if !done.replayed {
            metered::step(hold, Some(found.terms()), &step, Applied::Yes);
        }
        Ok(done)
    }
}

fn gone(hold: HoldId) -> StoreError {
    StoreError::Conflict(format!("{hold} is not in doubt (any more)"))
}

/// What a function answered that ends a doubt: its outcome, and the stored answer of a replay.
pub(in crate::store) fn settled_by_hand(
    hold: HoldId,
    said: Result<(ResolveOutcome, Option<String>), StoreError>,
    reply: Resolved,
) -> Result<Done<Resolved>, StoreError> {
    let (outcome, answer) = said?;
    match outcome {
        ResolveOutcome::Resolved => Ok(Done { answer: reply, replayed: false }),
        ResolveOutcome::Unchanged => Err(gone(hold)),
        ResolveOutcome::Replayed => replayed(answer),
        ResolveOutcome::KeyReused => Err(StoreError::KeyReused),
        ResolveOutcome::InProgress => Err(StoreError::InProgress),
    }
}

impl Database {
    /// The stored answer of an earlier call of an operator with this idempotency key.
    pub(in crate::store) async fn answered<T: DeserializeOwned>(
        &self,
        claim: &KeyClaim<'_>,
    ) -> Result<Option<Done<T>>, StoreError> {
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
            Err(StoreError::KeyReused)
        }
    }
}
