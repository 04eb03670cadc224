-- What reports find by their age of what nobody paid for. Each end of a task writes to these tables, or is ready to: while the indexes
-- are built, a second for a million rows, ends wait, and so do creates of the same organisations.

create index unpaid_task_to_count on unpaid_task (ended_at, account) where not figures;
create index unpaid_task_to_look_at on unpaid_task (ended_at) where figures is distinct from false;

-- Nearly free to keep: rows are added in the order of their age.
create index platform_loss_age on platform_loss using brin (created_at) with (pages_per_range = 16);
