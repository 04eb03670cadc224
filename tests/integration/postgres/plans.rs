//! Plans of statements: which index they use, and what becomes of one whose result has another type than when it was prepared.

use sqlx::Executor;
use tollgate::store::{State, TaskFilter};

use crate::support::database::{TestDatabase, until};
use crate::support::tenant::{Tenant, history};

#[tokio::test]
async fn a_connection_whose_plans_are_outdated_is_replaced() {
    let db = TestDatabase::new().await;
    db.database().providers().await.unwrap();
    // Another type of the wire, but still a text.
    sqlx::raw_sql("alter table identity_provider alter column issuer type varchar(500)")
        .execute(db.pool())
        .await
        .unwrap();
    until("statements are prepared anew", async || db.database().providers().await.is_ok()).await;
}

#[tokio::test]
async fn a_list_of_failed_tasks_does_not_read_the_whole_history() {
    let db = TestDatabase::new().await;
    let tenant = Tenant::new(&db, 0).await;
    history(&db, &tenant, 20_000).await;
    db.pool().execute("analyze hold").await.unwrap();
    let states = Some(vec![State::Released, State::WrittenOff]);
    let filter = TaskFilter { states, as_shown: true, ..TaskFilter::default() };
    // A backend tells what it has used about once a second.
    until("the index of such tasks is used", async || {
        assert!(db.database().tasks(tenant.org, &filter, 21).await.unwrap().is_empty());
        let used = "select idx_scan > 0 from pg_stat_user_indexes where indexrelname = 'hold_unpaid'";
        sqlx::query_scalar(used).fetch_one(db.pool()).await.unwrap()
    })
    .await;
}
