-- Takes the charged tasks of a month (UTC) out of the database, as one step: their holds, charges and labels go, and what must be
-- known of them later stays (migrations/0030). What else there is of the month stays as it is: entries that are no charges, tasks that
-- nobody paid for, and charged ones that somebody may still look for: with an overrun, a drift, an operator's step, or content that is
-- kept; and the last entry of each organisation, which the next one follows.
--
-- The caller has loaded the files of the archive into temporary tables `hold`, `entry` and `label`, and has proved that they have what
-- was sealed. No row leaves that is not in them, column by column. p_months: so many months must have passed since the month's end.
-- Refusals are exceptions with the code TG002. No table is locked that a gateway writes: guards are off in the old partition alone,
-- until the caller commits.
create or replace function detach_month(p_month date, p_manifest text, p_months integer, out left_tasks bigint, out left_credits bigint)
language plpgsql set search_path = public, pg_temp set lock_timeout = '2s' set plan_cache_mode = force_custom_plan
set max_parallel_workers_per_gather = 0 set work_mem = '64MB' as $$
declare
    v_first  constant uuid := first_id(p_month::timestamp at time zone 'UTC');
    v_end    constant uuid := first_id((p_month + interval '1 month') at time zone 'UTC');
    v_suffix constant text := to_char(p_month, '_YYYY_MM');
    v_why    text;
    v_part   text;
    v_rows   bigint;
