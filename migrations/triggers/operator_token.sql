create or replace trigger operator_token_audit after insert or update or delete on operator_token
    for each row execute function audit_change('operator_token', 'token_id');
create or replace trigger operator_token_look after insert or delete or update of name, revoked_at on operator_token
    for each row execute function refuse_look_alike('token_id');
