create or replace trigger team_version before update on team
    for each row execute function next_version();
create or replace trigger team_epoch after update or delete on team
    for each statement execute function bump_epoch_of('auth');
create or replace trigger team_audit after insert or update or delete on team
    for each row execute function audit_change('team', 'team_id');
create or replace trigger team_note after insert on team
    for each row execute function note_team();
create or replace trigger team_quota after insert on team referencing new table as added
    for each statement execute function check_quota('teams');
create or replace trigger team_look after insert or delete or update of name, deleted_at on team
    for each row execute function refuse_look_alike('team_id', 'org_id');
