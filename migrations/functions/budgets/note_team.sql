-- Trigger: from an organisation's first team on, reservations look for the teams of its users.
create or replace function note_team() returns trigger language plpgsql as $$
begin
    update org_balance balance set teams = true where balance.org_id = new.org_id and not balance.teams;
    return null;
end $$;
