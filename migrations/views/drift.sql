-- Tasks of which the upstream reported something else than was booked; drift is what was booked less that.
create or replace view reporting.drift as
select hold.ended_at as at, hold.org_id, org.name as organisation,
       'hold_' || replace(hold.hold_id::text, '-', '') as reference, hold.task_type, hold.backend, hold.account, hold.state,
       hold.price_book, hold.list_price, hold.reported, hold.drift
from drifted_task
join hold using (org_id, hold_id)
left join org using (org_id);
