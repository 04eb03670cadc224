//! The invariants of the ledger as SQL, each proved in a snapshot of a running system.

mod archived;
mod auditor;
mod open;
mod periodic;
mod seals;
mod totals;

pub use crate::store::books::audit::periodic::{AuditResult, Breach};

use std::collections::BTreeMap;

use sqlx::{FromRow, Row};

use self::auditor::{Auditor, Round};
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;

/// A row that breaks an invariant, or old work that deserves a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub check: &'static str,
    /// Which rows are concerned, and by how much they are wrong.
    pub detail: String,
}

/// The most rows of one check that are told; the others are counted.
const MOST_TOLD: usize = 100;

/// What an audit found.
#[derive(Debug, Clone, Default)]
pub struct AuditReport {
    /// Broken invariants: if there is any, the ledger is wrong.
    pub breaches: Vec<Finding>,
    /// Unfinished work that is older than expected: worth a look, but not wrong.
    pub warnings: Vec<Finding>,
    pub orgs: i64,
    pub holds: i64,
    pub entries: i64,
    /// Charged tasks that are in archives of former months.
    pub archived: i64,
}

/// Name and query of each invariant. The query returns no row while the invariant holds; each row is a breach, and its
/// one column says where the breach is and by how much.
const INVARIANTS: &[(&str, &str)] = &[
    (
        "every organisation has a balance, and every balance an organisation",
        "select case when o.org_id is null then 'balance without organisation ' || b.org_id \
                     when b.org_id is null then 'organisation without balance ' || o.org_id \
                     else format('org %s: deleted %s, its balance says %s', o.org_id, o.deleted_at is not null, b.deleted) end \
      from org o full join org_balance b using (org_id) \
      where b.deleted is distinct from (o.deleted_at is not null) or o.org_id is null or b.org_id is null",
    ),
    (
        "available + held + consumed = granted",
        "select format('org %s: %s + %s + %s <> %s', org_id, available, held, consumed, granted) from org_balance \
      where available::numeric + held + consumed <> granted",
    ),
    (
        "held = sum of open holds",
        "select format('org %s: held %s, open holds %s', b.org_id, b.held, coalesce(h.s, 0)) from org_balance b full join \
      (select org_id, sum(amount) as s from task where state in ('HELD','RUNNING','IN_DOUBT') group by 1) h using (org_id) \
      where coalesce(b.held, 0) <> coalesce(h.s, 0)",
    ),
    (
        "granted and consumed = sums of entries",
        "select format('org %s: granted %s, entries %s; consumed %s, entries %s', org_id, b.granted, coalesce(e.g, 0), b.consumed, coalesce(e.c, 0)) \
      from org_balance b full join (select org_id, sum(amount) filter (where kind not in ('consume','correct')) as g, \
      -sum(amount) filter (where kind in ('consume','correct')) as c from booked group by 1) e using (org_id) \
      where coalesce(b.granted, 0) <> coalesce(e.g, 0) or coalesce(b.consumed, 0) <> coalesce(e.c, 0)",
    ),
    (
        "open tasks and tasks in doubt are counted",
        "select format('org %s: open %s, counted %s; in doubt %s, counted %s', org_id, b.open_tasks, coalesce(h.o, 0), b.in_doubt, coalesce(h.d, 0)) \
      from org_balance b full join (select org_id, count(*) filter (where state in ('HELD','RUNNING')) as o, \
      count(*) filter (where state = 'IN_DOUBT') as d from task group by 1) h using (org_id) \
      where coalesce(b.open_tasks, 0) <> coalesce(h.o, 0) or coalesce(b.in_doubt, 0) <> coalesce(h.d, 0)",
    ),
    (
        "a settled task has exactly one consume, of what was charged; no other has one",
        "select format('org %s hold %s: %s, charged %s, consumes %s', h.org_id, h.hold_id, h.state, h.charged, e.amount) \
      from task h full join (select org_id, hold_id, entry_id, amount from entry where kind = 'consume') e on e.org_id = h.org_id and e.hold_id = h.hold_id \
      where coalesce(h.state = 'SETTLED', false) <> (e.entry_id is not null) or (h.state = 'SETTLED' and e.amount <> -h.charged)",
    ),
    (
        "an overrun is what was charged above the hold",
        "select format('org %s hold %s: hold %s, charged %s, overrun %s', h.org_id, h.hold_id, h.amount, h.charged, e.overrun) \
      from task h join entry e on e.org_id = h.org_id and e.hold_id = h.hold_id and e.kind = 'consume' \
      where e.overrun <> greatest(h.charged - h.amount, 0)",
    ),
    (
        "no admission took the balance below its overdraft",
        "select format('org %s hold %s: %s left, overdraft %s', org_id, hold_id, balance_after, overdraft) from task \
      where balance_after < -overdraft",
    ),
    (
        "a hold is its list price times its factor, rounded up",
        "select format('org %s hold %s: held %s for %s at %s bp', org_id, hold_id, amount, list_price, factor_bp) from task \
      where amount <> div(list_price::numeric * factor_bp + 9999, 10000)",
    ),
    (
        "a charge is what the upstream consumed times the factor, rounded up",
        "select format('org %s hold %s: charged %s for %s at %s bp', org_id, hold_id, charged, raw_consumed, factor_bp) from task \
      where state = 'SETTLED' and charged is distinct from div(raw_consumed::numeric * factor_bp + 9999, 10000)",
    ),
    (
        "a written-off task has its loss",
        "select format('org %s hold %s', h.org_id, h.hold_id) from task h where h.state = 'WRITTEN_OFF' and h.list_price > 0 \
      and not exists (select from platform_loss l where l.org_id = h.org_id and l.hold_id = h.hold_id)",
    ),
    (
        "a correction belongs to a hold",
        "select format('org %s entry %s: hold %s', e.org_id, e.entry_id, e.hold_id) from entry e where e.kind = 'correct' \
      and not exists (select from task h where h.org_id = e.org_id and h.hold_id = e.hold_id) \
      union all select format('org %s hold %s: correction %s is entry %s, counted as %s', org_id, hold_id, seq, e.entry_id, c.entry_id) \
      from (select org_id, hold_id, seq, entry_id from entry where kind = 'correct') e \
      full join correction c using (org_id, hold_id, seq) where e.entry_id is distinct from c.entry_id",
    ),
    (
        "an idempotency key points to what it made",
        // Idempotency keys of operators are stored under the nil organisation. The deletion of an organisation makes an entry
        // only where it had credits.
        "select format('org %s %s key %s: %s', c.org_id, c.endpoint, c.key, c.hold_id) from idempotency c \
      left join task h on c.endpoint = 'generate' and h.org_id = c.org_id and h.hold_id = c.hold_id and h.idem_key = c.key \
      left join entry e on c.endpoint <> 'generate' and e.entry_id = c.hold_id \
      and (e.org_id = c.org_id or c.org_id = '00000000-0000-0000-0000-000000000000') \
      left join task r on c.endpoint like 'holds.%' and r.hold_id = c.hold_id \
      left join org o on c.endpoint = 'credits.overdraft' and o.org_id = c.hold_id \
      where h.hold_id is null and e.entry_id is null and r.hold_id is null and o.org_id is null \
      and not (c.endpoint = 'org.delete' and c.answer is not distinct from '{\"credits\": 0}')",
    ),
    (
        "an open hold keeps its idempotency key",
        "select format('org %s hold %s: key %s', h.org_id, h.hold_id, h.idem_key) from task h \
      where h.idem_key is not null and h.state in ('HELD','RUNNING','IN_DOUBT') and not exists (select from idempotency c \
      where c.org_id = h.org_id and c.endpoint = 'generate' and c.key = h.idem_key and c.hold_id = h.hold_id)",
    ),
    (
        "a loss belongs to a task that no tenant paid for",
        "select format('org %s hold %s: %s %s, lost %s', org_id, hold_id, h.state, h.late, l.amount) from \
      (select org_id, hold_id, sum(amount) as amount from platform_loss group by 1, 2) l left join task h using (org_id, hold_id) \
      where h.state is null or h.state not in ('RELEASED', 'WRITTEN_OFF') or (h.late = 'charged' and l.amount <> 0)",
    ),
    (
        "a task that came to light after its end is charged by corrections, and no other is",
        "select format('org %s hold %s: %s, consumed %s at %s bp, corrected %s', org_id, hold_id, h.late, h.raw_consumed, h.factor_bp, e.amount) \
      from task h full join (select org_id, hold_id, sum(amount) as amount from entry where kind = 'correct' group by 1, 2) e \
      using (org_id, hold_id) where coalesce(h.late = 'charged', false) is distinct from (e.amount is not null) \
      or (h.late = 'charged' and -e.amount is distinct from div(h.raw_consumed::numeric * h.factor_bp + 9999, 10000))",
    ),
    (
        "a window of a budget counts the tasks that list it",
        "select format('org %s window %s: held %s, open holds %s; used %s, charges %s, %s archived and %s from before', w.org_id, w.window_id, \
      w.held, coalesce(h.held, 0), w.used, coalesce(h.used, 0), coalesce(a.used, 0), w.opening) \
      from budget_window w left join (select org_id, window_id, sum(charged) as used from archived_window group by 1, 2) a \
      on a.org_id = w.org_id and a.window_id = w.window_id left join (select h.org_id, n.window_id, \
      sum(h.amount) filter (where h.state in ('HELD','RUNNING','IN_DOUBT')) as held, \
      sum(coalesce(h.charged, 0) - coalesce(c.amount, 0)) as used \
      from task h cross join lateral unnest(h.windows) n(window_id) left join (select org_id, hold_id, sum(amount) as amount \
      from entry where kind = 'correct' group by 1, 2) c on c.org_id = h.org_id and c.hold_id = h.hold_id \
      group by 1, 2) h on h.org_id = w.org_id and h.window_id = w.window_id \
      where w.held <> coalesce(h.held, 0) or w.used <> coalesce(h.used, 0) + coalesce(a.used, 0) + w.opening",
    ),
    (
        "an open window of a budget in force misses no task",
        // Holds that do not list the window have ended, and their charges were counted when the budget came into force.
        "with kind as (select b.org_id, u.level, u.period, window_start(u.period, o.time_zone, now()) as starts_at, \
      window_end(u.period, o.time_zone, now()) as ends_at, bool_or(u.subject_id is null) as each, array_agg(u.subject_id) as own \
      from org_balance b join org o using (org_id) join budget u on u.org_id = b.org_id or u.org_id is null \
      where not exists (select from budget_count c where c.org_id = b.org_id and c.budget_id = u.budget_id and c.coming \
      and coalesce(c.ends_at, 'infinity') > now()) group by b.org_id, o.time_zone, u.level, u.period), \
      known as (select k.org_id, k.level, k.period, k.starts_at, s.subject_id, \
      count(*) filter (where h.state in ('HELD','RUNNING','IN_DOUBT') or h.late = 'open') as open, \
      sum(coalesce(h.charged, 0) - coalesce(c.amount, 0)) as charged \
      from kind k join task h on h.org_id = k.org_id and h.created_at >= k.starts_at and h.created_at < k.ends_at \
      cross join lateral subject_of(k.level, h.org_id, h.team_id, h.user_id, h.key_id) s(subject_id) \
      left join (select org_id, hold_id, sum(amount) as amount from entry where kind = 'correct' group by 1, 2) c \
      on c.org_id = h.org_id and c.hold_id = h.hold_id \
      left join budget_window w on w.org_id = k.org_id and w.level = k.level and w.period = k.period \
      and w.starts_at = k.starts_at and w.subject_id = s.subject_id \
      where s.subject_id is not null and (k.each or s.subject_id = any (k.own)) \
      and not coalesce(w.window_id = any (h.windows), false) group by 1, 2, 3, 4, 5 \
      union all select k.org_id, k.level, k.period, k.starts_at, s.subject_id, 0, s.charged from kind k \
      cross join lateral archived_spending(k.org_id, k.level, null) s where k.period = 'total' and (k.each or s.subject_id = any (k.own))), \
      missed as (select org_id, level, period, starts_at, subject_id, sum(open) as open, sum(charged) as charged from known group by 1, 2, 3, 4, 5), \
      opened as (select w.org_id, w.level, w.period, w.starts_at, w.subject_id, w.opening from kind k \
      join budget_window w using (org_id, level, period, starts_at) where k.each or w.subject_id = any (k.own)) \
      select format('org %s, %s %s, %s since %s: %s open holds and charges of %s not listed, %s counted', org_id, level, subject_id, \
      period, starts_at, coalesce(m.open, 0), coalesce(m.charged, 0), coalesce(w.opening, 0)) \
      from missed m full join opened w using (org_id, level, period, starts_at, subject_id) \
      where coalesce(m.open, 0) <> 0 or coalesce(m.charged, 0) <> coalesce(w.opening, 0)",
    ),
    (
        "a task is counted in windows of its own organisation, team, user and key, and of its time",
        // A window of a former time zone ends by another clock.
        "with w as materialized (select b.org_id, b.window_id, b.level, b.subject_id, b.starts_at, \
      case when window_start(b.period, o.time_zone, b.starts_at) = b.starts_at then window_end(b.period, o.time_zone, b.starts_at) \
      else b.starts_at + case b.period when 'daily' then interval '26 hours' when 'weekly' then interval '170 hours' \
      else interval '746 hours' end end as ends_at from budget_window b left join org o using (org_id)) \
      select format('org %s hold %s: window %s of %s %s from %s to %s', h.org_id, h.hold_id, n.window_id, w.level, w.subject_id, \
      w.starts_at, w.ends_at) from hold h cross join lateral unnest(h.windows) n(window_id) \
      left join w on w.org_id = h.org_id and w.window_id = n.window_id \
      where w.window_id is null or h.created_at < w.starts_at or h.created_at >= w.ends_at \
      or w.subject_id is distinct from subject_of(w.level, h.org_id, h.team_id, h.user_id, h.key_id)",
    ),
    (
        "no admission took a budget below zero",
        "select format('org %s hold %s: %s left', org_id, hold_id, budget_after) from task where budget_after < 0",
    ),
    (
        "an organisation knows whether there are budgets and teams to look for",
        "select format('org %s: budgets %s, teams %s', org_id, b.budgets, b.teams) from org_balance b \
      where ((b.budgets > 0) <> exists (select from budget u where u.org_id = b.org_id or u.org_id is null) \
      and not exists (select from budget_count c where c.org_id = b.org_id)) \
      or (not b.teams and exists (select from team t where t.org_id = b.org_id))",
    ),
    (
        "usage by day = entries of tasks",
        "select format('org %s %s user %s team %s key %s %s: %s tasks, %s + %s; entries: %s tasks, %s + %s', org_id, day, user_id, team_id, \
      key_id, task_type, u.tasks, u.charged, u.corrected, e.tasks, e.charged, e.corrected) from usage_day u full join ( \
      select e.org_id, (e.created_at at time zone 'UTC')::date as day, coalesce(e.user_id, v.none) as user_id, \
      coalesce(e.team_id, v.none) as team_id, coalesce(e.key_id, v.none) as key_id, \
      e.task_type, coalesce(sum(e.lines) filter (where e.kind = 'consume'), 0) as tasks, \
      coalesce(-sum(e.amount) filter (where e.kind = 'consume'), 0) as charged, \
      coalesce(-sum(e.amount) filter (where e.kind = 'correct'), 0) as corrected \
      from (values ('00000000-0000-0000-0000-000000000000'::uuid)) v(none), booked e \
      where e.kind in ('consume', 'correct') group by 1, 2, 3, 4, 5, 6) e using (org_id, day, user_id, team_id, key_id, task_type) \
      where (u.tasks, u.charged, u.corrected) is distinct from (e.tasks, e.charged, e.corrected)",
    ),
    (
        "a transfer has two halves",
        "select format('org %s entry %s: %s, other half %s', e.org_id, e.entry_id, e.amount, o.amount) from entry e \
      left join entry o on o.entry_id = e.related_entry and o.related_entry = e.entry_id and o.kind = 'transfer' \
      where e.kind = 'transfer' and (o.amount is null or o.org_id = e.org_id or o.amount <> -e.amount)",
    ),
    (
        "a grant that runs out was granted, and what was taken back of it is in the ledger",
        "select format('org %s grant %s of %s: lot of %s, %s taken back, entries %s', org_id, entry_id, g.amount, l.amount, l.expired, x.amount) \
      from credit_lot l left join (select org_id, entry_id, amount from entry where kind = 'grant') g using (org_id, entry_id) \
      full join (select org_id, related_entry as entry_id, -sum(amount) as amount from entry where kind = 'expire' group by 1, 2) x \
      using (org_id, entry_id) where l.amount is distinct from g.amount or coalesce(l.expired, 0) <> coalesce(x.amount, 0)",
    ),
    (
        "what an organisation has = credits that do not run out + what is left of those that do + what is not attributed",
        "select format('org %s: has %s; %s + %s + %s', org_id, b.granted - b.consumed, p.credits, l.left, q.amount) \
      from credit_pool p full join (select org_id, coalesce(sum(amount - burned - expired) filter (where counted), 0) as left \
      from credit_lot where burned + expired < amount group by 1) l using (org_id) \
      full join (select q.org_id, sum(e.amount) as amount from credit_event q left join entry e using (org_id, entry_id) group by 1) q using (org_id) \
      left join org_balance b using (org_id) where b.granted::numeric - b.consumed \
      is distinct from p.credits + coalesce(l.left, 0) + coalesce(q.amount, 0)",
    ),
    (
        "what a task cost the platform is in its losses",
        "select format('org %s hold %s: cost %s, losses %s', h.org_id, h.hold_id, h.lost, coalesce(l.amount, 0)) from task h \
      left join (select org_id, hold_id, sum(amount) as amount from platform_loss group by 1, 2) l using (org_id, hold_id) \
      where h.lost <> coalesce(l.amount, 0)",
    ),
    (
        "a create keeps its idempotency key, and its body, for as long as keys are kept",
        // A task that is released has ended without a charge: if the vendor had refused it, its key is free again.
        "select format('org %s hold %s: key %s, %s', h.org_id, h.hold_id, h.idem_key, \
      case when c.hold_id is null then 'gone' else 'of another body' end) \
      from task h cross join forgotten_keys f left join idempotency c on c.org_id = h.org_id and c.endpoint = 'generate' \
      and c.key = h.idem_key and c.hold_id = h.hold_id where h.idem_key is not null and h.created_at >= f.made_before \
      and h.state <> 'RELEASED' \
      and c.fingerprint is distinct from h.fingerprint",
    ),
    (
        "a call that moved credits keeps its answer",
        "select format('org %s %s key %s', org_id, endpoint, key) from idempotency where endpoint <> 'generate' and answer is null",
    ),
    (
        "what a task cost is booked on who made it, and not before",
        // After a fail-over the clock may be a little behind.
        "select format('org %s entry %s: hold %s', e.org_id, e.entry_id, e.hold_id) from entry e \
      join task h on h.org_id = e.org_id and h.hold_id = e.hold_id where e.created_at < h.created_at - interval '1 minute' \
      or (e.user_id, e.key_id, e.team_id, e.task_type) is distinct from (h.user_id, h.key_id, h.team_id, h.task_type)",
    ),
    (
        "a task that drew on budgets is counted in their windows",
        "select format('org %s hold %s', org_id, hold_id) from task \
      where budget_after is not null and coalesce(cardinality(windows), 0) = 0",
    ),
    (
        "a task goes on while it is open, and no longer",
        "select format('org %s hold %s: ended as %s, %s, open as %s', coalesce(h.org_id, o.org_id), coalesce(h.hold_id, o.hold_id), \
      h.state, h.late, o.state) from hold h full join open_task o on o.org_id = h.org_id and o.hold_id = h.hold_id \
      where h.hold_id is null or (h.state is null or h.late is not distinct from 'open') <> (o.hold_id is not null) \
      or o.reopened <> (h.state is not null) or (o.account, o.backend) is distinct from \
      (case when o.hold_id is not null then h.account end, case when o.hold_id is not null then h.backend end)",
    ),
    archived::VENDOR,
    (
        "tasks that nobody paid for, and those that drifted, are listed",
        "select format('org %s hold %s: %s, drift %s', coalesce(h.org_id, u.org_id, d.org_id), coalesce(h.hold_id, u.hold_id, d.hold_id), \
      h.state, h.drift) from hold h full join unpaid_task u on u.org_id = h.org_id and u.hold_id = h.hold_id \
      full join drifted_task d on d.org_id = h.org_id and d.hold_id = h.hold_id \
      where h.hold_id is null or (h.state is not null and h.state in ('RELEASED', 'WRITTEN_OFF')) <> (u.hold_id is not null) \
      or coalesce(h.drift <> 0, false) <> (d.hold_id is not null) \
      or (u.hold_id is not null and (u.user_id, u.key_id) is distinct from (h.user_id, h.key_id))",
    ),
    (
        "what an operator recorded of a task is in the audit log",
        "select format('org %s hold %s: %s', h.org_id, h.hold_id, h.by_hand) from task h \
      where h.by_hand is not null and not exists (select from audit_log a where a.target_id = h.hold_id::text \
      and a.target_kind = 'hold' and a.org_id = h.org_id and a.after ->> 'task_id' = h.by_hand ->> 'task_id' \
      and (a.after -> 'forced') is not distinct from (h.by_hand -> 'forced') \
      and a.after -> 'refused' is null)",
    ),
    (
        "the steps in the life of a task are those of this version",
        "select format('a rule of all organisations: %s from %s', kind, from_state) from transition t full join (values \
      ('run','HELD','RUNNING',null,null), ('run','IN_DOUBT','RUNNING',null,null), ('settle','RUNNING','SETTLED',null,null), \
      ('settle','IN_DOUBT','SETTLED',null,null), ('fail','RUNNING','RELEASED',null,null), ('fail','IN_DOUBT','RELEASED',null,null), \
      ('refuse','HELD','RELEASED',null,null), ('refuse','IN_DOUBT','RELEASED',null,null), ('abandon','HELD','RELEASED',null,null), \
      ('abandon','IN_DOUBT','RELEASED',null,null), ('sweep','HELD','RELEASED',null,null), ('doubt','HELD','IN_DOUBT',null,null), \
      ('doubt','RUNNING','IN_DOUBT',null,null), ('orphan','HELD','IN_DOUBT',null,null), ('write_off','IN_DOUBT','WRITTEN_OFF',null,null), \
      ('late_run','RELEASED','RELEASED',null,'open'), ('late_run','WRITTEN_OFF','WRITTEN_OFF',null,'open'), ('late_settle','RELEASED','RELEASED','open','charged'), \
      ('late_settle','WRITTEN_OFF','WRITTEN_OFF','open','charged'), ('late_fail','RELEASED','RELEASED','open','lost'), ('late_fail','WRITTEN_OFF','WRITTEN_OFF','open','lost'), \
      ('late_drop','RELEASED','RELEASED','open','given_up'), ('late_drop','WRITTEN_OFF','WRITTEN_OFF','open','given_up')) \
      as r(kind, from_state, to_state, from_late, to_late) using (kind, from_state) \
      where (t.to_state, t.from_late, t.to_late) is distinct from (r.to_state, r.from_late, r.to_late)",
    ),
    (
        "the triggers that guard the books are on",
        "select format('a trigger of all organisations: %s of %s', coalesce(t.tgname::text, r.name), coalesce(c.relname::text, r.guarded)) from (values \
      ('entry', 'entry_append_only'), ('entry', 'entry_no_truncate'), ('entry', 'entry_audit'), ('entry', 'entry_counted'), \
      ('entry', 'entry_placed'), ('hold', 'hold_sealed'), ('month_seal', 'month_seal_append_only'), ('month_seal', 'month_seal_no_truncate'), ('correction', 'correction_append_only'), ('correction', 'correction_no_truncate'), \
      ('label', 'label_append_only'), ('label', 'label_no_truncate'), \
      ('credit_lot_event', 'credit_lot_event_append_only'), ('credit_lot_event', 'credit_lot_event_no_truncate'), \
      ('platform_loss', 'platform_loss_append_only'), ('platform_loss', 'platform_loss_no_truncate'), \
      ('audit_log', 'audit_log_append_only'), ('audit_log', 'audit_log_no_truncate')) as r(guarded, name) \
      full join (pg_trigger t join pg_class c on c.oid = t.tgrelid and c.relnamespace = 'public'::regnamespace \
      and not t.tgisinternal) on c.relname::text = r.guarded and t.tgname::text = r.name \
      where t.tgname is null or t.tgenabled not in ('O', 'A') \
      union all select format('a trigger of all organisations: %s of %s', own.name, part.relname) from pg_inherits i \
      join pg_class part on part.oid = i.inhrelid and part.relnamespace = 'public'::regnamespace \
      join pg_class whole on whole.oid = i.inhparent and whole.relkind = 'p' \
      join (values ('entry', 'entry_append_only'), ('entry', 'entry_no_truncate'), ('entry', 'entry_audit'), \
      ('entry', 'entry_placed'), ('hold', 'hold_sealed'), ('label', 'label_append_only')) own(guarded, name) on own.guarded = whole.relname::text \
      where not exists (select from pg_trigger t where t.tgrelid = i.inhrelid and t.tgname::text = own.name)",
    ),
    seals::CHAIN,
    seals::HISTORY,
    seals::HOLDS,
    seals::LOTS,
    seals::LOGGED,
    archived::MONTHS,
    totals::TOTALS,
    totals::TASKS,
];

