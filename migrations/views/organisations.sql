create or replace view reporting.organisations as
select org.org_id, org.name, case when org.deleted_at is null then org.status else 'deleted' end as status,
       org.time_zone, round(org.price_factor_bp / 100.0, 2) as price_percent, org.created_at,
       'org_' || replace(org.org_id::text, '-', '') as reference
from org;
