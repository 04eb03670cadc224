//! Organisations, their users and their credits, as operators manage them.

use serde::Serialize;
use sqlx::FromRow;
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use super::{Bounded, Database, Fingerprint, LedgerError};
use crate::credits::{Credits, PriceFactor};
use crate::ids::{EntryId, OrgId, UserId};

/// An organisation with its balance.
#[derive(Debug, Clone, Serialize)]
pub struct Org {
    /// Its id.
    pub org_id: OrgId,
    /// Its name, unique.
    pub name: String,
    /// `active` or `suspended`.
    pub status: String,
    /// What it pays of the list price.
    pub price_factor_bp: PriceFactor,
    /// Creates a minute; none: the gateway's default, 0: no limit.
    pub create_per_minute: Option<i32>,
    /// Status calls and the like a minute; none: the gateway's default, 0: no limit.
    pub status_per_minute: Option<i32>,
    /// Unfinished tasks; none: the gateway's default, 0: no limit.
    pub max_open_tasks: Option<i32>,
    /// Its balance.
    #[serde(flatten)]
    pub balance: Balance,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// A balance: `available + held + consumed = granted`.
#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq)]
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

/// Limits to change; what is none stays.
#[derive(Debug, Clone, Copy, Default)]
pub struct OrgLimits {
    /// Creates a minute; `Some(None)`: the gateway's default.
    pub create_per_minute: Option<Option<i32>>,
    /// Status calls a minute; `Some(None)`: the gateway's default.
    pub status_per_minute: Option<Option<i32>>,
    /// Unfinished tasks; `Some(None)`: the gateway's default.
    pub max_open_tasks: Option<Option<i32>>,
    /// How far below zero new tasks may go.
    pub overdraft: Option<Credits>,
    /// What it pays of the list price.
    pub price_factor: Option<PriceFactor>,
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

pub(super) fn balance(row: &PgRow) -> Result<Balance, sqlx::Error> {
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

impl FromRow<'_, PgRow> for Org {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let factor = PriceFactor::new(row.try_get("price_factor_bp")?)
            .ok_or_else(|| sqlx::Error::Decode("price_factor_bp out of range".into()))?;
        Ok(Self {
            org_id: OrgId::from_uuid(row.try_get("org_id")?),
            name: row.try_get("name")?,
            status: row.try_get("status")?,
            price_factor_bp: factor,
            create_per_minute: row.try_get("create_per_minute")?,
            status_per_minute: row.try_get("status_per_minute")?,
            max_open_tasks: row.try_get("max_open_tasks")?,
            balance: balance(row)?,
            created_at: row.try_get("created_at")?,
        })
    }
}

fn taken(error: sqlx::Error, what: String) -> LedgerError {
    match &error {
        sqlx::Error::Database(database) if database.is_unique_violation() => LedgerError::Invalid(what),
        _ => error.into(),
    }
}

impl Database {
    /// Makes an organisation with an empty balance.
    pub async fn create_org(&self, name: &str) -> Result<OrgId, LedgerError> {
        let org = OrgId::generate();
        sqlx::query("with o as (insert into org (org_id, name) values ($1, $2)) insert into org_balance (org_id) values ($1)")
            .bind(org.as_uuid())
            .bind(name)
            .execute(self.pool()).bounded()
            .await
            .map_err(|error| taken(error, format!("an organisation named '{name}' exists already")))?;
        Ok(org)
    }

    /// All organisations, oldest first.
    pub async fn orgs(&self) -> Result<Vec<Org>, LedgerError> {
        Ok(sqlx::query_as("select * from org join org_balance using (org_id) order by org_id")
            .fetch_all(self.pool())
            .bounded()
            .await?)
    }

    /// One organisation.
    pub async fn org(&self, org: OrgId) -> Result<Option<Org>, LedgerError> {
        let row = sqlx::query_as("select * from org join org_balance using (org_id) where org_id = $1");
        Ok(row.bind(org.as_uuid()).fetch_optional(self.pool()).bounded().await?)
    }

    /// The organisation of that name.
    pub async fn org_by_name(&self, name: &str) -> Result<Option<Org>, LedgerError> {
        let row = sqlx::query_as("select * from org join org_balance using (org_id) where name = $1");
        Ok(row.bind(name).fetch_optional(self.pool()).bounded().await?)
    }

