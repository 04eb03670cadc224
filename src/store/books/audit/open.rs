//! The part of the audit that looks at what is new or open: everything that is not in a sealed month. It takes the rows of sealed
//! months for what their seals say, and so takes no longer the more history there is.
//!
//! Its checks are those of the whole audit. They name tables without a schema, and before the first of them views of the connection's
//! own are put before those tables: each has only the rows of ids since the oldest month in which something is not sealed.

use sqlx::Row;

use super::auditor::{Auditor, Round};
use super::{INVARIANTS, archived, seals, totals};
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;

/// Checks that need all rows ever written, and are left to the whole audit.
const WHOLE: &[&str] = &[
    "a correction belongs to a hold",
    "an idempotency key points to what it made",
    "a task that came to light after its end is charged by corrections, and no other is",
    "a window of a budget counts the tasks that list it",
    "an open window of a budget in force misses no task",
    "a transfer has two halves",
    "a grant that runs out was granted, and what was taken back of it is in the ledger",
    "what an organisation has = credits that do not run out + what is left of those that do + what is not attributed",
    seals::HISTORY.0,
    seals::LOGGED.0,
    archived::MONTHS.0,
    totals::TOTALS.0,
    totals::TASKS.0,
];

/// What takes the place of checks that add up all rows; `{month}` is the oldest month that is not sealed.
const SUMS: [(&str, &str); 3] = [
    (
        "granted and consumed = sums of entries",
        "select format('org %s: granted %s, entries %s; consumed %s, entries %s', b.org_id, b.granted, coalesce(s.g, 0) + coalesce(e.g, 0), \
      b.consumed, coalesce(s.c, 0) + coalesce(e.c, 0)) from org_balance b \
      left join (select org_id, sum(granted) as g, -sum(consumed + corrected) as c from month_seal where month < '{month}' group by 1) s using (org_id) \
      left join (select org_id, sum(amount) filter (where kind not in ('consume','correct')) as g, \
      -sum(amount) filter (where kind in ('consume','correct')) as c from entry group by 1) e using (org_id) \
      where b.granted <> coalesce(s.g, 0) + coalesce(e.g, 0) or b.consumed <> coalesce(s.c, 0) + coalesce(e.c, 0)",
    ),
    (
        "usage by day = entries of tasks",
        "select format('org %s: usage %s tasks, %s + %s; entries %s tasks, %s + %s', b.org_id, u.tasks, u.charged, u.corrected, \
      coalesce(s.tasks, 0) + coalesce(e.tasks, 0), coalesce(s.charged, 0) + coalesce(e.charged, 0), coalesce(s.corrected, 0) + coalesce(e.corrected, 0)) \
      from org_balance b \
      left join (select org_id, sum(tasks) as tasks, sum(charged) as charged, sum(corrected) as corrected from usage_day group by 1) u using (org_id) \
      left join (select org_id, sum(settled) as tasks, -sum(consumed) as charged, -sum(corrected) as corrected from month_seal \
      where month < '{month}' group by 1) s using (org_id) \
      left join (select org_id, count(*) filter (where kind = 'consume') as tasks, -sum(amount) filter (where kind = 'consume') as charged, \
      -sum(amount) filter (where kind = 'correct') as corrected from entry group by 1) e using (org_id) \
      where coalesce(u.tasks, 0) <> coalesce(s.tasks, 0) + coalesce(e.tasks, 0) \
      or coalesce(u.charged, 0) <> coalesce(s.charged, 0) + coalesce(e.charged, 0) \
      or coalesce(u.corrected, 0) <> coalesce(s.corrected, 0) + coalesce(e.corrected, 0)",
    ),
    (
        seals::CHAIN.0,
        // Places follow one another in the order of booking, months in the order of ids: between two places there may be sealed ones.
        "select format('org %s entry %s: place %s, balance %s after %s and %s', org_id, entry_id, place, balance_after, balance_before, amount) \
      from (select e.org_id, e.entry_id, e.place, e.amount, e.balance_after, lag(e.place) over chain as place_before, \
      lag(e.balance_after) over chain as balance_before, seal is distinct from entry_seal(org_id, entry_id, kind, amount, \
      hold_id, seq, overrun, user_id, key_id, team_id, task_type, reason, external_ref, related_entry, actor, created_at, place, \
      balance_after) as changed from entry e where place is not null window chain as (partition by e.org_id order by e.place)) c \
      where changed or place = place_before or (place = place_before + 1 and balance_after::numeric <> balance_before::numeric + amount)",
    ),
];

