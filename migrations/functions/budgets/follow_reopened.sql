-- What comes to light after its end may be charged. A budget that was made after that end counts it as well: its window
-- is listed from now on. Part of transition_batch, under the balance rows.
create or replace function follow_reopened(p_orgs uuid[], p_pos integer[], p_hold uuid[], p_now timestamptz) returns void
language plpgsql as $$
begin
    perform follow_holds(found.org_id, found.level, found.period, found.starts_at, array_agg(found.hold_id))
    from (
        select distinct hold.org_id, hold.hold_id, budget.level, budget.period, opened.starts_at
        from unnest(p_pos, p_hold) item(pos, hold_id)
        join hold on hold.org_id = p_orgs[item.pos] and hold.hold_id = item.hold_id and hold.late = 'open'
        join org on org.org_id = hold.org_id
        join budget on budget.org_id = hold.org_id or budget.org_id is null
        left join budget_count waiting on waiting.org_id = hold.org_id and waiting.budget_id = budget.budget_id
        cross join lateral subject_of(budget.level, hold.org_id, hold.team_id, hold.user_id, hold.key_id) subject(subject_id)
        cross join lateral (
            select window_start(budget.period, clock.zone, p_now) as starts_at,
                   window_end(budget.period, clock.zone, p_now) as ends_at
            from unnest(array[org.time_zone, waiting.zone_before]) clock(zone) where clock.zone is not null) opened
        where subject.subject_id is not null and (budget.subject_id is null or budget.subject_id = subject.subject_id)
          and hold.created_at >= opened.starts_at and hold.created_at < opened.ends_at
          and not coalesce((
            select known.window_id = any (hold.windows) from budget_window known
            where known.org_id = hold.org_id and known.level = budget.level and known.subject_id = subject.subject_id
              and known.period = budget.period and known.starts_at = opened.starts_at limit 1), false)
    ) found
    group by found.org_id, found.level, found.period, found.starts_at;
end $$;
