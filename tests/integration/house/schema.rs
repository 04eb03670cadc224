//! The schema: made once by however many gateways start at once, and known to be too old, too new or another one.

use std::path::Path;
use std::time::Duration;

use sqlx::AssertSqlSafe;
use sqlx::migrate::Migrator;
use tollgate::credits::Credits;
use tollgate::secret::Secret;
use tollgate::store::{Database, EntryFilter, OrgFilter, Slice, StoreError, UserFilter};

use crate::support::database::{TestDatabase, until};
use crate::support::gateway::TestGateway;
use crate::support::process::{Scratch, run as run_tollgate};
use crate::support::seed::{org_named, user_named};

pub fn another(db: &TestDatabase) -> Database {
    Database::connect(&Secret::new(db.url()), 1, Duration::from_secs(30)).unwrap()
}

pub async fn run(db: &TestDatabase, statement: &str) {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(db.pool()).await.unwrap();
}

pub fn complaint(answer: Result<(), StoreError>) -> String {
    match answer {
        Err(StoreError::Schema(why)) => why.to_string(),
        other => panic!("no complaint about the schema: {other:?}"),
    }
}

#[tokio::test]
async fn several_gateways_may_migrate_at_once() {
    let db = TestDatabase::new().await;
    run(&db, "drop schema public, reporting cascade; create schema public").await;
    assert!(complaint(db.database().check_schema().await).contains("lacks migration 1"));
    let databases = [another(&db), another(&db), another(&db)];
    futures_util::future::try_join_all(databases.iter().map(Database::migrate)).await.unwrap();
    db.database().check_schema().await.unwrap();
    db.database().migrate().await.unwrap();
}

#[tokio::test]
async fn what_was_prepared_before_a_migration_serves_after_it() {
    let db = TestDatabase::new().await;
    let org = db.database().add_org(&org_named("an organisation")).await.unwrap();
    let team = db.database().create_team(org, "a team").await.unwrap();
    let user = db.database().add_user(org, &user_named("a user")).await.unwrap();
    let one = another(&db);
    let ask_all = async || -> Result<(), StoreError> {
        one.balance(org).await?;
        one.credit_summary(org, Credits::ZERO).await?;
        one.org(org).await?;
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

/// A database of the time before the migrations were rewritten has had thirteen, and each number means another one.
#[tokio::test]
async fn a_database_with_other_migrations_is_refused_in_words_that_say_what_to_do() {
    let db = TestDatabase::new().await;
    run(
        &db,
        "update _sqlx_migrations set checksum = sha256(description::bytea); \
         insert into _sqlx_migrations \
         select version + 1000, 'before', now(), true, checksum, 0 from _sqlx_migrations where version <= 4",
    )
    .await;
    for refused in [db.database().check_schema().await, db.database().migrate().await] {
        let why = complaint(refused);
        assert!(why.contains("its migration 1 is not the one of this version"), "{why}");
        assert!(why.contains("'tollgate migrate' on a new, empty database"), "{why}");
    }
}

#[tokio::test]
async fn a_newer_schema_that_older_gateways_cannot_use_is_refused() {
    let gateway = TestGateway::start().await;
    let database = gateway.db.database();
    let migrations = Migrator::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations")).await.unwrap();
    let known = migrations.iter().map(|migration| migration.version).max().unwrap();
    let require = async |version: i64| {
        sqlx::query(
            "insert into schema_requirement values ($1, 'balances have moved') on conflict do nothing",
        )
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

    until("it is not ready, and says why", async || {
        let ready = gateway.client.get(gateway.admin_url("/readyz")).send().await.unwrap();
        ready.status() == 503 && ready.text().await.unwrap().contains("balances have moved")
    })
    .await;
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
