//! Functions, triggers and views: the database has what the files define, and `migrate` brings there what has changed.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{AssertSqlSafe, Executor, PgConnection};

use crate::house::schema::{another, complaint, run};
use crate::support::database::{TestDatabase, until};
use crate::support::schema::files;

/// What a database has in our schemas: kind and name, and its whole definition.
async fn objects(connection: &mut PgConnection) -> BTreeMap<String, String> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "select 'function ' || p.oid::regprocedure, pg_get_functiondef(p.oid) || coalesce(p.proacl::text, '') \
         from pg_proc p where p.pronamespace::regnamespace::text in ('public', 'reporting') \
         union all \
         select 'trigger ' || t.tgname || ' on ' || t.tgrelid::regclass, pg_get_triggerdef(t.oid) \
         from pg_trigger t join pg_class c on c.oid = t.tgrelid \
         where not t.tgisinternal and not c.relispartition \
         union all \
         select 'view ' || c.oid::regclass, pg_get_viewdef(c.oid) \
         from pg_class c where c.relkind = 'v' and c.relnamespace::regnamespace::text in ('public', 'reporting')",
    )
    .fetch_all(connection)
    .await
    .unwrap();
    rows.into_iter().collect()
}

/// Kind and name of everything that the files define; of functions without their arguments.
fn defined() -> BTreeSet<String> {
    let files = files();
    let lines = files.values().flat_map(|text| text.lines());
    lines
        .filter_map(|line| line.strip_prefix("create or replace "))
        .map(|line| {
            let words: Vec<&str> = line.split([' ', '(']).collect();
            match words[0] {
                "trigger" => {
                    let on = words.iter().position(|word| *word == "on").unwrap();
                    format!("trigger {} on {}", words[1], words[on + 1])
                }
                "procedure" => format!("function {}", words[1]),
                kind => format!("{kind} {}", words[1]),
            }
        })
        .collect()
}

/// What is missing in the database, is there without a file, or is defined otherwise.
async fn differences(db: &TestDatabase) -> Vec<String> {
    let mut change = db.pool().begin().await.unwrap();
    let before = objects(&mut change).await;
    let mut found = Vec::new();
    let known = defined();
    for object in before.keys() {
        let name = object.split('(').next().unwrap();
        if !known.contains(name) {
            found.push(format!("no file defines {object}"));
        }
    }
    for (name, text) in files() {
        // A view that is missing is made before those that are made of it.
        if name.contains('/') && name != "views/organisations" {
            let text =
                if name == "views/balances" { files()["views/organisations"].clone() + &text } else { text };
            sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *change).await.unwrap();
        }
    }
    for (object, after) in objects(&mut change).await {
        match before.get(&object) {
            None => found.push(format!("the database lacks {object}")),
            Some(before) if *before != after => found.push(format!("{object} differs")),
            Some(_) => {}
        }
    }
    // A function with other arguments than the file's is not touched by it.
    let bodies: BTreeSet<String> =
        files().values().filter_map(|text| Some(text.split("$$").nth(1)?.to_owned())).collect();
    let rows: Vec<(String, String)> = sqlx::query_as(
        "select oid::regprocedure::text, prosrc from pg_proc where pronamespace::regnamespace::text in ('public', 'reporting')",
    )
    .fetch_all(&mut *change)
    .await
    .unwrap();
    found.extend(
        rows.into_iter()
            .filter(|(_, body)| !bodies.contains(body))
            .map(|(name, _)| format!("no file has the text of {name}")),
    );
    change.rollback().await.unwrap();
    found
}

#[tokio::test]
async fn the_database_has_what_the_files_define() {
    let db = TestDatabase::new().await;
    assert_eq!(differences(&db).await, [""; 0]);

    // Would it be noticed?
    for (change, noticed) in [
        ("drop function next_version cascade", "the database lacks function next_version()"),
        (
            "create function forgotten() returns void language sql as ''",
            "no file defines function forgotten()",
        ),
        (
            "create or replace function next_version() returns trigger language plpgsql as 'begin return new; end'",
            "function next_version() differs",
        ),
        ("alter function saturated(numeric) volatile", "function saturated(numeric) differs"),
        (
            "create function reaches(integer) returns boolean language sql as 'select true'",
            "no file has the text of reaches(integer)",
        ),
        (
            "grant execute on function reporting.sessions_of_owner() to public",
            "function reporting.sessions_of_owner() differs",
        ),
        ("drop trigger entry_audit on entry", "the database lacks trigger entry_audit on entry"),
        (
            "create or replace trigger org_audit after insert on org for each row execute function audit_change('org', 'org_id')",
            "trigger org_audit on org differs",
        ),
        (
            "create trigger other before truncate on org for each statement execute function refuse_change()",
            "no file defines trigger other on org",
        ),
        ("create view reporting.more as select 1", "no file defines view reporting.more"),
        ("alter view reporting.balances rename to worths", "the database lacks view reporting.balances"),
    ] {
        let mut db = TestDatabase::new().await;
        // The audit misses a guard of the books too.
        db.expect_broken();
        run(&db, change).await;
        let found = differences(&db).await;
        assert!(found.iter().any(|difference| difference == noticed), "{change}: {found:?}");
    }
}

