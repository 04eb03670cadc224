//! The operations listener, and what happens while the database is away.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use tokio_util::sync::CancellationToken;
use tollgate::store::KeySpec;

use crate::support::database::until;
use crate::support::gateway::{Answer, ENDLESS, TestGateway, body};

async fn fetch(gateway: &TestGateway, path: &str) -> (u16, String) {
    let answer = gateway.client.get(gateway.admin_url(path)).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn health_readiness_and_metrics_are_served() {
    let gateway = TestGateway::start().await;
    let task = gateway.task("x").await;
    gateway.finished(&task).await;
    gateway.create(&json!({})).await.expect(400);
    assert_eq!(fetch(&gateway, "/healthz").await, (200, "ok\n".into()));
    until("it is ready", async || {
        let (status, ready) = fetch(&gateway, "/readyz").await;
        (status, serde_json::from_str::<Value>(&ready).unwrap()["ready"].clone()) == (200, json!(true))
    })
    .await;

    let (status, metrics) = fetch(&gateway, "/metrics").await;
    assert_eq!(status, 200);
    for family in [
        "tollgate_requests_total",
        "tollgate_request_seconds_bucket",
        "tollgate_request_overhead_seconds_bucket",
        "tollgate_upstream_calls_total",
        "tollgate_upstream_seconds_bucket",
        "tollgate_upstream_breaker_state",
        "tollgate_upstream_refused_total",
        "tollgate_upstream_in_flight",
        "tollgate_holds_granted_total",
        "tollgate_hold_steps_total",
        "tollgate_credits_consumed_total",
        "tollgate_ledger_call_seconds_bucket",
        "tollgate_ledger_batch_items_bucket",
        "tollgate_pool_connections",
        "tollgate_price_book_version",
        "tollgate_requests_in_flight",
    ] {
        assert!(metrics.lines().any(|line| line.starts_with(family)), "{family} is missing:\n{metrics}");
    }
    let caller = &gateway.caller;
    let hold = gateway.last_hold().await.reference();
    for secret in [
        caller.org.to_string(),
        caller.user.to_string(),
        caller.key.to_string(),
        caller.text.clone(),
        task,
        hold,
    ] {
        assert!(!metrics.contains(&secret), "{secret} is in the metrics");
    }
}

/// Who asks whether the gateway is ready uses the jobs' pool, and everybody may ask.
#[tokio::test]
async fn however_many_ask_whether_it_is_ready_one_connection_answers_them() {
    let gateway = TestGateway::start().await;
    let mut holder = PgConnection::connect(gateway.db.url()).await.unwrap();
    holder.execute("begin; lock table schema_requirement in access exclusive mode").await.unwrap();
    let hanging = async || {
        let waiting = "select count(*) from pg_stat_activity where datname = current_database() \
                       and wait_event_type = 'Lock' and query like '%schema_requirement%'";
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(gateway.db.pool()).await.unwrap()
    };
    let over = CancellationToken::new();
    // Fewer than the connections from one address for which the listener has room.
    let asking = join_all((0..8).map(|_| async {
        while !over.is_cancelled() {
            fetch(&gateway, "/readyz").await;
        }
    }));
    let looking = async {
        until("somebody is asked", async || hanging().await > 0).await;
        for _ in 0..5 {
            let runs = job_runs(&gateway, "sweep holds").await;
            until("jobs run beside it", async || job_runs(&gateway, "sweep holds").await > runs).await;
            assert!(hanging().await <= 1);
        }
        over.cancel();
        holder.execute("rollback").await.unwrap();
    };
    tokio::join!(asking, looking);
    until("it is ready", async || fetch(&gateway, "/readyz").await.0 == 200).await;
}

/// How often a job has succeeded.
async fn job_runs(gateway: &TestGateway, job: &str) -> f64 {
    let (_, metrics) = fetch(gateway, "/metrics").await;
    let series = format!("tollgate_job_runs_total{{job_name=\"{job}\",outcome=\"ok\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
}

#[tokio::test]
async fn while_the_database_is_away_nothing_is_sent_and_known_tasks_stay_readable() {
    let gateway = TestGateway::builder()
        .task_time(ENDLESS)
        .config(|config| {
            config.database.acquire_timeout_ms = 300;
            config.ledger.reserve_timeout_ms = 300;
        })
        .start()
        .await;
    let task = gateway.task("known").await;
    gateway.status(&task).await.expect(200);
    let unseen = gateway.another_key(KeySpec::default()).await;
    gateway.let_in(false).await;
    until("it is not ready", async || fetch(&gateway, "/readyz").await.0 == 503).await;
    assert_eq!(fetch(&gateway, "/healthz").await.0, 200);
    for _ in 0..3 {
        gateway.create(&body("refused")).await.refused(503, "UNAVAILABLE");
    }
    assert_eq!(gateway.status(&task).await.data()["status"], "IN_PROGRESS");
    assert_eq!(gateway.upstream_creates().await, (1, 1));
    // No key is called wrong that cannot be looked up.
    let status = async |key: &str| {
        Answer::to(gateway.request(Method::GET, &format!("/api/status?task_id={task}")).bearer_auth(key))
            .await
    };
    status(&unseen.text).await.refused(503, "UNAVAILABLE");
    status("garbage").await.refused(401, "INVALID_API_KEY");

    gateway.let_in(true).await;
    until("it is ready again", async || fetch(&gateway, "/readyz").await.0 == 200).await;
    until("creates work again", async || gateway.create(&body("again")).await.status == 200).await;
}

#[tokio::test]
async fn a_create_accepted_while_the_database_is_away_is_recorded_when_it_is_back() {
    let gateway = TestGateway::start().await;
    gateway.fault_on_create(json!({"kind": "delay", "ms": 1000, "accept": true})).await;
    let create = tokio::spawn(gateway.creating(body("x").to_string()).send());
    until("the vendor has it", async || gateway.upstream_creates().await == (1, 1)).await;
    gateway.let_in(false).await;
    let answer = Answer::of(create.await.unwrap().unwrap()).await;
    let reference = answer.reference();
    gateway.let_in(true).await;
    until("it is recorded and settled", async || {
        let Ok(Some(balance)) = gateway.db.database().balance(gateway.caller.org).await else { return false };
        (balance.held.get(), balance.consumed.get()) == (0, 400)
    })
    .await;
    assert_eq!(gateway.finished(&reference).await.data()["status"], "SUCCESS");
}
