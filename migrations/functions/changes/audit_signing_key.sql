-- Trigger: the audit log tells that a signing key was made, not what it is.
create or replace function audit_signing_key() returns trigger language plpgsql as $$
declare
    v_actor constant jsonb := coalesce(nullif(current_setting('tollgate.audit', true), '')::jsonb, '{}');
begin
    insert into audit_log (actor, address, action, request_id, target_kind, target_id)
    values (coalesce(v_actor ->> 'actor', 'database:' || session_user), v_actor ->> 'address',
            coalesce(v_actor ->> 'action', 'signing_key.' || lower(tg_op)), v_actor ->> 'request_id',
            'signing_key', coalesce(new.generation, old.generation)::text);
    return null;
end $$;
