//! Figures that alarms watch: tasks that never end, tasks that the vendor fails, organisations that cannot pay for a task.

use reqwest::Method;
use serde_json::json;
use tollgate::credits::{Credits, PriceFactor};
use tollgate::order::MIN_SECONDS;
use tollgate::store::{OrgChange, Status};

use crate::support::database::{TestDatabase, until};
use crate::support::gateway::{Answer, ENDLESS, TestGateway, body};
use crate::support::seed::{TOP_UP, org_named};
use crate::support::tenant::{Tenant, history};

/// The value of one series of a gateway's scrape; none: there is no such series.
async fn scraped(gateway: &TestGateway, series: &str) -> Option<f64> {
    let text = gateway.client.get(gateway.admin_url("/metrics")).send().await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

async fn shows(gateway: &TestGateway, series: &str, value: f64) {
    until(series, async || scraped(gateway, series).await == Some(value)).await;
}

#[tokio::test]
async fn tasks_that_run_for_hours_are_counted_by_backend() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    let [old, other] = ["kling-3.0", "kling-o3"]
        .map(|backend| format!("tollgate_long_running_tasks{{backend=\"{backend}\"}}"));
    for _ in 0..2 {
        gateway.create(&body("x")).await.expect(200);
    }
    shows(&gateway, &old, 0.0).await;
    shows(&gateway, &other, 0.0).await;
    // One of them began three hours ago.
    sqlx::query(
        "update hold set created_at = created_at - interval '3 hours' \
         where hold_id = (select hold_id from task where state = 'RUNNING' limit 1)",
    )
    .execute(gateway.db.pool())
    .await
    .unwrap();
    shows(&gateway, &old, 1.0).await;
    assert_eq!(scraped(&gateway, &other).await, Some(0.0));
}

#[tokio::test]
async fn the_look_at_long_tasks_reads_no_history() {
    let db = TestDatabase::new().await;
    let tenant = Tenant::new(&db, 0).await;
    history(&db, &tenant, 20_000).await;
    sqlx::raw_sql("analyze").execute(db.pool()).await.unwrap();
    let scans = async |table: &'static str| -> i64 {
        let told = "select sum(seq_scan + coalesce(idx_scan, 0))::bigint from pg_stat_user_tables \
             where coalesce(pg_partition_root(relid)::regclass::text, relname) = $1";
        sqlx::query_scalar(told).bind(table).fetch_one(db.pool()).await.unwrap()
    };
    let (before, looked) = (scans("hold").await, scans("open_task").await);
    // A backend tells what it has read about once a second.
    until("what goes on is looked at", async || {
        assert!(db.database().running_for(std::time::Duration::from_secs(7200)).await.unwrap().is_empty());
        scans("open_task").await > looked
    })
    .await;
    assert_eq!(scans("hold").await, before, "the history was read");
}

#[tokio::test]
async fn tasks_that_the_vendor_ends_are_counted_by_how() {
    let gateway = TestGateway::start().await;
    let series = |backend: &str, end: &str| {
        format!("tollgate_upstream_tasks_ended_total{{backend=\"{backend}\",end=\"{end}\"}}")
    };
    for backend in ["kling-3.0", "kling-o3"] {
        for end in ["succeeded", "failed"] {
            let there = scraped(&gateway, &series(backend, end)).await;
            assert!(there.is_some(), "an alarm on an increase needs the series from the start");
        }
    }
    let of = async |backend: &str, end: &str| scraped(&gateway, &series(backend, end)).await.unwrap();
    let (failed, other) = (of("kling-3.0", "failed").await, of("kling-o3", "failed").await);
    gateway.fault_on_create(json!({"kind": "outcome", "status": "FAILED", "consumed": 0})).await;
    gateway.create(&body("x")).await.expect(200);
    until("the failure is counted", async || of("kling-3.0", "failed").await > failed).await;
    gateway.script(json!({"rules": []})).await;
    let succeeded = of("kling-3.0", "succeeded").await;
    gateway.create(&body("y")).await.expect(200);
    until("the success is counted", async || of("kling-3.0", "succeeded").await > succeeded).await;
    assert_eq!(of("kling-o3", "failed").await, other);
}

#[tokio::test]
async fn an_organisation_is_out_of_credit_when_the_cheapest_task_is_too_dear() {
    let gateway = TestGateway::builder().credits(0).start().await;
    let db = gateway.db.database();
    // Three seconds of the cheapest type: 20 credits each.
    let count = async || db.out_of_credit(MIN_SECONDS).await.unwrap();
    assert_eq!(count().await, 0, "it never had any");
    let org = gateway.caller.org;
    db.grant(org, Credits::new(59), None, TOP_UP, None).await.unwrap();
    assert_eq!(count().await, 1);
    shows(&gateway, "tollgate_organisations_out_of_credit", 1.0).await;
    let refused = gateway.call(Method::POST, "/api/generate").body(body("x").to_string());
    Answer::to(refused).await.refused(402, "INSUFFICIENT_CREDITS");
    let change = async |change: OrgChange| db.update_org(org, change, None).await.unwrap();
    change(OrgChange { price_factor: PriceFactor::new(9_000), ..OrgChange::default() }).await;
    assert_eq!(count().await, 0, "it pays less than others");
    change(OrgChange { price_factor: PriceFactor::new(10_000), ..OrgChange::default() }).await;
    change(OrgChange { overdraft: Some(Credits::new(1)), ..OrgChange::default() }).await;
    assert_eq!(count().await, 0, "its overdraft pays");
    change(OrgChange { overdraft: Some(Credits::ZERO), ..OrgChange::default() }).await;
    assert_eq!(count().await, 1);
    change(OrgChange { status: Some(Status::Suspended), ..OrgChange::default() }).await;
    assert_eq!(count().await, 0, "it is not to create tasks");
    let rich = db.add_org(&org_named("rich")).await.unwrap();
    db.grant(rich, Credits::new(60), None, TOP_UP, None).await.unwrap();
    assert_eq!(count().await, 0);
}
