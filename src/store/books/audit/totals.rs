//! The checks of the sums that statements and usage are told from, and of those of drift and what-if.

/// Both sides of an organisation that has sums: they, with the entries behind them; and all that was booked. Entries are compared by
/// days (UTC), because what is in an archive has no finer times.
pub(super) const TOTALS: (&str, &str) = (
    "sums of entries = entries",
    "with summed as materialized (select p.org_id, p.place from total_place p where p.place is not null), \
      behind as materialized (select e.org_id, (e.created_at at time zone 'UTC')::date as day, e.kind, e.amount, e.task_type, \
      coalesce(e.team_id, v.none) as team_id, coalesce(e.user_id, v.none) as user_id, coalesce(e.key_id, v.none) as key_id, \
      (e.kind = 'consume')::integer::bigint as tasks, case when e.kind = 'consume' then -e.amount else 0 end as charged, \
      case when e.kind = 'correct' then -e.amount else 0 end as corrected \
      from (values ('00000000-0000-0000-0000-000000000000'::uuid)) v(none), summed s join entry e on e.org_id = s.org_id and e.place > s.place), \
      days as materialized (select u.org_id, u.day, u.team_id, u.user_id, u.key_id, u.task_type, u.tasks, u.charged, u.corrected \
      from summed s join usage_day u on u.org_id = s.org_id) \
      select format('org %s %s: sums of %s entries, %s; entries %s, %s', org_id, day || ' ' || kind, t.lines, t.amount, b.lines, b.amount) from ( \
      select org_id, day, kind, sum(lines) as lines, sum(amount) as amount from ( \
      select org_id, (at at time zone 'UTC')::date as day, kind, lines, amount from entry_total \
      union all select org_id, day, kind, 1, amount from behind) a group by 1, 2, 3) t full join ( \
      select b.org_id, (b.created_at at time zone 'UTC')::date as day, b.kind, sum(b.lines) as lines, sum(b.amount) as amount \
      from summed s join booked b on b.org_id = s.org_id group by 1, 2, 3) b using (org_id, day, kind) \
      where (t.lines, t.amount) is distinct from (b.lines, b.amount) \
      union all select format('org %s %s team %s %s: sums of %s tasks, %s + %s; usage by day %s, %s + %s', org_id, day, team_id, task_type, t.tasks, \
      t.charged, t.corrected, d.tasks, d.charged, d.corrected) from ( \
      select org_id, day, team_id, task_type, sum(tasks) as tasks, sum(charged) as charged, sum(corrected) as corrected from ( \
      select org_id, day, team_id, task_type, tasks, charged, corrected from usage_total \
      union all select org_id, day, team_id, task_type, tasks, charged, corrected from behind where kind in ('consume', 'correct')) a \
      group by 1, 2, 3, 4) t full join ( \
      select org_id, day, team_id, task_type, sum(tasks) as tasks, sum(charged) as charged, sum(corrected) as corrected from days \
      group by 1, 2, 3, 4) d using (org_id, day, team_id, task_type) \
      where (t.tasks, t.charged, t.corrected) is distinct from (d.tasks, d.charged, d.corrected) \
      union all select format('org %s %s of %s %s: sums of %s tasks, %s + %s; usage by day %s, %s + %s', org_id, month, kind, member_id, t.tasks, \
      t.charged, t.corrected, d.tasks, d.charged, d.corrected) from ( \
      select org_id, kind, month, member_id, sum(tasks) as tasks, sum(charged) as charged, sum(corrected) as corrected from ( \
      select org_id, kind, month, member_id, tasks, charged, corrected from usage_member \
      union all select b.org_id, m.kind, date_trunc('month', b.day)::date, m.member_id, b.tasks, b.charged, b.corrected from behind b \
      cross join lateral (values ('user', b.user_id), ('key', b.key_id)) m(kind, member_id) where b.kind in ('consume', 'correct')) a \
      group by 1, 2, 3, 4) t full join ( \
      select d.org_id, m.kind, date_trunc('month', d.day)::date as month, m.member_id, sum(d.tasks) as tasks, sum(d.charged) as charged, \
      sum(d.corrected) as corrected from days d cross join lateral (values ('user', d.user_id), ('key', d.key_id)) m(kind, member_id) \
      group by 1, 2, 3, 4) d using (org_id, kind, month, member_id) \
      where (t.tasks, t.charged, t.corrected) is distinct from (d.tasks, d.charged, d.corrected)",
);

