-- In the upstream's credits, before any factor. Negative: taken back, because the task came to light after all.
create or replace view reporting.losses as
select loss.created_at as at, loss.org_id, org.name as organisation,
       'hold_' || replace(loss.hold_id::text, '-', '') as reference, hold.task_type, hold.backend, hold.account, hold.state,
       loss.amount as credits, loss.possible
from platform_loss loss
join hold using (org_id, hold_id)
left join org using (org_id);
