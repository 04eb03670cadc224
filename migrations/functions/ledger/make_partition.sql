-- Makes the partition of `hold`, `entry`, `content` or `label` (p_table) for the month (UTC) of an instant, if there is none. Returns whether
-- it was made.
--
-- What is in the partition `…_other` of that month, because a clock was ahead or nobody made the partition in time, goes over to it.
-- While it is attached, those wait who look for what has no month; who reads or writes by an id does not.
create or replace function make_partition(p_table text, p_at timestamptz) returns boolean language plpgsql as $$
declare
    v_starts constant timestamptz := date_trunc('month', p_at at time zone 'UTC') at time zone 'UTC';
    v_ends   constant timestamptz := (date_trunc('month', p_at at time zone 'UTC') + interval '1 month') at time zone 'UTC';
    v_name   constant text := p_table || to_char(p_at at time zone 'UTC', '_YYYY_MM');
    v_key    constant text := case p_table when 'entry' then 'entry_id' else 'hold_id' end;
    v_other  constant text := p_table || '_other';
    v_vacuum constant text := 'autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05';
    v_moved  bigint;
    v_before record;
begin
    if to_regclass(v_name) is not null then
        return false;
    end if;
    -- the partition of all months until the one that the tables were divided in
    for v_before in
        select from pg_inherits known join pg_class part on part.oid = known.inhrelid
        where known.inhparent = p_table::regclass and part.relname = p_table || '_before'
          and pg_get_expr(part.relpartbound, part.oid) like '%TO (''' || first_id(v_ends) || ''')%'
    loop
        return false;
    end loop;
    execute format('create table %I (like %I including defaults including constraints) with (fillfactor = %s, %s)', v_name, p_table,
                   case p_table when 'hold' then 65 when 'content' then 60 else 100 end, v_vacuum);
    if p_table = 'hold' then
        -- Of indexes that seem equally good, as all do while a table is empty, the planner takes the one that was made last. That
        -- must be the one by the whole key: a plan of the first moment lasts, and by another one it reads all of an organisation.
        execute format('create index on %I (org_id, user_id, hold_id)', v_name);
        execute format('create index on %I (org_id, key_id, hold_id) where key_id is not null', v_name);
        execute format('alter table %I add primary key (org_id, hold_id)', v_name);
    end if;
    execute format('lock table %I in access exclusive mode', v_other);
    execute format('insert into %1$I select strayed.* from %2$I strayed where %3$I >= %4$L and %3$I < %5$L', v_name, v_other, v_key,
                   first_id(v_starts), first_id(v_ends));
    get diagnostics v_moved = row_count;
    if v_moved > 0 then
        -- its rows are only added, by everybody else
        execute format('alter table %I disable trigger user', v_other);
        execute format('delete from %1$I where %2$I >= %3$L and %2$I < %4$L', v_other, v_key, first_id(v_starts), first_id(v_ends));
        execute format('alter table %I enable trigger user', v_other);
    end if;
    execute format('alter table %I attach partition %I for values from (%L) to (%L)', p_table, v_name, first_id(v_starts), first_id(v_ends));
    return true;
end $$;
