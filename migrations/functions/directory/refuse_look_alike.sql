-- Trigger: keeps how the names in use look, and refuses a new one that looks like another one beside it. Arguments: the column of the
-- id and, unless names are told apart on the whole platform, that of the organisation.
--
-- The same name again is not refused here: where it must be unique, its index refuses it. Two that are given at the same instant do
-- not see each other.
create or replace function refuse_look_alike() returns trigger language plpgsql as $$
declare
    -- as text: by a value of the type `name` no index of texts is looked at
    v_kind   constant text := tg_table_name;
    v_before jsonb;
    v_after  jsonb;
    v_scope  uuid := '00000000-0000-0000-0000-000000000000';
    v_looks  bytea[];
    v_other  text;
begin
    if tg_op <> 'INSERT' then v_before := to_jsonb(old); end if;
    if tg_op <> 'DELETE' then v_after := to_jsonb(new); end if;
    -- what is deleted or revoked has no name in use
    if coalesce(v_before ->> 'deleted_at', v_before ->> 'revoked_at') is not null then v_before := null; end if;
    if coalesce(v_after ->> 'deleted_at', v_after ->> 'revoked_at') is not null then v_after := null; end if;
    if v_before ->> 'name' = v_after ->> 'name' then return null; end if;
    if v_before is not null then
        delete from name_look used where used.kind = v_kind and used.id = v_before ->> tg_argv[0];
    end if;
    if v_after is null then return null; end if;

    if tg_nargs > 1 then v_scope := (v_after ->> tg_argv[1])::uuid; end if;
    v_looks := name_looks(v_after ->> 'name');
    -- before and after the name itself, which may be in use a hundred thousand times
    select other.name into v_other
    from unnest(v_looks) seen(look)
    cross join lateral (
        (select used.name from name_look used
         where used.kind = v_kind and used.scope = v_scope and used.look = seen.look and used.name < v_after ->> 'name'
         order by used.name desc limit 1)
        union all
        (select used.name from name_look used
         where used.kind = v_kind and used.scope = v_scope and used.look = seen.look and used.name > v_after ->> 'name'
         order by used.name limit 1)
    ) other
    limit 1;
    if found then
        raise exception 'the name % looks like %, which is in use: choose one that people can tell from it', v_after ->> 'name', v_other
            using errcode = 'TG001';
    end if;
    insert into name_look (kind, scope, look, id, name)
    select distinct v_kind, v_scope, look, v_after ->> tg_argv[0], v_after ->> 'name' from unnest(v_looks) look;
    return null;
end $$;
