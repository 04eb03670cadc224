-- Trigger: only prices of drafts change. The lock keeps a book from coming into force under an edit.
create or replace function price_of_draft() returns trigger language plpgsql as $$
begin
    perform from price_book book where book.version in (old.version, new.version) for share;
    if exists (select from price_book book
               where book.version in (old.version, new.version) and book.effective_from is not null) then
        raise exception 'price book % is no draft: its prices stay', coalesce(old.version, new.version)
            using errcode = 'restrict_violation';
    end if;
    return coalesce(new, old);
end $$;
