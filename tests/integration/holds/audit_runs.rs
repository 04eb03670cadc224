//! The audit that gateways run by themselves: one of them, seldom enough, and every one of them tells what came of it.

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;
use tollgate::ids::GatewayId;
use tollgate::store::{AUDIT_CHECKS, StoreError};

use crate::support::database::{TestDatabase, until};
use crate::support::fixture::{HOUR, funded};
use crate::support::watched::{Vendor, Watched};

const SUM: &str = "available + held + consumed = granted";

async fn runs(db: &TestDatabase) -> i64 {
    sqlx::query_scalar("select runs from audit_run").fetch_one(db.pool()).await.unwrap()
}

async fn execute(db: &TestDatabase, sql: &'static str) {
    sqlx::raw_sql(sql).execute(db.pool()).await.unwrap();
}

#[tokio::test]
async fn one_of_many_audits_and_again_only_when_it_is_due() {
    let db = TestDatabase::new().await;
    let never = CancellationToken::new();
    let audit = || db.database().audit_if_due(GatewayId::generate(), HOUR, &never);
    assert_eq!(db.database().audit_result().await.unwrap(), None);
    let all = join_all((0..8).map(|_| audit())).await;
    let found: Vec<_> = all.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(found, [vec![]], "one of them did, and found nothing");
    assert_eq!(audit().await.unwrap(), None);
    assert_eq!(runs(&db).await, 1);
    let result = db.database().audit_result().await.unwrap().unwrap();
    assert!(result.breaches.is_empty());

    // An hour later, but one that took long still rests.
    execute(
        &db,
        "update audit_run set started_at = now() - interval '1 hour', not_before = now() + interval '1 min'",
    )
    .await;
    assert_eq!(audit().await.unwrap(), None);
    execute(&db, "update audit_run set not_before = now()").await;
    assert_eq!(audit().await.unwrap(), Some(vec![]));
    assert_eq!(runs(&db).await, 2);
    let rested: bool = sqlx::query_scalar(
        "select not_before - ended_at >= seconds * 8.9 * interval '1 second' from audit_run",
    )
    .fetch_one(db.pool())
    .await
    .unwrap();
    assert!(rested, "nine times as long as it took");
}

#[tokio::test]
async fn an_audit_that_fails_changes_no_result_and_is_tried_again() {
    let db = TestDatabase::new().await;
    let never = CancellationToken::new();
    let audit = || db.database().audit_if_due(GatewayId::generate(), HOUR, &never);
    audit().await.unwrap().unwrap();
    let before = db.database().audit_result().await.unwrap();
    execute(&db, "update audit_run set started_at = now() - interval '1 hour', not_before = now()").await;
    execute(&db, "alter table platform_loss rename to mislaid").await;
    assert!(matches!(audit().await, Err(StoreError::Database(_))));
    execute(&db, "alter table mislaid rename to platform_loss").await;
    assert_eq!(db.database().audit_result().await.unwrap(), before);
    assert_eq!(audit().await.unwrap(), None, "not at once");
    execute(&db, "update audit_run set not_before = now()").await;
    assert_eq!(audit().await.unwrap(), Some(vec![]), "it need not wait for an hour");
}

#[tokio::test]
async fn one_under_way_hides_no_result_and_a_stop_leaves_it_to_the_next() {
    let db = TestDatabase::new().await;
    execute(
        &db,
        "update audit_run set runs = 1, started_at = now() - interval '1 day', ended_at = now(), seconds = 1, \
         breaches = '{\"available + held + consumed = granted\": 3}'",
    )
    .await;
    let mut lock = db.pool().begin().await.unwrap();
    sqlx::query("lock table platform_loss").execute(&mut *lock).await.unwrap();
    let vendor = Vendor::start(10).await;
    let gateway = Watched::start(&db, vendor.address, "").await;
    until("it audits", async || runs(&db).await == 2).await;
    until("it shows the last result meanwhile", async || {
        gateway.scrape().await.shown(&format!("tollgate_audit_breaches{{check=\"{SUM}\"}}")) == Some(3.0)
    })
    .await;
    gateway.stop().await;
    lock.rollback().await.unwrap();
    let stop = CancellationToken::new();
    let next = db.database().audit_if_due(GatewayId::generate(), HOUR, &stop).await.unwrap();
    assert_eq!(next, Some(vec![]), "the next one need not wait");
}

#[tokio::test]
async fn a_broken_invariant_is_on_every_gateway_and_once_in_the_log() {
    let mut db = TestDatabase::new().await;
    db.expect_broken();
    let (first, second) = (funded(&db, 1000).await, funded(&db, 1000).await);
    execute(&db, "update org_balance set available = available + 1").await;
    let vendor = Vendor::start(10).await;
    let gateways =
        join_all((0..3).map(|_| Watched::start(&db, vendor.address, "[ledger]\nlease_ms = 1000\n"))).await;
    for gateway in &gateways {
        until("it tells of the audit", async || {
            gateway.scrape().await.shown("tollgate_audit_timestamp_seconds") > Some(0.0)
        })
        .await;
        let scrape = gateway.scrape().await;
        for check in AUDIT_CHECKS {
            let rows = scrape.value(&format!("tollgate_audit_breaches{{check=\"{check}\"}}"));
            assert_eq!(rows, if *check == SUM { 2.0 } else { 0.0 }, "{check}");
        }
    }
    assert_eq!(runs(&db).await, 1, "one of the three");
    let mut told = Vec::new();
    for gateway in gateways {
        let log = gateway.stop().await;
        let events = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        told.extend(events.filter(|event| event["check"].is_string()));
    }
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(
        (&told[0]["level"], &told[0]["check"], &told[0]["rows"]),
        (&"ERROR".into(), &SUM.into(), &2.into())
    );
    let orgs = told[0]["orgs"].as_str().unwrap();
    for org in [first, second] {
        assert!(orgs.contains(&org.to_string()), "{orgs}");
    }
}
