//! The schema: made once by however many start at once, and known to be too old or too new.

use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection};
use tollgate::secret::Secret;
use tollgate::store::{Database, EntryFilter, LedgerError, OrgFilter, Slice, UserFilter};

use crate::support::database::{TestDatabase, until};
use crate::support::gateway::TestGateway;
use crate::support::process::{Scratch, run as run_tollgate};
use crate::support::seed::{org_named, user_named};

fn another(db: &TestDatabase) -> Database {
    Database::connect(&Secret::new(db.url()), 1, Duration::from_secs(30)).unwrap()
}

async fn run(db: &TestDatabase, statement: &'static str) {
    sqlx::raw_sql(statement).execute(db.pool()).await.unwrap();
}

fn complaint(answer: Result<(), LedgerError>) -> String {
    match answer {
        Err(LedgerError::Schema(why)) => why.to_string(),
        other => panic!("no complaint about the schema: {other:?}"),
    }
}

#[tokio::test]
async fn several_gateways_may_migrate_at_once() {
    let db = TestDatabase::new().await;
    run(&db, "drop schema public cascade; create schema public").await;
    assert!(complaint(db.database().check_schema().await).contains("lacks migration 1"));
    let databases = [another(&db), another(&db), another(&db)];
    futures_util::future::try_join_all(databases.iter().map(Database::migrate)).await.unwrap();
    db.database().check_schema().await.unwrap();
    db.database().migrate().await.unwrap();
}

/// The gateways of the version before go on while it is migrated: a reservation has its balance row, and then makes a hold.
#[tokio::test]
async fn a_reservation_and_the_migration_to_budgets_wait_for_each_other_in_one_order() {
    let mut db = TestDatabase::new().await;
    db.expect_broken();
    run(&db, "drop schema public cascade; create schema public").await;
    let migrations = sqlx::migrate!();
    for migration in migrations.iter().filter(|migration| migration.version < 7) {
        sqlx::raw_sql(migration.sql.clone()).execute(db.pool()).await.unwrap();
    }
    run(&db, "insert into org_balance (org_id) values ('00000000-0000-0000-0000-000000000001')").await;
    let budgets = migrations.iter().find(|migration| migration.version == 7).unwrap();
    let mut lane = db.pool().begin().await.unwrap();
    sqlx::raw_sql("select from org_balance for no key update").execute(&mut *lane).await.unwrap();
    let migrating = async {
        let mut change = db.pool().begin().await?;
        sqlx::raw_sql(budgets.sql.clone()).execute(&mut *change).await?;
        change.commit().await
    };
    let reserving = async {
        until("the migration waits", async || {
            let waits = "select exists (select from pg_stat_activity where datname = current_database() \
                         and wait_event_type = 'Lock')";
            sqlx::query_scalar(waits).fetch_one(db.pool()).await.unwrap()
        })
        .await;
        sqlx::raw_sql("delete from hold").execute(&mut *lane).await?;
        lane.commit().await
    };
    let (migrated, reserved) = tokio::join!(migrating, reserving);
    reserved.unwrap();
    migrated.unwrap();
}

/// Takes everything back to before the migration after `version`.
async fn make_schema_of(db: &TestDatabase, version: i64) {
    run(db, "drop schema public cascade; create schema public").await;
    let mut connection = PgConnection::connect(db.url()).await.unwrap();
    sqlx::migrate!().run_to(version, &mut connection).await.unwrap();
}

#[tokio::test]
async fn who_reads_the_ledger_does_not_wait_for_the_days_to_be_filled() {
    let db = TestDatabase::new().await;
    make_schema_of(&db, 8).await;
    let migrations = sqlx::migrate!();
    let ninth = migrations.iter().find(|migration| migration.version == 9).unwrap();
    let mut migrating = db.pool().begin().await.unwrap();
    migrating.execute(ninth.sql.clone()).await.unwrap();
    let shut: Vec<String> = sqlx::query_scalar(
        "select c.relname::text from pg_locks l join pg_class c on c.oid = l.relation \
         where l.mode = 'AccessExclusiveLock' and c.relname in ('org', 'org_balance', 'hold', 'entry')",
    )
    .fetch_all(&mut *migrating)
    .await
    .unwrap();
    assert_eq!(shut, [""; 0]);
    run(&db, "set lock_timeout = '1s'; select from entry; select from hold for update; select from org_balance for update")
        .await;
    migrating.rollback().await.unwrap();
    db.database().migrate().await.unwrap();
}

