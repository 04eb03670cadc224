-- Trigger: budgets change under the balance rows of the organisations they count for, as everything does that a
-- reservation looks at. By trigger: nothing that changes a budget can leave it out.
create or replace function lock_for_budget() returns trigger language plpgsql as $$
declare
    v_org constant uuid := case when tg_op = 'DELETE' then old.org_id else new.org_id end;
begin
    if tg_op = 'UPDATE' and (new.org_id, new.level, new.subject_id, new.period)
       is distinct from (old.org_id, old.level, old.subject_id, old.period) then
        raise exception 'a budget stays where it is' using errcode = 'restrict_violation';
    end if;
    if v_org is null then
        perform 1 from org_balance balance order by balance.org_id for no key update;
    else
        perform 1 from org_balance balance where balance.org_id = v_org for no key update;
    end if;
    return case when tg_op = 'DELETE' then old else new end;
end $$;
