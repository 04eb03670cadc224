-- Trigger: by another time zone other windows are open, and what was spent in them counts.
create or replace function count_by_new_clock() returns trigger language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
begin
    perform 1 from org_balance balance where balance.org_id = new.org_id and balance.budgets > 0 for no key update;
    if found then
        perform count_window(new.org_id, kind.level, null, kind.period, v_now)
        from (select distinct budget.level, budget.period from budget
              where (budget.org_id = new.org_id or budget.org_id is null) and budget.period <> 'total') kind;
        update org_balance balance set budgets = budgets_of(balance.org_id) where balance.org_id = new.org_id;
    end if;
    return null;
end $$;
