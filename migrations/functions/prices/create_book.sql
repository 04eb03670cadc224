-- Adds a draft: the prices of p_copy_of (null: none), with those of the arrays put over them. Answers its version; null: there
-- is no book to be copied.
create or replace function create_book(
    p_name text, p_copy_of integer, p_types text[], p_units text[], p_credits bigint[], p_with_audio bigint[]
) returns integer language plpgsql as $$
declare
    v_version integer;
    v_state   text;
begin
    select book.state into v_state from lock_book(p_copy_of, null) book;
    if p_copy_of is not null and v_state = 'unknown' then return null; end if;
    insert into price_book (name) values (p_name) returning version into v_version;
    insert into price (version, task_type, unit, credits, credits_with_audio)
    select v_version, copied.task_type, copied.unit, copied.credits, copied.credits_with_audio from price copied
    where copied.version = p_copy_of and copied.task_type <> all (p_types);
    insert into price (version, task_type, unit, credits, credits_with_audio)
    select v_version, given.task_type, given.unit, given.credits, given.with_audio
    from unnest(p_types, p_units, p_credits, p_with_audio) given(task_type, unit, credits, with_audio);
    return v_version;
end $$;
