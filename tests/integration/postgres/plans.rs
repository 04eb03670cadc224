//! Plans of statements: which index they use, and what becomes of one whose result has another type than when it was prepared.

use sqlx::Executor;
use tollgate::ids::KeyId;
use tollgate::store::{State, TaskFilter};

use crate::support::database::{TestDatabase, until};
use crate::support::seed::user_named;
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

/// Rows that were read of tasks and entries, as far as backends have told; they tell about once a second.
async fn rows_read(db: &TestDatabase) -> i64 {
    let read = "select coalesce(sum(seq_tup_read + idx_tup_fetch), 0)::bigint from pg_stat_user_tables \
                where relname in ('hold', 'open_task', 'unpaid_task', 'entry')";
    sqlx::query_scalar(read).fetch_one(db.pool()).await.unwrap()
}

#[tokio::test]
async fn no_list_of_tasks_reads_the_whole_history() {
    let db = TestDatabase::new().await;
    let tenant = Tenant::new(&db, 0).await;
    history(&db, &tenant, 20_000).await;
    db.pool().execute("analyze").await.unwrap();
    let others = db.database().add_user(tenant.org, &user_named("grace")).await.unwrap();
    let states = |states: &[State]| TaskFilter { states: Some(states.to_vec()), ..TaskFilter::default() };
    let of_user = |user, filter| TaskFilter { user: Some(user), ..filter };
    let of_key = |key, filter| TaskFilter { key: Some(key), ..filter };
    for (filter, found) in [
        (TaskFilter::default(), 21),
        (states(&[State::Settled]), 21),
        (states(&[State::Released, State::WrittenOff]), 0),
        (states(&[State::Held, State::Running, State::InDoubt]), 0),
        (of_user(tenant.user, TaskFilter::default()), 21),
        (of_user(tenant.user, states(&[State::Settled])), 21),
        (of_user(tenant.user, states(&[State::Running, State::Released])), 0),
        (of_user(others, TaskFilter::default()), 0),
        (of_user(others, states(&[State::Settled])), 0),
        (of_key(tenant.key, TaskFilter::default()), 21),
        (of_key(tenant.key, states(&[State::InDoubt])), 0),
        (of_key(KeyId::generate(), states(&[State::Settled])), 0),
    ] {
        for as_shown in [false, true] {
            let filter = TaskFilter { as_shown, ..filter.clone() };
            let (before, mut lists) = (rows_read(&db).await, 0);
            let mut read = 0;
            until("the backend has told what it read", async || {
                assert_eq!(db.database().tasks(tenant.org, &filter, 21).await.unwrap().len(), found);
                lists += 1;
                // What was never looked up is never told.
                read = rows_read(&db).await - before;
                read > 0 || lists > 500
            })
            .await;
            assert!(read <= lists * 2_000, "{filter:?}: {read} rows for {lists} lists");
        }
    }
}
