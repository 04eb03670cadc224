-- The budget that counts for a subject and a period (table budget says which).
create or replace function budget_of(p_org uuid, p_level text, p_subject uuid, p_period text) returns setof budget
language sql stable as $$
    select budget from budget
    where (budget.org_id = p_org or budget.org_id is null) and budget.level = p_level
      and (budget.subject_id = p_subject or budget.subject_id is null) and budget.period = p_period
    order by budget.subject_id is null, budget.org_id is null limit 1
$$;