/// Makes it look as if an older version had been the last to migrate.
const OLDER: &str =
    "update schema_definition set revision = 1, digest = decode(repeat('00', 32), 'hex') where name like ";

async fn ids(db: &TestDatabase) -> BTreeMap<String, String> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "select proname::text, xmin::text from pg_proc where pronamespace = 'public'::regnamespace",
    )
    .fetch_all(db.pool())
    .await
    .unwrap();
    rows.into_iter().collect()
}

#[tokio::test]
async fn migrate_applies_what_has_changed_and_nothing_else() {
    let db = TestDatabase::new().await;
    let before = ids(&db).await;
    db.database().migrate().await.unwrap();
    assert_eq!(ids(&db).await, before);

    run(&db, "create or replace function next_version() returns trigger language plpgsql as 'begin return new; end'").await;
    run(&db, &format!("{OLDER} '%/next_version'")).await;
    db.database().migrate().await.unwrap();
    assert_eq!(differences(&db).await, [""; 0]);
    let touched: Vec<String> =
        ids(&db).await.into_iter().filter(|(name, id)| before[name] != *id).map(|(name, _)| name).collect();
    assert_eq!(touched, ["next_version"]);
    let digest = "select count(*) from schema_definition where digest = decode(repeat('00', 32), 'hex')";
    assert_eq!(sqlx::query_scalar::<_, i64>(digest).fetch_one(db.pool()).await.unwrap(), 0);
}

#[tokio::test]
async fn what_only_sql_calls_may_change_its_form_and_what_gateways_call_keeps_the_former_beside_the_new_one()
{
    let db = TestDatabase::new().await;
    run(
        &db,
        "drop function saturated(numeric); create function saturated(double precision) returns bigint language sql as 'select 7::bigint'; \
         drop function reaches(numeric, bigint, integer); \
         create function reaches(numeric, bigint, integer) returns integer language sql as 'select 1'; \
         create function reaches(numeric) returns integer language sql as 'select 1'",
    )
    .await;
    run(&db, &format!("{OLDER} '%/reaches' or name like '%/saturated'")).await;
    db.database().migrate().await.unwrap();
    let older: i64 =
        sqlx::query_scalar("select saturated(1::double precision)").fetch_one(db.pool()).await.unwrap();
    assert_eq!(older, 7, "an older gateway goes on calling what it knows");
    assert_eq!(differences(&db).await, ["no file has the text of saturated(double precision)"]);
}

/// A trigger takes a lock that those who write to its table wait behind.
#[tokio::test]
async fn a_trigger_that_waits_for_a_table_lets_the_others_pass() {
    let db = TestDatabase::new().await;
    run(&db, &format!("{OLDER} 'triggers/entry'")).await;
    let mut writer = db.pool().begin().await.unwrap();
    writer.execute("lock table entry in row exclusive mode").await.unwrap();
    let migrator = another(&db);
    let migration = tokio::spawn(async move { migrator.migrate().await });
    let waits = async || -> bool {
        sqlx::query_scalar(
            "select exists (select from pg_locks where relation = 'entry'::regclass and not granted)",
        )
        .fetch_one(db.pool())
        .await
        .unwrap()
    };
    until("it waits", async || waits().await).await;
    until("it steps back", async || !waits().await).await;
    run(
        &db,
        "set lock_timeout = '1s'; begin; lock table entry in row exclusive mode; commit; reset lock_timeout",
    )
    .await;
    writer.rollback().await.unwrap();
    migration.await.unwrap().unwrap();
    let left = "select count(*) from schema_definition where digest = decode(repeat('00', 32), 'hex')";
    assert_eq!(sqlx::query_scalar::<_, i64>(left).fetch_one(db.pool()).await.unwrap(), 0);
}

#[tokio::test]
async fn older_definitions_are_refused_and_newer_ones_serve_and_stay() {
    let db = TestDatabase::new().await;
    run(&db, "update schema_definition set revision = revision + 1").await;
    db.database().check_schema().await.unwrap();
    assert!(complaint(db.database().migrate().await).contains("run a newer one"));
    run(&db, "delete from schema_definition").await;
    assert!(complaint(db.database().check_schema().await).contains("lacks functions of revision"));
    db.database().migrate().await.unwrap();
    db.database().check_schema().await.unwrap();
}
