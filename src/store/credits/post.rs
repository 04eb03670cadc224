//! Credits that operators move (grants, corrections, transfers), each an entry with a reason; and overdrafts.
//!
//! A call may carry an idempotency key. One statement claims the key, moves the credits and stores the answer
//! (functions `…_once`); the claim comes before any lock. Of several calls with one key, through any gateways, one
//! moves the credits and the others return its answer. A refused call leaves its key free.

use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::credits::Credits;
use crate::ids::{EntryId, OrgId};
use crate::store::db::change::Acting;
use crate::store::db::error::StoreError;
use crate::store::db::once::{Done, KeyClaim, Once, replayed, told};
use crate::store::db::words::words;
use crate::store::ledger::entry_kind::EntryKind;
use crate::store::ledger::metered;

/// Why credits are moved.
#[derive(Debug, Clone, Copy)]
pub struct Why<'a> {
    /// The reason that people read; 1 to 500 characters.
    pub reason: &'a str,
    /// What the entry is called elsewhere, such as the number of an invoice; at most 200 characters.
    pub external_ref: Option<&'a str>,
}

/// An entry that has been posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PostedEntry {
    pub entry_id: EntryId,
    /// Credits available after the entry.
    pub available: Credits,
}

/// The two entries of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Transferred {
    /// The entry of the organisation that gave the credits.
    pub from_entry: EntryId,
    /// Credits available to the giving organisation afterwards.
    pub from_available: Credits,
    /// The entry of the organisation that got the credits.
    pub to_entry: EntryId,
    /// Credits available to the receiving organisation afterwards.
    pub to_available: Credits,
}

/// How far below zero an organisation may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Overdraft {
    pub org_id: OrgId,
    /// How many credits below zero `available` may go.
    pub overdraft: Credits,
    /// Credits available when the overdraft was set.
    pub available: Credits,
}

const GRANT: &str = "credits.grant";
const ADJUST: &str = "credits.adjust";
const TRANSFER: &str = "credits.transfer";
const OVERDRAFT: &str = "credits.overdraft";

const REASON: usize = 500;
const REFERENCE: usize = 200;

words! {
    /// The outcome of posting an entry, or both halves of a transfer.
    enum PostOutcome in "post_entry_once()", "transfer_once()" {
        Posted = "posted",
        Insufficient = "insufficient",
        InThePast = "in_the_past",
        UnknownOrg = "unknown_org",
        DeletedOrg = "deleted_org",
        Replayed = "replayed",
        KeyReused = "key_reused",
        InProgress = "in_progress",
    }
}

words! {
    enum OverdraftOutcome in "set_overdraft_once()" {
        Set = "set",
        UnknownOrg = "unknown_org",
        DeletedOrg = "deleted_org",
        Replayed = "replayed",
        KeyReused = "key_reused",
        InProgress = "in_progress",
    }
}

fn too_much(amount: Credits, org: OrgId) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |error| match &error {
        sqlx::Error::Database(e) if e.code().as_deref() == Some("22003") => {
            StoreError::Conflict(format!("{amount} credits more do not fit into the balance of {org}"))
        }
        _ => error.into(),
    }
}

/// The error that says why nothing was posted.
fn refused(outcome: PostOutcome, org: OrgId, amount: Credits, available: Option<i64>) -> StoreError {
    match (outcome, available) {
        (PostOutcome::Insufficient, Some(available)) => StoreError::Conflict(format!(
            "{org} has {available} credits available: {} cannot be taken",
            amount.get().unsigned_abs()
        )),
        (PostOutcome::InThePast, _) => StoreError::Invalid("expires_at has passed".into()),
        (PostOutcome::UnknownOrg, _) => unknown(org),
        (PostOutcome::DeletedOrg, _) => deleted(org),
        (PostOutcome::KeyReused, _) => StoreError::KeyReused,
        (PostOutcome::InProgress, _) => StoreError::InProgress,
        (PostOutcome::Posted | PostOutcome::Replayed | PostOutcome::Insufficient, _) => {
            StoreError::Corrupt("post_entry_once() returned no balance".into())
        }
    }
}

fn unknown(org: OrgId) -> StoreError {
    StoreError::NotFound(format!("there is no organisation {org}"))
}

fn deleted(org: OrgId) -> StoreError {
    StoreError::Conflict(format!("{org} has been deleted"))
}

impl Acting {
    /// Gives `org` credits, which stay for good or expire at `expires_at`.
    pub async fn grant(
        &self,
        org: OrgId,
        amount: Credits,
        expires_at: Option<OffsetDateTime>,
        why: Why<'_>,
        once: Option<Once<'_>>,
    ) -> Result<Done<PostedEntry>, StoreError> {
        if amount <= Credits::ZERO {
            return Err(StoreError::Invalid("a grant must be at least one credit".into()));
        }
        self.post(org, (GRANT, EntryKind::Grant), amount, expires_at, why, once).await
    }

    /// Corrects the balance of `org` by `amount`, up or down; not further down than its overdraft.
    pub async fn adjust(
        &self,
        org: OrgId,
        amount: Credits,
        why: Why<'_>,
        once: Option<Once<'_>>,
    ) -> Result<Done<PostedEntry>, StoreError> {
        if amount == Credits::ZERO {
            return Err(StoreError::Invalid("a correction must not be zero".into()));
        }
        self.post(org, (ADJUST, EntryKind::Adjust), amount, None, why, once).await
    }

