-- Attributes up to p_limit entries of the organisation to its grants that expire; when none is left to attribute, takes
-- back what has expired. src/store/credits/expiry.rs says what burns which grant.
-- more: entries are left to attribute. expired: credits taken back.
create or replace function expire_credits(
    p_org uuid, p_limit integer, p_actor text, p_now timestamptz,
    out more boolean, out expired bigint
) language plpgsql as $$
declare
    v_now       timestamptz;
    v_available bigint;
    v_held      bigint;
    v_pool      bigint;

    -- of each grant of which credits are left, in the order in which they expire
    v_ids     uuid[];
    v_ends    timestamptz[];
    v_left    bigint[];
    v_counted boolean[];
    v_burned  bigint[];
    v_expired bigint[];

    v_last    bigint;
    v_seen    integer := 0;
    v_rest    bigint;
    v_part    bigint;
    v_room    bigint;
    -- credits of open holds that may burn the grant at hand, and those of them that an earlier grant is kept for
    v_open    numeric;
    v_kept    numeric := 0;
    v_grant   integer;
    v_event   record;
begin
    more := false; expired := 0;
    select balance.available, balance.held into v_available, v_held
    from org_balance balance where balance.org_id = p_org for no key update;
    v_now := coalesce(p_now, clock_timestamp());
    select pool.credits into v_pool from credit_pool pool where pool.org_id = p_org;
    if not found then return; end if;

    select coalesce(array_agg(lot.entry_id order by lot.expires_at, lot.entry_id), '{}'),
           coalesce(array_agg(lot.expires_at order by lot.expires_at, lot.entry_id), '{}'),
           coalesce(array_agg(lot.amount - lot.burned - lot.expired order by lot.expires_at, lot.entry_id), '{}'),
           coalesce(array_agg(lot.counted order by lot.expires_at, lot.entry_id), '{}')
    into v_ids, v_ends, v_left, v_counted
    from credit_lot lot where lot.org_id = p_org and lot.burned + lot.expired < lot.amount;
    v_burned := array_fill(0::bigint, array[cardinality(v_ids)]);
    v_expired := v_burned;

    for v_event in
        select event.place, posted.entry_id, posted.amount, coalesce(spent.created_at, posted.created_at) as spent_at
        from (select waiting.place, waiting.entry_id from credit_event waiting
              where waiting.org_id = p_org order by waiting.place limit p_limit) event
        cross join lateral (
            select entry.entry_id, entry.amount, entry.hold_id, entry.created_at from entry
            where entry.org_id = p_org and entry.entry_id = event.entry_id limit 1) posted
        left join lateral (
            select hold.created_at from hold
            where hold.org_id = p_org and hold.hold_id = posted.hold_id limit 1) spent on true
        order by event.place
    loop
        v_seen := v_seen + 1; v_last := v_event.place;
        v_grant := array_position(v_ids, v_event.entry_id);
        if v_grant is not null then
            -- what was spent before this grant was there is paid first
            v_part := least(v_left[v_grant], greatest(-v_pool, 0));
            v_counted[v_grant] := true;
            v_left[v_grant] := v_left[v_grant] - v_part; v_burned[v_grant] := v_burned[v_grant] + v_part;
            v_pool := v_pool + v_part;
        elsif v_event.amount >= 0 then
            v_pool := v_pool + v_event.amount;
        else
            v_rest := -v_event.amount;
            for v_each in 1..cardinality(v_ids) loop
                exit when v_rest = 0;
                if v_counted[v_each] and v_ends[v_each] > v_event.spent_at and v_left[v_each] > 0 then
                    v_part := least(v_left[v_each], v_rest);
                    v_left[v_each] := v_left[v_each] - v_part; v_burned[v_each] := v_burned[v_each] + v_part;
                    v_rest := v_rest - v_part;
                end if;
            end loop;
            v_pool := v_pool - v_rest;
        end if;
    end loop;
    delete from credit_event event where event.org_id = p_org and event.place <= v_last;
    more := v_seen = p_limit;

    if not more then
        v_room := greatest(v_available, 0);
        for v_each in 1..cardinality(v_ids) loop
            exit when v_ends[v_each] > v_now;
            -- Open holds from before the end may still burn it: as many of them as no earlier grant is kept for.
            v_open := 0;
            if v_held > 0 then
                select coalesce(sum(held.amount), 0) into v_open
                from open_task open join hold held on held.org_id = open.org_id and held.hold_id = open.hold_id
                where open.org_id = p_org and not open.reopened and held.created_at < v_ends[v_each];
            end if;
            v_part := least(v_left[v_each], greatest(v_open - v_kept, 0));
            v_kept := v_kept + v_part;
            v_part := least(v_left[v_each] - v_part, v_room);
            continue when v_part = 0;
            insert into entry (org_id, entry_id, kind, amount, reason, related_entry, actor, created_at)
            values (p_org, uuid_v7(v_now), 'expire', -v_part, 'expired', v_ids[v_each], p_actor, v_now);
            v_expired[v_each] := v_part; v_left[v_each] := v_left[v_each] - v_part;
            v_room := v_room - v_part; expired := expired + v_part;
        end loop;
        if expired > 0 then
            update org_balance balance
            set available = balance.available - expire_credits.expired, granted = balance.granted - expire_credits.expired
            where balance.org_id = p_org;
        end if;
    end if;

    update credit_lot lot
    set counted = result.counted, burned = lot.burned + result.burned, expired = lot.expired + result.expired
    from unnest(v_ids, v_counted, v_burned, v_expired) as result(entry_id, counted, burned, expired)
    where lot.org_id = p_org and lot.entry_id = result.entry_id
      and (result.burned > 0 or result.expired > 0 or result.counted <> lot.counted);
    insert into credit_lot_event (org_id, entry_id, burned)
    select p_org, result.entry_id, result.burned from unnest(v_ids, v_burned) result(entry_id, burned)
    where result.burned > 0;
    if not more and not exists (select from unnest(v_left) as grants(amount) where grants.amount > 0) then
        -- no grant is left that could expire: from now on its entries need not be attributed
        delete from credit_pool pool where pool.org_id = p_org;
    else
        update credit_pool pool set credits = v_pool where pool.org_id = p_org and pool.credits <> v_pool;
    end if;
end $$;
