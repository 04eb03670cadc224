-- Budgets: what a key, a user, a team or an organisation may spend in a time.
--
-- Replicas that know only the migrations before this one go on: both functions of a lane keep their signatures. They
-- answer what a budget refuses with a 500, which they have no other words for, and hold nothing for it.

-- Both are altered below. In the order in which a lane takes them: the other way round a reservation that has its balance
-- row and this migration would wait for each other.
lock table org_balance, hold in access exclusive mode;

-- The budget that counts for a subject and a period is its own; else that for every subject of its level in its
-- organisation (no subject); else that for every subject of its level anywhere (no organisation): the platform's default.
-- None at all is no limit.
create table budget (
    budget_id    uuid primary key,
    org_id       uuid references org,
    level        text not null check (level in ('key', 'user', 'team', 'org')),
    subject_id   uuid,
    period       text not null check (period in ('total', 'daily', 'weekly', 'monthly')),
    -- null: no limit, although a wider budget may set one
    credits      bigint check (credits >= 0),
    -- a raise that ends by itself
    raised_to    bigint check (raised_to >= 0),
    raised_until timestamptz,
    -- percent of the limit at which an event is raised, once per window and limit
    thresholds   integer[] not null default '{50,80,100}'
        check (0 < all (thresholds) and 100 >= all (thresholds) and array_position(thresholds, null) is null),
    version      integer not null default 1,
    created_at   timestamptz not null default now(),
    check (org_id is not null or subject_id is null),
    check (level <> 'org' or subject_id is null),
    check ((raised_to is null) = (raised_until is null))
);
create unique index budget_place on budget (org_id, level, subject_id, period) nulls not distinct;
create trigger budget_version before update on budget for each row execute function next_version();
create trigger budget_audit after insert or update or delete on budget
    for each row execute function audit_change('budget', 'budget_id');

-- What one subject spent in one window, whatever budget counts for it: a budget that is changed, dropped or made again
-- finds what was counted. Written under the organisation's balance row only.
create table budget_window (
    org_id     uuid not null,
    window_id  bigint generated always as identity,
    level      text not null,
    subject_id uuid not null,
    period     text not null,
    starts_at  timestamptz not null,
    -- open holds
    held       bigint not null default 0 check (held >= 0),
    -- charges
    used       bigint not null default 0,
    -- the part of them that was charged to holds from before there was a budget, which do not list this window
    opening    bigint not null default 0,
    -- the highest threshold that was reached, under the present limit
    alerted    integer not null default 0,
    primary key (org_id, window_id)
) with (fillfactor = 50);
create unique index budget_window_place on budget_window (org_id, level, subject_id, period, starts_at);

create table budget_event (
    event_id   bigint generated always as identity primary key,
    org_id     uuid not null,
    window_id  bigint not null,
    budget_id  uuid not null,
    threshold  integer not null,
    -- of the budget, then
    credits    bigint not null,
    -- held and used, then
    spent      bigint not null,
    created_at timestamptz not null,
    -- whether a gateway has logged and counted it
    told       boolean not null default false,
    unique (org_id, window_id, threshold, credits)
);
create index budget_event_untold on budget_event (event_id) where not told;

alter table hold
    -- the windows it was counted in: whatever becomes of it is counted there
    add column windows bigint[],
    -- the least that was left in one of them after this admission
    add column budget_after bigint;

-- Nearly free to keep: rows are added in the order of their age.
create index hold_age on hold using brin (created_at);

-- 0: no budget counts for the organisation, which then pays nothing for the others. Else a number that no earlier state
-- of its budgets had.
alter table org_balance add column budgets bigint not null default 0;
create sequence budget_state;

-- Whether it ever had a team. Those without need not look for the teams of their users.
alter table org_balance add column teams boolean not null default false;
create function note_team() returns trigger language plpgsql as $$
begin
    update org_balance b set teams = true where b.org_id = new.org_id and not b.teams;
    return null;
end $$;
create trigger team_note after insert on team for each row execute function note_team();

create function budgets_of(p_org uuid) returns bigint language sql as $$
    select case when exists (select from budget b where b.org_id = p_org)
                  or exists (select from budget b where b.org_id is null) then nextval('budget_state') else 0 end
$$;

-- Weeks begin on Monday. A day begins with its first instant: where clocks change at midnight that is neither always
-- 00:00 nor always the 00:00 that Postgres prefers.
create function day_start(p_day timestamp, p_zone text) returns timestamptz language sql stable as $$
    select case when date_trunc('day', (p_day at time zone p_zone - interval '1 hour') at time zone p_zone) = p_day
                then p_day at time zone p_zone - interval '1 hour' else p_day at time zone p_zone end
$$;

create function window_start(p_period text, p_zone text, p_now timestamptz) returns timestamptz language sql stable as $$
    select case p_period
        when 'total' then timestamptz '-infinity'
        when 'daily' then day_start(date_trunc('day', p_now at time zone p_zone), p_zone)
        when 'weekly' then day_start(date_trunc('week', p_now at time zone p_zone), p_zone)
        when 'monthly' then day_start(date_trunc('month', p_now at time zone p_zone), p_zone)
    end
$$;

-- Where the next one begins; never, for a total.
create function window_end(p_period text, p_zone text, p_now timestamptz) returns timestamptz language sql stable as $$
    select case p_period
        when 'total' then timestamptz 'infinity'
        when 'daily' then day_start(date_trunc('day', p_now at time zone p_zone) + interval '1 day', p_zone)
        when 'weekly' then day_start(date_trunc('week', p_now at time zone p_zone) + interval '7 days', p_zone)
        when 'monthly' then day_start(date_trunc('month', p_now at time zone p_zone) + interval '1 month', p_zone)
    end
$$;

