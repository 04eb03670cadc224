-- The entries of an organisation behind the place that its sums have reached, as the caller's statement sees both; none where it has no
-- sums. A function, because the place must be known when the entries are looked for: else they are looked for by their time.
create or replace function entries_behind(p_org uuid)
returns table (kind text, amount bigint, created_at timestamptz, team_id uuid, user_id uuid, key_id uuid, task_type text)
language plpgsql stable rows 1000 set plan_cache_mode = force_custom_plan as $$
declare
    v_place bigint;
begin
    select known.place into v_place from total_place known where known.org_id = p_org;
    if v_place is not null then
        return query
        select behind.kind, behind.amount, behind.created_at, behind.team_id, behind.user_id, behind.key_id, behind.task_type
        from entry behind where behind.org_id = p_org and behind.place > v_place;
    end if;
end $$;
