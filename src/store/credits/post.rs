//! Credits that operators move: grants, corrections, transfers, each a ledger entry with a reason; and overdrafts.
//!
//! A call may say an idempotency key. It is claimed before anything is locked and its answer stored, all in the
//! transaction that moves the credits: of calls with one key, through any gateways, one moves them and the others read
//! its answer. The keys of operators stand under the nil organisation; what was asked is the body and what it was asked
//! of. A refused call leaves its key free.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::credits::Credits;
use crate::ids::{EntryId, OrgId};
use crate::store::db::database::{Bounded, Database};
use crate::store::db::error::LedgerError;
use crate::store::db::error::is_lock_timeout;
use crate::store::db::words::words;
use crate::store::ledger::guard::Fingerprint;
use crate::store::ledger::metered;

/// A call that must count once, however often it is sent.
#[derive(Debug, Clone, Copy)]
pub struct Once<'a> {
    /// The caller's idempotency key.
    pub key: &'a str,
    /// The raw body: the same key with another one is refused.
    pub body: &'a [u8],
}

/// What a call came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done<T> {
    /// The answer; of a replay the one that was stored.
    pub answer: T,
    /// Whether an earlier call with the same idempotency key had done it.
    pub replayed: bool,
}

/// Why credits are moved.
#[derive(Debug, Clone, Copy)]
pub struct Why<'a> {
    /// For people; 1 to 500 characters.
    pub reason: &'a str,
    /// What it is called elsewhere, an invoice say; at most 200 characters.
    pub external_ref: Option<&'a str>,
}

/// An entry that has been posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PostedEntry {
    /// The entry.
    pub entry_id: EntryId,
    /// What was available after it.
    pub available: Credits,
}

/// A transfer: two entries that go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Transferred {
    /// Of the organisation that gave.
    pub from_entry: EntryId,
    /// What was available to it afterwards.
    pub from_available: Credits,
    /// Of the organisation that got.
    pub to_entry: EntryId,
    /// What was available to it afterwards.
    pub to_available: Credits,
}

/// How far an organisation may go below zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Overdraft {
    /// Whose.
    pub org_id: OrgId,
    /// By how many credits.
    pub overdraft: Credits,
    /// What was available then.
    pub available: Credits,
}

const GRANT: &str = "credits.grant";
const ADJUST: &str = "credits.adjust";
const TRANSFER: &str = "credits.transfer";
const OVERDRAFT: &str = "credits.overdraft";

/// The longest reason.
const REASON: usize = 500;
/// The longest reference.
const REFERENCE: usize = 200;

words! {
    /// What became of an entry that was to be posted.
    pub(in crate::store) enum Outcome in "post_entry()" {
        /// It is in the ledger.
        Posted = "posted",
        /// More was to be taken than is available.
        Insufficient = "insufficient",
        /// It would have run out already.
        InThePast = "in_the_past",
        /// There is no such organisation.
        UnknownOrg = "unknown_org",
        /// The organisation was deleted.
        DeletedOrg = "deleted_org",
    }
}

/// One entry to be posted.
struct NewEntry<'a> {
    org: OrgId,
    entry: EntryId,
    kind: &'static str,
    amount: Credits,
    why: Why<'a>,
    expires_at: Option<OffsetDateTime>,
    related: Option<EntryId>,
}

impl Database {
    /// Gives `org` credits, for good or until `expires_at`.
    pub async fn grant(
        &self,
        org: OrgId,
        amount: Credits,
        expires_at: Option<OffsetDateTime>,
        why: Why<'_>,
        once: Option<Once<'_>>,
    ) -> Result<Done<PostedEntry>, LedgerError> {
        if amount <= Credits::ZERO {
            return Err(LedgerError::Invalid("a grant is at least one credit".into()));
        }
        self.post(org, GRANT, "grant", amount, expires_at, why, once).await
    }

    /// Corrects the balance of `org` by `amount`, up or down; down to its overdraft at most.
    pub async fn adjust(
        &self,
        org: OrgId,
        amount: Credits,
        why: Why<'_>,
        once: Option<Once<'_>>,
    ) -> Result<Done<PostedEntry>, LedgerError> {
        if amount == Credits::ZERO {
            return Err(LedgerError::Invalid("a correction is not of nothing".into()));
        }
        self.post(org, ADJUST, "adjust", amount, None, why, once).await
    }

