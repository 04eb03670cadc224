//! Sums of charged tasks: how drift and what-if tell of hundreds of thousands of tasks without reading each of them.
//!
//! A charged task never changes any more, and its entry has a place among those of its organisation. A job adds tasks to the sums of
//! the hour in which they were made (`price_total`) and ended (`drift_total`), in the order of their places; up to which place is a row
//! of `task_place`, written in the transaction that adds. So in one snapshot the sums and the tasks behind those places
//! (`tasks_behind`) are all there is. What is taken out of the database for an archive is taken out of the sums with it.
//!
//! If the job is far behind, as after an upgrade, reports read the tasks themselves: the result is the same, and it takes longer.

use std::time::Duration;

use crate::clock::Clock;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::session::Deadline;

/// Entries that one statement adds.
const ENTRIES: i32 = 20_000;

/// With more behind the sums, reading every task of the time is quicker than looking these up one by one.
const MOST_BEHIND: i64 = 20_000;

impl Database {
    /// Adds new charged tasks to the sums until none is left or the time is up. Gateways may do so at once: one works, the others return.
    pub async fn add_tasks_up(&self, within: Duration) -> Result<(), StoreError> {
        let begun = Clock.now();
        while self.add_tasks_to_totals(ENTRIES).await? >= Some(i64::from(ENTRIES))
            && Clock.since(begun) < within
        {}
        Ok(())
    }

    /// Adds the charged tasks of the next entries to the sums, and returns how many entries that were. `None`: somebody else is at it.
    pub async fn add_tasks_to_totals(&self, entries: i32) -> Result<Option<i64>, StoreError> {
        let added = sqlx::query_scalar("select add_tasks_to_totals($1)").bind(entries);
        Ok(added.fetch_one(self.pool().statement(Deadline::INVARIANT, None)).await?)
    }

    /// Whether the sums, and the few tasks behind them, are to be read in place of all tasks. Entries of before there were places are
    /// in no sums.
    pub(in crate::store) async fn tasks_are_summed(&self) -> Result<bool, StoreError> {
        let query = "select coalesce(sum(p.last - p.place), 0) + (select count(*) from (select from unpaid_task u \
             where u.figures is distinct from false and u.ended_at is null limit $1 + 1) undated) <= $1 and not exists (select from history_seal h where h.entries > 0) \
             from tasks_place() p";
        Ok(sqlx::query_scalar(query).bind(MOST_BEHIND).persistent(false).fetch_one(self.pool()).await?)
    }
}
