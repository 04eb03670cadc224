-- Trigger: entries of the audit log are only added. The one exception is what forget_user replaces, names and subjects: nothing
-- else of an entry may change with them.
create or replace function keep_audit_log() returns trigger language plpgsql as $$
begin
    if tg_op = 'UPDATE' and current_setting('tollgate.pseudonym', true) <> ''
        and to_jsonb(new) - array['before', 'after'] = to_jsonb(old) - array['before', 'after']
        and new.before is not distinct from pseudonymised(old.before, current_setting('tollgate.pseudonym'))
        and new.after is not distinct from pseudonymised(old.after, current_setting('tollgate.pseudonym'))
    then
        return new;
    end if;
    raise exception '% is append-only: % refused', tg_table_name, tg_op using errcode = 'restrict_violation';
end $$;
