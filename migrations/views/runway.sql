-- At the rate of the last seven days (UTC, today included; since the organisation was made, if that was later, but a day at
-- least), as `tollgate admin credit show` tells it. days_left is null where nothing is consumed.
create or replace view reporting.runway as
select organisation.org_id, organisation.name as organisation, organisation.status, balance.available,
       ceil(spent.credits * 86400 / measured.seconds) as credits_per_day,
       case when spent.credits > 0
            then round(greatest(balance.available, 0) * measured.seconds / spent.credits / 86400, 2) end as days_left
from reporting.organisations organisation
join org_balance balance using (org_id)
cross join lateral (select date_trunc('day', now() at time zone 'UTC') - interval '6 days' as day) first
cross join lateral (
    select greatest(extract(epoch from now() - greatest(organisation.created_at, first.day at time zone 'UTC')),
                    86400)::numeric as seconds) measured
cross join lateral (
    select greatest(coalesce(sum(usage.charged + usage.corrected), 0), 0) as credits
    from usage_day usage where usage.org_id = organisation.org_id and usage.day >= first.day::date) spent;
