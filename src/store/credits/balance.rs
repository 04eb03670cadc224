//! Balances and what is posted to them.

use serde::Serialize;
use sqlx::Row;
use sqlx::postgres::PgRow;
use utoipa::ToSchema;

use crate::credits::Credits;
use crate::ids::{EntryId, OrgId};
use crate::store::db::database::{Bounded, Database};
use crate::store::db::error::LedgerError;
use crate::store::ledger::guard::Fingerprint;
use crate::store::ledger::metered;

/// A balance: `available + held + consumed = granted`.
#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq, ToSchema)]
pub struct Balance {
    /// What can be held for new tasks.
    pub available: Credits,
    /// What unfinished tasks hold.
    pub held: Credits,
    /// What finished tasks cost.
    pub consumed: Credits,
    /// Everything ever credited, less what was taken back.
    pub granted: Credits,
    /// How far below zero new tasks may go.
    pub overdraft: Credits,
    /// Tasks HELD or RUNNING.
    pub open_tasks: i32,
    /// Tasks whose outcome is unknown.
    pub in_doubt: i32,
}

/// What became of a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Posted {
    /// The ledger entry.
    pub entry_id: EntryId,
    /// Whether an earlier call with the same idempotency key had made it.
    pub replayed: bool,
    /// What is available now.
    pub available: Credits,
}

/// What a [`Balance`] is read from: `b`. Named, here and wherever a table may get more columns: a connection that has
/// prepared `select *` fails once when a migration adds one.
pub(in crate::store) const COLUMNS: &str =
    "b.available, b.held, b.consumed, b.granted, b.overdraft, b.open_tasks, b.in_doubt";

pub(in crate::store) fn balance(row: &PgRow) -> Result<Balance, sqlx::Error> {
    let credits = |column| row.try_get(column).map(Credits::new);
    Ok(Balance {
        available: credits("available")?,
        held: credits("held")?,
        consumed: credits("consumed")?,
        granted: credits("granted")?,
        overdraft: credits("overdraft")?,
        open_tasks: row.try_get("open_tasks")?,
        in_doubt: row.try_get("in_doubt")?,
    })
}

impl Database {
    /// Its balance.
    pub async fn balance(&self, org: OrgId) -> Result<Option<Balance>, LedgerError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from org_balance b where org_id = $1"
        )));
        Ok(row
            .bind(org.as_uuid())
            .fetch_optional(self.pool())
            .bounded()
            .await?
            .as_ref()
            .map(balance)
            .transpose()?)
    }

    /// Posts a grant (positive) or an adjustment (any sign). The same `idempotency_key` posts once.
    pub async fn post_credit(
        &self,
        org: OrgId,
        amount: Credits,
        reason: &str,
        actor: &str,
        idempotency_key: Option<&str>,
    ) -> Result<Posted, LedgerError> {
        let kind = if amount > Credits::ZERO { "grant" } else { "adjust" };
        let fingerprint = Fingerprint::of(format!("{kind} {amount} {reason}").as_bytes());
        let mut change = self.change().await?;
        let (outcome, entry, available): (String, Option<uuid::Uuid>, Option<i64>) = sqlx::query_as(
            "select outcome, entry_id, available from post_credit($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(org.as_uuid())
        .bind(EntryId::generate().as_uuid())
        .bind(kind)
        .bind(amount.get())
        .bind(reason)
        .bind(actor)
        .bind(idempotency_key)
        .bind(fingerprint.as_bytes())
        .fetch_one(&mut *change)
        .bounded()
        .await
        .map_err(|error| match &error {
            sqlx::Error::Database(e) if e.code().as_deref() == Some("22003") => {
                LedgerError::Invalid(format!("{amount} credits more do not fit into a balance"))
            }
            _ => error.into(),
        })?;
        change.commit().await?;
        let available = Credits::new(available.unwrap_or_default());
        match (outcome.as_str(), entry.map(EntryId::from_uuid)) {
            ("posted", Some(entry_id)) => {
                metered::posted(kind, amount);
                Ok(Posted { entry_id, replayed: false, available })
            }
            ("replayed", Some(entry_id)) => Ok(Posted { entry_id, replayed: true, available }),
            ("key_reused", _) => {
                Err(LedgerError::Invalid("this idempotency key was used for another amount or reason".into()))
            }
            ("insufficient", _) => Err(LedgerError::Invalid(format!(
                "only {available} credits are available; {amount} cannot be taken"
            ))),
            ("unknown_org", _) => Err(LedgerError::NotFound(format!("there is no organisation {org}"))),
            _ => Err(LedgerError::Corrupt("outcome of post_credit".into())),
        }
    }
}
