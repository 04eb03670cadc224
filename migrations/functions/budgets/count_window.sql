-- Brings the present window of a subject (null: of all subjects of that level) up to date with everything that was spent
-- in it, budget or no budget. Open holds are counted in it from now on; of holds that have ended the charges are.
-- Under the organisation's balance row; a second time it changes nothing.
--
-- One pass over the holds, however many subjects there are: the row is locked meanwhile. What is looked up for a hold is
-- written so that no join could be planned the other way round, with a pass for each window.
create or replace function count_window(p_org uuid, p_level text, p_subject uuid, p_period text, p_now timestamptz)
returns void language plpgsql as $$
declare
    v_zone   constant text := (select org.time_zone from org where org.org_id = p_org);
    v_start  constant timestamptz := window_start(p_period, v_zone, p_now);
    v_end    constant timestamptz := window_end(p_period, v_zone, p_now);
    -- holds whose end is yet to be counted
    v_follow uuid[];
begin
    with spent as (
        select subject.subject_id, hold.hold_id, hold.amount, hold.state in ('HELD', 'RUNNING', 'IN_DOUBT') as open,
               -- what came to light after its end may yet be charged
               hold.state in ('HELD', 'RUNNING', 'IN_DOUBT') or hold.late is not distinct from 'open' as followed,
               hold.windows is not null and exists (
                   select from budget_window known
                   where known.org_id = p_org and known.level = p_level and known.subject_id = subject.subject_id
                     and known.period = p_period and known.starts_at = v_start and known.window_id = any (hold.windows)
                   limit 1) as listed,
               coalesce(hold.charged, 0) - case when hold.late = 'charged' then (
                   select coalesce(sum(entry.amount), 0) from entry
                   where entry.org_id = p_org and entry.hold_id = hold.hold_id and entry.kind = 'correct') else 0 end as charge
        from hold
        cross join lateral subject_of(p_level, hold.org_id, hold.team_id, hold.user_id, hold.key_id) subject(subject_id)
        where hold.org_id = p_org and hold.created_at >= v_start and hold.created_at < v_end
          and (hold.state in ('HELD', 'RUNNING', 'IN_DOUBT', 'SETTLED') or hold.late is not null)
          and subject.subject_id is not null and (p_subject is null or subject.subject_id = p_subject)
        offset 0
    ), summed as materialized (
        select spent.subject_id, coalesce(sum(spent.amount) filter (where spent.open), 0)::bigint as held,
               sum(spent.charge)::bigint as used,
               coalesce(sum(spent.charge) filter (where not spent.listed and not spent.followed), 0)::bigint as opening,
               array_agg(spent.hold_id) filter (where spent.followed and not spent.listed) as follow
        from spent group by spent.subject_id
    ), counted as (
        insert into budget_window as known (org_id, level, subject_id, period, starts_at, held, used, opening)
        select p_org, p_level, summed.subject_id, p_period, v_start, summed.held, summed.used, summed.opening from summed
        on conflict (org_id, level, subject_id, period, starts_at) do update
        set held = excluded.held, used = excluded.used, opening = excluded.opening
        where (known.held, known.used, known.opening) is distinct from (excluded.held, excluded.used, excluded.opening)
    )
    select array_agg(followed.hold_id order by followed.hold_id) into v_follow
    from summed cross join lateral unnest(summed.follow) followed(hold_id);

    update hold set windows = coalesce(hold.windows, '{}') || (
        select known.window_id from budget_window known
        where known.org_id = p_org and known.level = p_level and known.period = p_period and known.starts_at = v_start
          and known.subject_id = subject_of(p_level, hold.org_id, hold.team_id, hold.user_id, hold.key_id) limit 1)
    where hold.org_id = p_org and hold.hold_id = any (v_follow);
end $$;
