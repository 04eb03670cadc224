//! The checks of months whose charged tasks are in an archive: what is left here, with the sums of what left, is what was sealed.

/// The vendor's id of a task stays when its hold leaves with its month, and says what the task cost.
pub(super) const VENDOR: (&str, &str) = (
    "the vendor's id of a task is known once",
    "with lone as (select v.org_id, v.hold_id, v.upstream_task, v.account, v.charged, date_trunc('month', to_timestamp( \
      ('x' || left(replace(v.hold_id::text, '-', ''), 12))::bit(48)::bigint / 1000.0) at time zone 'UTC')::date as month \
      from vendor_task v where not exists (select from task t where t.org_id = v.org_id and t.hold_id = v.hold_id \
      and t.upstream_task = v.upstream_task and t.account = v.account)) \
      select format('org %s hold %s: %s of %s', t.org_id, t.hold_id, t.upstream_task, t.account) from task t where t.upstream_task is not null \
      and not exists (select from vendor_task v where v.org_id = t.org_id and v.hold_id = t.hold_id \
      and v.upstream_task = t.upstream_task and v.account = t.account and v.charged is null) \
      union all select format('org %s hold %s: %s of %s', l.org_id, l.hold_id, l.upstream_task, l.account) from lone l \
      where l.charged is null or not exists (select from archived_month a where a.org_id = l.org_id and a.month = l.month) \
      union all select format('org %s month %s: %s tasks in the archive, charged %s; by the vendor''s ids %s, charged %s', c.org_id, c.month, \
      c.tasks, c.charged, coalesce(l.tasks, 0), coalesce(l.charged, 0)) \
      from (select org_id, month, sum(tasks) as tasks, -sum(amount) as charged from archived_charge group by 1, 2) c \
      left join (select org_id, month, count(*) as tasks, sum(charged) as charged from lone group by 1, 2) l using (org_id, month) \
      where (c.tasks, c.charged) is distinct from (l.tasks, l.charged)",
);

pub(super) const MONTHS: (&str, &str) = (
    "what is left of an archived month, and the sums of what is in the archive, are what was sealed",
    "select format('org %s month %s: %s holds (%s settled, %s released, %s written off), charged %s, %s entries (%s, %s, %s); \
      sealed: %s (%s, %s, %s), %s, %s (%s, %s, %s)%s%s', a.org_id, a.month, h.holds + c.tasks, h.settled + c.tasks, h.released, h.written_off, \
      h.charged - c.amount, e.entries + c.tasks, e.consumed + c.amount, e.corrected, e.granted, s.holds, s.settled, s.released, s.written_off, \
      s.charged, s.entries, s.consumed, s.corrected, s.granted, case when s.chain is distinct from a.chain then ', another chain' else '' end, \
      case when (p.entries, p.amount) is distinct from (c.tasks, c.amount) then ', other places' else '' end) \
      from archived_month a left join month_seal s on s.org_id = a.org_id and s.month = a.month \
      cross join lateral (select first_id(a.month::timestamp at time zone 'UTC') as first, \
      first_id((a.month + interval '1 month') at time zone 'UTC') as behind) ids \
      cross join lateral (select count(*) as holds, count(*) filter (where state = 'SETTLED') as settled, \
      count(*) filter (where state = 'RELEASED') as released, count(*) filter (where state = 'WRITTEN_OFF') as written_off, \
      coalesce(sum(charged), 0) as charged from hold where org_id = a.org_id and hold_id >= ids.first and hold_id < ids.behind) h \
      cross join lateral (select count(*) as entries, coalesce(sum(amount) filter (where kind = 'consume'), 0) as consumed, \
      coalesce(sum(amount) filter (where kind = 'correct'), 0) as corrected, \
      coalesce(sum(amount) filter (where kind not in ('consume', 'correct')), 0) as granted \
      from entry where org_id = a.org_id and entry_id >= ids.first and entry_id < ids.behind) e \
      cross join lateral (select coalesce(sum(tasks), 0) as tasks, coalesce(sum(amount), 0) as amount from archived_charge \
      where org_id = a.org_id and month = a.month) c \
      cross join lateral (select coalesce(sum(last_place - first_place + 1), 0) as entries, coalesce(sum(amount), 0) as amount \
      from archived_place where org_id = a.org_id and month = a.month) p \
      where (h.holds + c.tasks, h.settled + c.tasks, h.released, h.written_off, h.charged - c.amount, e.entries + c.tasks, \
      e.consumed + c.amount, e.corrected, e.granted, a.chain) is distinct from \
      (s.holds, s.settled, s.released, s.written_off, s.charged, s.entries, s.consumed, s.corrected, s.granted, s.chain) \
      or (p.entries, p.amount) is distinct from (c.tasks, c.amount) \
      union all select format('org %s month %s: sums of an archive, and nothing says that there is one', org_id, month) from \
      (select org_id, month from archived_charge union select org_id, month from archived_place union select org_id, month from archived_window) n \
      where not exists (select from archived_month a where a.org_id = n.org_id and a.month = n.month)",
);
