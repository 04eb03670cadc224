-- Which items of a batch of creates repeat an earlier create of the same user that has not been answered: the same body, and
-- neither with an idempotency key. p_orgs, p_pos, p_hold, p_user, p_fingerprint as in reserve_batch.
--
-- p_guard: false: the item is not looked for; true: a create whose caller has gone is looked for; null: and so is one that has no
-- answer yet, whose caller may be there.
--
-- gone: the earlier create's caller has gone. The note of that counts while the create is HELD, and after it was accepted for as
-- long as a client may take to try again: its answer was not read. A doubt is not told here; reserve_batch has it.
--
-- Plans: see reserve_batch.
create or replace function repeated_creates(
    p_orgs uuid[], p_pos integer[], p_hold uuid[], p_user uuid[], p_fingerprint bytea[], p_guard boolean[], p_now timestamptz
) returns table (place bigint, earlier uuid, gone boolean) language sql stable as $$
    select item.place, coalesce(left_alone.hold_id, under_way.hold_id), left_alone.hold_id is not null
    from unnest(p_pos, p_hold, p_user, p_fingerprint, p_guard) with ordinality
         item(pos, hold_id, user_id, fingerprint, guard, place)
    left join lateral (
        select caller.hold_id
        -- Notes stay for an hour, and whoever buys the same body again and again has left many: the newest are enough.
        from (select noted.org_id, noted.hold_id from gone_caller noted
              where item.guard is distinct from false
                and noted.org_id = p_orgs[item.pos] and noted.user_id = item.user_id and noted.fingerprint = item.fingerprint
              order by noted.hold_id desc limit 16) caller
        left join lateral (select open_task.state, open_task.recorded_at from open_task
                           where open_task.org_id = caller.org_id and open_task.hold_id = caller.hold_id limit 1) open on true
        cross join lateral maker_of(caller.org_id, case when open.recorded_at is null then caller.hold_id end) ended
        where caller.hold_id <> item.hold_id
          and (open.state = 'HELD'
               or (open.state is distinct from 'IN_DOUBT'
                   and coalesce(open.recorded_at, ended.recorded_at) > p_now - interval '60 seconds'))
        order by caller.hold_id limit 1) left_alone on true
    left join lateral create_under_way(
        p_orgs[item.pos], item.user_id, case when item.guard is null and left_alone.hold_id is null then item.fingerprint end
    ) under_way on true
    where left_alone.hold_id is not null or under_way.hold_id is not null
$$;
