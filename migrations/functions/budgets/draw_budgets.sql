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
-- In plpgsql, which keeps its plans: language sql would plan it anew for every call. Subjects, windows and callers are numbered
-- from 1 and found by their numbers: a join of two lists as long as the batch takes longer than all else.
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
               case when p_budgets[given.pos] > 0
                    then dense_rank() over (order by p_budgets[given.pos] = 0, given.pos, given.user_id, given.key_id) end as who
        from unnest(p_pos, p_user, p_key, p_team) with ordinality given(pos, user_id, key_id, team_id, ord)
    ), subject as materialized (
        select who.who, who.pos, who.org_id, kind.*,
               dense_rank() over (order by who.pos, kind.rank, kind.subject_id) as spot
        from (select distinct item.who, item.pos, item.org_id, item.user_id, item.key_id, item.team_id
              from item where item.who is not null) who
        cross join lateral (values (1, 'key', who.key_id), (2, 'user', who.user_id), (3, 'team', who.team_id),
                                   (4, 'org', who.org_id)) kind(rank, level, subject_id)
        where kind.subject_id is not null
    ), place as materialized (
        select distinct subject.spot, subject.pos, subject.org_id, subject.rank, subject.level, subject.subject_id from subject
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
        select whose.spot, kind.pos, kind.org_id, kind.rank, kind.level, whose.subject_id, every.period, every.budget_id,
               cap_of(every, p_now), every.thresholds, case when every.raised_until > p_now then every.raised_until end,
               case when every.org_id is null then 3 else 2 end
        from (select place.pos, place.org_id, place.rank, place.level, array_agg(place.spot) as spots,
                     array_agg(place.subject_id) as subjects
              from place group by place.pos, place.org_id, place.rank, place.level) kind
        cross join lateral (
            select * from budget
            where budget.org_id = kind.org_id and budget.level = kind.level and budget.subject_id is null
            union all
            select * from budget
            where budget.org_id is null and budget.level = kind.level and budget.subject_id is null) every
        cross join lateral unnest(kind.spots, kind.subjects) whose(spot, subject_id)
    ), preferred as (
        select distinct on (found.spot, found.period) found.*, coming.budget_id is not null as coming, coming.zone_before
        from found
        left join coming on coming.pos = found.pos and coming.budget_id = found.budget_id
        order by found.spot, found.period, coming.budget_id is not null and coming.zone_before is null, found.distance
    ), chosen as materialized (
        select preferred.*, dense_rank() over (order by preferred.pos, preferred.period) as kind from preferred
    ), opening as materialized (
        select array_agg(window_start(kind.period, clock.time_zone, p_now) order by kind.kind) as starts,
               array_agg(window_end(kind.period, clock.time_zone, p_now) order by kind.kind) as ends
        from (select distinct chosen.kind, chosen.org_id, chosen.period from chosen) kind
        left join lateral (select org.time_zone from org where org.org_id = kind.org_id limit 1) clock on true
    ), nearest as materialized (
        select chosen.spot, chosen.pos, chosen.level, chosen.subject_id, chosen.period, chosen.budget_id, chosen.thresholds,
               chosen.raised_until, opened.starts_at, opened.ends_at, opened.cap,
               row_number() over (order by chosen.spot, chosen.period, opened.coming) as place
        from chosen
        cross join lateral (
            select (select opening.starts from opening)[chosen.kind] as starts_at,
                   (select opening.ends from opening)[chosen.kind] as ends_at) opening
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
    ), spots as materialized (
        -- the windows of a subject are neighbours
        select array_agg(known.first order by known.spot) as first, array_agg(known.last order by known.spot) as last
        from (select listed.spot, coalesce(min(listed.place), 1) as first, coalesce(max(listed.place), 0) as last
              from (select nearest.spot, nearest.place from nearest union all select place.spot, null from place) listed
              group by listed.spot) known
    ), drawn as materialized (
        select subject.who, listed.place
        from subject
        left join lateral generate_series((select spots.first from spots)[subject.spot],
                                          (select spots.last from spots)[subject.spot]) listed(place) on true
    ), ranges as materialized (
        select array_agg(case when counted.draws > 0 then counted.last - counted.draws + 1 else 1 end::integer
                         order by counted.who) as first,
               array_agg(case when counted.draws > 0 then counted.last else 0 end::integer order by counted.who) as last
        from (select drawn.who, count(drawn.place) as draws, sum(count(drawn.place)) over (order by drawn.who) as last
              from drawn group by drawn.who) counted
    ), whose as (
        select array_agg(case when item.who is null or (select ranges.last from ranges)[item.who] = 0 then 0 else item.who end
                         ::integer order by item.ord) as caller
        from item
    ), draws as (
        select array_agg(drawn.place::integer order by drawn.who, drawn.place) as draw from drawn where drawn.place is not null
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
