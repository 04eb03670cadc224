create or replace view reporting.budget_events as
select event.created_at as at, event.org_id, org.name as organisation, spent.level, spent.period, event.threshold,
       event.credits, event.spent,
       coalesce(team.name, person.name, owner.name || ': ' || api_key.name, org.name) as subject
from budget_event event
join org using (org_id)
join budget_window spent using (org_id, window_id)
left join team on spent.level = 'team' and team.team_id = spent.subject_id
left join app_user person on spent.level = 'user' and person.user_id = spent.subject_id
left join api_key on spent.level = 'key' and api_key.key_id = spent.subject_id
left join app_user owner on owner.user_id = api_key.user_id;
