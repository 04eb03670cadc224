-- Trigger: each time that effective_from of a book is set is an activation; one that has not begun is withdrawn by the next.
create or replace function price_book_activates() returns trigger language plpgsql as $$
begin
    if tg_op = 'UPDATE' then
        if new.effective_from is not distinct from old.effective_from then return null; end if;
        update price_activation set withdrawn_at = clock_timestamp()
        where version = new.version and withdrawn_at is null and effective_from > clock_timestamp();
    end if;
    if new.effective_from is not null then
        insert into price_activation (version, effective_from, actor)
        values (new.version, new.effective_from,
                coalesce(nullif(current_setting('tollgate.audit', true), '')::jsonb ->> 'actor', 'database:' || session_user));
    end if;
    return null;
end $$;
