create or replace trigger quota_audit after insert or update or delete on quota
    for each row execute function audit_change('org', 'org_id');
