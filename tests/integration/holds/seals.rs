//! Seals of entries and holds where there were none before: what was there is taken down by `migrate`, and the rest follows it.

use std::time::Duration;

use sqlx::AssertSqlSafe;
use tollgate::clock::Clock;
use tollgate::ids::{HoldId, OrgId};
use tollgate::store::StoreError;

use crate::support::database::TestDatabase;
use crate::support::fixture::{credits, fail, funded, grant, ledger, new_hold, run, settle};
use crate::support::seed::TOP_UP;

const CHAIN: &str =
    "entries follow one another: each has the balance before it and its amount, and is as it was booked";
const HISTORY: &str = "entries and holds of before there were seals are those that were there";
const ENDS: &str =
    "a grant that runs out ends when it was granted to end, and its journal says what was burned of it";

/// One task that was charged and one that failed, a grant, and a grant that expires of which a part is spent.
async fn deals(db: &TestDatabase, org: OrgId) {
    let tomorrow = Clock.wall() + Duration::from_secs(86_400);
    db.database().grant(org, credits(50), Some(tomorrow), TOP_UP, None).await.unwrap();
    let ledger = ledger(db).await;
    for end in [settle(90), fail(5)] {
        let mut guard = grant(&ledger, new_hold(org, 100)).await;
        guard.step(run(HoldId::generate())).await.unwrap();
        guard.step(end).await.unwrap();
    }
    db.database().expire_credits().await.unwrap();
    db.database().grant(org, credits(10), None, TOP_UP, None).await.unwrap();
}

/// Past the triggers, as nothing of ours does.
async fn by_hand(db: &TestDatabase, statement: &str) {
    let sql = format!("begin; set local session_replication_role = replica; {statement}; commit");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(db.pool()).await.unwrap();
}

async fn places(db: &TestDatabase, org: OrgId) -> Vec<(Option<i64>, Option<i64>)> {
    sqlx::query_as("select place, balance_after from entry where org_id = $1 order by place")
        .bind(org.as_uuid())
        .fetch_all(db.pool())
        .await
        .unwrap()
}

/// What the database of a former version has.
const FORMER: &str = "update org_balance set entries = null; update entry set place = null, balance_after = null, seal = null; update hold set seal = null; \
    delete from history_seal; delete from credit_lot_event; \
    update audit_log set after = after - array['place', 'balance_after', 'seal']";

#[tokio::test]
async fn what_was_there_before_is_taken_down_and_the_rest_follows() {
    for (statement, expected) in [
        ("update entry set reason = 'another' where place is null and kind = 'grant'", &[HISTORY][..]),
        ("update entry set place = null where place = 3", &[CHAIN, HISTORY]),
        ("update hold set seal = null", &[HISTORY]),
        ("update credit_lot set expires_at = expires_at + interval '1 hour'", &[ENDS]),
    ] {
        let mut db = TestDatabase::new().await;
        let org = funded(&db, 1000).await;
        deals(&db, org).await;
        assert_eq!(
            places(&db, org).await,
            [(1, 1000), (2, 1050), (3, 960), (4, 970)].map(|(place, balance)| (Some(place), Some(balance)))
        );
        by_hand(&db, FORMER).await;
        let refused = db.database().check_schema().await;
        assert!(
            matches!(refused, Err(StoreError::Schema(why)) if why.contains("run 'tollgate migrate' first"))
        );
        // While it is being migrated, a gateway serves on.
        db.database().grant(org, credits(1), None, TOP_UP, None).await.unwrap();
        db.database().migrate().await.unwrap();
        db.database().check_schema().await.unwrap();
        assert_eq!(db.database().audit().await.unwrap().breaches, []);
        deals(&db, org).await;
        let later = [(1, 971), (2, 1021), (3, 931), (4, 941)];
        assert!(
            places(&db, org).await.starts_with(&later.map(|(place, balance)| (Some(place), Some(balance))))
        );
        // It is taken down once.
        db.database().migrate().await.unwrap();
        assert_eq!(db.database().audit().await.unwrap().breaches, []);

        db.expect_broken();
        by_hand(&db, statement).await;
        db.database().migrate().await.unwrap();
        let mut found: Vec<_> =
            db.database().audit().await.unwrap().breaches.iter().map(|finding| finding.check).collect();
        found.dedup();
        assert_eq!(found, expected, "{statement}");
    }
}

/// A function of before may still be under way when triggers are made, and does not know places.
#[tokio::test]
async fn what_is_booked_without_a_place_gets_the_next_one() {
    let db = TestDatabase::new().await;
    let org = funded(&db, 100).await;
    sqlx::query(
        "with booked as (insert into entry (org_id, entry_id, kind, amount, created_at) \
           select $1, gen_random_uuid(), 'adjust', n, now() from generate_series(1, 3) n) \
         update org_balance set granted = granted + 6, available = available + 6 where org_id = $1",
    )
    .bind(org.as_uuid())
    .execute(db.pool())
    .await
    .unwrap();
    let expected =
        [(1, 100), (2, 101), (3, 103), (4, 106)].map(|(place, balance)| (Some(place), Some(balance)));
    assert_eq!(places(&db, org).await, expected);
}
