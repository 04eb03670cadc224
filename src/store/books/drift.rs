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

/// Every task that ended in the last `$1` days, by account and by type and price book.
const EVERY: &str = "\
    select h.account, h.task_type, h.price_book, grouping(h.account) = 0 as of_account, count(*) as tasks, \
      sum(h.raw_consumed) filter (where h.state = 'SETTLED' or h.late = 'charged') as charged, \
      sum(h.reported) as reported, sum(h.drift) as drift, count(*) filter (where h.drift <> 0) as differing, \
      count(*) filter (where h.state = 'SETTLED' and h.raw_consumed <> h.list_price) as unlike, \
      sum(h.list_price) filter (where h.state = 'SETTLED' and h.raw_consumed <> h.list_price) as listed, \
      sum(h.raw_consumed) filter (where h.state = 'SETTLED' and h.raw_consumed <> h.list_price) as consumed \
    from hold h where h.ended_at >= date_bin('1 hour', now() - $1 * interval '1 day', '2000-01-01Z') \
    group by grouping sets ((h.account), (h.task_type, h.price_book))";

/// The same, from the sums of charged tasks, the charged tasks behind them, and the tasks that nobody paid for when they ended.
const SUMMED: &str = "\
    select t.account, t.task_type, t.price_book, grouping(t.account) = 0 as of_account, sum(t.tasks)::bigint as tasks, \
      sum(t.charged) as charged, sum(t.reported) as reported, sum(t.drift) as drift, sum(t.differing)::bigint as differing, \
      sum(t.unlike)::bigint as unlike, sum(t.listed) as listed, sum(t.consumed) as consumed \
    from ( \
      select d.account, d.task_type, d.price_book, d.tasks, d.charged, d.reported, d.drift, d.differing, d.unlike, d.listed, d.consumed \
        from drift_total d where d.at >= date_bin('1 hour', now() - $1 * interval '1 day', '2000-01-01Z') \
      union all \
      select b.account, b.task_type, b.price_book, 1, b.raw_consumed, b.reported, b.drift, (b.drift <> 0)::integer, u.unlike, \
        b.list_price * u.unlike, b.raw_consumed * u.unlike \
        from tasks_behind() b cross join lateral (select (b.raw_consumed <> b.list_price)::integer::numeric as unlike) u \
        where b.ended_at >= date_bin('1 hour', now() - $1 * interval '1 day', '2000-01-01Z') \
      union all \
      select u.account, null, null, count(*), null, null, null, 0, 0, null, null from unpaid_task u \
        where not u.figures and u.ended_at >= date_bin('1 hour', now() - $1 * interval '1 day', '2000-01-01Z') group by u.account \
      union all \
      select h.account, null, null, 1, case when h.late = 'charged' then h.raw_consumed end, h.reported, h.drift, \
        (h.drift <> 0)::integer, 0, null, null \
        from unpaid_task u cross join lateral (select k.account, k.late, k.raw_consumed, k.reported, k.drift from hold k \
          where k.org_id = u.org_id and k.hold_id = u.hold_id \
          and k.ended_at >= date_bin('1 hour', now() - $1 * interval '1 day', '2000-01-01Z') limit 1) h \
        where u.figures is distinct from false \
        and (u.ended_at >= date_bin('1 hour', now() - $1 * interval '1 day', '2000-01-01Z') or u.ended_at is null)) t \
    group by grouping sets ((t.account), (t.task_type, t.price_book)) having sum(t.tasks) > 0";

/// `tasks` with what was lost. A loss is booked when its task has ended, or later.
fn sums_of(tasks: &str) -> String {
    format!(
        "with sums as materialized ({tasks}), \
           losses as materialized ( \
             select h.account, sum(l.amount) filter (where not l.possible) as lost, sum(l.amount) filter (where l.possible) as possibly \
             from platform_loss l cross join lateral (select k.account from hold k where k.org_id = l.org_id and k.hold_id = l.hold_id \
               and k.ended_at >= date_bin('1 hour', now() - $1 * interval '1 day', '2000-01-01Z') limit 1) h \
             where l.created_at >= date_bin('1 hour', now() - $1 * interval '1 day', '2000-01-01Z') group by h.account) \
         select s.of_account, s.account, s.task_type, s.price_book, case when s.of_account then s.tasks else s.unlike end as tasks, \
           saturated(s.charged) as charged, saturated(l.lost) as lost, saturated(l.possibly) as possibly_lost, \
           saturated(s.reported) as reported, saturated(s.drift) as drift, s.differing, saturated(s.listed) as listed, \
           saturated(s.consumed) as consumed \
         from sums s left join losses l on l.account = s.account and s.of_account \
         where s.of_account or s.unlike > 0 order by s.account, s.task_type, s.price_book"
    )
}

impl Database {
    /// Compares the tasks that ended in the last `days`, from the beginning of an hour on.
    pub async fn drift(&self, days: u32) -> Result<Drift, StoreError> {
        let days = f64::from(days);
        let tasks = if self.tasks_are_summed().await? { SUMMED } else { EVERY };
        let sums = sqlx::query(sqlx::AssertSqlSafe(sums_of(tasks)))
            .bind(days)
            .persistent(false)
            .fetch_all(self.pool())
            .await?;
        let (mut accounts, mut prices) = (Vec::new(), Vec::new());
        for row in &sums {
            if row.try_get("of_account")? {
                accounts.push(AccountDrift::from_row(row)?);
            } else {
                prices.push(PriceDrift::from_row(row)?);
            }
        }
        let tasks = sqlx::query_as(
            "select account, hold_id, org_id, upstream_task, task_type, state, list_price, reported, drift, reason, ended_at \
             from (select org_id, hold_id from drifted_task d \
                 where d.ended_at >= date_bin('1 hour', now() - $1 * interval '1 day', '2000-01-01Z') \
                 order by d.ended_at desc limit $2) drifted join hold using (org_id, hold_id) order by ended_at desc",
        )
        .bind(days)
        .bind(PAGE)
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