create function subject_of(p_level text, p_org uuid, p_team uuid, p_user uuid, p_key uuid) returns uuid
language sql immutable as $$
    select case p_level when 'key' then p_key when 'user' then p_user when 'team' then p_team when 'org' then p_org end
$$;

-- The budget that counts for a subject and a period.
create function budget_of(p_org uuid, p_level text, p_subject uuid, p_period text) returns setof budget
language sql stable as $$
    select b from budget b
    where (b.org_id = p_org or b.org_id is null) and b.level = p_level
      and (b.subject_id = p_subject or b.subject_id is null) and b.period = p_period
    order by b.subject_id is null, b.org_id is null limit 1
$$;

create function cap_of(b budget, p_now timestamptz) returns bigint language sql immutable as $$
    select case when b.credits is not null and b.raised_until > p_now then greatest(b.raised_to, b.credits) else b.credits end
$$;

create function reaches(p_spent numeric, p_cap bigint, p_threshold integer) returns boolean language sql immutable as $$
    select p_spent > 0 and p_spent * 100 >= p_cap::numeric * p_threshold
$$;

-- Raises an event for each threshold that these windows of an organisation have newly reached. Under its balance row.
create function raise_budget_events(p_org uuid, p_windows bigint[], p_now timestamptz) returns void
language plpgsql as $$
begin
    with reached as (
        select w.window_id, b.budget_id, t.threshold, cap_of(b, p_now) as cap, saturated(w.held::numeric + w.used) as spent
        from budget_window w
        cross join lateral budget_of(w.org_id, w.level, w.subject_id, w.period) b
        cross join lateral unnest(b.thresholds) t(threshold)
        where w.org_id = p_org and w.window_id = any (p_windows) and t.threshold > w.alerted
          and reaches(w.held::numeric + w.used, cap_of(b, p_now), t.threshold)
    ), noted as (
        insert into budget_event (org_id, window_id, budget_id, threshold, credits, spent, created_at)
        select p_org, r.window_id, r.budget_id, r.threshold, r.cap, r.spent, p_now
        from reached r order by r.window_id, r.threshold
        on conflict do nothing
    )
    update budget_window w set alerted = r.threshold
    from (select window_id, max(threshold) as threshold from reached group by 1) r
    where w.org_id = p_org and w.window_id = r.window_id;
end $$;

-- Brings the present window of a subject (null: of all subjects of that level) up to date with everything that was spent
-- in it, budget or no budget. Open holds are counted in it from now on; of those that have ended the charges are.
-- Under the organisation's balance row; a second time it changes nothing.
--
-- One pass over the holds, however many subjects there are: the row is locked meanwhile. What is looked up for a hold is
-- written so that no join could be planned the other way round, with a pass for each window.
create function count_window(p_org uuid, p_level text, p_subject uuid, p_period text, p_now timestamptz) returns void
language plpgsql as $$
declare
    v_zone   constant text := (select o.time_zone from org o where o.org_id = p_org);
    v_start  constant timestamptz := window_start(p_period, v_zone, p_now);
    v_end    constant timestamptz := window_end(p_period, v_zone, p_now);
    -- those whose end is yet to be counted
    v_follow uuid[];
begin
    with spent as (
        select s.subject_id, h.hold_id, h.amount, h.state in ('HELD', 'RUNNING', 'IN_DOUBT') as open,
               -- what came to light after its end may yet be charged
               h.state in ('HELD', 'RUNNING', 'IN_DOUBT') or h.late is not distinct from 'open' as followed,
               h.windows is not null and exists (
                   select from budget_window w
                   where w.org_id = p_org and w.level = p_level and w.subject_id = s.subject_id and w.period = p_period
                     and w.starts_at = v_start and w.window_id = any (h.windows) limit 1) as listed,
               coalesce(h.charged, 0) - case when h.late = 'charged' then (
                   select coalesce(sum(e.amount), 0) from entry e
                   where e.org_id = p_org and e.hold_id = h.hold_id and e.kind = 'correct') else 0 end as charge
        from hold h cross join lateral subject_of(p_level, h.org_id, h.team_id, h.user_id, h.key_id) s(subject_id)
        where h.org_id = p_org and h.created_at >= v_start and h.created_at < v_end
          and (h.state in ('HELD', 'RUNNING', 'IN_DOUBT', 'SETTLED') or h.late is not null)
          and s.subject_id is not null and (p_subject is null or s.subject_id = p_subject)
        offset 0
    ), summed as materialized (
        select s.subject_id, coalesce(sum(s.amount) filter (where s.open), 0)::bigint as held,
               sum(s.charge)::bigint as used,
               coalesce(sum(s.charge) filter (where not s.listed and not s.followed), 0)::bigint as opening,
               array_agg(s.hold_id) filter (where s.followed and not s.listed) as follow
        from spent s group by s.subject_id
    ), counted as (
        insert into budget_window as w (org_id, level, subject_id, period, starts_at, held, used, opening)
        select p_org, p_level, s.subject_id, p_period, v_start, s.held, s.used, s.opening from summed s
        on conflict (org_id, level, subject_id, period, starts_at) do update
        set held = excluded.held, used = excluded.used, opening = excluded.opening
        where (w.held, w.used, w.opening) is distinct from (excluded.held, excluded.used, excluded.opening)
    )
    select array_agg(f.hold_id order by f.hold_id) into v_follow
    from summed s cross join lateral unnest(s.follow) f(hold_id);

    update hold h set windows = coalesce(h.windows, '{}') || (
        select w.window_id from budget_window w
        where w.org_id = p_org and w.level = p_level and w.period = p_period and w.starts_at = v_start
          and w.subject_id = subject_of(p_level, h.org_id, h.team_id, h.user_id, h.key_id) limit 1)
    where h.org_id = p_org and h.hold_id = any (v_follow);
end $$;

