create or replace trigger budget_lock before update or delete on budget
    for each row execute function lock_for_budget();
create or replace trigger budget_version before update on budget
    for each row execute function next_version();
create or replace trigger budget_audit after insert or update or delete on budget
    for each row execute function audit_change('budget', 'budget_id');
create or replace trigger budget_note after insert or update or delete on budget
    for each row execute function note_budget();
create or replace trigger budget_quota after insert on budget referencing new table as added
    for each statement execute function check_quota('budgets');
