-- Charges by the day (UTC) they were booked on, from the roll-up that the ledger keeps. `at` is that day's begin.
create or replace view reporting.spend as
select usage.day, usage.day::timestamp at time zone 'UTC' as at, usage.org_id, org.name as organisation, usage.team_id,
       coalesce(team.name, 'no team') as team, usage.user_id, coalesce(person.name, 'unknown') as user_name, usage.key_id,
       coalesce(api_key.name, 'no key') as key_name, usage.task_type, usage.tasks,
       usage.charged + usage.corrected as credits
from usage_day usage
left join org using (org_id)
left join team using (team_id)
left join app_user person on person.user_id = usage.user_id
left join api_key using (key_id);