-- Under another limit a threshold can be reached again: those that no longer are, count as not yet reached.
create function raise_events_of(p_org uuid, p_level text, p_subject uuid, p_period text, p_now timestamptz) returns void
language plpgsql as $$
declare
    v_windows constant bigint[] := array(
        select w.window_id
        from org o join budget_window w on w.org_id = o.org_id and w.starts_at = window_start(p_period, o.time_zone, p_now)
        where o.org_id = p_org and w.level = p_level and w.period = p_period and (p_subject is null or w.subject_id = p_subject));
begin
    update budget_window w set alerted = coalesce((
        select max(t.threshold)
        from budget_of(w.org_id, w.level, w.subject_id, w.period) b cross join lateral unnest(b.thresholds) t(threshold)
        where t.threshold <= w.alerted and reaches(w.held::numeric + w.used, cap_of(b, p_now), t.threshold)), 0)
    where w.org_id = p_org and w.window_id = any (v_windows) and w.alerted > 0;
    perform raise_budget_events(p_org, v_windows, p_now);
end $$;

-- Budgets change under the balance rows of those they count for, as everything does that a reservation looks at. By
-- trigger: nothing that changes a budget can leave it out.
create function lock_for_budget() returns trigger language plpgsql as $$
declare
    v_org constant uuid := case when tg_op = 'DELETE' then old.org_id else new.org_id end;
begin
    if tg_op = 'UPDATE' and (new.org_id, new.level, new.subject_id, new.period)
       is distinct from (old.org_id, old.level, old.subject_id, old.period) then
        raise exception 'a budget stays where it is' using errcode = 'restrict_violation';
    end if;
    if v_org is null then
        perform 1 from org_balance b order by b.org_id for no key update;
    else
        perform 1 from org_balance b where b.org_id = v_org for no key update;
    end if;
    return case when tg_op = 'DELETE' then old else new end;
end $$;
create trigger budget_lock before insert or update or delete on budget
    for each row execute function lock_for_budget();

-- What was spent before there was a budget counts as well.
create function note_budget() returns trigger language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
    b constant budget := case when tg_op = 'DELETE' then old else new end;
    r record;
begin
    for r in select o.org_id from org_balance o where b.org_id is null or o.org_id = b.org_id loop
        if tg_op = 'INSERT' then
            perform count_window(r.org_id, b.level, b.subject_id, b.period, v_now);
        end if;
        -- also as one is deleted: a wider one may count now
        perform raise_events_of(r.org_id, b.level, b.subject_id, b.period, v_now);
    end loop;
    update org_balance o set budgets = budgets_of(o.org_id) where b.org_id is null or o.org_id = b.org_id;
    return null;
end $$;
create trigger budget_note after insert or update or delete on budget
    for each row execute function note_budget();

-- A default that is being made must not miss an organisation that is being made: it waits for it, or the other way round.
create function note_budgets_of_new() returns trigger language plpgsql as $$
begin
    lock table budget in share mode;
    new.budgets := budgets_of(new.org_id);
    return new;
end $$;
create trigger org_balance_budgets before insert on org_balance
    for each row execute function note_budgets_of_new();

-- By another clock other windows are open: what was spent in them counts.
create function count_by_new_clock() returns trigger language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
begin
    perform 1 from org_balance b where b.org_id = new.org_id and b.budgets > 0 for no key update;
    if found then
        perform count_window(new.org_id, b.level, null, b.period, v_now)
        from (select distinct b.level, b.period from budget b
              where (b.org_id = new.org_id or b.org_id is null) and b.period <> 'total') b;
        update org_balance o set budgets = budgets_of(o.org_id) where o.org_id = new.org_id;
    end if;
    return null;
end $$;
create trigger org_new_clock after update of time_zone on org
    for each row when (new.time_zone <> old.time_zone) execute function count_by_new_clock();

