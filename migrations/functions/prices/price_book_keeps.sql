-- Trigger: a book that is no draft stays as it is, and what was in force stays so, whoever sets effective_from.
create or replace function price_book_keeps() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' then
        if old.effective_from is null then return old; end if;
        raise exception 'price book % is no draft: it stays', old.version using errcode = 'restrict_violation';
    end if;
    if old.effective_from is not null
       and (new.version, new.name, new.created_at) is distinct from (old.version, old.name, old.created_at) then
        raise exception 'price book % is no draft: it stays as it is', old.version using errcode = 'restrict_violation';
    end if;
    if old.effective_from <= clock_timestamp() and new.effective_from is distinct from old.effective_from
       and coalesce(new.effective_from > clock_timestamp(), true) then
        raise exception 'price book % was in force: it can be put in force at once, or copied', old.version
            using errcode = 'restrict_violation';
    end if;
    return new;
end $$;
