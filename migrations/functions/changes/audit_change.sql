-- Trigger: writes a change into the audit log. Arguments: the kind of the target, the column of its id. The actor comes from
-- the setting tollgate.audit of the transaction, a JSON object {actor, address, action, request_id}.
create or replace function audit_change() returns trigger language plpgsql as $$
declare
    v_actor  constant jsonb := coalesce(nullif(current_setting('tollgate.audit', true), '')::jsonb, '{}');
    v_secret constant text[] := array['secret_sha256', 'previous_sha256', 'link_sha256', 'console_client_secret'];
    v_old    constant jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) - v_secret end;
    v_new    constant jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) - v_secret end;
    v_row    constant jsonb := coalesce(v_new, v_old);
    v_before jsonb := v_old;
    v_after  jsonb := v_new;
begin
    if tg_op = 'UPDATE' then
        if new is not distinct from old then return null; end if;
        select coalesce(jsonb_object_agg(former.key, former.value), '{}'),
               coalesce(jsonb_object_agg(former.key, v_new -> former.key), '{}')
        into v_before, v_after
        from jsonb_each(v_old) former where former.key <> 'version' and v_new -> former.key is distinct from former.value;
        -- A new secret is a change, although neither is shown.
        if v_before = '{}' and not exists (
            select from unnest(v_secret) secret where to_jsonb(new) -> secret is distinct from to_jsonb(old) -> secret)
        then return null; end if;
    end if;
    insert into audit_log (actor, address, action, request_id, target_kind, target_id, org_id, before, after)
    values (coalesce(v_actor ->> 'actor', 'database:' || session_user), v_actor ->> 'address',
            coalesce(v_actor ->> 'action', tg_argv[0] || '.' || lower(tg_op)), v_actor ->> 'request_id',
            tg_argv[0], v_row ->> tg_argv[1], (v_row ->> 'org_id')::uuid, v_before, v_after);
    return null;
end $$;