-- What a batch draws on. p_budgets: of each organisation, 0 where there is nothing to look for. p_team: of each item's
-- user; the whole is null where nobody has one.
--
-- caller: each item's place among the callers, 0 where nothing is drawn. Caller c draws on the windows
-- draw[first[c]..last[c]], narrowest level first. The rest describes these windows; cap is null where there is no limit.
-- All that is true before valid_until, when the first window or raise ends.
--
-- In plpgsql, which keeps its plans: language sql would plan it anew for every call.
create function draw_budgets(
    p_orgs uuid[], p_budgets bigint[], p_pos integer[], p_user uuid[], p_key uuid[], p_team uuid[], p_now timestamptz,
    out caller integer[], out first integer[], out last integer[], out draw integer[],
    out pos integer[], out level text[], out subject_id uuid[], out period text[], out starts_at timestamptz[],
    out budget_id uuid[], out cap bigint[], out thresholds text[], out valid_until timestamptz
) language plpgsql stable as $$
#variable_conflict use_column
begin
    with item as materialized (
        select i.*, p_orgs[i.pos] as org_id, dense_rank() over (order by i.pos, i.user_id, i.key_id) as who
        from unnest(p_pos, p_user, p_key, p_team) with ordinality i(pos, user_id, key_id, team_id, ord)
        where p_budgets[i.pos] > 0
    ), subject as materialized (
        select c.who, c.pos, c.org_id, s.*
        from (select distinct i.who, i.pos, i.org_id, i.user_id, i.key_id, i.team_id from item i) c
        cross join lateral (values (1, 'key', c.key_id), (2, 'user', c.user_id), (3, 'team', c.team_id), (4, 'org', c.org_id))
            s(rank, level, subject_id)
        where s.subject_id is not null
    ), place as materialized (
        select distinct s.pos, s.org_id, s.rank, s.level, s.subject_id from subject s
    ), found as (
        select p.*, b.period, b.budget_id, cap_of(b, p_now) as cap, b.thresholds,
               case when b.raised_until > p_now then b.raised_until end as raised_until, 1 as distance
        from place p
        cross join lateral (select * from budget b
            where b.org_id = p.org_id and b.level = p.level and b.subject_id = p.subject_id limit 4) b
        union all
        select p.*, b.period, b.budget_id, b.cap, b.thresholds, b.raised_until, b.distance
        from (select l.pos, l.level, b.period, b.budget_id, cap_of(b, p_now) as cap, b.thresholds,
                     case when b.raised_until > p_now then b.raised_until end as raised_until,
                     case when b.org_id is null then 3 else 2 end as distance
              from (select distinct p.pos, p.org_id, p.level from place p) l
              cross join lateral (
                  select * from budget b where b.org_id = l.org_id and b.level = l.level and b.subject_id is null
                  union all
                  select * from budget b where b.org_id is null and b.level = l.level and b.subject_id is null) b) b
        join place p on p.pos = b.pos and p.level = b.level
    ), nearest as materialized (
        select n.*, row_number() over () as place
        from (select distinct on (f.pos, f.rank, f.subject_id, f.period) f.*
              from found f order by f.pos, f.rank, f.subject_id, f.period, f.distance) n
    ), opening as materialized (
        select p.pos, p.period, window_start(p.period, o.time_zone, p_now) as starts_at,
               window_end(p.period, o.time_zone, p_now) as ends_at
        from (select distinct n.pos, n.org_id, n.period from nearest n) p
        cross join lateral (select o.time_zone from org o where o.org_id = p.org_id limit 1) o
    ), drawn as materialized (
        select s.who, n.place, row_number() over (order by s.who, n.place) as ord
        from subject s join nearest n on n.pos = s.pos and n.rank = s.rank and n.subject_id = s.subject_id
    ), range as materialized (
        select r.*, row_number() over () as place
        from (select d.who, min(d.ord) as first, max(d.ord) as last from drawn d group by d.who order by d.who) r
    ), whose as (
        select array_agg(coalesce(r.place, 0)::integer order by o.ord) as caller
        from generate_subscripts(p_pos, 1) o(ord) left join item i on i.ord = o.ord left join range r on r.who = i.who
    ), ranges as (
        select array_agg(r.first::integer order by r.place) as first, array_agg(r.last::integer order by r.place) as last
        from range r
    ), draws as (
        select array_agg(d.place::integer order by d.ord) as draw from drawn d
    ), windows as (
        select array_agg(n.pos order by n.place) as pos, array_agg(n.level order by n.place) as level,
               array_agg(n.subject_id order by n.place) as subject_id, array_agg(n.period order by n.place) as period,
               array_agg(o.starts_at order by n.place) as starts_at, array_agg(n.budget_id order by n.place) as budget_id,
               array_agg(n.cap order by n.place) as cap, array_agg(n.thresholds::text order by n.place) as thresholds,
               min(least(o.ends_at, n.raised_until)) as valid_until
        from nearest n join opening o on o.pos = n.pos and o.period = n.period
    )
    select whose.*, ranges.*, draws.*, windows.*
    into caller, first, last, draw, pos, level, subject_id, period, starts_at, budget_id, cap, thresholds, valid_until
    from whose, ranges, draws, windows;
end $$;

-- What is left of each window, and with how much left its next event is due. A window that nobody has drawn on has no
-- id yet; where there is no limit, as much is left as can be.
create function left_of_windows(
    p_orgs uuid[], p_pos integer[], p_level text[], p_subject uuid[], p_period text[], p_starts timestamptz[],
    p_cap bigint[], p_thresholds text[],
    out window_id bigint[], out remains bigint[], out alert bigint[]
) language plpgsql stable as $$
#variable_conflict use_column
begin
    select array_agg(w.window_id order by i.ord),
           array_agg(case when i.cap is null then 9223372036854775807
                          when w.window_id is null then i.cap
                          else saturated(i.cap::numeric - w.held - w.used) end order by i.ord),
           array_agg((select i.cap - ceil(i.cap::numeric * min(t) / 100)::bigint
                      from unnest(i.thresholds::integer[]) t where t > coalesce(w.alerted, 0)) order by i.ord)
    into window_id, remains, alert
    from unnest(p_pos, p_level, p_subject, p_period, p_starts, p_cap, p_thresholds) with ordinality
         i(pos, level, subject_id, period, starts_at, cap, thresholds, ord)
    left join lateral (
        select w.window_id, w.held, w.used, w.alerted from budget_window w
        where w.org_id = p_orgs[i.pos] and w.level = i.level and w.subject_id = i.subject_id and w.period = i.period
          and w.starts_at = i.starts_at limit 1) w on true;
end $$;

