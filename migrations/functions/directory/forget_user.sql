-- Forgets who a user is: deletes the user, and puts a pseudonym in place of its name, of the names of its keys, and of both in the
-- audit log. Its identities go. Nothing else changes: balances, holds, entries and usage name users by their ids.
--
-- The pseudonym follows from the id of the user: forgetting twice changes nothing more. Null: there is no such user.
create or replace function forget_user(p_user uuid, out pseudonym text) language plpgsql as $$
declare
    v_pseudonym constant text := 'forgotten-' || right(replace(p_user::text, '-', ''), 12);
    v_org       uuid;
    v_keys      text[];
begin
    select member.org_id into v_org from app_user member where member.user_id = p_user for no key update;
    if not found then return; end if;
    update app_user member
    set name = v_pseudonym, status = 'suspended', deleted_at = coalesce(member.deleted_at, clock_timestamp())
    where member.user_id = p_user and (member.name <> v_pseudonym or member.deleted_at is null);
    update api_key key set name = v_pseudonym where key.user_id = p_user and key.name <> v_pseudonym;
    delete from user_identity identity where identity.user_id = p_user;

    -- Also what the audit log has just been told.
    select coalesce(array_agg(key.key_id::text), '{}') into v_keys from api_key key where key.user_id = p_user;
    perform set_config('tollgate.pseudonym', v_pseudonym, true);
    update audit_log change
    set before = pseudonymised(change.before, v_pseudonym), after = pseudonymised(change.after, v_pseudonym)
    where change.target_id = any(p_user::text || v_keys) and change.target_kind in ('user', 'key')
      and (change.before ? 'name' or change.after ? 'name');
    update audit_log change
    set before = pseudonymised(change.before, v_pseudonym), after = pseudonymised(change.after, v_pseudonym)
    where change.org_id = v_org and change.target_kind = 'identity'
      and coalesce(change.after ->> 'user_id', change.before ->> 'user_id') = p_user::text;
    perform set_config('tollgate.pseudonym', '', true);
    pseudonym := v_pseudonym;
end $$;
