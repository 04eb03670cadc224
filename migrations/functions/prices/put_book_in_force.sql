-- Puts a book in force from p_at on (null: from now). Only a book that was never in force can be scheduled.
--
-- outcome: 'done'; 'unknown', 'stale' (figure: its revision), 'in_the_past', 'empty', 'taken' (figure: the book that comes into
-- force at that instant), 'was_in_force'.
create or replace function put_book_in_force(
    p_version integer, p_revision integer, p_at timestamptz,
    out outcome text, out figure integer
) language plpgsql as $$
declare
    v_state    text;
    v_in_force integer;
begin
    select book.state, book.revision into v_state, figure from lock_book(p_version, p_revision) book;
    if v_state in ('unknown', 'stale') then outcome := v_state; return; end if;
    if p_at <= clock_timestamp() then outcome := 'in_the_past'; return; end if;
    if not exists (select from price where price.version = p_version) then outcome := 'empty'; return; end if;
    select activation.version into figure from price_activation activation
    where activation.withdrawn_at is null and activation.effective_from = p_at and activation.version <> p_version limit 1;
    if found then outcome := 'taken'; return; end if;
    if p_at is not null and v_state = 'effective' then outcome := 'was_in_force'; return; end if;
    outcome := 'done';
    select activation.version into v_in_force from price_activation activation
    where activation.withdrawn_at is null and activation.effective_from <= clock_timestamp()
    order by activation.effective_from desc, activation.activation_id desc limit 1;
    if p_at is null and v_in_force = p_version then return; end if;
    update price_book book set effective_from = coalesce(p_at, clock_timestamp()), revision = book.revision + 1
    where book.version = p_version;
end $$;
