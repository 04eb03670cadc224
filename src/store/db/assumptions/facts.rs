//! What is asked of the database; what follows from the answers is in `shortfalls`.

mod shortfalls;

use serde::Deserialize;
use sqlx::PgConnection;
use sqlx::types::Json;

use crate::store::db::definitions;
use crate::store::db::migrations::MIGRATIONS;
use crate::store::db::role;

/// What the database says about itself and about the role that asks.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Facts {
    version: i32,
    database: String,
    role: String,
    /// The schema that new tables go into; nothing if the role may use none of its search path.
    schema: Option<String>,
    search_path: String,
    encoding: String,
    synchronous_commit: String,
    /// Where that setting comes from, in the words of `pg_settings`.
    synchronous_commit_source: String,
    synchronous_standbys: bool,
    /// `replica`: no trigger fires, and no foreign key is looked at.
    replication_role: String,
    /// Where that setting comes from, in the words of `pg_settings`.
    replication_role_source: String,
    fsync: String,
    full_page_writes: String,
    /// Whether the server, the database or the role says that its data may be lost: that of tests.
    data_may_be_lost: bool,
    may_create_schemas: bool,
    may_create_tables: bool,
    /// Whether the schema `reporting` exists, and the role may make views in it.
    reporting: bool,
    may_report: bool,
    /// Whether the tables of the ledger are there.
    ours: bool,
    /// Whether there is a table `_sqlx_migrations`.
    history: bool,
    /// Relations and functions in our schemas, except those of extensions, a demo's mark, and the history.
    objects: Vec<String>,
    /// Relations in our schemas that belong to a role of which the connected one is no member, each with its owner.
    not_owned: Vec<String>,
    /// Tables that the role may not read, or not write as gateways do.
    unreadable: Vec<String>,
    unwritable: Vec<String>,
    /// Functions that gateways call and that the role may not call.
    uncallable: Vec<String>,
    /// The role that gateways run as, if it is another one than the user's.
    serves_as: Option<String>,
    /// Whether the role `tollgate_app` exists, and whether the user may act as it.
    app: bool,
    app_usable: bool,
    /// Whether the role of dashboards exists, and whether there is something that it may not read.
    reader: bool,
    reader_lacks: bool,
    monitors: bool,
    /// Whether the history is that of our migrations.
    #[serde(skip)]
    our_history: bool,
}

