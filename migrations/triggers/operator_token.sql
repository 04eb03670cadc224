create or replace trigger operator_token_audit after insert or update or delete on operator_token
    for each row execute function audit_change('operator_token', 'token_id');
