-- The last entry of an organisation: its place, and the balance after it. Before the first one, place 0 and what the entries of
-- before there were places add up to. Under the organisation's balance row, of which there is one entry after the other.
--
-- The balance row knows both too, but not the place of an organisation that nothing was booked on since it counts them; and while
-- one statement books several entries, it knows neither of them.
create or replace function end_of_chain(p_org uuid, out place bigint, out balance bigint)
-- Planned while the tables are empty, it would read them whole for each entry ever after.
language plpgsql set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
begin
    select last.place, last.balance_after into place, balance from entry last
    where last.org_id = p_org and last.place is not null order by last.place desc limit 1;
    if found then return; end if;
    place := 0;
    select history.balance into balance from history_seal history where history.org_id = p_org;
    if found then return; end if;
    balance := 0;
    if not exists (select from history_seal history where history.org_id = '00000000-0000-0000-0000-000000000000') then
        -- not taken down yet: a gateway serves while the database is migrated
        balance := coalesce((select known.granted - known.consumed from org_balance known where known.org_id = p_org), 0);
    end if;
end $$;