/// All but the history, in one snapshot: a migration that runs at the same moment is seen as a whole or not at all.
const ASK: &str = "
    with ours(schema) as (
        select to_regnamespace(quote_ident(current_schema())) union all select to_regnamespace('reporting')
    ), relation as (
        select c.oid, c.relname::text as name, c.relkind, c.relowner, c.relnamespace, c.relispartition
        from pg_class c join ours on c.relnamespace = ours.schema
        where c.relkind in ('r', 'p', 'f', 'v', 'm', 'S')
          and not exists (select from pg_depend d
                          where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
    ), routine as (
        select p.oid, p.proname::text as name
        from pg_proc p join ours on p.pronamespace = ours.schema
        where not exists (select from pg_depend d
                          where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
    ), kept as (
        select oid, name, oid in (
                   select t.tgrelid from pg_trigger t join pg_proc p on p.oid = t.tgfoid
                   where p.proname = 'refuse_change') as only_added
        from relation
        where relkind in ('r', 'p') and not relispartition and relnamespace = to_regnamespace(quote_ident(current_schema()))
    )
    select to_jsonb(facts) from (
    select current_setting('server_version_num')::integer as version,
           current_database()::text as database,
           current_user::text as role,
           current_schema()::text as schema,
           current_setting('search_path') as search_path,
           pg_encoding_to_char(db.encoding)::text as encoding,
           coalesce(current_setting('synchronous_commit', true), '') as synchronous_commit,
           coalesce((select source from pg_settings where name = 'synchronous_commit'), '')
               as synchronous_commit_source,
           coalesce(current_setting('synchronous_standby_names', true), '') <> '' as synchronous_standbys,
           coalesce(current_setting('session_replication_role', true), '') as replication_role,
           coalesce((select source from pg_settings where name = 'session_replication_role'), '')
               as replication_role_source,
           coalesce(current_setting('fsync', true), '') as fsync,
           coalesce(current_setting('full_page_writes', true), '') as full_page_writes,
           coalesce(current_setting('tollgate.data_may_be_lost', true), '') in ('on', 'true', 'yes', '1')
               as data_may_be_lost,
           has_database_privilege(db.oid, 'CREATE') as may_create_schemas,
           coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) as may_create_tables,
           to_regnamespace('reporting') is not null as reporting,
           coalesce(has_schema_privilege(to_regnamespace('reporting')::oid, 'CREATE'), false) as may_report,
           exists (select from relation where name = 'schema_definition')
               and exists (select from relation where name = 'schema_requirement') as ours,
           exists (select from relation where name = '_sqlx_migrations') as history,
           array(select name from relation where name not in ('_sqlx_migrations', 'tollgate_demo')
                 union select name || '()' from routine order by 1) as objects,
           array(select name || ' of ' || pg_get_userbyid(relowner) from relation
                 where not pg_has_role(relowner, 'USAGE') order by name) as not_owned,
           array(select name from kept where not has_table_privilege(oid, 'SELECT') order by name) as unreadable,
           array(select name from kept
                 where name not in ('_sqlx_migrations', 'archive_turn', 'archived_charge', 'archived_month', 'archived_place',
                                    'archived_window', 'history_seal', 'letter_look', 'schema_definition', 'schema_requirement',
                                    'tollgate_demo', 'transition')
                   and not (has_table_privilege(oid, 'INSERT')
                            and (only_added or has_table_privilege(oid, 'UPDATE')))
                 order by name) as unwritable,
           array(select name from routine
                 where name = any ($1) and not has_function_privilege(oid, 'EXECUTE') order by name) as uncallable,
           nullif(current_user::text, session_user::text) as serves_as,
           exists (select from pg_roles where rolname = 'tollgate_app') as app,
           coalesce((select /*usable*/ from pg_roles r where r.rolname = 'tollgate_app'), false) as app_usable,
           exists (select from pg_roles where rolname = 'tollgate_reader') as reader,
           coalesce((select not has_schema_privilege(r.oid, to_regnamespace('reporting')::oid, 'USAGE')
                         or exists (select from relation
                                    where relnamespace = to_regnamespace('reporting') and relkind = 'v'
                                      and not has_table_privilege(r.oid, relation.oid, 'SELECT'))
                     from pg_roles r where r.rolname = 'tollgate_reader'), false) as reader_lacks,
           pg_has_role('pg_monitor', 'USAGE') as monitors
    from pg_database db where db.datname = current_database()) facts";

impl Facts {
    pub(super) async fn read(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let ask = ASK.replace("/*usable*/", role::USABLE);
        let Json(mut facts): Json<Self> = sqlx::query_scalar(sqlx::AssertSqlSafe(ask))
            .bind(definitions::called_by_gateways())
            .fetch_one(&mut *connection)
            .await?;
        if facts.history {
            facts.our_history = our_history(connection).await?;
        }
        Ok(facts)
    }

    /// Takes over what a gateway's own connection may.
    pub(super) fn serve_as(&mut self, gateway: Self) {
        self.serves_as = gateway.serves_as;
        self.unreadable = gateway.unreadable;
        self.unwritable = gateway.unwritable;
        self.uncallable = gateway.uncallable;
    }
}

/// Whether the history is that of our migrations, or empty, as after a first migration that failed.
async fn our_history(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let first: Result<Option<String>, sqlx::Error> =
        sqlx::query_scalar("select description::text from _sqlx_migrations order by version limit 1")
            .fetch_optional(connection)
            .await;
    match first {
        Ok(first) => {
            Ok(first
                .is_none_or(|first| MIGRATIONS.iter().next().is_some_and(|ours| ours.description == first)))
        }
        // Columns of another tool. A missing right is told with the other rights.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42703") => Ok(false),
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42501") => Ok(true),
        Err(error) => Err(error),
    }
}
