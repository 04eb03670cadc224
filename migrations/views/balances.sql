create or replace view reporting.balances as
select organisation.org_id, organisation.name as organisation, organisation.status, organisation.reference,
       balance.available, balance.held, balance.consumed, balance.granted, balance.overdraft, balance.open_tasks,
       balance.in_doubt, setting.low_threshold, coalesce(balance.available < setting.low_threshold, false) as low
from reporting.organisations organisation
join org_balance balance using (org_id)
left join credit_setting setting using (org_id);
