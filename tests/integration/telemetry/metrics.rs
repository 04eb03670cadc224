//! What a scrape tells: each metric of the list with its labels, the credits that moved, and no more series for more
//! tenants.

use std::collections::BTreeSet;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream;
use reqwest::Method;
use serde_json::json;
use tollgate::metrics::{ALL, Kind};
use tollgate::store::{BudgetLevel, NewBudget, Period, TaskFilter};

use crate::support::database::{TestDatabase, ahead, until};
use crate::support::fixture::credits;
use crate::support::gateway::body;
use crate::support::watched::{Scrape, Vendor, Watched, key};

/// Quick rounds of what is done by the way.
const QUICK: &str = "[status]\nmin_interval_ms = 20\n[ledger]\nlanes = 2\nlease_ms = 1000\n";

/// What only a gateway shows that is configured for it.
fn is_optional(name: &str) -> bool {
    name.starts_with("tollgate_tls_") || name.starts_with("tollgate_trace_")
}

/// The first scrape with everything in it: some of it is only seen in the first rounds of what is done by the way.
async fn complete(gateway: &Watched) -> Scrape {
    let mut last = None;
    until("every metric of the list is there", async || {
        let scrape = gateway.scrape().await;
        let there = scrape.labels();
        let complete = ALL.iter().all(|metric| is_optional(metric.name) || there.contains_key(metric.name));
        last = Some(scrape);
        complete
    })
    .await;
    last.unwrap()
}

#[tokio::test]
async fn a_scrape_has_what_the_list_has_from_the_start() {
    let (db, vendor) = (TestDatabase::new().await, Vendor::start(10).await);
    let gateway = Watched::start(&db, vendor.address, QUICK).await;
    let scrape = complete(&gateway).await;
    let seen = scrape.labels();
    for metric in ALL.iter().filter(|metric| !is_optional(metric.name)) {
        let labels: BTreeSet<&str> = metric.labels.iter().copied().collect();
        assert_eq!(seen[metric.name], labels, "{}", metric.name);
        if metric.kind == Kind::Histogram {
            let count = format!("{}_count", metric.name);
            assert!(scrape.series().iter().any(|series| series.starts_with(&count)), "{count}");
        }
    }
    let listed: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
    for name in seen.keys() {
        assert!(listed.contains(name) || name.starts_with("process_"), "{name} is not in the list");
    }
    assert_eq!(scrape.value("tollgate_database_up"), 1.0);
    assert_eq!(scrape.value("tollgate_lease_held"), 1.0);
    assert_eq!(scrape.value("tollgate_live_gateways"), 1.0);
    assert_eq!(scrape.value("tollgate_price_book_version"), 1.0);
    assert_eq!(scrape.value("tollgate_upstream_account_usable{backend=\"kling-3.0\",account=\"main\"}"), 1.0);
    assert!(scrape.value("process_resident_memory_bytes") > 0.0);
    gateway.stop().await;
}

