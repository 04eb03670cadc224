-- The journal: organisation by organisation, a time of it comes from an index alone.
create or replace view reporting.entries as
select entry.created_at as at, entry.org_id, org.name as organisation, entry.kind, entry.amount as credits
from org
join entry using (org_id);
