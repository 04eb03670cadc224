-- Trigger: counts new entries of tasks by day (usage_day), puts those of an organisation with grants that expire in line for
-- attribution (credit_event), and has the balance row know the last place, where who booked them has not done so.
create or replace function count_entries() returns trigger language plpgsql as $$
declare
    v_none constant uuid := '00000000-0000-0000-0000-000000000000';
begin
    -- fires for every batch, also for one that ends nothing
    perform 1 from new_entry limit 1;
    if not found then return null; end if;

    insert into usage_day as known (org_id, day, user_id, team_id, key_id, task_type, tasks, charged, corrected)
    select added.org_id, (added.created_at at time zone 'UTC')::date, coalesce(added.user_id, v_none),
           coalesce(added.team_id, v_none), coalesce(added.key_id, v_none), added.task_type,
           count(*) filter (where added.kind = 'consume'),
           coalesce(-sum(added.amount) filter (where added.kind = 'consume'), 0)::bigint,
           coalesce(-sum(added.amount) filter (where added.kind = 'correct'), 0)::bigint
    from new_entry added
    where added.kind in ('consume', 'correct')
    group by 1, 2, 3, 4, 5, 6
    on conflict on constraint usage_day_pkey do update
    set tasks = known.tasks + excluded.tasks, charged = known.charged + excluded.charged,
        corrected = known.corrected + excluded.corrected;

    update org_balance balance set entries = added.place
    from (select new_entry.org_id, max(new_entry.place) as place from new_entry group by new_entry.org_id) added
    where balance.org_id = added.org_id and balance.entries is distinct from added.place;

    insert into credit_event (org_id, entry_id)
    select added.org_id, added.entry_id from new_entry added join credit_pool using (org_id) where added.kind <> 'expire'
    order by added.org_id, added.place;
    return null;
end $$;
