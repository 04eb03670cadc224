//! Holds, entries and content are in a partition for each month of their ids, and in one for all else.

use std::path::Path;

use futures_util::future::join_all;
use sqlx::AssertSqlSafe;
use sqlx::migrate::Migrator;
use tollgate::ids::HoldId;
use tollgate::store::LaneSettings;

use crate::support::database::{TestDatabase, until};
use crate::support::fixture::{
    credits, funded, grant, lanes, ledger, ledger_with, new_hold, refuse, run, settle,
};
use crate::support::seed::TOP_UP;

async fn change(db: &TestDatabase, statement: &str) {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(db.pool()).await.unwrap();
}

/// Which partitions of a table have how many rows.
async fn parts(db: &TestDatabase, table: &str) -> Vec<(String, i64)> {
    let rows = format!("select tableoid::regclass::text, count(*) from {table} group by 1 order by 1");
    sqlx::query_as(AssertSqlSafe(rows)).fetch_all(db.pool()).await.unwrap()
}

async fn this_month(db: &TestDatabase) -> String {
    let name = "select to_char(now() at time zone 'UTC', 'YYYY_MM')";
    sqlx::query_scalar(name).fetch_one(db.pool()).await.unwrap()
}

/// A database of before there were partitions, with a task that was charged, and a grant with a random id.
async fn former(db: &TestDatabase) {
    change(db, "drop schema public, reporting cascade; create schema public").await;
    let all = Migrator::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations")).await.unwrap();
    let before = all.iter().filter(|migration| migration.version < 23).cloned().collect();
    Migrator::with_migrations(before).run(db.pool()).await.unwrap();
    change(
        db,
        "insert into org (org_id, name) values (repeat('1', 32)::uuid, 'an organisation'); \
         insert into org_balance (org_id, available, consumed, granted) values (repeat('1', 32)::uuid, 70, 30, 100); \
         insert into hold (org_id, hold_id, user_id, state, amount, list_price, factor_bp, price_book, balance_after, overdraft, \
           task_type, backend, account, owner, fingerprint, created_at, ended_at, charged, raw_consumed, reported, drift, lost, \
           upstream_task) \
         values (repeat('1', 32)::uuid, '0190aaaa-bbbb-7ccc-8ddd-000000000001', repeat('2', 32)::uuid, 'SETTLED', 30, 30, 10000, 1, \
           70, 0, 't', 'b', 'a', repeat('3', 32)::uuid, '', '2024-07-12', '2024-07-12', 30, 30, 30, 0, 0, 'task'); \
         insert into vendor_task select upstream_task, account, org_id, hold_id from hold; \
         insert into content (org_id, hold_id, first, ended) select org_id, hold_id, '{}', true from hold; \
         insert into entry (org_id, entry_id, kind, amount, hold_id, user_id, task_type, created_at) \
         select org_id, hold_id, 'consume', -30, hold_id, user_id, task_type, ended_at from hold; \
         insert into entry (org_id, entry_id, kind, amount, created_at) \
         values (repeat('1', 32)::uuid, '9f000000-0000-4000-8000-000000000001', 'grant', 100, '2024-07-11'); \
         insert into usage_day select org_id, '2024-07-12', user_id, repeat('0', 32)::uuid, repeat('0', 32)::uuid, 't', 1, 30, 0 from hold; \
         insert into audit_log (actor, action, target_kind, target_id, org_id, after) \
         select 'somebody', 'entry.insert', 'entry', entry_id::text, org_id, \
           jsonb_build_object('entry_id', entry_id, 'kind', kind, 'amount', amount) from entry where kind = 'grant'",
    )
    .await;
}

#[tokio::test]
async fn what_there_was_becomes_one_partition_and_the_books_go_on() {
    let db = TestDatabase::new().await;
    former(&db).await;
    db.database().migrate().await.unwrap();
    assert_eq!(parts(&db, "hold").await, [("hold_before".to_owned(), 1)]);
    assert_eq!(parts(&db, "content").await, [("content_before".to_owned(), 1)]);
    assert_eq!(parts(&db, "entry").await, [("entry_before".to_owned(), 1), ("entry_other".to_owned(), 1)]);
    assert_eq!(db.database().audit().await.unwrap().breaches, []);
    // The month of the migration is one with those before it, and there is nothing to be made.
    db.database().make_partitions().await.unwrap();
    let months: i64 =
        sqlx::query_scalar("select count(*) from pg_inherits where inhparent = 'hold'::regclass")
            .fetch_one(db.pool())
            .await
            .unwrap();
    assert_eq!(months, 5);

    let org = "11111111-1111-1111-1111-111111111111".parse::<uuid::Uuid>().unwrap();
    let org = tollgate::ids::OrgId::from_uuid(org);
    db.database().grant(org, credits(1000), None, TOP_UP, None).await.unwrap();
    let ledger = ledger(&db).await;
    let mut guard = grant(&ledger, new_hold(org, 100)).await;
    guard.step(run(HoldId::generate())).await.unwrap();
    guard.step(settle(90)).await.unwrap();
    assert_eq!(parts(&db, "entry").await, [("entry_before".to_owned(), 3), ("entry_other".to_owned(), 1)]);
    let entries: Option<i64> =
        sqlx::query_scalar("select entries from org_balance").fetch_one(db.pool()).await.unwrap();
    assert_eq!(entries, Some(2), "those of before have no place");
}

