create or replace trigger api_key_version before update on api_key
    for each row execute function next_version();
create or replace trigger api_key_epoch after update or delete on api_key
    for each statement execute function bump_epoch_of('auth');
create or replace trigger api_key_audit after insert or update or delete on api_key
    for each row execute function audit_change('key', 'key_id');
create or replace trigger api_key_quota after insert on api_key referencing new table as added
    for each statement execute function check_quota('keys');
create or replace trigger api_key_look after insert or delete or update of name, revoked_at on api_key
    for each row execute function refuse_look_alike('key_id', 'org_id');
