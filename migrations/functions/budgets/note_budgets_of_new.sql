-- Trigger: a new organisation knows whether budgets count for it. A default that is being made must not miss an
-- organisation that is being made: one waits for the other.
create or replace function note_budgets_of_new() returns trigger language plpgsql as $$
begin
    lock table budget in share mode;
    new.budgets := budgets_of(new.org_id);
    return new;
end $$;
