-- The charged tasks that are not in the sums of tasks yet, as the caller's statement sees both. A function, because the places must be
-- known when the entries are looked for.
create or replace function tasks_behind()
returns table (org_id uuid, account text, task_type text, price_book integer, list_price bigint, factor_bp integer, charged bigint,
               raw_consumed bigint, reported bigint, drift bigint, created_at timestamptz, ended_at timestamptz)
language plpgsql stable rows 1000 set plan_cache_mode = force_custom_plan set enable_seqscan = off
set max_parallel_workers_per_gather = 0 as $$
begin
    return query
    select task.org_id, task.account, task.task_type, task.price_book, task.list_price, task.factor_bp, task.charged,
           task.raw_consumed, task.reported, task.drift, task.created_at, task.ended_at
    from (select known.org_id, known.place from tasks_place() known where known.last > known.place offset 0) behind
    cross join lateral (
        select charge.hold_id from entry charge
        where charge.org_id = behind.org_id and charge.place > behind.place and charge.kind = 'consume' offset 0) charge
    cross join lateral (
        select held.org_id, held.account, held.task_type, held.price_book, held.list_price, held.factor_bp, held.charged,
               held.raw_consumed, held.reported, held.drift, held.created_at, held.ended_at
        from hold held where held.org_id = behind.org_id and held.hold_id = charge.hold_id limit 1) task;
end $$;
