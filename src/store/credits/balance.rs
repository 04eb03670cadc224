//! An organisation's balance, as it is read.

use serde::Serialize;
use sqlx::Row;
use sqlx::postgres::PgRow;
use utoipa::ToSchema;

use crate::credits::Credits;
use crate::ids::OrgId;
use crate::store::db::database::Database;
use crate::store::db::error::LedgerError;

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
    pub async fn balance(&self, org: OrgId) -> Result<Option<Balance>, LedgerError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from org_balance b where org_id = $1"
        )));
        Ok(row.bind(org.as_uuid()).fetch_optional(self.pool()).await?.as_ref().map(balance).transpose()?)
    }
}
