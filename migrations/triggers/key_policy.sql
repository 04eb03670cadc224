create or replace trigger key_policy_version before update on key_policy
    for each row execute function next_version();
create or replace trigger key_policy_audit after insert or update or delete on key_policy
    for each row execute function audit_change('org', 'org_id');