begin
    perform turn.only_one from archive_turn turn for update;
    v_why := case
        when exists (select from archived_month known where known.month = p_month) then 'it is archived already'
        when (p_month + make_interval(months => greatest(p_months, 1) + 1)) at time zone 'UTC' > now()
            then format('it ended less than %s months ago', greatest(p_months, 1))
        when exists (select from open_task going where going.hold_id >= v_first and going.hold_id < v_end) then 'tasks of it go on'
        when exists (select from idempotency claim where claim.endpoint = 'generate'
                         and claim.created_at < (p_month + interval '1 month 8 days') at time zone 'UTC'
                         and claim.hold_id >= v_first and claim.hold_id < v_end)
            then 'idempotency keys of its tasks are still kept'
        when exists (select from credit_event waiting where waiting.entry_id >= v_first and waiting.entry_id < v_end)
            then 'charges of it are not attributed to grants yet'
        when exists (select from budget_count_place place join budget_count counted using (org_id, count_id)
                     where counted.period = 'total')
            then 'a budget is counting all that was ever spent: try again in a minute'
        when (select count(*) from pg_inherits known
              where known.inhrelid in (to_regclass('hold' || v_suffix), to_regclass('entry' || v_suffix))) < 2
            then 'it has no partition of its own'
    end;
    if v_why is not null then
        raise exception '%', v_why using errcode = 'TG002';
    end if;

    create temporary table leaving on commit drop as
    with newest as materialized (
        select balance.org_id, (select last.place from entry last where last.org_id = balance.org_id and last.place is not null
                                order by last.place desc limit 1) as place
        from org_balance balance)
    select held.org_id, held.hold_id, held.charged, held.windows, held.upstream_task, held.account
    from hold held
    join entry charge on charge.org_id = held.org_id and charge.entry_id = held.hold_id
    join newest on newest.org_id = held.org_id
    where held.hold_id >= v_first and held.hold_id < v_end and charge.entry_id >= v_first and charge.entry_id < v_end
      and held.state = 'SETTLED' and held.late is null and held.by_hand is null and held.seal is not null
      and coalesce(held.drift, 0) = 0 and charge.kind = 'consume' and charge.overrun = 0 and charge.place < newest.place
      and exists (select from vendor_task known where known.upstream_task = held.upstream_task and known.account = held.account
                      and known.org_id = held.org_id and known.hold_id = held.hold_id)
      and not exists (select from content kept where kept.org_id = held.org_id and kept.hold_id = held.hold_id
                          and (kept.first is not null or kept.last is not null));
    analyze pg_temp.leaving, pg_temp.hold, pg_temp.entry, pg_temp.label;
    select count(*), coalesce(sum(task.charged), 0) into left_tasks, left_credits from pg_temp.leaving task;

    insert into archived_charge (org_id, entry_id, month, created_at, user_id, team_id, key_id, task_type, tasks, amount)
    select charge.org_id, uuid_v7(slot.at), p_month, slot.at, charge.user_id, charge.team_id, charge.key_id, charge.task_type,
           count(*), sum(charge.amount)
    from pg_temp.leaving task
    join entry charge on charge.org_id = task.org_id and charge.entry_id = task.hold_id
    cross join lateral (
        select charge.created_at at time zone 'UTC' as clock, date_trunc('day', charge.created_at at time zone 'UTC') as day) utc
    cross join lateral (
        -- months of statements begin within a day of those of UTC, at a quarter of an hour
        select case when extract(day from utc.day) = 1 or extract(day from utc.day + interval '1 day') = 1
                    then date_bin('15 minutes', utc.clock, utc.day) else utc.day end at time zone 'UTC' as at) slot
    where charge.entry_id >= v_first and charge.entry_id < v_end
    group by charge.org_id, slot.at, charge.user_id, charge.team_id, charge.key_id, charge.task_type;

    insert into archived_place (org_id, first_place, last_place, month, amount, balance_after)
    select run.org_id, min(run.place), max(run.place), p_month, sum(run.amount),
           (array_agg(run.balance_after order by run.place desc))[1]
    from (select charge.org_id, charge.place, charge.amount, charge.balance_after,
                 charge.place - row_number() over (partition by charge.org_id order by charge.place) as number
          from pg_temp.leaving task join entry charge on charge.org_id = task.org_id and charge.entry_id = task.hold_id
          where charge.entry_id >= v_first and charge.entry_id < v_end) run
    group by run.org_id, run.number;

    insert into archived_window (org_id, window_id, month, charged)
    select task.org_id, counted.window_id, p_month, sum(task.charged)
    from pg_temp.leaving task cross join lateral unnest(task.windows) counted(window_id)
    group by task.org_id, counted.window_id;

    -- the sums of tasks are of what is in the database
    perform turn.only_one from task_turn turn for update;
    perform count_tasks(array_agg(run.org_id), array_agg(run.first_place - 1), array_agg(least(run.last_place, reached.place)), -1)
    from archived_place run join task_place reached on reached.org_id = run.org_id
    where run.month = p_month and run.first_place <= reached.place;

    insert into archived_month (org_id, month, chain, manifest)
    select seal.org_id, seal.month, seal.chain, p_manifest from month_seal seal where seal.month = p_month;

    foreach v_part in array array['entry', 'label'] loop
        if to_regclass(v_part || v_suffix) is not null then
            execute format('alter table %I disable trigger user', v_part || v_suffix);
        end if;
    end loop;
    with gone as (
        delete from hold held using pg_temp.leaving task, pg_temp.hold filed
        where held.org_id = task.org_id and held.hold_id = task.hold_id and held.hold_id >= v_first and held.hold_id < v_end
          and filed.org_id = task.org_id and filed.hold_id = task.hold_id and held::text = filed::text
        returning held.hold_id
    ) select count(*) into v_rows from gone;
    if v_rows = left_tasks then
        with gone as (
            delete from entry charge using pg_temp.leaving task, pg_temp.entry filed
            where charge.org_id = task.org_id and charge.entry_id = task.hold_id
              and charge.entry_id >= v_first and charge.entry_id < v_end
              and filed.org_id = task.org_id and filed.entry_id = task.hold_id and charge::text = filed::text
            returning charge.entry_id
        ) select count(*) into v_rows from gone;
    end if;
    if v_rows = left_tasks then
        delete from label named using pg_temp.leaving task, pg_temp.label filed
        where named.org_id = task.org_id and named.hold_id = task.hold_id and named.hold_id >= v_first and named.hold_id < v_end
          and filed.org_id = named.org_id and filed.hold_id = named.hold_id and filed.name = named.name
          and filed.value = named.value;
        update vendor_task known set charged = task.charged from pg_temp.leaving task
        where known.upstream_task = task.upstream_task and known.account = task.account
          and known.org_id = task.org_id and known.hold_id = task.hold_id;
        get diagnostics v_rows = row_count;
    end if;
    if v_rows <> left_tasks
       or exists (select from label named join pg_temp.leaving task using (org_id, hold_id)
                  where named.hold_id >= v_first and named.hold_id < v_end) then
        raise exception 'the files do not have every row as it is here: archive the month anew' using errcode = 'TG002';
    end if;
    delete from content marked using pg_temp.leaving task
    where marked.org_id = task.org_id and marked.hold_id = task.hold_id and marked.hold_id >= v_first and marked.hold_id < v_end;
    foreach v_part in array array['entry', 'label'] loop
        if to_regclass(v_part || v_suffix) is not null then
            execute format('alter table %I enable trigger user', v_part || v_suffix);
        end if;
    end loop;
end $$;
