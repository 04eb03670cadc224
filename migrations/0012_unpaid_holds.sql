-- For lists of failed tasks, which are few among many: without this index such a list reads the whole history of its
-- organisation. Creates wait while the index is made: about a second for a million holds.
create index hold_unpaid on hold (org_id, hold_id) where state in ('RELEASED', 'WRITTEN_OFF');