const NAMES: [&str; INVARIANTS.len()] = {
    let mut names = [""; INVARIANTS.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = INVARIANTS[index].0;
        index += 1;
    }
    names
};

/// The names of all checks whose findings are breaches.
pub const AUDIT_CHECKS: &[&str] = &NAMES;

const WARNINGS: &[(&str, &str)] = &[
    (
        "a poll is more than ten minutes late",
        "select format('org %s hold %s: due %s', org_id, hold_id, due_at) from task where state = 'RUNNING' and due_at < now() - interval '10 min'",
    ),
    (
        "held for more than ten minutes without an answer on record",
        "select format('org %s hold %s: since %s', org_id, hold_id, created_at) from task where state = 'HELD' and created_at < now() - interval '10 min'",
    ),
    (
        "in doubt for more than an hour",
        "select format('org %s hold %s: since %s', org_id, hold_id, doubt_at) from task where state = 'IN_DOUBT' and doubt_at < now() - interval '1 hour'",
    ),
];

impl Database {
    /// Checks every invariant, of an organisation or some small ones at a time. Safe on a running system; reads the whole ledger.
    pub async fn audit(&self) -> Result<AuditReport, StoreError> {
        let (mut auditor, mut rounds) = Auditor::of_the_whole(self).await?;
        let warnings = WARNINGS.iter().map(|&(check, sql)| (check, sql.to_owned())).collect();
        rounds.push(Round::of_all(warnings));
        // How many rows were found, and those that are told.
        let mut found: BTreeMap<&'static str, (i64, Vec<Finding>)> = BTreeMap::new();
        for round in rounds {
            auditor.turn_to(&round).await?;
            for (check, sql) in &round.checks {
                // A broken ledger may have millions of rows to report: all are counted, and some are told.
                let some = sqlx::query(sqlx::AssertSqlSafe(format!(
                    "with found (detail) as materialized ({sql}) \
                     select detail, (select count(*) from found) from found limit {MOST_TOLD}"
                )));
                let rows = auditor.rows(some).await?;
                let Some(first) = rows.first() else { continue };
                let (count, told) = found.entry(check).or_default();
                *count = count.saturating_add(first.try_get(1)?);
                for row in rows.iter().take(MOST_TOLD.saturating_sub(told.len())) {
                    told.push(Finding { check, detail: row.try_get(0)? });
                }
            }
        }
        let mut report = AuditReport::default();
        let mut findings = |check: &'static str| {
            let (count, mut told) = found.remove(check).unwrap_or_default();
            let untold = count.saturating_sub(i64::try_from(told.len()).unwrap_or(i64::MAX));
            if untold > 0 {
                told.push(Finding { check, detail: format!("and {untold} more rows of all organisations") });
            }
            told
        };
        report.breaches = INVARIANTS.iter().flat_map(|(check, _)| findings(check)).collect();
        report.warnings = WARNINGS.iter().flat_map(|(check, _)| findings(check)).collect();
        let counts = "select (select count(*) from org), (select count(*) from task), (select count(*) from entry), \
            (select coalesce(sum(tasks), 0)::bigint from archived_charge)";
        for row in auditor.rows(sqlx::query(counts)).await? {
            (report.orgs, report.holds, report.entries, report.archived) =
                <(i64, i64, i64, i64)>::from_row(&row)?;
        }
        auditor.end().await;
        Ok(report)
    }
}
