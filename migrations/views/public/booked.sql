-- What was booked, in the order of the journal: entries, and in sums what is in archives of former months (archived_charge). `lines`
-- is how many entries a row stands for. What asks for an organisation and a time finds both by an index.
create or replace view booked as
select entry.org_id, entry.entry_id, entry.kind, entry.amount, entry.hold_id, entry.overrun, entry.user_id, entry.key_id,
       entry.team_id, entry.task_type, entry.reason, entry.external_ref, entry.related_entry, entry.actor, entry.created_at,
       1::bigint as lines
from entry
union all
select archived.org_id, archived.entry_id, 'consume', archived.amount, null::uuid, 0::bigint, archived.user_id, archived.key_id,
       archived.team_id, archived.task_type, format('%s tasks of %s, archived', archived.tasks, left(archived.month::text, 7)),
       null::text, null::uuid, null::text, archived.created_at, archived.tasks
from archived_charge archived;