/// Both sides: the sums of tasks, with the tasks behind them; and the charged tasks. What they were priced with is kept for 100 days.
pub(super) const TASKS: (&str, &str) = (
    "sums of tasks = tasks",
    "with used as (select exists (select from task_place) and not exists (select from history_seal h where h.entries > 0) as yes), \
      since as (select date_bin('1 hour', now() - interval '99 days', '2000-01-01Z') as at), \
      behind as materialized (select b.* from used u, tasks_behind() b where u.yes) \
      select format('all orgs, account %s %s book %s: sums of tasks %s; tasks %s', account, task_type, price_book, t.sums, h.sums) from ( \
      select account, task_type, price_book, format('%s, %s charged, %s reported, %s drift in %s, %s listed and %s consumed in %s', \
      sum(tasks), sum(charged), coalesce(sum(reported), 0), coalesce(sum(drift), 0), sum(differing), sum(listed), sum(consumed), \
      sum(unlike)) as sums from ( \
      select account, task_type, price_book, tasks, charged, reported, drift, differing, unlike, listed, consumed from drift_total \
      union all select b.account, b.task_type, b.price_book, 1, b.raw_consumed, b.reported, b.drift, (b.drift <> 0)::integer, l.unlike, \
      b.list_price * l.unlike, b.raw_consumed * l.unlike \
      from behind b cross join lateral (select (b.raw_consumed <> b.list_price)::integer::numeric as unlike) l) a \
      group by 1, 2, 3 having sum(tasks) <> 0) t full join ( \
      select account, task_type, price_book, format('%s, %s charged, %s reported, %s drift in %s, %s listed and %s consumed in %s', \
      count(*), sum(raw_consumed), coalesce(sum(reported), 0), coalesce(sum(drift), 0), count(*) filter (where drift <> 0), \
      coalesce(sum(list_price) filter (where raw_consumed <> list_price), 0), \
      coalesce(sum(raw_consumed) filter (where raw_consumed <> list_price), 0), count(*) filter (where raw_consumed <> list_price)) as sums \
      from hold where state = 'SETTLED' group by 1, 2, 3) h using (account, task_type, price_book) cross join used \
      where used.yes and t.sums is distinct from h.sums \
      union all select format('org %s %s book %s price %s factor %s: sums of tasks %s, charged %s; tasks %s, %s', org_id, task_type, price_book, \
      list_price, factor_bp, t.tasks, t.charged, h.tasks, h.charged) from ( \
      select org_id, task_type, price_book, list_price, factor_bp, sum(tasks) as tasks, sum(charged) as charged from ( \
      select p.org_id, p.task_type, p.price_book, p.list_price, p.factor_bp, p.tasks, p.charged from since s join price_total p on p.at >= s.at \
      union all select b.org_id, b.task_type, b.price_book, b.list_price, b.factor_bp, 1, b.charged \
      from since s join behind b on b.created_at >= s.at) a group by 1, 2, 3, 4, 5 having sum(tasks) <> 0) t full join ( \
      select k.org_id, k.task_type, k.price_book, k.list_price, k.factor_bp, count(*) as tasks, sum(k.charged) as charged \
      from since s join hold k on k.created_at >= s.at where k.state = 'SETTLED' group by 1, 2, 3, 4, 5) h \
      using (org_id, task_type, price_book, list_price, factor_bp) cross join used \
      where used.yes and (t.tasks, t.charged) is distinct from (h.tasks, h.charged)",
);
