-- What a batch draws on. p_budgets: of each organisation, 0 where there is nothing to look for. p_team: of each item's
-- user; the whole is null where no user has a team.
--
-- caller: each item's place among the callers, 0 where nothing is drawn. Caller c draws on the windows
-- draw[first[c]..last[c]], narrowest level first. The rest describes these windows; cap is null where there is no limit.
-- All that is true before valid_until, when the first window or raise ends.
--
-- A budget whose window is still being counted (table budget_count) has no limit yet, and gives way to a wider one that is
-- in force; its window is drawn on in any case, so that nothing is missed. After a change of the time zone two windows are
-- drawn on until the new one is counted: that of the clock before, with the limit, and the new one.
--
-- In plpgsql, which keeps its plans: language sql would plan it anew for every call.
create or replace function draw_budgets(
    p_orgs uuid[], p_budgets bigint[], p_pos integer[], p_user uuid[], p_key uuid[], p_team uuid[], p_now timestamptz,
    out caller integer[], out first integer[], out last integer[], out draw integer[],
    out pos integer[], out level text[], out subject_id uuid[], out period text[], out starts_at timestamptz[],
    out budget_id uuid[], out cap bigint[], out thresholds text[], out valid_until timestamptz
) language plpgsql stable as $$
#variable_conflict use_column
begin
    with item as materialized (
        select given.*, p_orgs[given.pos] as org_id,
               dense_rank() over (order by given.pos, given.user_id, given.key_id) as who
        from unnest(p_pos, p_user, p_key, p_team) with ordinality given(pos, user_id, key_id, team_id, ord)
        where p_budgets[given.pos] > 0
    ), subject as materialized (
        select who.who, who.pos, who.org_id, kind.*
        from (select distinct item.who, item.pos, item.org_id, item.user_id, item.key_id, item.team_id from item) who
        cross join lateral (values (1, 'key', who.key_id), (2, 'user', who.user_id), (3, 'team', who.team_id),
                                   (4, 'org', who.org_id)) kind(rank, level, subject_id)
        where kind.subject_id is not null
    ), place as materialized (
        select distinct subject.pos, subject.org_id, subject.rank, subject.level, subject.subject_id from subject
    ), coming as materialized (
        select organisation.pos, waiting.budget_id, waiting.zone_before
        from (select distinct item.pos, item.org_id from item) organisation
        cross join lateral (
            select budget_count.budget_id, budget_count.zone_before from budget_count
            where budget_count.org_id = organisation.org_id and budget_count.coming
              and coalesce(budget_count.ends_at, 'infinity') > p_now
            limit 100000) waiting
    ), found as (
        -- budgets of their own
        select place.*, own.period, own.budget_id, cap_of(own, p_now) as cap, own.thresholds,
               case when own.raised_until > p_now then own.raised_until end as raised_until, 1 as distance
        from place
        cross join lateral (
            select * from budget
            where budget.org_id = place.org_id and budget.level = place.level and budget.subject_id = place.subject_id
            limit 4) own
        union all
        -- budgets for everybody of their level, in their organisation or anywhere
        select place.*, wide.period, wide.budget_id, wide.cap, wide.thresholds, wide.raised_until, wide.distance
        from (select kind.pos, kind.level, every.period, every.budget_id, cap_of(every, p_now) as cap, every.thresholds,
                     case when every.raised_until > p_now then every.raised_until end as raised_until,
                     case when every.org_id is null then 3 else 2 end as distance
              from (select distinct place.pos, place.org_id, place.level from place) kind
              cross join lateral (
                  select * from budget
                  where budget.org_id = kind.org_id and budget.level = kind.level and budget.subject_id is null
                  union all
                  select * from budget
                  where budget.org_id is null and budget.level = kind.level and budget.subject_id is null) every) wide
        join place on place.pos = wide.pos and place.level = wide.level
    ), chosen as materialized (
        select distinct on (found.pos, found.rank, found.subject_id, found.period)
               found.*, coming.budget_id is not null as coming, coming.zone_before
        from found
        left join coming on coming.pos = found.pos and coming.budget_id = found.budget_id
        order by found.pos, found.rank, found.subject_id, found.period,
                 coming.budget_id is not null and coming.zone_before is null, found.distance
    ), opening as materialized (
        select kind.pos, kind.period, window_start(kind.period, clock.time_zone, p_now) as starts_at,
               window_end(kind.period, clock.time_zone, p_now) as ends_at
        from (select distinct chosen.pos, chosen.org_id, chosen.period from chosen) kind
        cross join lateral (select org.time_zone from org where org.org_id = kind.org_id limit 1) clock
    ), nearest as materialized (
        select chosen.pos, chosen.rank, chosen.level, chosen.subject_id, chosen.period, chosen.budget_id, chosen.thresholds,
               chosen.raised_until, opened.starts_at, opened.ends_at, opened.cap,
               row_number() over (order by chosen.pos, chosen.rank, chosen.subject_id, chosen.period, opened.coming) as place
        from chosen
        join opening on opening.pos = chosen.pos and opening.period = chosen.period
        cross join lateral (
            select window_start(chosen.period, chosen.zone_before, p_now) as starts_at,
                   window_end(chosen.period, chosen.zone_before, p_now) as ends_at, chosen.cap,
                   false as coming
            where chosen.zone_before is not null
            union all
            select opening.starts_at, opening.ends_at, case when not chosen.coming then chosen.cap end,
                   chosen.coming
            where chosen.zone_before is null
               or opening.starts_at <> window_start(chosen.period, chosen.zone_before, p_now)) opened
    ), drawn as materialized (
        select subject.who, nearest.place, row_number() over (order by subject.who, nearest.place) as ord
        from subject
        join nearest on nearest.pos = subject.pos and nearest.rank = subject.rank
                    and nearest.subject_id = subject.subject_id
    ), range as materialized (
        select bounds.*, row_number() over () as place
        from (select drawn.who, min(drawn.ord) as first, max(drawn.ord) as last
              from drawn group by drawn.who order by drawn.who) bounds
    ), whose as (
        select array_agg(coalesce(range.place, 0)::integer order by all_items.ord) as caller
        from generate_subscripts(p_pos, 1) all_items(ord)
        left join item on item.ord = all_items.ord
        left join range on range.who = item.who
    ), ranges as (
        select array_agg(range.first::integer order by range.place) as first,
               array_agg(range.last::integer order by range.place) as last
        from range
    ), draws as (
        select array_agg(drawn.place::integer order by drawn.ord) as draw from drawn
    ), windows as (
        select array_agg(nearest.pos order by nearest.place) as pos,
               array_agg(nearest.level order by nearest.place) as level,
               array_agg(nearest.subject_id order by nearest.place) as subject_id,
               array_agg(nearest.period order by nearest.place) as period,
               array_agg(nearest.starts_at order by nearest.place) as starts_at,
               array_agg(nearest.budget_id order by nearest.place) as budget_id,
               array_agg(nearest.cap order by nearest.place) as cap,
               array_agg(nearest.thresholds::text order by nearest.place) as thresholds,
               min(least(nearest.ends_at, nearest.raised_until)) as valid_until
        from nearest
    )
    select whose.*, ranges.*, draws.*, windows.*
    into caller, first, last, draw, pos, level, subject_id, period, starts_at, budget_id, cap, thresholds, valid_until
    from whose, ranges, draws, windows;
end $$;
