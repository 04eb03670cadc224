-- Whether a budget is not in force yet in an organisation, because what was spent in its window is still being counted.
-- Not so while another window of it is in force: that of the time zone before.
create or replace function is_coming(p_org uuid, p_budget uuid, p_now timestamptz) returns boolean language sql stable as $$
    select exists (
        select from budget_count waiting
        where waiting.org_id = p_org and waiting.budget_id = p_budget and waiting.coming
          and waiting.zone_before is null and coalesce(waiting.ends_at, 'infinity') > p_now)
$$;
