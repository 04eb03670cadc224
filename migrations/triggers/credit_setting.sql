create or replace trigger credit_setting_version before update on credit_setting
    for each row execute function next_version();
create or replace trigger credit_setting_audit after insert or update or delete on credit_setting
    for each row execute function audit_change('org', 'org_id');
