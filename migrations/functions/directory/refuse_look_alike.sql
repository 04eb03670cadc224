-- Trigger: a new name does not look like another one that is in use beside it: an organisation's or an identity provider's on the
-- platform, a team's or a user's in its organisation. Arguments: the column of the id, and that of what the name is unique in, if
-- any. A name that is the same is refused by its unique index. Two that are given at the same instant do not see each other.
create or replace function refuse_look_alike() returns trigger language plpgsql as $$
declare
    v_new   constant jsonb := to_jsonb(new);
    v_other text;
begin
    -- the expression of the indexes that end in _look
    execute format(
        'select other.name from %I other
         where translate(lower(normalize(other.name, nfkc)), ''авсԁеһніјкӏморԛѕтуүѵԝхαβεηικμνορτυχγζωıАВСԀЕҺНІЈКӀМОРԚЅТУҮѴԜХΑΒΕΗΙΚΜΝΟΡΤΥΧΓΖΩ'', ''abcdehhijklmopqstyyvwxabehikmvoptuxyzwiabcdehhijklmopqstyyvwxabehikmvoptuxyzw'')
               = translate(lower(normalize($1, nfkc)), ''авсԁеһніјкӏморԛѕтуүѵԝхαβεηικμνορτυχγζωıАВСԀЕҺНІЈКӀМОРԚЅТУҮѴԜХΑΒΕΗΙΚΜΝΟΡΤΥΧΓΖΩ'', ''abcdehhijklmopqstyyvwxabehikmvoptuxyzwiabcdehhijklmopqstyyvwxabehikmvoptuxyzw'')
           and other.deleted_at is null and other.name <> $1 and other.%I::text <> $2 %s limit 1',
        tg_table_name, tg_argv[0],
        case when tg_nargs > 1 then format('and other.%I = $3::uuid', tg_argv[1]) else '' end)
    into v_other using new.name, v_new ->> tg_argv[0], case when tg_nargs > 1 then v_new ->> tg_argv[1] end;
    if v_other is not null then
        raise exception 'the name % looks like %, which is in use: choose one that people can tell from it', new.name, v_other
            using errcode = 'TG001';
    end if;
    return null;
end $$;
