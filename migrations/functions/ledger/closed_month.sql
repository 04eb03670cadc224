-- The next month (UTC) of an organisation that can be sealed, and the chain of the one before; no month: there is none. A month is
-- closed eight days after its end, when none of its tasks goes on: keys of creates are not kept any more, and what a clock that is a
-- little behind may add is there. Months without a row have no seal.
create or replace function closed_month(p_org uuid, p_now timestamptz, out month date, out chain bytea) language plpgsql stable as $$
declare
    v_first uuid;
begin
    select last.month, last.chain into month, chain from month_seal last where last.org_id = p_org order by last.month desc limit 1;
    v_first := first_id(coalesce((month + interval '1 month') at time zone 'UTC', '2000-01-01'));
    chain := coalesce(chain, decode(repeat('00', 32), 'hex'));
    select least((select hold.hold_id from hold where hold.org_id = p_org and hold.hold_id >= v_first order by hold.hold_id limit 1),
                 (select entry.entry_id from entry where entry.org_id = p_org and entry.entry_id >= v_first order by entry.entry_id limit 1))
    into v_first;
    -- the first 48 bits are milliseconds
    month := date_trunc('month', to_timestamp(('x' || left(replace(v_first::text, '-', ''), 12))::bit(48)::bigint / 1000.0) at time zone 'UTC');
    if month is null or (month + interval '1 month' + interval '8 days') at time zone 'UTC' > p_now
       or exists (select from open_task open where open.org_id = p_org
                                               and open.hold_id < first_id((month + interval '1 month') at time zone 'UTC'))
    then
        month := null; chain := null;
    end if;
end $$;