-- As before (migration 2), and:
--  - verdict 8: a budget does not allow it (reference: that budget; available: what is left of it). What is granted is
--    counted in each of its windows, which the hold remembers.
--  - A hold knows the team of its user.
--  - The same body in doubt is found for callers without a key too.
--
-- What is drawn on is found before the rows are locked, and found again under the lock only if the budgets have changed
-- meanwhile or a window has ended; what is left is read under the lock, and the hold is dated there. A refusal by a
-- budget, like one by the balance, does not touch the row.
create or replace function reserve_batch(
    p_orgs uuid[], p_pos integer[], p_hold uuid[], p_user uuid[], p_key uuid[],
    p_amount bigint[], p_list bigint[], p_factor integer[], p_book integer[],
    p_type text[], p_backend text[], p_account text[],
    p_fingerprint bytea[], p_idem text[], p_keyed boolean[], p_guard boolean[],
    p_owner uuid, p_max_open integer, p_lease_ms bigint, p_resend boolean, p_now timestamptz,
    out verdict integer[], out available bigint[], out reference uuid[]
) language plpgsql as $$
declare
    v_items   constant integer := cardinality(p_hold);
    v_now     timestamptz := coalesce(p_now, clock_timestamp());
    v_avail   bigint[] := array_fill(null::bigint, array[cardinality(p_orgs)]);
    v_over    bigint[] := v_avail;
    v_taken   bigint[] := array_fill(0::bigint, array[cardinality(p_orgs)]);
    v_granted integer[] := array_fill(0, array[cardinality(p_orgs)]);
    v_open    integer[] := v_granted;
    v_max     integer[] := v_granted;
    v_doubts  integer[] := v_granted;
    v_doubt   boolean := false;
    v_want    boolean[] := array_fill(false, array[cardinality(p_orgs)]);
    v_any     boolean := false;
    -- of each item's user; null while nobody can have one
    v_team    uuid[];
    v_teams   boolean := false;
    -- of each organisation: 0, or which state of its budgets was looked at
    v_budgets bigint[] := array_fill(0::bigint, array[cardinality(p_orgs)]);
    v_drawn   boolean := false;
    v_changed boolean := false;
    -- as draw_budgets tells it
    d         record;
    v_caller  integer[];
    v_first   integer[];
    v_last    integer[];
    v_draw    integer[];
    -- of each window: what was left before this batch, and what is; with how much left its next event is due
    v_window  bigint[];
    v_before  bigint[];
    v_left    bigint[];
    v_alert   bigint[];
    -- of each caller its windows; of each item that is granted the least that is left of one of them
    v_list    text[];
    v_after   bigint[];
    v_least   bigint;
    c integer;
    o integer;
    r record;
