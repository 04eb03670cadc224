-- Trigger: what is to be done after a change of a budget. A new one comes into force when what was spent in its window is
-- counted, in each organisation by itself (table budget_count). A changed limit may have been reached, and where a budget
-- is deleted a wider one may count now: the events of one organisation are raised at once, those of all one by one.
create or replace function note_budget() returns trigger language plpgsql as $$
declare
    v_now    constant timestamptz := clock_timestamp();
    v_budget constant record := case when tg_op = 'DELETE' then old else new end;
begin
    if tg_op = 'INSERT' or v_budget.org_id is null then
        insert into budget_count as waiting (org_id, budget_id, level, subject_id, period, coming)
        select balance.org_id, v_budget.budget_id, v_budget.level, v_budget.subject_id, v_budget.period, tg_op = 'INSERT'
        from org_balance balance where v_budget.org_id is null or balance.org_id = v_budget.org_id
        order by balance.org_id
        on conflict (org_id, budget_id) do update set coming = false where tg_op = 'DELETE';
    else
        if tg_op = 'DELETE' then
            delete from budget_count waiting where waiting.org_id = v_budget.org_id and waiting.budget_id = v_budget.budget_id;
        end if;
        perform raise_events_of(v_budget.org_id, v_budget.level, v_budget.subject_id, v_budget.period, v_now);
        update org_balance balance set budgets = budgets_of(balance.org_id) where balance.org_id = v_budget.org_id;
    end if;
    return null;
end $$;
