-- Changes of prices come one after the other: each begins here, with the lock that all of them take, and with the book it is
-- about (null: none). p_revision: what the editor has seen; null: whatever it is.
--
-- state: 'draft', 'scheduled', 'effective' (it is or was in force), 'unknown', 'stale'. revision: the present one.
create or replace function lock_book(
    p_version integer, p_revision integer,
    out state text, out revision integer
) language plpgsql as $$
declare
    v_effective_from timestamptz;
begin
    perform from epoch where epoch.name = 'prices' for no key update;
    select book.revision, book.effective_from into revision, v_effective_from
    from price_book book where book.version = p_version for update;
    state := case
        when not found then 'unknown'
        when p_revision <> revision then 'stale'
        when v_effective_from is null then 'draft'
        when v_effective_from > clock_timestamp() then 'scheduled'
        else 'effective'
    end;
end $$;
