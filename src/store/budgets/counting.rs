//! What is to be done in an organisation after a change of a budget: rows of the table `budget_count`, which any gateway
//! works off.
//!
//! A new budget counts what was spent in its window before. That may be millions of tasks, and reservations wait for the
//! balance row; so it is counted beside the lock, and the budget is *coming* until it is complete:
//!
//! 1. From the begin on every new hold lists the window, as if the budget were in force; but nothing is refused.
//! 2. The open holds are made to list it too, some at a time, under the balance row. Now the window sees the end of every
//!    hold that has not ended.
//! 3. What is left are the charges of holds that have ended and do not list the window. They do not change any more; they
//!    are summed in slices of the journal, each a statement of its own that locks no balance row. Where the last one got
//!    is a row (`budget_count_place`), so another gateway goes on where one has died.
//! 4. The sums are added to the windows under the balance row, some at a time; the last statement puts the budget in force.
//!
//! So every hold is in exactly one of two sets, those that list the window and those that do not, and each set is counted
//! in one way. Until the last statement, a wider budget that is in force stays so. The audit compares the windows with the
//! holds.
//!
//! A change of the time zone opens other windows, which are counted in the same way; the former ones stay in force
//! meanwhile. A default of the platform becomes a row for each organisation. Where one that applies to all is changed or
//! deleted, each organisation's events are raised in the same way.

use std::time::Duration;

use super::*;
use crate::clock::Clock;
use crate::fail_point;

/// Entries that one statement looks at.
const ENTRIES: i32 = 10_000;
/// Holds or windows that one statement writes under a balance row.
const ROWS: i32 = 200;
/// Counts that are looked up at one time, and how many of them may be of one organisation.
const SOME: i64 = 100;
const OF_ONE: i64 = 10;
/// Steps in one organisation before the next has its turn.
const STEPS: usize = 16;
/// The time between two looks at what another gateway works on.
const PAUSE: Duration = Duration::from_millis(20);
/// How long somebody who changes a budget waits for the count.
const PATIENCE: Duration = Duration::from_secs(10);

words! {
    enum Advance in "advance_count()" {
        More = "more",
        Busy = "busy",
        Done = "done",
    }
}

#[derive(Debug, Clone, Copy)]
pub(in crate::store) enum Counting {
    All,
    OfBudget(BudgetId),
    OfOrg(OrgId),
}

impl Database {
    /// Works off what is to be done after changes of budgets, for as long as `patience` lasts.
    pub async fn count_budgets(&self, patience: Duration) -> Result<(), StoreError> {
        self.count(Counting::All, patience).await?;
        self.forget_counts().await
    }

    /// Waits for a count, and works on it meanwhile. A change has been made, whatever becomes of the count: what is left
    /// of it when patience ends, or an error comes, is for the background job.
    pub(in crate::store) async fn await_count(&self, which: Counting) {
        match self.count(which, PATIENCE).await {
            Ok(()) => {}
            Err(error) => tracing::warn!(%error, "a budget is counted in the background"),
        }
    }

    /// Goes on until nothing is left or `patience` ends. An error in one organisation does not keep the others waiting.
    async fn count(&self, which: Counting, patience: Duration) -> Result<(), StoreError> {
        let begun = Clock.now();
        loop {
            let mut failed = Ok(());
            let waiting = self.counts_waiting(which).await?;
            let mut moved = false;
            for (org, budget) in &waiting {
                for _ in 0..STEPS {
                    match self.advance(*org, *budget).await {
                        Ok(Advance::More) => moved = true,
                        Ok(Advance::Done) => {
                            moved = true;
                            break;
                        }
                        Ok(Advance::Busy) => break,
                        Err(error) => {
                            failed = Err(error);
                            break;
                        }
                    }
                }
                if Clock.since(begun) > patience {
                    return failed;
                }
            }
            match failed {
                _ if moved => {}
                Err(error) => return Err(error),
                Ok(()) if waiting.is_empty() => return Ok(()),
                Ok(()) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// In random order, so that gateways do not queue for the same rows; some of each organisation, so that none waits for the many
    /// counts of another.
    async fn counts_waiting(&self, which: Counting) -> Result<Vec<(Uuid, Uuid)>, StoreError> {
        let org = match which {
            Counting::All => None,
            Counting::OfOrg(org) => Some(org.as_uuid()),
            Counting::OfBudget(budget) => {
                // One of each organisation.
                let of_budget = "select c.org_id, c.budget_id from budget_count c where c.budget_id = $1 \
                                 order by random() limit $2";
                let of_budget = sqlx::query_as(of_budget).bind(budget.as_uuid()).bind(SOME);
                return Ok(of_budget.fetch_all(self.pool()).await?);
            }
        };
        Ok(sqlx::query_as(
            "with recursive owner (org_id) as ( \
                 (select c.org_id from budget_count c where $1::uuid is null or c.org_id = $1 order by c.org_id limit 1) \
                 union all \
                 select (select c.org_id from budget_count c where c.org_id > o.org_id and $1::uuid is null \
                         order by c.org_id limit 1) \
                 from owner o where o.org_id is not null) \
             select few.org_id, few.budget_id from owner o cross join lateral ( \
                 select c.org_id, c.budget_id from budget_count c where c.org_id = o.org_id \
                 order by random() limit $3) few \
             order by random() limit $2",
        )
        .bind(org)
        .bind(SOME)
        .bind(OF_ONE)
        .fetch_all(self.pool())
        .await?)
    }

    async fn advance(&self, org: Uuid, budget: Uuid) -> Result<Advance, StoreError> {
        let step = sqlx::query_scalar("select advance_count($1, $2, $3, $4)")
            .bind(org)
            .bind(budget)
            .bind(ENTRIES)
            .bind(ROWS)
            .fetch_one(self.pool())
            .await?;
        fail_point::reach("budget.counting");
        Ok(step)
    }

    /// Deletes what is left of counts that have ended or were given up.
    async fn forget_counts(&self) -> Result<(), StoreError> {
        for sql in [
            "delete from budget_count_place p where not exists (select from budget_count c \
               where c.org_id = p.org_id and c.count_id = p.count_id)",
            "delete from budget_count_sum s where not exists (select from budget_count c \
               where c.org_id = s.org_id and c.count_id = s.count_id)",
        ] {
            sqlx::query(sql).execute(self.pool()).await?;
        }
        Ok(())
    }
}
