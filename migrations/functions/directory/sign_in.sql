-- Makes a user of a subject that was never seen (if p_create), or takes over what a newer token says about its team and
-- role. Any number of gateways may do so at once: who signs in to the same organisation meanwhile waits. p_names: what a
-- new user is called, the first that is free. A team that nobody knows changes nothing.
--
-- False: there is no such organisation, or no such user and none is to be made.
create or replace function sign_in(
    p_provider uuid, p_own_org uuid, p_claimed_org uuid, p_claimed_name text, p_subject text, p_issued_at bigint,
    p_role text, p_team text, p_create boolean, p_user uuid, p_identity uuid, p_names text[]
) returns boolean language plpgsql as $$
declare
    v_org  uuid;
    v_user uuid;
    v_team uuid;
    v_name text;
begin
    select org.org_id into v_org from org
    where (p_own_org is null or org.org_id = p_own_org) and (p_claimed_org is null or org.org_id = p_claimed_org)
      and (p_claimed_name is null or org.name = p_claimed_name) and org.deleted_at is null
    for no key update;
    if not found then return false; end if;
    select identity.user_id into v_user from user_identity identity
    where identity.provider_id = p_provider and identity.org_id = v_org and identity.subject = p_subject;
    if v_user is null and not p_create then return false; end if;

    -- Locks the team, then the user, then what bumps the epoch, as whoever edits one of them: nobody deletes the team before
    -- this is over.
    select team.team_id into v_team from team
    where team.org_id = v_org and team.name = p_team and team.deleted_at is null for share;
    if v_user is not null then
        perform from app_user member where member.user_id = v_user for no key update;
        update user_identity identity set claims_as_of = p_issued_at
        where identity.provider_id = p_provider and identity.org_id = v_org and identity.subject = p_subject
          and identity.claims_as_of < p_issued_at;
        if found then
            update app_user member
            set role = coalesce(p_role, member.role), team_id = coalesce(v_team, member.team_id)
            where member.user_id = v_user and member.deleted_at is null
              and (member.role <> coalesce(p_role, member.role)
                   or member.team_id is distinct from coalesce(v_team, member.team_id));
        end if;
        return true;
    end if;

    foreach v_name in array p_names loop
        begin
            insert into app_user (user_id, org_id, name, role, team_id)
            values (p_user, v_org, v_name, coalesce(p_role, 'member'), v_team)
            on conflict (org_id, name) where deleted_at is null do nothing;
            exit when found;
        exception when sqlstate 'TG001' then
            -- it looks like another one; the last is refused for good
            if v_name = p_names[cardinality(p_names)] then raise; end if;
        end;
    end loop;
    insert into user_identity (identity_id, provider_id, org_id, subject, user_id, claims_as_of)
    values (p_identity, p_provider, v_org, p_subject, p_user, p_issued_at);
    return true;
end $$;
