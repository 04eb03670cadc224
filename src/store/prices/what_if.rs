//! What the tasks of the last days would have cost by another price book.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use sqlx::FromRow;
use sqlx::Row;
use sqlx::postgres::PgRow;
use utoipa::ToSchema;

use crate::credits::{Credits, PriceFactor};
use crate::ids::OrgId;
use crate::pricing::{BookVersion, PricedTasks, ReplayTotals, replay};
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::session::Deadline;

/// What the tasks of one organisation would have cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct OrgOutcome {
    pub org_id: OrgId,
    /// The name of the organisation.
    pub name: String,
    #[serde(flatten)]
    pub outcome: ReplayTotals,
}

/// The totals of one task type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct TypeOutcome {
    #[schema(value_type = String)]
    pub task_type: Arc<str>,
    #[serde(flatten)]
    pub outcome: ReplayTotals,
}

/// The charged tasks of the last days, priced by another book.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct WhatIf {
    /// The book that the tasks are priced by.
    pub version: BookVersion,
    /// The number of days that are looked back.
    pub days: u32,
    pub total: ReplayTotals,
    /// Totals by organisation; the greatest difference first.
    pub orgs: Vec<OrgOutcome>,
    /// How many more organisations there are, with smaller differences.
    pub more_orgs: usize,
    pub task_types: Vec<TypeOutcome>,
    /// Task types that tasks of these days had and the book lacks: their creates would be refused.
    #[schema(value_type = Vec<String>)]
    pub refused_types: Vec<Arc<str>>,
}

impl WhatIf {
    /// Leaves out organisations but those with the greatest differences.
    pub fn keep_greatest(&mut self, most: usize) {
        self.more_orgs = self.more_orgs.saturating_add(self.orgs.len().saturating_sub(most));
        self.orgs.truncate(most);
    }
}

// A hold's id begins with the time at which a gateway made it, by that gateway's clock. The condition on the id, with a day to spare
// for wrong clocks, keeps the database from reading older rows.
/// Every charged task of the last `$1` days.
const EVERY: &str = "\
    select h.org_id, h.task_type, h.price_book, h.list_price, h.factor_bp, count(*) as tasks, sum(h.charged)::bigint as charged \
    from hold h where h.state = 'SETTLED' and h.created_at >= date_bin('1 hour', now() - make_interval(days => $1), '2000-01-01Z') \
      and h.hold_id >= (lpad(to_hex((extract(epoch from now() - make_interval(days => $1 + 1, hours => 1)) * 1000)::bigint), \
                             12, '0') || repeat('0', 20))::uuid \
    group by h.org_id, h.task_type, h.price_book, h.list_price, h.factor_bp";

/// The same, from the sums of charged tasks and the tasks behind them.
const SUMMED: &str = "\
    select t.org_id, t.task_type, t.price_book, t.list_price, t.factor_bp, sum(t.tasks)::bigint as tasks, \
      sum(t.charged)::bigint as charged \
    from (select p.org_id, p.task_type, p.price_book, p.list_price, p.factor_bp, p.tasks, p.charged \
        from price_total p where p.at >= date_bin('1 hour', now() - make_interval(days => $1), '2000-01-01Z') \
      union all \
      select b.org_id, b.task_type, b.price_book, b.list_price, b.factor_bp, 1, b.charged \
        from tasks_behind() b where b.created_at >= date_bin('1 hour', now() - make_interval(days => $1), '2000-01-01Z')) t \
    group by t.org_id, t.task_type, t.price_book, t.list_price, t.factor_bp having sum(t.tasks) > 0";

struct Group {
    name: String,
    tasks: PricedTasks,
}

impl FromRow<'_, PgRow> for Group {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let tasks = PricedTasks {
            org: OrgId::from_uuid(row.try_get("org_id")?),
            task_type: row.try_get::<&str, _>("task_type")?.into(),
            book: BookVersion::new(row.try_get("price_book")?),
            list_price: Credits::new(row.try_get("list_price")?),
            factor: PriceFactor::new(row.try_get("factor_bp")?)
                .ok_or_else(|| sqlx::Error::Decode("factor_bp out of range".into()))?,
            tasks: row.try_get("tasks")?,
            charged: Credits::new(row.try_get("charged")?),
        };
        Ok(Self { name: row.try_get("name")?, tasks })
    }
}

impl Database {
    /// Prices the charged tasks of the last `days` by the book `version`, each with the factor it had.
    pub async fn what_if(&self, version: BookVersion, days: u32) -> Result<WhatIf, StoreError> {
        if !(1..=90).contains(&days) {
            return Err(StoreError::Invalid("'days' must be from 1 to 90".into()));
        }
        let other = self.expect_book(version).await?;
        let groups = self.priced_tasks(days).await?;
        let mut used: Vec<i32> = groups.iter().map(|group| group.tasks.book.get()).collect();
        used.sort_unstable();
        used.dedup();
        let books = self.books_with_prices(&used).await?;
        let books = books.into_iter().map(|(version, book)| (version, Arc::new(book))).collect();
        let mut names: HashMap<OrgId, String> = HashMap::new();
        let mut tasks = Vec::with_capacity(groups.len());
        for group in groups {
            names.insert(group.tasks.org, group.name);
            tasks.push(group.tasks);
        }
        let replayed = replay(&tasks, &books, &other).ok_or(StoreError::Corrupt("a sum of prices".into()))?;
        let mut orgs: Vec<OrgOutcome> = replayed
            .orgs
            .into_iter()
            .map(|(org_id, outcome)| OrgOutcome {
                org_id,
                name: names.remove(&org_id).unwrap_or_default(),
                outcome,
            })
            .collect();
        orgs.sort_by_key(|org| (std::cmp::Reverse(org.outcome.difference.get().unsigned_abs()), org.org_id));
        let refused = replayed.task_types.iter().filter(|(_, outcome)| outcome.refused > 0);
        Ok(WhatIf {
            version,
            days,
            total: replayed.total,
            orgs,
            more_orgs: 0,
            refused_types: refused.map(|(task_type, _)| task_type.clone()).collect(),
            task_types: replayed
                .task_types
                .into_iter()
                .map(|(task_type, outcome)| TypeOutcome { task_type, outcome })
                .collect(),
        })
    }

    /// The charged tasks of the last `days`, from the beginning of an hour on; tasks of the same price form one group.
    async fn priced_tasks(&self, days: u32) -> Result<Vec<Group>, StoreError> {
        let priced = if self.tasks_are_summed().await? { SUMMED } else { EVERY };
        let query = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "with priced as materialized ({priced}) \
             select p.org_id, o.name, p.task_type, p.price_book, p.list_price, p.factor_bp, p.tasks, p.charged \
             from priced p join org o on o.org_id = p.org_id"
        )))
        .bind(i32::try_from(days).unwrap_or(i32::MAX))
        // Planned anew: a day of tasks is found by their age, a quarter of a year is most of what there is.
        .persistent(false)
        .fetch_all(self.pool().statement(Deadline::REPRICING, None));
        Ok(query.await?)
    }
}
