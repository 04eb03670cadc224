-- Gives back to the database what detach_month took out of it, as one step. The caller has loaded the files of the archive into
-- temporary tables `hold`, `entry` and `label`, and has proved that they have what was sealed; p_manifest: the digest of their manifest.
-- Refusals are exceptions with the code TG002. Content that was erased stays erased.
create or replace function restore_month(p_month date, p_manifest text, out back_tasks bigint, out back_credits bigint)
language plpgsql set search_path = public, pg_temp set lock_timeout = '2s' set plan_cache_mode = force_custom_plan
set max_parallel_workers_per_gather = 0 set work_mem = '64MB' as $$
declare
    v_first  constant uuid := first_id(p_month::timestamp at time zone 'UTC');
    v_end    constant uuid := first_id((p_month + interval '1 month') at time zone 'UTC');
    v_suffix constant text := to_char(p_month, '_YYYY_MM');
    v_why    text;
    v_table  text;
    v_names  text;
begin
    perform turn.only_one from archive_turn turn for update;
    v_why := case
        when not exists (select from archived_month known where known.month = p_month) then 'it is not archived'
        when exists (select from archived_month known where known.month = p_month and known.manifest <> p_manifest)
            then 'these are not the files that it left for'
        when exists (select from budget_count_place place join budget_count counted using (org_id, count_id)
                     where counted.period = 'total')
            then 'a budget is counting all that was ever spent: try again in a minute'
    end;
    if v_why is not null then
        raise exception '%', v_why using errcode = 'TG002';
    end if;

    create temporary table coming on commit drop as
    select filed.org_id, filed.hold_id, filed.charged, filed.upstream_task, filed.account
    from pg_temp.hold filed
    where not exists (select from hold here where here.org_id = filed.org_id and here.hold_id = filed.hold_id
                          and here.hold_id >= v_first and here.hold_id < v_end);
    analyze pg_temp.coming, pg_temp.hold, pg_temp.entry, pg_temp.label;
    select count(*), coalesce(sum(task.charged), 0) into back_tasks, back_credits from pg_temp.coming task;
    if exists (
        select from (select task.org_id, count(*) as tasks, -sum(task.charged) as amount from pg_temp.coming task
                     group by task.org_id) back
        full join (select known.org_id, sum(known.tasks) as tasks, sum(known.amount) as amount from archived_charge known
                   where known.month = p_month group by known.org_id) gone using (org_id)
        where (back.tasks, back.amount) is distinct from (gone.tasks, gone.amount))
    then
        raise exception 'the files do not have what is missing here' using errcode = 'TG002';
    end if;

    foreach v_table in array array['hold', 'entry', 'label'] loop
        continue when to_regclass(v_table || v_suffix) is null;
        select string_agg(format('%I', known.attname), ', ' order by known.attnum) into v_names from pg_attribute known
        where known.attrelid = v_table::regclass and known.attnum > 0 and not known.attisdropped;
        -- Into the partition itself: what was counted and placed once is not counted and placed again.
        if v_table <> 'hold' then
            execute format('alter table %I disable trigger user', v_table || v_suffix);
        end if;
        execute format('insert into %I (%s) select %s from pg_temp.%I filed join pg_temp.coming task on task.org_id = filed.org_id '
                       'and task.hold_id = filed.%I', v_table || v_suffix, v_names,
                       (select string_agg(format('filed.%I', known.attname), ', ' order by known.attnum) from pg_attribute known
                        where known.attrelid = v_table::regclass and known.attnum > 0 and not known.attisdropped),
                       v_table, case v_table when 'entry' then 'entry_id' else 'hold_id' end);
        if v_table <> 'hold' then
            execute format('alter table %I enable trigger user', v_table || v_suffix);
        end if;
    end loop;

    update vendor_task known set charged = null from pg_temp.coming task
    where known.upstream_task = task.upstream_task and known.account = task.account
      and known.org_id = task.org_id and known.hold_id = task.hold_id;
    perform turn.only_one from task_turn turn for update;
    perform count_tasks(array_agg(run.org_id), array_agg(run.first_place - 1), array_agg(least(run.last_place, reached.place)), 1)
    from archived_place run join task_place reached on reached.org_id = run.org_id
    where run.month = p_month and run.first_place <= reached.place;
    delete from archived_charge known where known.month = p_month;
    delete from archived_place known where known.month = p_month;
    delete from archived_window known where known.month = p_month;
    delete from archived_month known where known.month = p_month;
end $$;
