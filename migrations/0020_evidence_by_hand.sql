-- What an operator said of a task, and what it was compared with, as JSON: the vendor's id of the task, the reason, the credits
-- that the operator read, what the vendor answered, which fields matched, differed or could not be compared, whether it was
-- forced, whether the task was adopted, and whether the step was taken back. Null: no operator recorded the task.
--
-- While the task goes on it stands in open_task; the end of the task copies it into hold.
alter table open_task add column by_hand jsonb;
alter table hold add column by_hand jsonb;