    /// Its balance.
    pub async fn balance(&self, org: OrgId) -> Result<Option<Balance>, LedgerError> {
        let row = sqlx::query("select * from org_balance where org_id = $1").bind(org.as_uuid());
        Ok(row.fetch_optional(self.pool()).bounded().await?.as_ref().map(balance).transpose()?)
    }

    /// Changes limits; every gateway follows within a second.
    pub async fn set_limits(&self, org: OrgId, limits: OrgLimits) -> Result<(), LedgerError> {
        let done = sqlx::query(
            "with b as (update org_balance set \
               max_open_tasks = case when $6 then $7 else max_open_tasks end, \
               overdraft = coalesce($8, overdraft) where org_id = $1) \
             update org set create_per_minute = case when $2 then $3 else create_per_minute end, \
               status_per_minute = case when $4 then $5 else status_per_minute end, \
               price_factor_bp = coalesce($9, price_factor_bp) where org_id = $1",
        )
        .bind(org.as_uuid())
        .bind(limits.create_per_minute.is_some())
        .bind(limits.create_per_minute.flatten())
        .bind(limits.status_per_minute.is_some())
        .bind(limits.status_per_minute.flatten())
        .bind(limits.max_open_tasks.is_some())
        .bind(limits.max_open_tasks.flatten())
        .bind(limits.overdraft.map(Credits::get))
        .bind(limits.price_factor.map(PriceFactor::basis_points))
        .execute(self.pool())
        .bounded()
        .await?;
        if done.rows_affected() == 0 {
            return Err(LedgerError::Invalid(format!("there is no organisation {org}")));
        }
        Ok(())
    }

    /// Makes a user of `org`; `role` is `member` or `admin`.
    pub async fn create_user(&self, org: OrgId, name: &str, role: &str) -> Result<UserId, LedgerError> {
        let user = UserId::generate();
        sqlx::query("insert into app_user (user_id, org_id, name, role) values ($1, $2, $3, $4)")
            .bind(user.as_uuid())
            .bind(org.as_uuid())
            .bind(name)
            .bind(role)
            .execute(self.pool())
            .bounded()
            .await
            .map_err(|error| match &error {
                sqlx::Error::Database(e) if e.is_foreign_key_violation() => {
                    LedgerError::Invalid(format!("there is no organisation {org}"))
                }
                _ => taken(error, format!("{org} has a user named '{name}' already")),
            })?;
        Ok(user)
    }

    /// The user of `org` with that name.
    pub async fn user_by_name(&self, org: OrgId, name: &str) -> Result<UserId, LedgerError> {
        let user: Option<uuid::Uuid> =
            sqlx::query_scalar("select user_id from app_user where org_id = $1 and name = $2")
                .bind(org.as_uuid())
                .bind(name)
                .fetch_optional(self.pool())
                .bounded()
                .await?;
        user.map(UserId::from_uuid)
            .ok_or_else(|| LedgerError::Invalid(format!("{org} has no user named '{name}'")))
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
        .fetch_one(self.pool())
        .bounded()
        .await
        .map_err(|error| match &error {
            sqlx::Error::Database(e) if e.code().as_deref() == Some("22003") => {
                LedgerError::Invalid(format!("{amount} credits more do not fit into a balance"))
            }
            _ => error.into(),
        })?;
        let available = Credits::new(available.unwrap_or_default());
        match (outcome.as_str(), entry.map(EntryId::from_uuid)) {
            ("posted", Some(entry_id)) => Ok(Posted { entry_id, replayed: false, available }),
            ("replayed", Some(entry_id)) => Ok(Posted { entry_id, replayed: true, available }),
            ("key_reused", _) => {
                Err(LedgerError::Invalid("this idempotency key was used for another amount or reason".into()))
            }
            ("insufficient", _) => Err(LedgerError::Invalid(format!(
                "only {available} credits are available; {amount} cannot be taken"
            ))),
            ("unknown_org", _) => Err(LedgerError::Invalid(format!("there is no organisation {org}"))),
            _ => Err(LedgerError::Corrupt("outcome of post_credit")),
        }
    }
}
