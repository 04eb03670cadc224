-- Of each organisation: up to which place its tasks are in the sums of tasks, and the place of its last entry.
create or replace function tasks_place() returns table (org_id uuid, place bigint, last bigint) language sql stable as $$
    select balance.org_id, coalesce(reached.place, 0),
           coalesce(balance.entries,
                    -- not known yet: nothing was booked since the balance row counts them
                    (select newest.place from entry newest where newest.org_id = balance.org_id and newest.place is not null
                     order by newest.place desc limit 1), 0)
    from org_balance balance left join task_place reached on reached.org_id = balance.org_id
$$;
