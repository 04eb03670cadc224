-- All that is known of each task: its hold, and while it goes on its open task. Not for what is asked often about many: no
-- index knows the state of this view.
create or replace view task as
select hold.org_id, hold.hold_id, hold.user_id, hold.key_id, hold.team_id,
       case when open.hold_id is null or open.reopened then hold.state else open.state end as state, hold.late,
       hold.amount, hold.list_price, hold.factor_bp, hold.price_book, hold.balance_after, hold.overdraft, hold.windows,
       hold.budget_after, hold.task_type, hold.backend, hold.account, hold.owner, hold.fingerprint, hold.idem_key,
       coalesce(open.upstream_task, hold.upstream_task) as upstream_task,
       coalesce(open.raw_consumed, hold.raw_consumed) as raw_consumed,
       coalesce(open.reported, hold.reported) as reported, hold.drift, hold.charged, hold.lost,
       coalesce(open.reason, hold.reason) as reason, hold.created_at,
       coalesce(open.recorded_at, hold.recorded_at) as recorded_at, coalesce(open.doubt_at, hold.doubt_at) as doubt_at,
       hold.ended_at, open.due_at, coalesce(open.polls, 0) as polls, coalesce(open.by_hand, hold.by_hand) as by_hand
from hold
left join open_task open on open.org_id = hold.org_id and open.hold_id = hold.hold_id;
