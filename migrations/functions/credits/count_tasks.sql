-- Adds the charged tasks of runs of places (each behind p_first, up to p_last) to the sums of tasks (price_total, drift_total), or takes
-- them away again (p_sign = -1). A charged task never changes any more. The caller holds the row of task_turn.
create or replace function count_tasks(p_orgs uuid[], p_first bigint[], p_last bigint[], p_sign integer) returns void
language plpgsql set plan_cache_mode = force_custom_plan set max_parallel_workers_per_gather = 0 set enable_seqscan = off as $$
begin
    with counted as materialized (
        select task.org_id, date_bin('1 hour', task.created_at, '2000-01-01Z') as made,
               date_bin('1 hour', task.ended_at, '2000-01-01Z') as ended, task.account, task.task_type, task.price_book,
               task.list_price, task.factor_bp, task.charged, task.raw_consumed, task.reported, task.drift,
               task.raw_consumed <> task.list_price as unlike
        from unnest(p_orgs, p_first, p_last) run(org_id, first, last)
        cross join lateral (
            select charge.hold_id from entry charge
            where charge.org_id = run.org_id and charge.place > run.first and charge.place <= run.last
              and charge.kind = 'consume' offset 0) charge
        cross join lateral (
            select held.org_id, held.created_at, held.ended_at, held.account, held.task_type, held.price_book, held.list_price,
                   held.factor_bp, held.charged, held.raw_consumed, held.reported, held.drift
            from hold held where held.org_id = run.org_id and held.hold_id = charge.hold_id limit 1) task
    ), priced as (
        insert into price_total as known (at, org_id, task_type, price_book, list_price, factor_bp, tasks, charged)
        select counted.made, counted.org_id, counted.task_type, counted.price_book, counted.list_price, counted.factor_bp,
               p_sign * count(*), p_sign * sum(counted.charged)::bigint
        from counted where counted.made >= now() - interval '100 days'
        group by 1, 2, 3, 4, 5, 6
        on conflict (at, org_id, task_type, price_book, list_price, factor_bp) do update
        set tasks = known.tasks + excluded.tasks, charged = known.charged + excluded.charged
    )
    insert into drift_total as known (at, account, task_type, price_book, tasks, charged, reported, drift, differing, unlike, listed,
                                      consumed)
    select counted.ended, counted.account, counted.task_type, counted.price_book, p_sign * count(*),
           p_sign * coalesce(sum(counted.raw_consumed), 0), p_sign * coalesce(sum(counted.reported), 0),
           p_sign * coalesce(sum(counted.drift), 0), p_sign * count(*) filter (where counted.drift <> 0),
           p_sign * count(*) filter (where counted.unlike),
           p_sign * coalesce(sum(counted.list_price) filter (where counted.unlike), 0),
           p_sign * coalesce(sum(counted.raw_consumed) filter (where counted.unlike), 0)
    from counted group by 1, 2, 3, 4
    on conflict (at, account, task_type, price_book) do update
    set tasks = known.tasks + excluded.tasks, charged = known.charged + excluded.charged, reported = known.reported + excluded.reported,
        drift = known.drift + excluded.drift, differing = known.differing + excluded.differing, unlike = known.unlike + excluded.unlike,
        listed = known.listed + excluded.listed, consumed = known.consumed + excluded.consumed;
end $$;
