create or replace view reporting.open_tasks as
select open.org_id, org.name as organisation, 'hold_' || replace(open.hold_id::text, '-', '') as reference, open.state,
       hold.amount as credits, hold.task_type, hold.backend, hold.account, coalesce(team.name, 'no team') as team,
       coalesce(person.name, 'unknown') as user_name, hold.created_at,
       case when open.state = 'IN_DOUBT' then open.doubt_at end as doubt_at,
       open.upstream_task is not null as task_known, open.polls
from open_task open
join hold on hold.org_id = open.org_id and hold.hold_id = open.hold_id
left join org on org.org_id = open.org_id
left join team on team.team_id = hold.team_id
left join app_user person on person.user_id = hold.user_id
where not open.reopened;
