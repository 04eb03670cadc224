-- Takes a schedule back while its instant is to come: the book is a draft again.
--
-- outcome: 'done'; 'unknown', 'stale' (revision: the present one), 'not_scheduled', 'in_force' (it has just come into force).
create or replace function unschedule_book(
    p_version integer, p_revision integer,
    out outcome text, out revision integer
) language plpgsql as $$
begin
    select book.state, book.revision into outcome, revision from lock_book(p_version, p_revision) book;
    if outcome in ('unknown', 'stale') then return; end if;
    if outcome <> 'scheduled' then outcome := 'not_scheduled'; return; end if;
    update price_book book set effective_from = null, revision = book.revision + 1
    where book.version = p_version and book.effective_from > clock_timestamp();
    outcome := case when found then 'done' else 'in_force' end;
end $$;
