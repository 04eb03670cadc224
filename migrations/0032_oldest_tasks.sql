-- Operators list the tasks that go on, of all organisations, oldest first: ids of holds begin with the time at which they were made.
-- The table has only what goes on, so that the index is made within moments.
create index open_task_oldest on open_task (hold_id) where state <> 'IN_DOUBT';
