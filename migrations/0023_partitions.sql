-- Holds, entries and content in a partition for each month of their id: ids are ascending with the time (UUIDv7), so that what has
-- an id is looked for in one partition, and a month that is over can be taken out whole. What has an id of no month that has a
-- partition (of a random id, or of a clock that is wrong) is in the partition `…_other`.
--
-- What there is becomes the partition `…_before` of all months until the present one; nothing is copied, but it is read once
-- while creates and ends of tasks wait: some seconds for ten million rows. A table without rows has no such partition.
--
-- Triggers, views and grants go over to the new tables as they are: a gateway that serves meanwhile finds them at any time.

-- First the balance rows, as every writer, or this waits for a writer that waits for this.
--
-- How many entries the organisation has: the place of the last one. Null: not known, it is looked for once.
alter table org_balance add column entries bigint check (entries >= 0);

do $$
declare
    v_month   constant timestamp := date_trunc('month', now() at time zone 'UTC');
    v_kept    jsonb;
    v_table   record;
    v_each    record;
    v_old     text;
    v_storage text;
    v_bound   uuid;
    v_first   integer;
    v_rows    boolean;
begin
    lock table credit_lot, hold, entry, content in access exclusive mode;
    alter table credit_lot drop constraint credit_lot_org_id_entry_id_fkey;

    -- What is to be made again on the new tables: triggers, views, grants.
    with recursive seen (oid, depth) as (
        select relation::regclass::oid, 0 from unnest(array['hold', 'entry', 'content']) relation
        union
        select rule.ev_class, seen.depth + 1
        from seen join pg_depend need on need.refobjid = seen.oid and need.refclassid = 'pg_class'::regclass
                                     and need.classid = 'pg_rewrite'::regclass
        join pg_rewrite rule on rule.oid = need.objid and rule.ev_class <> seen.oid
    ), affected as (
        select seen.oid, max(seen.depth) as depth from seen group by seen.oid
    )
    select jsonb_build_object(
        'views', (select coalesce(jsonb_agg(jsonb_build_array(affected.oid::regclass::text, pg_get_viewdef(affected.oid)) order by affected.depth), '[]')
                  from affected where affected.depth > 0),
        'triggers', (select coalesce(jsonb_agg(jsonb_build_array(pg_get_triggerdef(kept.oid), kept.tgname, kept.tgrelid::regclass::text)), '[]')
                     from affected join pg_trigger kept on kept.tgrelid = affected.oid and not kept.tgisinternal),
        'grants', (select coalesce(jsonb_agg(jsonb_build_array(affected.oid::regclass::text, given.privilege_type,
                                                      case when given.grantee = 0 then 'public' else quote_ident(role.rolname) end)), '[]')
                   from affected join pg_class kept on kept.oid = affected.oid
                   cross join lateral aclexplode(kept.relacl) given left join pg_roles role on role.oid = given.grantee
                   where given.grantee <> kept.relowner))
    into v_kept;
    for v_each in select entry.value ->> 0 as name from jsonb_array_elements(v_kept -> 'views') with ordinality entry(value, ord)
                  order by entry.ord desc
    loop
        execute format('drop view if exists %s', v_each.name);
    end loop;
    for v_each in select entry.value ->> 1 as name, entry.value ->> 2 as relation from jsonb_array_elements(v_kept -> 'triggers') entry(value)
    loop
        execute format('drop trigger %I on %s', v_each.name, v_each.relation);
    end loop;
    drop index entry_by_place, entry_correction;

    for v_table in
        select * from (values ('hold', 'hold_id', 'fillfactor = 65'), ('entry', 'entry_id', 'fillfactor = 100'),
                              ('content', 'hold_id', 'fillfactor = 60')) known(name, key, storage)
    loop
        v_old := v_table.name || '_before';
        execute format('alter table %I rename to %I', v_table.name, v_old);
        v_storage := v_table.storage || ', autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.05, '
                     || 'autovacuum_analyze_scale_factor = 0.05';
        execute format('alter table %I set (%s)', v_old, v_storage);
        create temporary table index_kept on commit drop as
            select index.indexrelid::regclass::text as name, pg_get_indexdef(index.indexrelid) as made
            from pg_index index where index.indrelid = v_old::regclass and not index.indisprimary;
        for v_each in select index.indexrelid::regclass::text as name from pg_index index where index.indrelid = v_old::regclass
        loop
            execute format('alter index %s rename to %I', v_each.name, v_each.name || '_before');
        end loop;
        execute format('create table %I (like %I including defaults including constraints) partition by range (%I)',
                       v_table.name, v_old, v_table.key);
        execute format('alter table %I add constraint %I primary key (org_id, %I)', v_table.name, v_table.name || '_pkey', v_table.key);
        for v_each in select kept.name, replace(kept.made, ' ' || v_old || ' ', ' ' || v_table.name || ' ') as made from index_kept kept
        loop
            execute replace(replace(v_each.made, '.' || v_old || ' ', '.' || v_table.name || ' '), 'ON ONLY ', 'ON ');
        end loop;
        drop table index_kept;

        execute format('select exists (select from %I)', v_old) into v_rows;
        v_first := case when v_rows then 1 else 0 end;
        v_bound := (lpad(to_hex((extract(epoch from v_month + v_first * interval '1 month') * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;
        for v_each in
            select v_month + ahead * interval '1 month' as starts from generate_series(v_first, 3) ahead
        loop
            execute format('create table %I partition of %I for values from (%L) to (%L) with (%s)',
                v_table.name || to_char(v_each.starts, '_YYYY_MM'), v_table.name,
                (lpad(to_hex((extract(epoch from v_each.starts) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid,
                (lpad(to_hex((extract(epoch from v_each.starts + interval '1 month') * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid,
                v_storage);
        end loop;
        execute format('create table %I partition of %I default with (%s)', v_table.name || '_other', v_table.name, v_storage);
        if v_rows then
            -- What has a later id than there is a month for, before it becomes a partition that must not have it.
            execute format('create temporary table astray on commit drop as select * from %I where %I >= %L', v_old, v_table.key, v_bound);
            execute format('delete from %I where %I >= %L', v_old, v_table.key, v_bound);
            execute format('alter table %I attach partition %I for values from (minvalue) to (%L)', v_table.name, v_old, v_bound);
            execute format('insert into %I (%s) select %2$s from astray', v_table.name,
                (select string_agg(quote_ident(column_.attname), ', ') from pg_attribute column_
                 where column_.attrelid = v_table.name::regclass and column_.attnum > 0 and not column_.attisdropped));
            drop table astray;
        else
            execute format('drop table %I', v_old);
        end if;
    end loop;

    -- Places are counted under the balance row, and the audit proves that none is missing or there twice.
    create index entry_by_place on entry (org_id, place) where place is not null;

    for v_each in select entry.value ->> 0 as made from jsonb_array_elements(v_kept -> 'triggers') entry(value)
    loop
        execute v_each.made;
    end loop;
    for v_each in
        select entry.value ->> 0 as name, entry.value ->> 1 as made
        from jsonb_array_elements(v_kept -> 'views') with ordinality entry(value, ord) order by entry.ord
    loop
        execute format('create %s %s as %s', 'view', v_each.name, v_each.made);
    end loop;
    for v_each in
        select entry.value ->> 0 as relation, entry.value ->> 1 as granted, entry.value ->> 2 as grantee
        from jsonb_array_elements(v_kept -> 'grants') entry(value)
    loop
        execute format('grant %s on %s to %s', v_each.granted, v_each.relation, v_each.grantee);
    end loop;
    alter table credit_lot add foreign key (org_id, entry_id) references entry;
end $$;

-- The corrections of a hold, counted: that none is booked twice.
create table correction (
    org_id   uuid not null,
    hold_id  uuid not null,
    seq      integer not null,
    entry_id uuid not null,
    primary key (org_id, hold_id, seq)
);
insert into correction (org_id, hold_id, seq, entry_id)
select entry.org_id, entry.hold_id, entry.seq, entry.entry_id from entry where entry.kind = 'correct';

insert into schema_requirement values
    (23, 'gateways that do not know partitions ask for rights on each of them');
