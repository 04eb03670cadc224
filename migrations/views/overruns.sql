create or replace view reporting.overruns as
select entry.created_at as at, entry.org_id, org.name as organisation,
       'hold_' || replace(entry.hold_id::text, '-', '') as reference, hold.task_type, hold.account, hold.amount as held,
       -entry.amount as charged, entry.overrun
from org
join entry on entry.org_id = org.org_id
left join hold on hold.org_id = entry.org_id and hold.hold_id = entry.hold_id
where entry.overrun > 0;
