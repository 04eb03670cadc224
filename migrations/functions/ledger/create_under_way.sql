-- A create of this user with this body, and without an idempotency key, that has no answer yet; no row: there is none, or there is no
-- fingerprint to look for. p_but: a hold that is not meant.
create or replace function create_under_way(p_org uuid, p_user uuid, p_fingerprint bytea, p_but uuid default null, out hold_id uuid)
returns setof uuid language plpgsql stable rows 1 as $$
begin
    if p_fingerprint is null then return; end if;
    for hold_id in
        select same.hold_id
        from (select open_task.hold_id from open_task
              where open_task.org_id = p_org and open_task.unanswered = p_fingerprint
                and open_task.hold_id is distinct from p_but offset 0) same
        -- never the other way round, through all that the user has ever made
        cross join lateral maker_of(p_org, same.hold_id) owned
        where owned.user_id = p_user
        limit 1
    loop
        return next;
    end loop;
end $$;
