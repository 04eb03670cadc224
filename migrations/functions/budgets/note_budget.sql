-- Trigger: what was spent before there was a budget counts as well, and a changed limit may have been reached.
create or replace function note_budget() returns trigger language plpgsql as $$
declare
    v_now    constant timestamptz := clock_timestamp();
    v_budget constant record := case when tg_op = 'DELETE' then old else new end;
    v_org    record;
begin
    for v_org in
        select balance.org_id from org_balance balance where v_budget.org_id is null or balance.org_id = v_budget.org_id
    loop
        if tg_op = 'INSERT' then
            perform count_window(v_org.org_id, v_budget.level, v_budget.subject_id, v_budget.period, v_now);
        end if;
        -- also as a budget is deleted: a wider one may count now
        perform raise_events_of(v_org.org_id, v_budget.level, v_budget.subject_id, v_budget.period, v_now);
    end loop;
    update org_balance balance set budgets = budgets_of(balance.org_id)
    where v_budget.org_id is null or balance.org_id = v_budget.org_id;
    return null;
end $$;