#[tokio::test]
async fn credits_and_holds_are_counted_when_they_have_moved() {
    let (db, vendor) = (TestDatabase::new().await, Vendor::start(10).await);
    let (org, _, key) = key(&db, "a customer", 0).await;
    let gateway = Watched::start(&db, vendor.address, QUICK).await;
    let credits_of = format!("/admin/v1/orgs/{org}/credits");
    ahead(async |end| {
        let end = end.format(&time::format_description::well_known::Rfc3339).unwrap();
        let grant = json!({"credits": 77, "reason": "a trial", "expires_at": end});
        let granted = gateway.managed(&db, Method::POST, &format!("{credits_of}/grants"), grant).await;
        granted.status().is_success().then_some(())
    })
    .await;
    until("it has run out", async || gateway.scrape().await.value("tollgate_credits_expired_total") == 77.0)
        .await;
    let grant = json!({"credits": 5000, "reason": "an invoice"});
    gateway.manage(&db, Method::POST, &format!("{credits_of}/grants"), grant).await;
    let adjustment = json!({"credits": -100, "reason": "a slip"});
    gateway.manage(&db, Method::POST, &format!("{credits_of}/adjustments"), adjustment).await;

    let on = |prompt: &str, fault: serde_json::Value| json!({"on": "create", "match": {"prompt_contains": prompt}, "fault": fault});
    vendor
        .script(json!({"rules": [
            on("dearer", json!([{"kind": "consumed", "value": 460, "charge": 460}])),
            on("failing", json!([{"kind": "outcome", "status": "FAILED", "consumed": 0}])),
            on("refused", json!({"kind": "http_error", "status": 400, "error": "A_CODE_OF_THE_VENDOR"})),
            on("slow", json!({"kind": "delay", "ms": 700})),
            {"on": "status", "fault": {"kind": "delay", "ms": 300}},
        ]}))
        .await;
    for prompt in ["plain", "dearer", "failing", "slow"] {
        let task = gateway.create(&key, &body(prompt)).await.task_id();
        until("it has ended", async || gateway.status(&key, &task).await.data()["status"] != "IN_PROGRESS")
            .await;
    }
    gateway.create(&key, &body("refused")).await.refused(400, "A_CODE_OF_THE_VENDOR");
    let dear = json!({"type": "o3-pro-text-to-video", "prompt": "x", "duration": 15});
    let mut refusals = 0;
    while gateway.create(&key, &dear).await.status == 200 {
        refusals += 1;
        assert!(refusals < 100, "the credits come to an end");
    }
    until("every task has ended", async || {
        db.database().balance(org).await.unwrap().unwrap().held == credits(0)
    })
    .await;

    let scrape = gateway.scrape().await;
    let balance = db.database().balance(org).await.unwrap().unwrap();
    let total = |name: &str| scrape.value(&format!("tollgate_credits_{name}_total")) as i64;
    assert_eq!(total("granted"), 5077);
    assert_eq!(scrape.value("tollgate_credits_adjusted_total{direction=\"down\"}"), 100.0);
    assert_eq!(total("consumed"), balance.consumed.get());
    assert_eq!(total("overrun"), 60);
    assert_eq!(scrape.value("tollgate_overruns_total"), 1.0);
    // What was held was charged or given back, but for the overrun.
    assert_eq!(total("held"), total("consumed") - total("overrun") + total("released"));
    assert_eq!(total("released"), 800, "of the failed and the refused one");
    assert_eq!(scrape.value("tollgate_holds_refused_total{reason=\"credits\"}"), 1.0);
    let tasks = db.database().tasks(org, &TaskFilter::default(), 100).await.unwrap();
    assert_eq!(scrape.value("tollgate_holds_granted_total") as usize, tasks.len());
    assert_eq!(scrape.value("tollgate_hold_seconds_count{end=\"RELEASED\"}"), 2.0);
    assert_eq!(scrape.value("tollgate_hold_seconds_count{end=\"SETTLED\"}") as usize, tasks.len() - 2);
    assert!(scrape.value("tollgate_hold_seconds_sum{end=\"SETTLED\"}") < 60.0 * tasks.len() as f64);
    assert_eq!(scrape.value("tollgate_settle_lag_seconds_count") as usize, tasks.len() - 1);
    for call in ["reserve", "transition"] {
        assert_eq!(scrape.value(&format!("tollgate_ledger_queue_items{{call=\"{call}\"}}")), 0.0, "{call}");
    }
    // The vendor's time is not ours.
    let waited = |route: &str| {
        let sum = |metric: &str| scrape.value(&format!("tollgate_request_{metric}_sum{{route=\"{route}\"}}"));
        sum("seconds") - sum("overhead_seconds")
    };
    assert!(waited("generate") >= 0.7, "{}", waited("generate"));
    assert!(waited("status") >= 0.3, "{}", waited("status"));
    gateway.stop().await;
}

