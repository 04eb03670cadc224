//! Compares what we booked with what the vendor's answers reported, by account and by task. The vendor has no usage
//! call: its answers to creates and polls are all there is to compare with.

use serde::Serialize;
use sqlx::FromRow;
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use crate::credits::Credits;
use crate::ids::{HoldId, OrgId};
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::ledger::tasks::State;

/// The most rows of one list.
const PAGE: i64 = 1000;

/// One account with the vendor over a time. All figures are the vendor's credits, before any price factor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct AccountDrift {
    pub account: String,
    pub tasks: i64,
    /// Credits of the vendor for which organisations were charged.
    pub charged: Credits,
    /// Credits of the vendor that were booked as the platform's loss.
    pub lost: Credits,
    /// Credits of the vendor that were booked as the platform's possible loss.
    pub possibly_lost: Credits,
    /// Credits that the vendor reported as consumed.
    pub reported: Credits,
    /// What we booked less what the vendor reported, summed over the tasks.
    pub drift: Credits,
    /// Tasks for which the booked and the reported figure differ.
    pub differing: i64,
}

/// A task for which the vendor reported another figure than we booked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct TaskDrift {
    pub account: String,
    pub hold_id: HoldId,
    pub org_id: OrgId,
    /// The vendor's id of the task, if it is known.
    pub upstream_task: Option<String>,
    /// The vendor's task type.
    pub task_type: String,
    pub state: State,
    pub list_price: Credits,
    /// Credits that the vendor reported for the task; null: it reported none.
    pub reported: Option<Credits>,
    /// What we booked less what the vendor reported.
    pub drift: Credits,
    /// Why the figures differ, if that is known.
    pub reason: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub ended_at: OffsetDateTime,
}

/// A task type whose tasks consumed other figures than their list prices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct PriceDrift {
    /// The vendor's task type.
    pub task_type: String,
    pub price_book: i32,
    /// Tasks that consumed another figure than their list price.
    pub tasks: i64,
    /// The list prices of these tasks, summed.
    pub listed: Credits,
    pub consumed: Credits,
}

/// Differences between what the vendor reports and what the ledger has booked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Drift {
    pub accounts: Vec<AccountDrift>,
    /// The tasks whose figures differ, newest first, at most a thousand.
    pub tasks: Vec<TaskDrift>,
    pub prices: Vec<PriceDrift>,
}

fn credits(row: &PgRow, column: &str) -> Result<Credits, sqlx::Error> {
    row.try_get(column).map(Credits::new)
}

impl FromRow<'_, PgRow> for AccountDrift {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            account: row.try_get("account")?,
            tasks: row.try_get("tasks")?,
            charged: credits(row, "charged")?,
            lost: credits(row, "lost")?,
            possibly_lost: credits(row, "possibly_lost")?,
            reported: credits(row, "reported")?,
            drift: credits(row, "drift")?,
            differing: row.try_get("differing")?,
        })
    }
}

impl FromRow<'_, PgRow> for TaskDrift {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            account: row.try_get("account")?,
            hold_id: HoldId::from_uuid(row.try_get("hold_id")?),
            org_id: OrgId::from_uuid(row.try_get("org_id")?),
            upstream_task: row.try_get("upstream_task")?,
            task_type: row.try_get("task_type")?,
            state: row.try_get("state")?,
            list_price: credits(row, "list_price")?,
            reported: row.try_get::<Option<i64>, _>("reported")?.map(Credits::new),
            drift: credits(row, "drift")?,
            reason: row.try_get("reason")?,
            ended_at: row.try_get("ended_at")?,
        })
    }
}

impl FromRow<'_, PgRow> for PriceDrift {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            task_type: row.try_get("task_type")?,
            price_book: row.try_get("price_book")?,
            tasks: row.try_get("tasks")?,
            listed: credits(row, "listed")?,
            consumed: credits(row, "consumed")?,
        })
    }
}

impl Database {
    /// Compares the tasks that ended in the last `days`. Reads every one of them.
    pub async fn drift(&self, days: u32) -> Result<Drift, StoreError> {
        let days = f64::from(days);
        let accounts = sqlx::query_as(
            "select h.account, count(*) as tasks, \
               saturated(sum(h.raw_consumed) filter (where h.state = 'SETTLED' or h.late = 'charged')) as charged, \
               saturated(sum(l.lost)) as lost, saturated(sum(l.possibly)) as possibly_lost, \
               saturated(sum(h.reported)) as reported, saturated(sum(h.drift)) as drift, \
               count(*) filter (where h.drift <> 0) as differing \
             from hold h left join (select org_id, hold_id, sum(amount) filter (where not possible) as lost, \
                 sum(amount) filter (where possible) as possibly from platform_loss group by 1, 2) l using (org_id, hold_id) \
             where h.ended_at > now() - $1 * interval '1 day' group by h.account order by h.account",
        )
        .bind(days)
        .fetch_all(self.pool())
        .await?;
        let tasks = sqlx::query_as(
            "select account, hold_id, org_id, upstream_task, task_type, state, list_price, reported, drift, reason, ended_at \
             from (select org_id, hold_id from drifted_task d where d.ended_at > now() - $1 * interval '1 day' \
                 order by d.ended_at desc limit $2) drifted join hold using (org_id, hold_id) order by ended_at desc",
        )
        .bind(days)
        .bind(PAGE)
        .fetch_all(self.pool())
        .await?;
        let prices = sqlx::query_as(
            "select task_type, price_book, count(*) as tasks, saturated(sum(list_price)) as listed, \
               saturated(sum(raw_consumed)) as consumed from hold \
             where state = 'SETTLED' and raw_consumed <> list_price and ended_at > now() - $1 * interval '1 day' \
             group by 1, 2 order by 1, 2",
        )
        .bind(days)
        .fetch_all(self.pool())
        .await?;
        Ok(Drift { accounts, tasks, prices })
    }

    /// For each account: how much we booked above and how much below what the vendor reported, over the tasks that
    /// ended in the last day.
    pub async fn drift_of_the_day(&self) -> Result<Vec<(String, Credits, Credits)>, StoreError> {
        let rows = sqlx::query(
            "select account, saturated(sum(drift) filter (where drift > 0)) as above, \
               saturated(-sum(drift) filter (where drift < 0)) as below \
             from drifted_task d join hold using (org_id, hold_id) \
             where d.ended_at > now() - interval '1 day' group by account",
        )
        .fetch_all(self.pool())
        .await?;
        let row = |row: &PgRow| Ok((row.try_get("account")?, credits(row, "above")?, credits(row, "below")?));
        Ok(rows.iter().map(row).collect::<Result<_, sqlx::Error>>()?)
    }
}
