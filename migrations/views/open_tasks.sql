-- One branch for each state: each has an index of its own over what is open, whatever else there is.
create or replace view reporting.open_tasks as
select open.org_id, org.name as organisation, 'hold_' || replace(open.hold_id::text, '-', '') as reference, open.state,
       open.amount as credits, open.task_type, open.backend, open.account, coalesce(team.name, 'no team') as team,
       coalesce(person.name, 'unknown') as user_name, open.created_at, open.doubt_at, open.known as task_known, open.polls
from (select org_id, hold_id, user_id, team_id, state, amount, task_type, backend, account, created_at,
             null::timestamptz as doubt_at, false as known, polls from hold where state = 'HELD'
      union all
      select org_id, hold_id, user_id, team_id, state, amount, task_type, backend, account, created_at,
             null, true, polls from hold where state = 'RUNNING'
      union all
      select org_id, hold_id, user_id, team_id, state, amount, task_type, backend, account, created_at,
             doubt_at, upstream_task is not null, polls from hold where state = 'IN_DOUBT') open
left join org using (org_id)
left join team using (team_id)
left join app_user person on person.user_id = open.user_id;