/// All gateways were off for so long that the month has no partition; a create is not refused for it.
#[tokio::test]
async fn what_is_made_in_a_month_without_a_partition_goes_over_to_it_when_it_is_made() {
    let db = TestDatabase::new().await;
    let month = this_month(&db).await;
    for table in ["hold", "entry", "content"] {
        let part = format!("{table}_{month}");
        change(&db, &format!("alter table {table} detach partition {part}; drop table {part}")).await;
    }
    let (ledger, org) = (ledger(&db).await, funded(&db, 1000).await);
    let mut guard = grant(&ledger, new_hold(org, 100)).await;
    guard.step(run(HoldId::generate())).await.unwrap();
    assert_eq!(parts(&db, "hold").await, [("hold_other".to_owned(), 1)]);
    assert_eq!(parts(&db, "entry").await, [("entry_other".to_owned(), 1)]);

    db.database().make_partitions().await.unwrap();
    assert_eq!(parts(&db, "hold").await, [(format!("hold_{month}"), 1)]);
    assert_eq!(parts(&db, "entry").await, [(format!("entry_{month}"), 1)]);
    guard.step(settle(90)).await.unwrap();
    assert_eq!(parts(&db, "entry").await, [(format!("entry_{month}"), 2)]);
    assert_eq!(db.database().audit().await.unwrap().breaches, []);
    for refused in [
        format!("delete from entry_{month}"),
        format!("truncate entry_{month}"),
        "truncate entry_other".into(),
    ] {
        assert!(sqlx::raw_sql(AssertSqlSafe(refused.clone())).execute(db.pool()).await.is_err(), "{refused}");
    }
}

/// A lane plans once, perhaps on the first of a month. By another index it would read all of an organisation for each task ever after.
#[tokio::test]
async fn in_a_month_without_a_row_a_hold_is_looked_up_by_its_whole_key() {
    let db = TestDatabase::new().await;
    let part = format!("hold_{}", this_month(&db).await);
    let mut connection = db.pool().acquire().await.unwrap();
    let plan = format!(
        "prepare look_up(uuid, uuid) as select amount from {part} where org_id = $1 and hold_id = $2; \
         set plan_cache_mode = force_generic_plan; set enable_seqscan = off"
    );
    sqlx::raw_sql(AssertSqlSafe(plan)).execute(&mut *connection).await.unwrap();
    let plan: Vec<String> =
        sqlx::query_scalar("explain execute look_up(null, null)").fetch_all(&mut *connection).await.unwrap();
    assert!(plan.iter().any(|line| line.contains(&format!("{part}_pkey"))), "{plan:?}");
}

/// Nobody has to analyze a table for a lane to plan by its size.
#[tokio::test]
async fn a_lane_does_not_keep_what_it_planned_for_an_empty_table() {
    let db = TestDatabase::new().await;
    let part = format!("hold_{}", this_month(&db).await);
    // As good as any while the table is empty, and made last.
    change(
        &db,
        &format!("create index worse on {part} (org_id); alter table {part} set (autovacuum_enabled = off)"),
    )
    .await;
    let ledger = ledger_with(&db, LaneSettings { lanes: 1, ..lanes() }).await;
    let org = funded(&db, 1_000_000).await;
    let look_up = async || {
        grant(&ledger, new_hold(org, 1)).await.step(refuse()).await.unwrap();
    };
    look_up().await;
    let guards = join_all((0..2000).map(|_| grant(&ledger, new_hold(org, 1)))).await;
    let scans = format!("select idx_scan from pg_stat_user_indexes where indexrelname = '{part}_pkey'");
    until("the lane plans anew", async || {
        look_up().await;
        sqlx::query_scalar::<_, i64>(AssertSqlSafe(scans.clone())).fetch_one(db.pool()).await.unwrap() > 0
    })
    .await;
    drop(guards);
}

/// An id of a clock that is wrong, or of before ids ascended with the time, has a place too.
#[tokio::test]
async fn an_id_of_no_month_is_in_the_partition_of_all_else() {
    let db = TestDatabase::new().await;
    let org = funded(&db, 1000).await;
    for instant in ["'1990-01-01'::timestamptz", "now() + interval '5 years'"] {
        let post = format!(
            "select post_entry($1, uuid_v7({instant}), 'adjust', 1, 'r', null, null, null, 'test', null)"
        );
        sqlx::query(AssertSqlSafe(post)).bind(org.as_uuid()).execute(db.pool()).await.unwrap();
    }
    let month = this_month(&db).await;
    assert_eq!(parts(&db, "entry").await, [(format!("entry_{month}"), 1), ("entry_other".to_owned(), 2)]);
    // Its month comes, and a guard of the books is there as on every partition.
    change(&db, "select make_partition('entry', now() + interval '5 years')").await;
    assert_eq!(db.database().audit().await.unwrap().breaches.len(), 1);
    db.database().make_partitions().await.unwrap();
    assert_eq!(parts(&db, "entry").await.len(), 3);
    assert_eq!(db.database().audit().await.unwrap().breaches, []);
}
