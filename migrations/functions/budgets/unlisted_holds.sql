-- Open holds in a window of a subject (null: of all subjects of that level) that do not list it, and those whose task has
-- come to light after its end and may yet be charged.
--
-- Planned anew for every call: a plan that was made while there were few holds would read all of them.
create or replace function unlisted_holds(
    p_org uuid, p_level text, p_subject uuid, p_period text, p_start timestamptz, p_end timestamptz
) returns table (hold_id uuid) language plpgsql stable set plan_cache_mode = force_custom_plan as $$
begin
    return query
        select followed.hold_id
        from (select hold.org_id, hold.hold_id, hold.team_id, hold.user_id, hold.key_id, hold.created_at, hold.windows
              from open_task open join hold on hold.org_id = open.org_id and hold.hold_id = open.hold_id
              where open.org_id = p_org) followed
        cross join lateral subject_of(p_level, followed.org_id, followed.team_id, followed.user_id, followed.key_id)
             subject(subject_id)
        where followed.created_at >= p_start and followed.created_at < p_end
          and subject.subject_id is not null and (p_subject is null or subject.subject_id = p_subject)
          and not coalesce((
            select known.window_id = any (followed.windows) from budget_window known
            where known.org_id = p_org and known.level = p_level and known.subject_id = subject.subject_id
              and known.period = p_period and known.starts_at = p_start limit 1), false);
end $$;