begin
    verdict := array_fill(null::integer, array[v_items]);
    available := array_fill(null::bigint, array[v_items]);
    reference := array_fill(null::uuid, array[v_items]);

    -- A refusal must not touch the hot row: what cannot fit by a plain read is refused from it. Keyed items go on
    -- (a taken key is answered before the balance), those that may repeat one in doubt (so is that), and those
    -- that were sent before (they may have been granted).
    for r in select t.pos, b.available, b.overdraft, b.open_tasks, coalesce(b.max_open_tasks, p_max_open) as cap, b.in_doubt,
                    b.budgets, b.teams
             from unnest(p_orgs) with ordinality t(org_id, pos) join org_balance b on b.org_id = t.org_id
    loop
        v_avail[r.pos] := r.available; v_over[r.pos] := r.overdraft;
        v_open[r.pos] := r.open_tasks; v_max[r.pos] := r.cap; v_doubts[r.pos] := r.in_doubt;
        v_budgets[r.pos] := r.budgets; v_drawn := v_drawn or r.budgets > 0;
        v_teams := v_teams or r.teams;
    end loop;
    if v_teams then
        select array_agg(u.team_id order by i.ord) into v_team
        from unnest(p_user) with ordinality i(user_id, ord)
        left join lateral (select u.team_id from app_user u where u.user_id = i.user_id limit 1) u on true;
    end if;
    if v_drawn then
        d := draw_budgets(p_orgs, v_budgets, p_pos, p_user, p_key, v_team, v_now);
        v_caller := d.caller; v_first := d.first; v_last := d.last; v_draw := d.draw;
        select t.window_id, t.remains into v_window, v_left from left_of_windows(p_orgs, d.pos, d.level, d.subject_id, d.period, d.starts_at, d.cap, d.thresholds) t;
    end if;
    for i in 1..v_items loop
        o := p_pos[i];
        if v_avail[o] is null then
            verdict[i] := 0;
        elsif p_keyed[i] or p_resend or (p_guard[i] and v_doubts[o] > 0) then
            v_want[o] := true; v_any := true;
        elsif p_amount[i] - v_over[o] > v_avail[o] then
            verdict[i] := 2; available[i] := v_avail[o];
        elsif v_max[o] > 0 and v_open[o] >= v_max[o] then
            verdict[i] := 3; available[i] := v_avail[o];
        else
            c := case when v_drawn then v_caller[i] else 0 end;
            if c > 0 then
                for p in v_first[c]..v_last[c] loop
                    if p_amount[i] > v_left[v_draw[p]] then
                        verdict[i] := 8; available[i] := v_left[v_draw[p]]; reference[i] := d.budget_id[v_draw[p]];
                        exit;
                    end if;
                end loop;
            end if;
            if verdict[i] is null then
                v_want[o] := true; v_any := true;
            end if;
        end if;
    end loop;
    if not v_any then return; end if;

    for r in select t.pos, b.available, b.overdraft, b.open_tasks, coalesce(b.max_open_tasks, p_max_open) as cap, b.in_doubt,
                    b.budgets
             from unnest(p_orgs, v_want) with ordinality t(org_id, wanted, pos)
             join org_balance b on b.org_id = t.org_id
             where t.wanted order by t.pos for no key update of b
    loop
        v_avail[r.pos] := r.available; v_over[r.pos] := r.overdraft;
        v_open[r.pos] := r.open_tasks; v_max[r.pos] := r.cap;
        v_doubt := v_doubt or r.in_doubt > 0;
        if v_budgets[r.pos] <> r.budgets then
            v_budgets[r.pos] := r.budgets; v_changed := true;
        end if;
    end loop;
    v_now := coalesce(p_now, clock_timestamp());
    if v_drawn and not v_changed then
        v_changed := coalesce(v_now >= d.valid_until, false);
    end if;
    if v_changed then
        v_drawn := 0 < any (v_budgets);
        d := draw_budgets(p_orgs, v_budgets, p_pos, p_user, p_key, v_team, v_now);
        v_caller := d.caller; v_first := d.first; v_last := d.last; v_draw := d.draw;
    end if;

    if p_resend then
        for r in select i.ord, h.state, h.balance_after
                 from unnest(p_pos, p_hold) with ordinality i(pos, hold_id, ord)
                 join hold h on h.org_id = p_orgs[i.pos] and h.hold_id = i.hold_id
        loop
            verdict[r.ord] := case when r.state = 'HELD' then 7 else 6 end;
            available[r.ord] := r.balance_after;
        end loop;
    end if;

    if true = any(p_keyed) then
        for r in select i.ord, c.hold_id
                 from unnest(p_pos, p_idem) with ordinality i(pos, idem, ord)
                 cross join lateral (select c.hold_id from idempotency c
                     where c.org_id = p_orgs[i.pos] and c.endpoint = 'generate' and c.key = i.idem limit 1) c
        loop
            if verdict[r.ord] is null then
                verdict[r.ord] := 4; reference[r.ord] := r.hold_id;
            end if;
        end loop;
        -- the same key twice in one batch: the first in line has it
        for r in select k.ord from (
                     select i.ord, row_number() over (partition by i.pos, i.idem order by i.ord) as place
                     from unnest(p_pos, p_idem) with ordinality i(pos, idem, ord) where i.idem is not null) k
                 where k.place > 1
        loop
            if verdict[r.ord] is null then verdict[r.ord] := 4; end if;
        end loop;
    end if;

    if v_doubt then
        for r in select i.ord, h.hold_id
                 from unnest(p_pos, p_user, p_key, p_fingerprint, p_guard) with ordinality
                      i(pos, user_id, key_id, fingerprint, guarded, ord)
                 cross join lateral (
                     (select h.hold_id from hold h
                      where h.org_id = p_orgs[i.pos] and h.key_id = i.key_id and h.fingerprint = i.fingerprint
                        and h.state = 'IN_DOUBT' and h.idem_key is null limit 1)
                     union all
                     -- who has no key is known by the user
                     (select h.hold_id from hold h
                      where h.org_id = p_orgs[i.pos] and h.key_id is null and h.fingerprint = i.fingerprint
                        and h.state = 'IN_DOUBT' and h.idem_key is null
                        and i.key_id is null and h.user_id = i.user_id limit 1)
                     limit 1) h
                 where i.guarded
        loop
            if verdict[r.ord] is null then
                verdict[r.ord] := 5; reference[r.ord] := r.hold_id;
            end if;
        end loop;
    end if;

    -- The windows as they are now; those that nobody has drawn on are made.
    if v_drawn then
        loop
            select t.window_id, t.remains, t.alert into v_window, v_left, v_alert
            from left_of_windows(p_orgs, d.pos, d.level, d.subject_id, d.period, d.starts_at, d.cap, d.thresholds) t;
            insert into budget_window (org_id, level, subject_id, period, starts_at)
            select p_orgs[n.pos], n.level, n.subject_id, n.period, n.starts_at
            from unnest(d.pos, d.level, d.subject_id, d.period, d.starts_at, v_window) n(pos, level, subject_id, period, starts_at, window_id)
            where n.window_id is null and v_want[n.pos];
            exit when not found;
        end loop;
        v_before := v_left;
        v_after := array_fill(null::bigint, array[v_items]);
        v_list := (select array_agg(array(select v_window[v_draw[p]] from generate_series(c.first, c.last) p )::text
                                    order by c.caller)
                   from unnest(v_first, v_last) with ordinality c(first, last, caller));
    end if;

    -- In order of arrival; what does not fit does not block what comes behind it.
    for i in 1..v_items loop
        if verdict[i] is not null then continue; end if;
        o := p_pos[i];
        if p_amount[i] - v_over[o] > v_avail[o] then
            verdict[i] := 2; available[i] := v_avail[o];
        elsif v_max[o] > 0 and v_open[o] >= v_max[o] then
            verdict[i] := 3; available[i] := v_avail[o];
        else
            c := case when v_drawn then v_caller[i] else 0 end;
            if c > 0 then
                v_least := null;
                for p in v_first[c]..v_last[c] loop
                    v_least := least(v_least, v_left[v_draw[p]]);
                end loop;
                if p_amount[i] > v_least then
                    verdict[i] := 8;
                    for p in reverse v_last[c]..v_first[c] loop
                        if p_amount[i] > v_left[v_draw[p]] then
                            available[i] := v_left[v_draw[p]]; reference[i] := d.budget_id[v_draw[p]];
                        end if;
                    end loop;
                    continue;
                end if;
                for p in v_first[c]..v_last[c] loop
                    v_left[v_draw[p]] := v_left[v_draw[p]] - p_amount[i];
                end loop;
                v_after[i] := v_least - p_amount[i];
            end if;
            v_avail[o] := v_avail[o] - p_amount[i];
            v_taken[o] := v_taken[o] + p_amount[i];
            v_open[o] := v_open[o] + 1;
            v_granted[o] := v_granted[o] + 1;
            verdict[i] := 1; available[i] := v_avail[o];
        end if;
    end loop;

    insert into hold (org_id, hold_id, user_id, key_id, team_id, amount, list_price, factor_bp, price_book, balance_after,
                      overdraft, task_type, backend, account, owner, fingerprint, idem_key, windows, budget_after,
                      created_at, due_at)
    select p_orgs[i.pos], i.hold_id, i.user_id, i.key_id, i.team_id, i.amount, i.list, i.factor, i.book, i.after,
           v_over[i.pos], i.type, i.backend, i.account, p_owner, i.fingerprint, i.idem, v_list[i.caller]::bigint[],
           i.budget_after, v_now,
           v_now + p_lease_ms * interval '1 millisecond'
    from unnest(p_pos, p_hold, p_user, p_key, p_amount, p_list, p_factor, p_book, p_type, p_backend, p_account,
                p_fingerprint, p_idem, verdict, available, v_team, v_caller, v_after)
         as i(pos, hold_id, user_id, key_id, amount, list, factor, book, type, backend, account,
              fingerprint, idem, verdict, after, team_id, caller, budget_after)
    where i.verdict = 1;

    if true = any(p_keyed) then
        insert into idempotency (org_id, endpoint, key, fingerprint, hold_id, created_at)
        select p_orgs[i.pos], 'generate', i.idem, i.fingerprint, i.hold_id, v_now
        from unnest(p_pos, p_hold, p_fingerprint, p_idem, verdict) as i(pos, hold_id, fingerprint, idem, verdict)
        where i.verdict = 1 and i.idem is not null;
    end if;

    update org_balance b
    set available = b.available - t.taken, held = b.held + t.taken, open_tasks = t.open
    from unnest(p_orgs, v_taken, v_open, v_granted) as t(org_id, taken, open, granted)
    where b.org_id = t.org_id and t.granted > 0;

    if v_drawn then
        update budget_window b set held = b.held + (t.before - t.remains)
        from unnest(d.pos, v_window, v_before, v_left) t(pos, window_id, before, remains)
        where b.org_id = p_orgs[t.pos] and b.window_id = t.window_id and t.remains < t.before;
        for r in select t.pos, array_agg(t.window_id) as windows
                 from unnest(d.pos, v_window, v_before, v_left, v_alert) t(pos, window_id, before, remains, alert)
                 where t.remains < t.before and t.remains <= t.alert group by t.pos
        loop
            perform raise_budget_events(p_orgs[r.pos], r.windows, v_now);
        end loop;
    end if;