/// Puts the views in place, and answers the oldest month that is not sealed; no row if no month is sealed before it, or the
/// connection may make no views of its own.
///
/// What is least is asked of each organisation, by two looks into indexes, and what was reopened goes on whatever month it is of.
const OPEN: &str = "\
    with first as ( \
      select o.hold_id as id from open_task o \
      union all \
      select lowest.id from org_balance b \
      left join lateral (select first_id((max(s.month) + interval '1 month') at time zone 'UTC') as since from month_seal s \
        where s.org_id = b.org_id) done on true \
      cross join lateral (values \
        ((select h.hold_id from hold h where h.org_id = b.org_id and h.hold_id >= coalesce(done.since, first_id('1970-01-01Z')) \
          order by h.hold_id limit 1)), \
        ((select e.entry_id from entry e where e.org_id = b.org_id and e.entry_id >= coalesce(done.since, first_id('1970-01-01Z')) \
          order by e.entry_id limit 1))) lowest(id)), \
    oldest as (select least(date_trunc('month', now() at time zone 'UTC'), date_trunc('month', to_timestamp( \
        ('x' || left(replace((select f.id from first f where f.id is not null order by f.id limit 1)::text, '-', ''), 12))::bit(48)::bigint / 1000.0) \
        at time zone 'UTC'))::date as month) \
    select o.month::text, first_id(o.month::timestamp at time zone 'UTC')::text from oldest o \
    where exists (select from month_seal s where s.month < o.month) \
    and has_database_privilege(current_database(), 'TEMP')";

/// Tables of which a view has only the rows of ids since `{first}`, or none of what is sealed and may be in an archive.
const NARROWED: [(&str, &str); 8] = [
    ("archived_charge", "month >= '{month}'"),
    ("hold", "hold_id >= '{first}'"),
    ("entry", "entry_id >= '{first}'"),
    ("task", "hold_id >= '{first}'"),
    ("platform_loss", "hold_id >= '{first}'"),
    ("vendor_task", "hold_id >= '{first}'"),
    ("unpaid_task", "hold_id >= '{first}'"),
    ("drifted_task", "hold_id >= '{first}'"),
];

impl Auditor {
    /// Begins an audit of what is new or open. `None` if no month is sealed: all there is is open.
    pub(super) async fn of_what_is_open(database: &Database) -> Result<Option<(Self, Round)>, StoreError> {
        let mut auditor = Self::connect(database).await?;
        let mut month = None;
        for row in auditor.rows(sqlx::query(OPEN)).await? {
            month = Some((row.try_get::<String, _>(0)?, row.try_get::<String, _>(1)?));
        }
        let Some((month, first)) = month else { return Ok(None) };
        for (table, condition) in NARROWED {
            let condition = condition.replace("{first}", &first).replace("{month}", &month);
            auditor.narrow(table, &condition).await?;
        }
        auditor.only_read().await?;
        let replaced = |check: &str| SUMS.iter().any(|(name, _)| *name == check);
        let checks = INVARIANTS
            .iter()
            .filter(|(check, _)| !WHOLE.contains(check) && !replaced(check))
            .map(|&(check, sql)| (check, sql.to_owned()))
            .chain(SUMS.iter().map(|&(check, sql)| (check, sql.replace("{month}", &month))))
            .collect();
        Ok(Some((auditor, Round::of_views(checks))))
    }
}
