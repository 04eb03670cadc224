-- Makes the partitions of this month and of the next three where they are missing, and guards that partitions lack. Returns how many
-- were made. A month that cannot be made now is left to the next call: until then its rows are in the partition `…_other`.
--
-- Gateways may call it although they may make no tables, so it takes no arguments: it runs with the rights of the owner.
create or replace function make_partitions() returns integer
language plpgsql security definer set search_path = public, pg_temp set lock_timeout = '2s' as $$
declare
    v_made  integer := 0;
    v_table text;
    v_part  regclass;
begin
    foreach v_table in array array['hold', 'entry', 'content', 'label'] loop
        for v_ahead in 0..3 loop
            begin
                if make_partition(v_table, ((date_trunc('month', now() at time zone 'UTC') + v_ahead * interval '1 month') at time zone 'UTC')) then
                    v_made := v_made + 1;
                end if;
            exception
                -- somebody else makes it; a lock was not to be had; or a grant that expires refers to an entry that would go over
                when duplicate_table or unique_violation or lock_not_available or deadlock_detected or foreign_key_violation then
                    raise warning 'the partition of % for % months ahead was not made: %', v_table, v_ahead, sqlerrm;
            end;
        end loop;
    end loop;
    -- Triggers for each row are those of the whole table; this one is not.
    for v_part in
        select known.inhrelid::regclass from pg_inherits known
        where known.inhparent = 'entry'::regclass
          and not exists (select from pg_trigger guard where guard.tgrelid = known.inhrelid and guard.tgname = 'entry_no_truncate')
    loop
        execute format('create trigger entry_no_truncate before truncate on %s for each statement execute function refuse_change()', v_part);
    end loop;
    if v_made > 0 then
        -- Of a table in partitions nobody else keeps statistics.
        begin
            analyze hold, entry, content, label;
        exception
            when lock_not_available or deadlock_detected then null;
        end;
    end if;
    return v_made;
end $$;
revoke all on function make_partitions() from public;
