-- The journal: organisation by organisation, a time of it comes from an index alone. What has left for an archive is in sums in it.
create or replace view reporting.entries as
select booked.created_at as at, booked.org_id, org.name as organisation, booked.kind, booked.amount as credits
from org
join booked using (org_id);
