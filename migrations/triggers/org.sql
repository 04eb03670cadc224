create or replace trigger org_version before update on org
    for each row execute function next_version();
create or replace trigger org_epoch after update or delete on org
    for each statement execute function bump_epoch_of('auth');
create or replace trigger org_audit after insert or update or delete on org
    for each row execute function audit_change('org', 'org_id');
create or replace trigger org_new_clock after update of time_zone on org
    for each row when (new.time_zone <> old.time_zone) execute function count_by_new_clock();
create or replace trigger org_former_factor after update of price_factor_bp on org
    for each row when (new.price_factor_bp <> old.price_factor_bp) execute function keep_former_factor();
create or replace trigger org_look after insert or delete or update of name, deleted_at on org
    for each row execute function refuse_look_alike('org_id');
