-- The budget that counts for a subject and a period (table budget says which), with its limit at an instant (null: none).
-- A budget that is not in force yet does not count.
create or replace function budget_of(p_org uuid, p_level text, p_subject uuid, p_period text, p_now timestamptz)
returns table (budget_id uuid, cap bigint, thresholds integer[]) language sql stable as $$
    select budget.budget_id, cap_of(budget, p_now), budget.thresholds from budget
    where (budget.org_id = p_org or budget.org_id is null) and budget.level = p_level
      and (budget.subject_id = p_subject or budget.subject_id is null) and budget.period = p_period
      and not is_coming(p_org, budget.budget_id, p_now)
    order by budget.subject_id is null, budget.org_id is null limit 1
$$;
