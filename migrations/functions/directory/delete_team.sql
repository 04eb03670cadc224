-- Deletes a team, if its version is still p_version (null: whatever it is); its members stay, without a team. Locks the team,
-- then its members, then the epoch, as whoever edits one of them: nobody joins it from here on. False: it was not there, or
-- of another version.
create or replace function delete_team(p_team uuid, p_version integer) returns boolean language plpgsql as $$
begin
    perform from team where team.team_id = p_team for no key update;
    perform from app_user member where member.team_id = p_team order by member.user_id for no key update;
    update team set deleted_at = now()
    where team.team_id = p_team and team.deleted_at is null and team.version = coalesce(p_version, team.version);
    if not found then return false; end if;
    update app_user member set team_id = null where member.team_id = p_team;
    return true;
end $$;
