-- How far back what is kept goes: each the first row of an index. Holds have ids in the order of their making.
create or replace view reporting.retention as
select 'entries' as kept, (
    select min(first.at) from org cross join lateral (
        select entry.created_at as at from entry where entry.org_id = org.org_id
        order by entry.created_at limit 1) first) as oldest
union all
select 'tasks', (
    select min(first.at) from org cross join lateral (
        select hold.created_at as at from hold where hold.org_id = org.org_id order by hold.hold_id limit 1) first)
union all
select 'usage by day', (select min(usage.day)::timestamp at time zone 'UTC' from usage_day usage)
union all
select 'audit log', (select line.at from audit_log line order by line.audit_id limit 1)
union all
select 'budget events', (select event.created_at from budget_event event order by event.event_id limit 1)
union all
select 'gateways', (select min(gateway.started_at) from gateway);
