create or replace trigger org_balance_budgets before insert on org_balance
    for each row execute function note_budgets_of_new();
-- Only the columns of the hot row that people set.
create or replace trigger org_balance_audit after update of overdraft, max_open_tasks on org_balance
    for each row execute function audit_change('org', 'org_id');
