create or replace trigger app_user_version before update on app_user
    for each row execute function next_version();
create or replace trigger app_user_epoch after update or delete on app_user
    for each statement execute function bump_epoch_of('auth');
create or replace trigger app_user_audit after insert or update or delete on app_user
    for each row execute function audit_change('user', 'user_id');
create or replace trigger app_user_quota after insert on app_user referencing new table as added
    for each statement execute function check_quota('users');
create or replace trigger app_user_look after insert or delete or update of name, deleted_at on app_user
    for each row execute function refuse_look_alike('user_id', 'org_id');
