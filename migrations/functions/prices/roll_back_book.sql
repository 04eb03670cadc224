-- Puts the book in force again that was in force before the present one. p_from: the one that is to go; null: whichever it is.
--
-- outcome: 'done' (version: the one that came back), 'other' (version: the one in force; null: none), 'none_before'.
create or replace function roll_back_book(
    p_from integer,
    out outcome text, out version integer
) language plpgsql as $$
declare
    v_version    integer;
    v_from       timestamptz;
    v_activation bigint;
begin
    perform lock_book(null, null);
    select activation.version, activation.effective_from, activation.activation_id into v_version, v_from, v_activation
    from price_activation activation
    where activation.withdrawn_at is null and activation.effective_from <= clock_timestamp()
    order by activation.effective_from desc, activation.activation_id desc limit 1;
    if p_from is distinct from v_version and p_from is not null then
        outcome := 'other'; version := v_version; return;
    end if;
    select former.version into version from price_activation former
    where former.withdrawn_at is null and former.version <> v_version
      and (former.effective_from, former.activation_id) < (v_from, v_activation)
    order by former.effective_from desc, former.activation_id desc limit 1;
    if not found then outcome := 'none_before'; return; end if;
    update price_book book set effective_from = clock_timestamp(), revision = book.revision + 1
    where book.version = roll_back_book.version;
    outcome := 'done';
end $$;
