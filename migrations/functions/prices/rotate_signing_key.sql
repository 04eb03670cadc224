-- Makes a newer key for quotes; answers its generation.
create or replace function rotate_signing_key(p_key bytea) returns integer language plpgsql as $$
declare
    v_generation integer;
begin
    perform lock_book(null, null);
    insert into signing_key (generation, key)
    select coalesce(max(former.generation), 0) + 1, p_key from signing_key former
    returning generation into v_generation;
    return v_generation;
end $$;