    #[expect(clippy::too_many_arguments, reason = "a grant and a correction, one way")]
    async fn post(
        &self,
        org: OrgId,
        endpoint: &'static str,
        kind: &'static str,
        amount: Credits,
        expires_at: Option<OffsetDateTime>,
        why: Why<'_>,
        once: Option<Once<'_>>,
    ) -> Result<Done<PostedEntry>, LedgerError> {
        check(why)?;
        let entry = EntryId::generate();
        let mut change = self.change().await?;
        if let Some(earlier) = claim(&mut change, endpoint, org.as_uuid(), once, entry.as_uuid()).await? {
            return Ok(Done { answer: earlier, replayed: true });
        }
        let new = NewEntry { org, entry, kind, amount, why, expires_at, related: None };
        let available = self.post_entry(&mut change, &new).await?;
        let answer = PostedEntry { entry_id: entry, available };
        store(&mut change, endpoint, once, &answer).await?;
        change.commit().await?;
        metered::posted(kind, amount);
        Ok(Done { answer, replayed: false })
    }

    /// Moves credits that `from` has available (its overdraft is not for giving away) to `to`. They do not run out there.
    pub async fn transfer(
        &self,
        from: OrgId,
        to: OrgId,
        amount: Credits,
        why: Why<'_>,
        once: Option<Once<'_>>,
    ) -> Result<Done<Transferred>, LedgerError> {
        check(why)?;
        let Some(taken) = Credits::ZERO.checked_sub(amount).filter(|taken| *taken < Credits::ZERO) else {
            return Err(LedgerError::Invalid("a transfer is of at least one credit".into()));
        };
        if from == to {
            return Err(LedgerError::Invalid("a transfer goes to another organisation".into()));
        }
        let (from_entry, to_entry) = (EntryId::generate(), EntryId::generate());
        let mut change = self.change().await?;
        // The body names both organisations.
        if let Some(earlier) = claim(&mut change, TRANSFER, Uuid::nil(), once, from_entry.as_uuid()).await? {
            return Ok(Done { answer: earlier, replayed: true });
        }
        // Every writer locks balances in this order.
        sqlx::query("select from org_balance where org_id in ($1, $2) order by org_id for no key update")
            .bind(from.as_uuid())
            .bind(to.as_uuid())
            .execute(&mut *change)
            .bounded()
            .await?;
        let half = |org, entry, amount, other| NewEntry {
            org,
            entry,
            kind: "transfer",
            amount,
            why,
            expires_at: None,
            related: Some(other),
        };
        let from_available = self.post_entry(&mut change, &half(from, from_entry, taken, to_entry)).await?;
        let to_available = self.post_entry(&mut change, &half(to, to_entry, amount, from_entry)).await?;
        let answer = Transferred { from_entry, from_available, to_entry, to_available };
        store(&mut change, TRANSFER, once, &answer).await?;
        change.commit().await?;
        Ok(Done { answer, replayed: false })
    }

    /// Sets how far below zero new tasks and corrections of `org` may go.
    pub async fn set_overdraft(
        &self,
        org: OrgId,
        overdraft: Credits,
        once: Option<Once<'_>>,
    ) -> Result<Done<Overdraft>, LedgerError> {
        if overdraft < Credits::ZERO {
            return Err(LedgerError::Invalid("an overdraft cannot be negative".into()));
        }
        let mut change = self.change().await?;
        if let Some(earlier) = claim(&mut change, OVERDRAFT, org.as_uuid(), once, org.as_uuid()).await? {
            return Ok(Done { answer: earlier, replayed: true });
        }
        let available: Option<i64> =
            sqlx::query_scalar("update org_balance set overdraft = $2 where org_id = $1 returning available")
                .bind(org.as_uuid())
                .bind(overdraft.get())
                .fetch_optional(&mut *change)
                .bounded()
                .await?;
        // It is shown with the organisation: who edits that has to see it.
        let edited = sqlx::query("update org set version = version where org_id = $1 and deleted_at is null")
            .bind(org.as_uuid())
            .execute(&mut *change)
            .bounded()
            .await?;
        let Some(available) = available.map(Credits::new) else {
            return Err(LedgerError::NotFound(format!("there is no organisation {org}")));
        };
        if edited.rows_affected() == 0 {
            return Err(LedgerError::Conflict(format!("{org} has been deleted")));
        }
        let answer = Overdraft { org_id: org, overdraft, available };
        store(&mut change, OVERDRAFT, once, &answer).await?;
        change.commit().await?;
        Ok(Done { answer, replayed: false })
    }

