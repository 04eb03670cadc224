-- A new value for org_balance.budgets: 0 where no budget counts for the organisation, else a number it never had.
create or replace function budgets_of(p_org uuid) returns bigint language sql as $$
    select case when exists (select from budget where budget.org_id = p_org)
                  or exists (select from budget where budget.org_id is null) then nextval('budget_state') else 0 end
$$;
