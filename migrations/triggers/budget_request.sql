-- The oldest ones go when there are too many: that is no change that somebody made. A request is its member's.
create or replace trigger budget_request_audit after insert or update on budget_request
    for each row execute function audit_change('user', 'user_id');