#[tokio::test]
async fn ten_thousand_organisations_add_no_series() {
    const CALLING: usize = 300;
    let (db, vendor) = (TestDatabase::new().await, Vendor::start(10).await);
    let limits = "[limits]\nkey_create_per_minute = 6\nmax_open_tasks = 0\nmax_exposure_per_day = 0\nfailed_logins_per_minute = 5\n";
    let gateway = Watched::start(&db, vendor.address, &format!("{QUICK}{limits}")).await;
    let before = complete(&gateway).await;

    sqlx::raw_sql(
        "insert into org (org_id, name) select gen_random_uuid(), 'tenant ' || n from generate_series(1, 10000) n; \
         insert into org_balance (org_id) select org_id from org; \
         select post_entry(org_id, gen_random_uuid(), 'grant', 1000, 'test', null, null, null, 'test', null) from org",
    )
    .execute(db.pool())
    .await
    .unwrap();
    let refuse = |number: usize| {
        let (status, code) = ([400, 404, 413, 422, 451, 500][number % 6], format!("CODE_{number}"));
        json!({"on": "create", "match": {"prompt_contains": format!("refused {number}.")},
               "fault": {"kind": "http_error", "status": status, "error": code}})
    };
    vendor.script(json!({"rules": (0..CALLING).map(refuse).collect::<Vec<_>>()})).await;
    let began = Instant::now();
    stream::iter(0..CALLING).for_each_concurrent(16, |number| one_tenant(&db, &gateway, number)).await;
    eprintln!("{CALLING} organisations called for {:?}", began.elapsed());
    until("budgets are told of", async || {
        let told: bool = sqlx::query_scalar("select count(*) > 0 and bool_and(told) from budget_event")
            .fetch_one(db.pool())
            .await
            .unwrap();
        let running = db.database().open_holds().await.unwrap();
        told && running.is_empty()
    })
    .await;

    let after = gateway.scrape().await;
    let (before, after_series) = (before.series(), after.series());
    let new: Vec<_> = after_series.difference(&before).collect();
    assert!(new.is_empty(), "series that were not there at the start: {new:#?}");
    assert_eq!(before.len(), after_series.len());
    // All of that was really seen.
    let requests = |labels: &str| after.value(&format!("tollgate_requests_total{{{labels}}}"));
    for (route, status, code) in [
        ("generate", 200, "OK"),
        ("generate", 402, "INSUFFICIENT_CREDITS"),
        ("generate", 402, "BUDGET_EXCEEDED"),
        ("generate", 429, "RATE_LIMITED"),
        ("generate", 400, "INVALID_TYPE"),
        ("generate", 400, "vendor"),
        ("status", 404, "TASK_NOT_FOUND"),
        ("none", 404, "NOT_FOUND"),
    ] {
        let labels = format!("route=\"{route}\",status=\"{status}\",code=\"{code}\"");
        assert!(requests(&labels) > 0.0, "{labels}");
    }
    for tens in [0, 30, 70] {
        let reached = after.value(&format!("tollgate_budget_events_total{{threshold=\"{tens}\"}}"));
        assert!(reached > 0.0, "thresholds from {tens} percent on");
    }
    let id = |series: &&&str| {
        ["org_", "usr_", "key_01", "tenant 1", "caller 1"].iter().any(|id| series.contains(id))
    };
    assert_eq!(after_series.iter().find(id), None, "no tenant is in a label");
    gateway.stop().await;
}

/// What one organisation meets: success, an empty account, a budget, a limit, its own slips, the vendor's.
async fn one_tenant(db: &TestDatabase, gateway: &Watched, number: usize) {
    let (org, _, key) = key(db, &format!("caller {number}"), 900).await;
    let budget = NewBudget {
        org: Some(org),
        level: BudgetLevel::Organisation,
        subject: None,
        period: Period::Monthly,
        credits: Some(credits(500)),
        thresholds: Some(vec![i32::try_from(number % 80).unwrap() + 1]),
    };
    match number % 5 {
        0 => {
            db.database().make_budget(&budget).await.unwrap();
            let task = gateway.create(&key, &body("within the budget")).await.task_id();
            gateway.create(&key, &body("above it")).await.refused(402, "BUDGET_EXCEEDED");
            gateway.status(&key, &task).await.expect(200);
        }
        1 => {
            for prompt in ["one", "two"] {
                gateway.create(&key, &body(prompt)).await.task_id();
            }
            gateway.create(&key, &body("three")).await.refused(402, "INSUFFICIENT_CREDITS");
        }
        2 => {
            let unknown = json!({"type": format!("type-{number}"), "prompt": "x"});
            for _ in 0..6 {
                gateway.create(&key, &unknown).await.refused(400, "INVALID_TYPE");
            }
            gateway.create(&key, &unknown).await.refused(429, "RATE_LIMITED");
        }
        3 => {
            gateway.status(&key, &format!("n75{number}")).await.refused(404, "TASK_NOT_FOUND");
            gateway.status(&format!("wrong-{number}"), "x").await;
            let path = format!("/api/{number}");
            for method in [Method::GET, Method::from_bytes(format!("M{number}").as_bytes()).unwrap()] {
                gateway.call(method, &path, &key).send().await.unwrap();
            }
        }
        _ => {
            let refused = gateway.create(&key, &body(&format!("refused {number}."))).await;
            assert!(refused.status >= 400, "{refused:?}");
        }
    }
}
