-- What a create without an idempotency key gives way to, when it has its hold and its caller may have gone: another one of the same
-- user with the same body, which the vendor has accepted in the time p_ago, which has no answer yet, or which is in doubt. If there is
-- none, it is noted that the caller has gone: whoever reserves after this finds the note, because both are done under the balance row.
-- So of two creates one always knows the other.
--
-- Of the creates that were accepted, the newest of the user are looked at, those of ten minutes before p_ago included: a hold has its
-- id from a gateway's clock, and the vendor may have taken long.
create or replace function give_way(
    p_org uuid, p_user uuid, p_fingerprint bytea, p_hold uuid, p_ago interval, out other uuid
) language plpgsql as $$
declare
    v_since constant timestamptz := clock_timestamp() - p_ago;
    v_least constant uuid := first_id(v_since - interval '10 minutes');
begin
    perform from org_balance balance where balance.org_id = p_org for no key update;
    select own.hold_id into other
    from (select held.org_id, held.hold_id, held.fingerprint, held.idem_key, held.recorded_at from hold held
          where held.org_id = p_org and held.user_id = p_user and held.hold_id >= v_least
          order by held.hold_id desc limit 2000) own
    left join lateral (
        select open_task.recorded_at from open_task
        where open_task.org_id = own.org_id and open_task.hold_id = own.hold_id limit 1) open on true
    where own.fingerprint = p_fingerprint and own.idem_key is null and own.hold_id <> p_hold
      and coalesce(open.recorded_at, own.recorded_at) > v_since
    order by own.hold_id limit 1;
    if found then return; end if;
    select under_way.hold_id into other from create_under_way(p_org, p_user, p_fingerprint, p_hold) under_way;
    if found then return; end if;
    select same.hold_id into other
    from (select open_task.hold_id from open_task
          where open_task.org_id = p_org and open_task.guarded = p_fingerprint offset 0) same
    cross join lateral maker_of(p_org, same.hold_id) owned
    where owned.user_id = p_user limit 1;
    if found then return; end if;
    insert into gone_caller (org_id, user_id, fingerprint, hold_id) values (p_org, p_user, p_fingerprint, p_hold)
    on conflict (org_id, user_id, fingerprint, hold_id) do nothing;
end $$;
