//! An organisation's balance, as callers and operators see it.

use serde::Serialize;
use sqlx::Row;
use sqlx::postgres::PgRow;
use utoipa::ToSchema;

use crate::credits::Credits;
use crate::ids::OrgId;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;

/// A balance in credits: `available + held + consumed = granted`.
#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq, ToSchema)]
pub struct Balance {
    /// Credits that can be held for new tasks.
    pub available: Credits,
    /// Credits that unfinished tasks hold.
    pub held: Credits,
    /// Credits that finished tasks were charged.
    pub consumed: Credits,
    /// All credits ever given, less what was taken back.
    pub granted: Credits,
    /// How many credits below zero new tasks may take `available`.
    pub overdraft: Credits,
    /// Tasks that are HELD or RUNNING.
    pub open_tasks: i32,
    /// Tasks that are IN_DOUBT: their outcome is unknown.
    pub in_doubt: i32,
}

/// The columns that a [`Balance`] is read from, of `b`. They are named, as for every table: a connection that has
/// prepared `select *` fails once when a migration adds a column.
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
    pub async fn balance(&self, org: OrgId) -> Result<Option<Balance>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from org_balance b where org_id = $1"
        )));
        Ok(row.bind(org.as_uuid()).fetch_optional(self.pool()).await?.as_ref().map(balance).transpose()?)
    }
}
