create or replace view reporting.expiring_credits as
select lot.org_id, org.name as organisation, lot.expires_at, lot.amount as granted,
       lot.amount - lot.burned - lot.expired as remaining
from credit_lot lot
join org using (org_id)
where lot.burned + lot.expired < lot.amount;
