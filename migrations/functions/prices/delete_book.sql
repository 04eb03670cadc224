-- Removes a draft that its editor saw at p_revision (null: whatever it is). Its number is not used again.
--
-- state: of lock_book; it was removed if it was a draft.
create or replace function delete_book(
    p_version integer, p_revision integer,
    out state text, out revision integer
) language plpgsql as $$
begin
    select book.state, book.revision into state, revision from lock_book(p_version, p_revision) book;
    if state <> 'draft' then return; end if;
    delete from price where price.version = p_version;
    delete from price_book book where book.version = p_version;
end $$;