end $$;

create or replace procedure reserve_batch_two_commits(
    p_orgs uuid[], p_pos integer[], p_hold uuid[], p_user uuid[], p_key uuid[],
    p_amount bigint[], p_list bigint[], p_factor integer[], p_book integer[],
    p_type text[], p_backend text[], p_account text[],
    p_fingerprint bytea[], p_idem text[], p_keyed boolean[], p_guard boolean[],
    p_owner uuid, p_max_open integer, p_lease_ms bigint, p_resend boolean, p_now timestamptz,
    inout verdict integer[], inout available bigint[], inout reference uuid[]
) language plpgsql as $$
begin
    set local synchronous_commit = off;
    select r.verdict, r.available, r.reference into verdict, available, reference
    from reserve_batch(p_orgs, p_pos, p_hold, p_user, p_key, p_amount, p_list, p_factor, p_book, p_type, p_backend,
                       p_account, p_fingerprint, p_idem, p_keyed, p_guard, p_owner, p_max_open, p_lease_ms, p_resend,
                       p_now) r;
    commit;
    -- Refusals for want of an organisation, credits, room or a budget rest on nothing that could be lost.
    if not verdict <@ array[0, 2, 3, 8] then
        perform pg_logical_emit_message(true, 'tollgate', '');
    end if;
end $$;

-- As before (migration 4), and: what becomes of a hold is counted in the windows it was counted in; an entry tells the
-- team and the type of its task, and is dated under the balance row: none is older than one that was there before it, so
-- that who reads on by time misses none.
create or replace function transition_batch(
    p_orgs uuid[], p_pos integer[], p_hold uuid[], p_kind text[], p_task text[],
    p_raw bigint[], p_reported bigint[], p_charge bigint[], p_loss bigint[], p_possible boolean[],
    p_reason text[], p_data text[], p_answer text[], p_due_ms bigint[], p_now timestamptz,
    out applied boolean[]
) language plpgsql as $$
declare
    v_now timestamptz;
    v_done bigint[];
    v_grown jsonb;
