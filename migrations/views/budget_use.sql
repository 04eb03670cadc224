-- Of every subject for which a budget counts: its own, else the one for its level in the organisation, else the platform's.
-- What was spent is that of the window that is open now. First instants of days as in function day_start, which is not
-- called because it would run with the rights of the reader.
create or replace view reporting.budget_use as
select org.org_id, org.name as organisation, kind.level, subject.subject_id, subject.subject, kind.period,
       counts.cap as credits, coalesce(spent.used, 0) as used, coalesce(spent.held, 0) as held,
       case when counts.cap > 0 then (coalesce(spent.used, 0) + coalesce(spent.held, 0)) / counts.cap::numeric
            when coalesce(spent.used, 0) + coalesce(spent.held, 0) > 0 then 1 else 0 end as share,
       nullif(opened.starts_at, '-infinity') as since, counts.raised
from org
join org_balance balance on balance.org_id = org.org_id and balance.budgets > 0
cross join (select distinct budget.level, budget.period from budget) kind
cross join lateral (
    select org.org_id as subject_id, org.name as subject where kind.level = 'org'
    union all
    select team.team_id, team.name from team
    where kind.level = 'team' and team.org_id = org.org_id and team.deleted_at is null
    union all
    select person.user_id, person.name from app_user person
    where kind.level = 'user' and person.org_id = org.org_id and person.deleted_at is null
    union all
    select api_key.key_id, person.name || ': ' || api_key.name from api_key join app_user person using (user_id)
    where kind.level = 'key' and api_key.org_id = org.org_id and api_key.revoked_at is null) subject
cross join lateral (
    select case when budget.credits is not null and budget.raised_until > now()
                then greatest(budget.raised_to, budget.credits) else budget.credits end as cap,
           coalesce(budget.raised_until > now(), false) as raised
    from budget
    where (budget.org_id = org.org_id or budget.org_id is null) and budget.level = kind.level
      and (budget.subject_id = subject.subject_id or budget.subject_id is null) and budget.period = kind.period
    order by budget.subject_id is null, budget.org_id is null limit 1) counts
cross join lateral (
    select date_trunc(case kind.period when 'weekly' then 'week' when 'monthly' then 'month' else 'day' end,
                      now() at time zone org.time_zone) as day) first
cross join lateral (
    select case when kind.period = 'total' then timestamptz '-infinity'
                when date_trunc('day', (first.day at time zone org.time_zone - interval '1 hour') at time zone org.time_zone)
                     = first.day
                then first.day at time zone org.time_zone - interval '1 hour'
                else first.day at time zone org.time_zone end as starts_at) opened
left join budget_window spent on spent.org_id = org.org_id and spent.level = kind.level
    and spent.subject_id = subject.subject_id and spent.period = kind.period and spent.starts_at = opened.starts_at
where org.deleted_at is null and counts.cap is not null;
