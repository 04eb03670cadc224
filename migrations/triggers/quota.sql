-- The platform's own quotas are no organisation's: a change of them is a migration, or an operator's in the database.
create or replace trigger quota_audit after insert or update on quota
    for each row when (new.org_id is not null) execute function audit_change('org', 'org_id');
create or replace trigger quota_audit_end after delete on quota
    for each row when (old.org_id is not null) execute function audit_change('org', 'org_id');
