//! The role that gateways run as: it owns nothing, so it can switch no trigger off and change no rule; what is only added it may
//! only add. `migrate` makes the role where its user may, and grants it what gateways do; a gateway's connection takes it where
//! its user may.

use sqlx::{Executor, PgConnection};

/// Whether the user of this connection may act as the role `r`, and the role was granted what gateways need in this database: roles
/// belong to all databases of a server. Membership alone is not enough since PostgreSQL 16.
pub(super) const USABLE: &str = "pg_has_role(session_user, r.oid, \
    case when current_setting('server_version_num')::integer >= 160000 then 'SET' else 'MEMBER' end) \
    and coalesce(has_table_privilege(r.oid, to_regclass('entry'), 'INSERT'), false)";

/// Makes this connection one of the role, if its user may. The search path may name the user.
pub(super) async fn assume(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let assume = format!(
        "select set_config('search_path', (select string_agg(quote_ident(known), ', ') from unnest(current_schemas(false)) known), \
         false), set_config('role', r.rolname, false) from pg_roles r where r.rolname = 'tollgate_app' and {USABLE}"
    );
    connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(assume))).await?;
    Ok(())
}

/// Makes the role, and grants it what it lacks and no more. Where the user may not make roles, an administrator does, and the next
/// `migrate` grants.
pub(super) async fn grant(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    connection.execute(sqlx::raw_sql(GRANT)).await?;
    Ok(())
}

const GRANT: &str = r"do $$
declare
    relation record;
begin
    begin
        if not exists (select from pg_roles where rolname = 'tollgate_app') then
            create role tollgate_app nologin;
        end if;
    exception
        -- it is there, or another database's migration made it at the same moment
        when duplicate_object or unique_violation or insufficient_privilege then null;
    end;
    if not exists (select from pg_roles where rolname = 'tollgate_app') then
        return;
    end if;
    begin
        -- who makes a role is not always allowed to act as it
        if not pg_has_role(session_user, 'tollgate_app', case when current_setting('server_version_num')::integer >= 160000
                                                              then 'SET' else 'MEMBER' end) then
            execute format('grant tollgate_app to %I', session_user);
        end if;
    exception
        when insufficient_privilege then null;
    end;
    if not has_schema_privilege('tollgate_app', current_schema(), 'USAGE') then
        execute format('grant usage on schema %I to tollgate_app', current_schema());
    end if;
    for relation in
        select c.oid::regclass::text as name, wanted.rights
        from pg_class c cross join lateral (
            select case
                when c.relkind = 'v' or c.relname in ('_sqlx_migrations', 'archived_charge', 'archived_month', 'archived_place',
                                                      'archived_window', 'history_seal', 'letter_look', 'schema_definition', 'schema_requirement',
                                                      'transition', 'tollgate_demo') then array['SELECT']
                -- who shares a row by a lock must be allowed to write it
                when c.relname = 'archive_turn' then array['SELECT', 'UPDATE']
                -- its names are replaced by pseudonyms: two columns, below
                when c.relname = 'audit_log' then array['INSERT', 'SELECT']
                when c.relname in ('hold', 'price_activation', 'key_policy') then array['INSERT', 'SELECT', 'UPDATE']
                -- what refuses changes of its rows
                when exists (select from pg_trigger t join pg_proc p on p.oid = t.tgfoid
                             where t.tgrelid = c.oid and p.proname = 'refuse_change' and t.tgtype & 1 = 1)
                    then array['INSERT', 'SELECT']
                else array['DELETE', 'INSERT', 'SELECT', 'UPDATE'] end) wanted(rights)
        where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p', 'v')
          -- partitions are reached through their table alone
          and not c.relispartition
          and pg_has_role(c.relowner, 'USAGE')
          and not exists (select from pg_depend d
                          where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
          and array(select right_ from unnest(array['DELETE', 'INSERT', 'REFERENCES', 'SELECT', 'TRIGGER', 'TRUNCATE', 'UPDATE'])
                    right_ where has_table_privilege('tollgate_app', c.oid, right_) order by right_) <> wanted.rights
    loop
        execute format('revoke all on table %s from tollgate_app', relation.name);
        execute format('grant %s on table %s to tollgate_app', array_to_string(relation.rights, ', '), relation.name);
    end loop;
    if not (has_column_privilege('tollgate_app', 'audit_log', 'before', 'UPDATE')
            and has_column_privilege('tollgate_app', 'audit_log', 'after', 'UPDATE')) then
        grant update (before, after) on audit_log to tollgate_app;
    end if;
    -- what takes its turn by a lock on a row there (provider_conflict) must be allowed to write a column
    if not has_column_privilege('tollgate_app', 'schema_definition', 'digest', 'UPDATE') then
        grant update (digest) on schema_definition to tollgate_app;
    end if;
    -- an export of the audit log reads how far its ids are given out
    for relation in
        select c.oid::regclass::text as name from pg_class c
        where c.relnamespace = current_schema()::regnamespace and c.relkind = 'S' and pg_has_role(c.relowner, 'USAGE')
          and not (has_sequence_privilege('tollgate_app', c.oid, 'USAGE') and has_sequence_privilege('tollgate_app', c.oid, 'SELECT'))
    loop
        execute format('grant usage, select on sequence %s to tollgate_app', relation.name);
    end loop;
    for relation in
        select p.oid::regprocedure::text as name from pg_proc p
        where p.pronamespace = current_schema()::regnamespace and pg_has_role(p.proowner, 'USAGE')
          and not has_function_privilege('tollgate_app', p.oid, 'EXECUTE')
    loop
        execute format('grant execute on routine %s to tollgate_app', relation.name);
    end loop;
end $$";
