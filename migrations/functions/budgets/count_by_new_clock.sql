-- Trigger: by another time zone other windows are open, and what was spent in them is to be counted. Until then the
-- windows of the last time zone for which it was counted stay in force.
create or replace function count_by_new_clock() returns trigger language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
begin
    insert into budget_count as waiting (org_id, budget_id, level, subject_id, period, coming, zone_before)
    select balance.org_id, budget.budget_id, budget.level, budget.subject_id, budget.period, true, old.time_zone
    from org_balance balance
    join budget on budget.org_id = balance.org_id or budget.org_id is null
    where balance.org_id = new.org_id and budget.period <> 'total'
    order by budget.budget_id
    on conflict (org_id, budget_id) do update
    set coming = true, count_id = default, starts_at = null, ends_at = null,
        zone_before = case when waiting.coming and coalesce(waiting.ends_at, 'infinity') > v_now
                           then waiting.zone_before else excluded.zone_before end;
    return null;
end $$;
