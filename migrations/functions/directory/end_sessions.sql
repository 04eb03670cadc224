-- Ends all sessions of a user at the console, whatever opened them, and its invitations that were not used. The audit log has it as a
-- change of the user.
--
-- Answers how many sessions were ended; null: there is no such user.
create or replace function end_sessions(p_user uuid) returns bigint language plpgsql as $$
declare
    v_actor constant jsonb := coalesce(nullif(current_setting('tollgate.audit', true), '')::jsonb, '{}');
    v_org   uuid;
    v_ended bigint;
begin
    select member.org_id into v_org from app_user member where member.user_id = p_user and member.deleted_at is null;
    if not found then return null; end if;
    delete from console_link link where link.user_id = p_user;
    with standing as (
        select 'user' as kind, p_user::text as public_id
        union all
        select 'identity', identity.identity_id::text from user_identity identity where identity.user_id = p_user
        union all
        select 'key', named.public_id from api_key key
        cross join lateral (values (key.public_id), (key.previous_public_id)) named(public_id)
        where key.user_id = p_user and named.public_id is not null
    ), ended as (
        delete from console_session session using standing
        where session.kind = standing.kind and session.public_id = standing.public_id
        returning session.session_sha256
    )
    select count(*) into v_ended from ended;
    insert into audit_log (actor, address, action, request_id, target_kind, target_id, org_id, after)
    values (coalesce(v_actor ->> 'actor', 'database:' || session_user), v_actor ->> 'address',
            coalesce(v_actor ->> 'action', 'user.end_sessions'), v_actor ->> 'request_id', 'user', p_user::text, v_org,
            jsonb_build_object('ended_sessions', v_ended));
    return v_ended;
end $$;
