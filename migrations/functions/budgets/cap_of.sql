-- The limit of a budget at an instant: a raise that has not ended counts. Null: no limit.
create or replace function cap_of(p_budget budget, p_now timestamptz) returns bigint language sql immutable as $$
    select case when p_budget.credits is not null and p_budget.raised_until > p_now
                then greatest(p_budget.raised_to, p_budget.credits) else p_budget.credits end
$$;
