//! Background jobs: those that hang delay no others, and the metrics tell which they are.

use std::collections::BTreeSet;

use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};

use crate::support::database::{TestDatabase, lock, until};
use crate::support::fixture::credits;
use crate::support::gateway::body;
use crate::support::watched::{Scrape, Vendor, Watched, key};

/// A lease of five seconds: with it most jobs run every second.
const QUICK: &str = "[ledger]\nlease_ms = 5000\naudit_minutes = 60\n";

/// Jobs, and the tables that they need and no other job does.
const NEED: [(&str, &str); 5] = [
    ("expire credits", "credit_lot"),
    ("tell budget events", "budget_event"),
    ("tell low balances", "low_balance"),
    ("audit", "audit_run"),
    ("show audit", "audit_run"),
];

/// Jobs that do not use the jobs' pool of connections.
const IN_MEMORY: [&str; 3] = ["renew lease", "forget idle limits", "fold metrics"];

fn jobs(scrape: &Scrape) -> BTreeSet<String> {
    let prefix = "tollgate_job_last_success_timestamp_seconds{job_name=\"";
    let name = |series: &str| Some(series.strip_prefix(prefix)?.strip_suffix("\"}")?.to_owned());
    scrape.series().into_iter().filter_map(name).collect()
}

fn runs(scrape: &Scrape, job: &str, outcome: &str) -> f64 {
    scrape.value(&format!("tollgate_job_runs_total{{job_name=\"{job}\",outcome=\"{outcome}\"}}"))
}

#[tokio::test]
async fn jobs_that_hang_on_a_table_delay_no_others() {
    let (db, vendor) = (TestDatabase::new().await, Vendor::start(10).await);
    let (org, _, key) = key(&db, "a customer", 10_000).await;
    vendor
        .script(json!({"rules": [{"on": "create", "match": {"prompt_contains": "endless"},
                                  "fault": {"kind": "task_ms", "ms": 86_400_000}}]}))
        .await;
    let gateway = Watched::start(&db, vendor.address, QUICK).await;
    let hangs = |job: &str| NEED.iter().any(|(name, _)| *name == job);
    until("every job has succeeded", async || {
        let scrape = gateway.scrape().await;
        jobs(&scrape).iter().all(|job| runs(&scrape, job, "ok") > 0.0)
    })
    .await;

    let mut locking = PgConnection::connect(db.url()).await.unwrap();
    let tables: BTreeSet<&str> = NEED.iter().map(|(_, table)| *table).collect();
    let tables = tables.into_iter().collect::<Vec<_>>().join(", ");
    lock(&mut locking, &tables).await;
    let before = gateway.scrape().await;
    until("they have hung twice", async || {
        let scrape = gateway.scrape().await;
        NEED.iter().all(|(job, _)| runs(&scrape, job, "timed out") - runs(&before, job, "timed out") >= 2.0)
    })
    .await;

    // Tasks end, gauges move, the lease is renewed.
    let task = gateway.create(&key, &body("quick")).await.task_id();
    until("a task is charged that nobody asks for", async || {
        db.database().balance(org).await.unwrap().unwrap().consumed == credits(400)
    })
    .await;
    assert_eq!(gateway.status(&key, &task).await.data()["status"], "SUCCESS");
    gateway.create(&key, &body("endless")).await.task_id();
    until("it is counted", async || {
        gateway.scrape().await.shown("tollgate_open_holds{state=\"RUNNING\"}") == Some(1.0)
    })
    .await;
    let during = gateway.scrape().await;
    assert_eq!(during.value("tollgate_lease_held"), 1.0);
    let seldom = |job: &str| during.value(&stuck_after(job)) > 500.0;
    for job in jobs(&during) {
        let more = |outcome: &str| runs(&during, &job, outcome) - runs(&before, &job, outcome);
        let (ok, timed_out) = (more("ok"), more("timed out"));
        if hangs(&job) {
            assert_eq!(ok, 0.0, "{job} succeeded without its table");
        } else if !seldom(&job) {
            // One may be a busy machine's; jobs that have no connection time out again and again.
            assert!(ok >= 2.0 && timed_out <= 1.0, "{job}: {ok} ok, {timed_out} timed out");
        }
    }

    locking.execute("rollback").await.unwrap();
    until("they go on", async || {
        let scrape = gateway.scrape().await;
        NEED.iter().all(|(job, _)| runs(&scrape, job, "ok") > runs(&during, job, "ok"))
    })
    .await;
    vendor.script(json!({"rules": []})).await;
    let log = gateway.stop().await;
    for (job, _) in NEED {
        assert!(log.contains(&format!("\"job\":\"{job}\"")), "the log names {job}: {log}");
    }
}

fn stuck_after(job: &str) -> String {
    format!("tollgate_job_stuck_after_seconds{{job_name=\"{job}\"}}")
}

#[tokio::test]
async fn there_is_a_connection_for_each_job() {
    let (db, vendor) = (TestDatabase::new().await, Vendor::start(10).await);
    let gateway = Watched::start(&db, vendor.address, QUICK).await;
    let mut last = None;
    until("the jobs have begun", async || {
        let scrape = gateway.scrape().await;
        let begun = jobs(&scrape).len() > IN_MEMORY.len();
        last = Some(scrape);
        begun
    })
    .await;
    let scrape = last.unwrap();
    let all = jobs(&scrape);
    assert!(IN_MEMORY.iter().all(|job| all.contains(*job)), "{all:?}");
    let places = scrape.value("tollgate_pool_max_connections{pool=\"upkeep\"}");
    // And one for the question whether the gateway is ready, and one for the notes of callers that have gone.
    assert_eq!(places as usize, all.len() - IN_MEMORY.len() + 2, "{all:?}");
    assert_eq!(scrape.value("tollgate_pool_max_connections{pool=\"lease\"}"), 1.0);
    gateway.stop().await;
}