    async fn post_entry(
        &self,
        connection: &mut PgConnection,
        new: &NewEntry<'_>,
    ) -> Result<Credits, LedgerError> {
        let actor = self.actor.as_ref().map_or("gateway", |actor| &actor.name);
        let (outcome, available): (Outcome, Option<i64>) = sqlx::query_as(
            "select outcome, available from post_entry($1, $2, $3, $4, $5, $6, $7, $8, $9, null)",
        )
        .bind(new.org.as_uuid())
        .bind(new.entry.as_uuid())
        .bind(new.kind)
        .bind(new.amount.get())
        .bind(new.why.reason)
        .bind(new.why.external_ref)
        .bind(new.expires_at)
        .bind(new.related.map(EntryId::as_uuid))
        .bind(actor)
        .fetch_one(connection)
        .bounded()
        .await
        .map_err(|error| match &error {
            sqlx::Error::Database(e) if e.code().as_deref() == Some("22003") => LedgerError::Conflict(
                format!("{} credits more do not fit into the balance of {}", new.amount, new.org),
            ),
            _ => error.into(),
        })?;
        match (outcome, available.map(Credits::new)) {
            (Outcome::Posted, Some(available)) => Ok(available),
            (Outcome::Insufficient, Some(available)) => Err(LedgerError::Conflict(format!(
                "{} has {available} credits available: {} cannot be taken",
                new.org,
                new.amount.get().unsigned_abs()
            ))),
            (Outcome::Posted | Outcome::Insufficient, None) => {
                Err(LedgerError::Corrupt("post_entry told no balance".into()))
            }
            (Outcome::InThePast, _) => Err(LedgerError::Invalid("expires_at has passed".into())),
            (Outcome::UnknownOrg, _) => {
                Err(LedgerError::NotFound(format!("there is no organisation {}", new.org)))
            }
            (Outcome::DeletedOrg, _) => Err(LedgerError::Conflict(format!("{} has been deleted", new.org))),
        }
    }
}

fn check(why: Why<'_>) -> Result<(), LedgerError> {
    let fits =
        |text: &str, most| !text.trim().is_empty() && text.chars().count() <= most && !text.contains('\0');
    if !fits(why.reason, REASON) {
        return Err(LedgerError::Invalid(format!("reason must be 1 to {REASON} characters, not blank")));
    }
    if why.external_ref.is_some_and(|reference| !fits(reference, REFERENCE)) {
        return Err(LedgerError::Invalid(format!(
            "external_ref must be 1 to {REFERENCE} characters, not blank"
        )));
    }
    Ok(())
}

/// Claims the key for what is called `made`, or tells what it came to earlier. Waits for whoever is at it with the same
/// key, but not for long.
pub(in crate::store) async fn claim<T: DeserializeOwned>(
    connection: &mut PgConnection,
    endpoint: &'static str,
    about: Uuid,
    once: Option<Once<'_>>,
    made: Uuid,
) -> Result<Option<T>, LedgerError> {
    let Some(once) = once else { return Ok(None) };
    let asked = Fingerprint::of(&[about.as_bytes(), once.body].concat());
    let claimed = sqlx::query(
        "insert into idempotency (org_id, endpoint, key, fingerprint, hold_id, created_at) \
         values ($1, $2, $3, $4, $5, now()) on conflict do nothing",
    )
    .bind(Uuid::nil())
    .bind(endpoint)
    .bind(once.key)
    .bind(asked.as_bytes())
    .bind(made)
    .execute(&mut *connection)
    .bounded()
    .await
    // Whoever has locked it is at the same call.
    .map_err(|error| if is_lock_timeout(&error) { LedgerError::InProgress } else { error.into() })?;
    if claimed.rows_affected() == 1 {
        return Ok(None);
    }
    let (fingerprint, answer): (Vec<u8>, Option<String>) = sqlx::query_as(
        "select fingerprint, answer from idempotency where org_id = $1 and endpoint = $2 and key = $3",
    )
    .bind(Uuid::nil())
    .bind(endpoint)
    .bind(once.key)
    .fetch_optional(&mut *connection)
    .bounded()
    .await?
    // It was forgotten this very moment: as if it had been sent a moment earlier.
    .ok_or(LedgerError::Timeout)?;
    if fingerprint != asked.as_bytes() {
        return Err(LedgerError::KeyReused);
    }
    let answer = answer.as_deref().map(serde_json::from_str).transpose();
    answer.ok().flatten().map(Some).ok_or(LedgerError::Corrupt("idempotency.answer".into()))
}

/// Keeps the answer for whoever says the key again.
pub(in crate::store) async fn store<T: Serialize>(
    connection: &mut PgConnection,
    endpoint: &'static str,
    once: Option<Once<'_>>,
    answer: &T,
) -> Result<(), LedgerError> {
    let Some(once) = once else { return Ok(()) };
    let answer =
        serde_json::to_string(answer).map_err(|_| LedgerError::Corrupt("an answer to be stored".into()))?;
    sqlx::query(
        "update idempotency set status = 200, answer = $4 where org_id = $1 and endpoint = $2 and key = $3",
    )
    .bind(Uuid::nil())
    .bind(endpoint)
    .bind(once.key)
    .bind(answer)
    .execute(connection)
    .bounded()
    .await?;
    Ok(())
}
