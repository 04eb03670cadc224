-- Months of holds that have no row yet are dropped: make_partitions makes them anew, with the index last that the planner shall take
-- while a month is empty (docs/sql.md). What gateways write meanwhile is in `hold_other`, and moves when its month is made.
-- `hold` is locked for as long as that takes: milliseconds.
do $$
declare
    v_month record;
    v_rows  boolean;
begin
    lock table hold in access exclusive mode;
    for v_month in
        select part.oid::regclass as name
        from pg_inherits known join pg_class part on part.oid = known.inhrelid
        where known.inhparent = 'hold'::regclass and part.relname ~ '^hold_\d{4}_\d{2}$'
    loop
        execute format('select exists (select from %s)', v_month.name) into v_rows;
        if not v_rows then
            execute format('alter table hold detach partition %s', v_month.name);
            execute format('drop table %s', v_month.name);
        end if;
    end loop;
end $$;
