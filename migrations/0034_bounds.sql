-- Bounds in sum for each organisation.

-- Whoever looks for what is due takes turns by organisation, so that the backlog of one delays no other. The table has only what
-- goes on, so that the indexes are made within moments.
create index open_task_unrecorded_by_org on open_task (owner, org_id, due_at) where state = 'HELD';
create index open_task_doubts_by_org on open_task (org_id, doubt_at) where state = 'IN_DOUBT';
create index open_task_reopened_by_org on open_task (org_id, backend, due_at) where reopened;
drop index open_task_unrecorded, open_task_reopened;

-- What was revoked or deleted stays, for the sake of history; how much of it there may be follows from the quotas (function
-- check_quota). These indexes have nothing else.
create index api_key_revoked on api_key (org_id) where revoked_at is not null;
create index app_user_deleted on app_user (org_id) where deleted_at is not null;
create index team_deleted on team (org_id) where deleted_at is not null;

-- How many changes an organisation's own people may ask for on one day: each leaves lines in the audit log, which keeps them. More
-- words are allowed than before, and the table is small.
alter table quota drop constraint quota_kind_check,
    add constraint quota_kind_check check (kind in ('users', 'teams', 'keys', 'budgets', 'changes'));
insert into quota (org_id, kind, most) values (null, 'changes', 20000);
-- What was asked for on the last UTC day with changes.
create table change_count (
    org_id  uuid primary key references org,
    day     date not null,
    changes integer not null
) with (fillfactor = 50);
