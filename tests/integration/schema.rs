//! The schema: made once by however many start at once, and known to be too old or too new.

use std::time::Duration;

use tollgate::ledger::{Database, LedgerError};
use tollgate::secret::Secret;

use super::database::TestDatabase;

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

#[tokio::test]
async fn an_older_schema_is_refused_and_a_newer_one_serves() {
    let db = TestDatabase::new().await;
    run(&db, "insert into _sqlx_migrations select 9999, 'later', now(), true, ''::bytea, 0").await;
    db.database().check_schema().await.unwrap();
    assert!(complaint(db.database().migrate().await).contains("run a newer one"));
    run(&db, "delete from _sqlx_migrations where version in (2, 9999)").await;
    assert!(complaint(db.database().check_schema().await).contains("lacks migration 2"));
}