    async fn post(
        &self,
        org: OrgId,
        (endpoint, kind): (&'static str, EntryKind),
        amount: Credits,
        expires_at: Option<OffsetDateTime>,
        why: Why<'_>,
        once: Option<Once<'_>>,
    ) -> Result<Done<PostedEntry>, StoreError> {
        check(why)?;
        let entry = EntryId::generate();
        let claim = KeyClaim::of(endpoint, org.as_uuid(), once);
        let (outcome, available, answer): (PostOutcome, Option<i64>, Option<String>) = sqlx::query_as(
            "select outcome, available, answer from post_entry_once($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        )
        .bind(claim.endpoint)
        .bind(claim.key)
        .bind(claim.fingerprint())
        .bind(org.as_uuid())
        .bind(entry.as_uuid())
        .bind(kind)
        .bind(amount.get())
        .bind(why.reason)
        .bind(why.external_ref)
        .bind(expires_at)
        .bind(self.actor())
        .bind(json!({ "entry_id": entry }))
        .fetch_one(self.change())
        .await
        .map_err(too_much(amount, org))?;
        match (outcome, available) {
            (PostOutcome::Posted, Some(available)) => {
                metered::posted(kind, amount);
                let answer = PostedEntry { entry_id: entry, available: Credits::new(available) };
                Ok(Done { answer, replayed: false })
            }
            (PostOutcome::Replayed, _) => replayed(answer),
            (outcome, available) => Err(refused(outcome, org, amount, available)),
        }
    }

    /// Moves credits that `from` has available to `to`. The overdraft of `from` cannot be given away. The credits do
    /// not expire at `to`.
    pub async fn transfer(
        &self,
        from: OrgId,
        to: OrgId,
        amount: Credits,
        why: Why<'_>,
        once: Option<Once<'_>>,
    ) -> Result<Done<Transferred>, StoreError> {
        check(why)?;
        if amount <= Credits::ZERO {
            return Err(StoreError::Invalid("a transfer must be at least one credit".into()));
        }
        if from == to {
            return Err(StoreError::Invalid("a transfer must go to another organisation".into()));
        }
        let (from_entry, to_entry) = (EntryId::generate(), EntryId::generate());
        // The claim is about no single organisation, because the body names both.
        let claim = KeyClaim::of(TRANSFER, Uuid::nil(), once);
        let (outcome, about, available, answer): (PostOutcome, Option<Uuid>, Option<i64>, Option<String>) =
            sqlx::query_as(
                "select outcome, org_id, available, answer \
                 from transfer_once($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            )
            .bind(claim.endpoint)
            .bind(claim.key)
            .bind(claim.fingerprint())
            .bind(from.as_uuid())
            .bind(from_entry.as_uuid())
            .bind(to.as_uuid())
            .bind(to_entry.as_uuid())
            .bind(amount.get())
            .bind(why.reason)
            .bind(why.external_ref)
            .bind(self.actor())
            .bind(json!({ "from_entry": from_entry, "to_entry": to_entry }))
            .fetch_one(self.change())
            .await
            .map_err(too_much(amount, to))?;
        match outcome {
            PostOutcome::Posted => Ok(Done { answer: told(answer)?, replayed: false }),
            PostOutcome::Replayed => replayed(answer),
            refusal => Err(refused(refusal, about.map_or(from, OrgId::from_uuid), amount, available)),
        }
    }

    /// Sets how far below zero new tasks and corrections may take `org`.
    pub async fn set_overdraft(
        &self,
        org: OrgId,
        overdraft: Credits,
        once: Option<Once<'_>>,
    ) -> Result<Done<Overdraft>, StoreError> {
        if overdraft < Credits::ZERO {
            return Err(StoreError::Invalid("an overdraft cannot be negative".into()));
        }
        let claim = KeyClaim::of(OVERDRAFT, org.as_uuid(), once);
        let (outcome, answer): (OverdraftOutcome, Option<String>) =
            sqlx::query_as("select outcome, answer from set_overdraft_once($1, $2, $3, $4, $5, $6)")
                .bind(claim.endpoint)
                .bind(claim.key)
                .bind(claim.fingerprint())
                .bind(org.as_uuid())
                .bind(overdraft.get())
                .bind(json!({ "org_id": org, "overdraft": overdraft }))
                .fetch_one(self.change())
                .await?;
        match outcome {
            OverdraftOutcome::Set => Ok(Done { answer: told(answer)?, replayed: false }),
            OverdraftOutcome::Replayed => replayed(answer),
            OverdraftOutcome::UnknownOrg => Err(unknown(org)),
            OverdraftOutcome::DeletedOrg => Err(deleted(org)),
            OverdraftOutcome::KeyReused => Err(StoreError::KeyReused),
            OverdraftOutcome::InProgress => Err(StoreError::InProgress),
        }
    }
}

fn fits(text: &str, most: usize) -> bool {
    !text.trim().is_empty() && text.chars().count() <= most && !text.contains('\0')
}

/// Fails if `reason` is not 1 to 500 characters.
pub(in crate::store) fn check_reason(reason: &str) -> Result<(), StoreError> {
    if fits(reason, REASON) {
        return Ok(());
    }
    Err(StoreError::Invalid(format!("reason must be 1 to {REASON} characters, not blank")))
}

fn check(why: Why<'_>) -> Result<(), StoreError> {
    check_reason(why.reason)?;
    if why.external_ref.is_some_and(|reference| !fits(reference, REFERENCE)) {
        return Err(StoreError::Invalid(format!(
            "external_ref must be 1 to {REFERENCE} characters, not blank"
        )));
    }
    Ok(())
}
