-- Seals the next closed month of an organisation, and returns it; null: none is closed. Nothing is locked: what is closed does not
-- change any more, and of two who seal at once one finds it sealed. p_now: for tests; null: the database's clock.
create or replace function seal_month(p_org uuid, p_now timestamptz) returns date language plpgsql as $$
declare
    v_next record;
begin
    select closed.month, closed.chain into v_next from closed_month(p_org, coalesce(p_now, clock_timestamp())) closed;
    if v_next.month is null then
        return null;
    end if;
    insert into month_seal (org_id, month, holds, settled, released, written_off, charged, entries, consumed, corrected, granted,
                            labels, chain_before, chain)
    select p_org, v_next.month, sums.holds, sums.settled, sums.released, sums.written_off, sums.charged, sums.entries, sums.consumed,
           sums.corrected, sums.granted,
           (select count(*) from label where label.org_id = p_org
                and label.hold_id >= first_id(v_next.month::timestamp at time zone 'UTC')
                and label.hold_id < first_id((v_next.month + interval '1 month') at time zone 'UTC')),
           v_next.chain, sums.chain
    from month_figures(p_org, v_next.month, v_next.chain) sums
    on conflict (org_id, month) do nothing;
    return v_next.month;
end $$;
