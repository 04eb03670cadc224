//! Sums of what was booked: how statements and usage of an organisation with millions of entries are told without reading them.
//!
//! A job adds entries to the sums of their organisation, in the order of their places (`add_to_totals`). It is the only one that
//! writes the sums, and it locks no balance row. Up to which place they reach is a row of `total_place`, which is written in the
//! transaction that adds: so in one snapshot the sums and the entries behind that place are all there is, whenever the job last ran
//! and on which gateway. An organisation without such a row has few entries, and they are read as they are.

use std::time::Duration;

use uuid::Uuid;

use crate::clock::Clock;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::session::Deadline;

/// So many entries behind the place that the sums have reached are left to those who read.
const LEFT: i64 = 1_000;

/// Entries that one statement adds.
const ENTRIES: i32 = 20_000;

/// The most organisations that are looked up at once.
const SOME: i64 = 200;

/// Usage of the organisation `$1` on the days `$2` to `$3` by day, team and task type: from its sums and the entries behind them, or
/// from the roll-up where it has no sums.
pub(super) const USAGE: &str = "\
    (select t.org_id, t.day, t.team_id, t.task_type, t.tasks, t.charged, t.corrected from usage_total t \
       where t.org_id = $1 and t.day between $2 and $3 \
     union all \
     select $1, (e.created_at at time zone 'UTC')::date, coalesce(e.team_id, '00000000-0000-0000-0000-000000000000'), e.task_type, \
       (e.kind = 'consume')::integer::bigint, case when e.kind = 'consume' then -e.amount else 0 end, \
       case when e.kind = 'correct' then -e.amount else 0 end \
       from entries_behind($1) e where e.kind in ('consume', 'correct') and (e.created_at at time zone 'UTC')::date between $2 and $3 \
     union all \
     select u.org_id, u.day, u.team_id, u.task_type, u.tasks, u.charged, u.corrected from usage_day u \
       where u.org_id = $1 and u.day between $2 and $3 \
       and not exists (select from total_place p where p.org_id = $1 and p.place is not null))";

/// What was booked in the organisation `$1` since the instant `{since}`, which is a quarter of an hour if `{aligned}`: from its sums
/// and the entries behind them, or from the entries where it has no sums.
const BOOKED: &str = "\
    (select t.at, t.kind, t.lines, t.amount from entry_total t where t.org_id = $1 and t.at >= {since} and {aligned} \
     union all \
     select e.created_at, e.kind, 1, e.amount from entries_behind($1) e where e.created_at >= {since} and {aligned} \
     union all \
     select b.created_at, b.kind, b.lines, b.amount from booked b where b.org_id = $1 and b.created_at >= {since} \
       and not ({aligned} and exists (select from total_place p where p.org_id = $1 and p.place is not null)))";

/// [`BOOKED`] since an instant, an expression of the statement's own.
pub(super) fn booked_since(since: &str, aligned: &str) -> String {
    BOOKED.replace("{since}", since).replace("{aligned}", aligned)
}

impl Database {
    /// Adds new entries to the sums of their organisations until few are left or the time is up. Gateways may do so at once.
    pub async fn add_up(&self, within: Duration) -> Result<(), StoreError> {
        let begun = Clock.now();
        loop {
            // In random order, so that gateways do not meet.
            let waiting: Vec<(Uuid, bool)> = sqlx::query_as(
                "select b.org_id, p.org_id is not null from org_balance b left join total_place p on p.org_id = b.org_id \
                 where b.entries >= coalesce(p.place, 0) + $1 or (p.org_id is not null and p.place is null) \
                 order by random() limit $2",
            )
            .bind(LEFT)
            .bind(SOME)
            .fetch_all(self.pool())
            .await?;
            let mut moved = false;
            for (org, is_known) in waiting {
                if !is_known {
                    let begin = "insert into total_place (org_id) values ($1) on conflict do nothing";
                    sqlx::query(begin).bind(org).execute(self.pool()).await?;
                }
                while Clock.since(begun) < within {
                    let added = self.add_to_totals(org, ENTRIES).await?;
                    moved |= added > Some(0);
                    if added.is_none_or(|added| added < i64::from(ENTRIES)) {
                        break;
                    }
                }
            }
            if !moved || Clock.since(begun) >= within {
                return Ok(());
            }
        }
    }

    /// Adds the next entries of an organisation to its sums. `None`: another gateway is at it, or it has no sums.
    pub async fn add_to_totals(&self, org: Uuid, entries: i32) -> Result<Option<i64>, StoreError> {
        // The first time it reads all that the organisation has.
        let added = sqlx::query_scalar("select add_to_totals($1, $2)").bind(org).bind(entries);
        Ok(added.fetch_one(self.pool().statement(Deadline::INVARIANT, None)).await?)
    }
}