begin
    perform 1 from unnest(p_orgs) with ordinality t(org_id, pos)
    join org_balance b on b.org_id = t.org_id order by t.pos for no key update of b;
    v_now := coalesce(p_now, clock_timestamp());

    with item as materialized (
        select p_orgs[i.pos] as org_id, i.*
        from unnest(p_pos, p_hold, p_kind, p_task, p_raw, p_reported, p_charge, p_loss, p_possible, p_reason, p_data,
                    p_answer, p_due_ms)
             with ordinality i(pos, hold_id, kind, task, raw, reported, charge, loss, possible, reason, data, answer,
                               due_ms, ord)
    ), moved as (
        update hold h set
            state = t.to_state,
            late = t.to_late,
            upstream_task = coalesce(h.upstream_task, i.task),
            raw_consumed = coalesce(i.raw, h.raw_consumed),
            reported = coalesce(i.reported, h.reported),
            drift = case
                when t.kind in ('settle', 'late_settle') then i.raw - coalesce(i.reported, h.reported, 0)
                when t.kind in ('fail', 'late_fail') then coalesce(i.loss, 0) - coalesce(i.reported, h.reported, 0)
                -- what may have been taken is no drift where nothing was reported
                when t.kind = 'write_off' and h.reported is not null then i.loss - h.reported
                when t.to_state in ('RELEASED', 'WRITTEN_OFF') then coalesce(h.drift, 0) end,
            charged = case when t.to_state = 'SETTLED' then i.charge end,
            reason = coalesce(i.reason, h.reason),
            data = coalesce(i.data, h.data),
            recorded_at = case when t.kind in ('run', 'late_run') then v_now else h.recorded_at end,
            doubt_at = case when t.to_state = 'IN_DOUBT' then v_now else h.doubt_at end,
            ended_at = case when t.to_state in ('SETTLED', 'RELEASED', 'WRITTEN_OFF') then coalesce(h.ended_at, v_now) end,
            -- what nobody can be asked about is never due
            due_at = case when t.to_state = 'IN_DOUBT' and h.upstream_task is null then 'infinity'
                          else v_now + coalesce(i.due_ms, 0) * interval '1 millisecond' end,
            polls = case when t.kind in ('run', 'late_run') then 0 else h.polls end
        from item i join transition t on t.kind = i.kind
        where h.org_id = i.org_id and h.hold_id = i.hold_id and h.state = t.from_state
          and h.late is not distinct from t.from_late
          and (i.task is null or h.upstream_task is null or h.upstream_task = i.task)
        returning h.org_id, h.hold_id, h.user_id, h.key_id, h.amount, h.idem_key, h.windows, h.team_id, h.task_type, t.kind, t.from_state, t.to_state,
                  t.from_late, 'generate'::text as endpoint, i.charge, i.loss, i.possible, i.reason, i.answer, i.ord,
                  -- an end, and not evidence that came after it
                  t.from_state in ('HELD', 'RUNNING', 'IN_DOUBT')
                      and t.to_state in ('SETTLED', 'RELEASED', 'WRITTEN_OFF') as ends
    ), consumed as (
        insert into entry (org_id, entry_id, kind, amount, hold_id, overrun, user_id, key_id, team_id, task_type, reason,
                           created_at)
        select org_id, hold_id, 'consume', -charge, hold_id, greatest(charge - amount, 0), user_id, key_id, team_id,
               task_type, null, v_now
        from moved where to_state = 'SETTLED'
    ), corrected as (
        insert into entry (org_id, entry_id, kind, amount, hold_id, seq, overrun, user_id, key_id, team_id, task_type,
                           reason, created_at)
        select m.org_id, gen_random_uuid(), 'correct', -m.charge, m.hold_id, c.next, greatest(m.charge - m.amount, 0),
               m.user_id, m.key_id, m.team_id, m.task_type, m.reason, v_now
        from moved m cross join lateral (
            select coalesce(max(e.seq), 0) + 1 as next from entry e
            where e.org_id = m.org_id and e.hold_id = m.hold_id and e.kind = 'correct') c
        where m.kind = 'late_settle'
    ), lost as (
        insert into platform_loss (org_id, hold_id, seq, amount, possible, reason, created_at)
        select org_id, hold_id, 0, loss, coalesce(possible, false), coalesce(reason, kind), v_now
        from moved where ends and loss <> 0
        union all
        -- what the end booked is taken back
        select m.org_id, m.hold_id, p.place, -p.booked, p.possible, 'it came to light after its end', v_now
        from moved m cross join lateral (
            select l.possible, sum(l.amount)::bigint as booked,
                   (max(max(l.seq)) over () + row_number() over ())::integer as place
            from platform_loss l where l.org_id = m.org_id and l.hold_id = m.hold_id group by l.possible) p
        where m.from_late = 'open' and m.kind in ('late_settle', 'late_fail') and p.booked <> 0
        union all
        -- behind the two rows above
        select m.org_id, m.hold_id, p.next + 3, m.loss, false, coalesce(m.reason, m.kind), v_now
        from moved m cross join lateral (
            select coalesce(max(l.seq), 0) as next from platform_loss l
            where l.org_id = m.org_id and l.hold_id = m.hold_id) p
        where m.kind = 'late_fail' and m.loss <> 0
    ), answered as (
        update idempotency c set status = 200, answer = m.answer
        from moved m
        where m.answer is not null and m.idem_key is not null
          and c.org_id = m.org_id and c.endpoint = m.endpoint and c.key = m.idem_key and c.hold_id = m.hold_id
    ), freed as (
        delete from idempotency c using moved m
        where m.kind in ('refuse', 'abandon', 'sweep') and m.idem_key is not null
          and c.org_id = m.org_id and c.endpoint = m.endpoint and c.key = m.idem_key and c.hold_id = m.hold_id
    ), drawn as (
        update budget_window w set held = w.held - d.freed, used = w.used + d.charged
        from (select m.org_id, n.window_id, coalesce(sum(m.amount) filter (where m.ends), 0)::bigint as freed,
                     coalesce(sum(m.charge) filter (where m.to_state = 'SETTLED' or m.kind = 'late_settle'), 0)::bigint as charged
              from moved m cross join lateral unnest(m.windows) n(window_id) group by m.org_id, n.window_id) d
        where w.org_id = d.org_id and w.window_id = d.window_id and (d.freed <> 0 or d.charged <> 0)
        returning w.org_id, w.window_id, d.charged > d.freed as grown
    ), balanced as (
        update org_balance b
        set available = b.available + d.freed - d.charged,
            held = b.held - d.freed,
            consumed = b.consumed + d.charged,
            open_tasks = b.open_tasks + d.open,
            in_doubt = b.in_doubt + d.doubt
        from (select org_id,
                     coalesce(sum(amount) filter (where ends), 0)::bigint as freed,
                     coalesce(sum(charge) filter (where to_state = 'SETTLED' or kind = 'late_settle'), 0)::bigint as charged,
                     (count(*) filter (where to_state = 'RUNNING' and from_state = 'IN_DOUBT')
                      - count(*) filter (where from_state in ('HELD', 'RUNNING') and to_state <> 'RUNNING'))::integer as open,
                     (count(*) filter (where to_state = 'IN_DOUBT')
                      - count(*) filter (where from_state = 'IN_DOUBT'))::integer as doubt
              from moved group by org_id) d
        where b.org_id = d.org_id
    )
    select coalesce((select array_agg(ord) from moved), '{}'),
           (select jsonb_object_agg(d.org_id, d.windows)
            from (select org_id, jsonb_agg(window_id) as windows from drawn where grown group by org_id) d)
    into v_done, v_grown;
    -- only an overrun or a correction takes more than what was held
    if v_grown is not null then
        perform raise_budget_events(g.key::uuid, array(select jsonb_array_elements_text(g.value)::bigint), v_now)
        from jsonb_each(v_grown) g;
    end if;

    applied := array_fill(false, array[cardinality(p_hold)]);
    for i in 1..cardinality(v_done) loop
        applied[v_done[i]] := true;
    end loop;
end $$;