#[tokio::test]
async fn a_migration_behind_a_long_reader_lets_the_others_pass() {
    let db = TestDatabase::new().await;
    make_schema_of(&db, 10).await;
    let mut reader = db.pool().begin().await.unwrap();
    reader.execute("select from entry").await.unwrap();
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
    run(&db, "set lock_timeout = '1s'; select from entry; reset lock_timeout").await;
    reader.rollback().await.unwrap();
    migration.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_was_prepared_before_a_migration_serves_after_it() {
    let db = TestDatabase::new().await;
    let org = db.database().add_org(&org_named("an organisation")).await.unwrap();
    let team = db.database().create_team(org, "a team").await.unwrap();
    let user = db.database().add_user(org, &user_named("a user")).await.unwrap();
    let one = another(&db);
    let ask_all = async || -> Result<(), LedgerError> {
        one.balance(org).await?;
        one.credit_summary(org).await?;
        one.org(org).await?;
        one.orgs().await?;
        one.org_by_name("an organisation").await?;
        one.list_orgs(&OrgFilter::default(), Slice { after: None, limit: 1 }).await?;
        one.team(team).await?;
        one.list_teams(org, None, Slice { after: None, limit: 1 }).await?;
        one.user(user).await?;
        one.list_users(org, &UserFilter::default(), Slice { after: None, limit: 1 }).await?;
        one.entries(org, &EntryFilter::default(), 1).await?;
        one.doubts(None, Slice { after: None, limit: 1 }).await?;
        one.losses(1, Slice { after: None, limit: 1 }).await?;
        one.drift(1).await?;
        Ok(())
    };
    ask_all().await.unwrap();
    run(
        &db,
        "alter table org add later text; alter table org_balance add later text; alter table team add later text; \
         alter table app_user add later text; alter table hold add later text; alter table entry add later text; \
         alter table platform_loss add later text",
    )
    .await;
    ask_all().await.unwrap();
}

#[tokio::test]
async fn an_older_schema_is_refused_and_a_newer_one_serves() {
    let db = TestDatabase::new().await;
    run(&db, "insert into _sqlx_migrations select 9999, 'later', now(), true, ''::bytea, 0").await;
    db.database().check_schema().await.unwrap();
    assert!(complaint(db.database().migrate().await).contains("run a newer one"));
    run(&db, "delete from _sqlx_migrations where version in (2, 9999)").await;
    assert!(complaint(db.database().check_schema().await).contains("lacks migration 2"));
}

#[tokio::test]
async fn a_newer_schema_that_older_gateways_cannot_use_is_refused() {
    let gateway = TestGateway::start().await;
    let database = gateway.db.database();
    let known = sqlx::migrate!().iter().map(|migration| migration.version).max().unwrap();
    let require = async |version: i64| {
        sqlx::query("insert into schema_requirement values ($1, 'balances have moved')")
            .bind(version)
            .execute(gateway.db.pool())
            .await
            .unwrap();
    };
    require(known).await;
    database.check_schema().await.unwrap();
    require(known + 7).await;
    let why = complaint(database.check_schema().await);
    assert!(why.contains(&format!("knows migration {}", known + 7)), "{why}");
    assert!(why.contains("run a newer one (balances have moved)"), "{why}");

    let ready = gateway.client.get(gateway.admin_url("/readyz")).send().await.unwrap();
    assert_eq!(ready.status(), 503);
    assert!(ready.text().await.unwrap().contains("balances have moved"));
    let scratch = Scratch::new();
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[database]\nurl = \"{}\"\n\
         [upstream.kling_3]\nbase_url = \"http://127.0.0.1:1\"\nmaster_key = \"x\"\n",
        gateway.db.url()
    );
    let said = run_tollgate(&["serve", "--config", &scratch.file("gateway.toml", &config)]).await;
    assert_eq!(said.code, 3);
    assert!(said.err.contains("balances have moved"), "{}", said.err);
}
