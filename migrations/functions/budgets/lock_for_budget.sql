-- Trigger: a budget of an organisation is changed under its balance row, as everything is that a reservation looks at. By
-- trigger: nothing that changes a budget can leave it out.
--
-- A new budget needs no lock, because it is not in force yet; nor does a default of the platform: organisations follow one
-- by one (table budget_count).
create or replace function lock_for_budget() returns trigger language plpgsql as $$
begin
    if tg_op = 'UPDATE' and (new.org_id, new.level, new.subject_id, new.period)
       is distinct from (old.org_id, old.level, old.subject_id, old.period) then
        raise exception 'a budget stays where it is' using errcode = 'restrict_violation';
    end if;
    perform 1 from org_balance balance where balance.org_id = old.org_id for no key update;
    return case when tg_op = 'DELETE' then old else new end;
end $$;
