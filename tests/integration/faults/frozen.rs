//! Gateways are frozen at random instants of management and of credits' expiry: no row stays locked because of one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tollgate::ids::OrgId;
use tollgate::secret::Secret;
use tollgate::store::{Database, OperatorRole};

use crate::support::database::{PATIENCE, TestDatabase, until};
use crate::support::faults::fleet::{Fleet, Spec};
use crate::support::faults::load::Reply;
use crate::support::faults::scaled;
use crate::support::http;
use crate::support::seed::acting;

/// What management and expiry lock. Nothing here may be locked for longer than ten seconds, whatever a gateway does.
const TABLES: &[&str] = &[
    "org_balance",
    "org",
    "app_user",
    "api_key",
    "budget",
    "price_book",
    "epoch",
    "idempotency",
    "operator_token",
    "budget_request",
    "key_policy",
    "console_session",
    "month_seal",
    "label",
];

/// One call of the management API.
struct Call(Method, String, Value);

/// Changes of an organisation, again and again, until it is told to stop. Counts those that were made.
struct Manager {
    base: String,
    token: String,
    org: OrgId,
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
}

impl Manager {
    fn calls(&self, round: u64) -> Vec<Call> {
        let org = format!("/admin/v1/orgs/{}", self.org);
        let soon = (time::OffsetDateTime::now_utc() + Duration::from_secs(1))
            .format(&time::format_description::well_known::Rfc3339)
            .unwrap();
        vec![
            // It has to be taken back again almost at once.
            Call(
                Method::POST,
                format!("{org}/credits/grants"),
                json!({"credits": 5, "reason": "frozen", "expires_at": soon}),
            ),
            Call(
                Method::POST,
                format!("{org}/credits/adjustments"),
                json!({"credits": 1, "reason": "frozen"}),
            ),
            Call(Method::PUT, format!("{org}/credits/overdraft"), json!({"overdraft": round % 7})),
            Call(Method::PATCH, org.clone(), json!({"max_open_tasks": 1000 + round})),
            Call(
                Method::POST,
                format!("{org}/budgets"),
                json!({"level": "organisation", "period": "total", "credits": 1_000_000_000}),
            ),
            Call(
                Method::POST,
                format!("{org}/users"),
                json!({"name": format!("user {round} of {}", self.org)}),
            ),
            Call(Method::POST, "/admin/v1/price-books".into(), json!({"name": format!("book {round}")})),
        ]
    }

    async fn run(self) {
        let client = http::builder().build().unwrap();
        let mut round = 0;
        while !self.stop.load(Ordering::Relaxed) {
            for Call(method, path, body) in self.calls(round) {
                let request = client
                    .request(method, format!("{}{path}", self.base))
                    .bearer_auth(&self.token)
                    .header("idempotency-key", format!("{}-{round}-{path}", self.org))
                    .json(&body);
                // A frozen gateway answers nothing; what counts is what it leaves locked.
                if request.send().await.is_ok_and(|answer| answer.status().is_success()) {
                    self.made.fetch_add(1, Ordering::Relaxed);
                }
            }
            round += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_gateway_keeps_no_row_locked() {
    let db = TestDatabase::new().await;
    let fleet = Fleet::start(Spec { gateways: 2, ..Spec::on(db.url()).patient() }).await;
    let database = acting(&Database::connect(&Secret::new(db.url()), 2, PATIENCE).unwrap());
    let (_, token) = database.create_operator_token("frozen", OperatorRole::Operator, None).await.unwrap();
    let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut managers = JoinSet::new();
    // Not of the one that is drained in the end: what expires would be missing there.
    for tenant in &fleet.customers.tenants[..Fleet::DRAINED] {
        let base = fleet.admin_url(0);
        let token = token.expose().to_owned();
        managers
            .spawn(Manager { base, token, org: tenant.org, stop: stop.clone(), made: made.clone() }.run());
    }
    for _ in 0..scaled(12, 60) {
        let before = made.load(Ordering::Relaxed);
        let some = before + rand::random_range(1..8);
        until("changes are made", async || made.load(Ordering::Relaxed) >= some).await;
        // The instant within a change is the kernel's choice.
        tokio::time::sleep(Duration::from_micros(rand::random_range(0..3_000))).await;
        fleet.signal(0, Signal::SIGSTOP);
        until("it is frozen", async || fleet.is_stopped(0)).await;
        for table in TABLES {
            let mut locking = fleet.pool.begin().await.unwrap();
            sqlx::query("set local lock_timeout = '10s'").execute(&mut *locking).await.unwrap();
            let lock = sqlx::AssertSqlSafe(format!("select 1 from {table} for update"));
            let locked = sqlx::query(lock).execute(&mut *locking).await;
            assert!(locked.is_ok(), "rows of {table} stay locked: {locked:?}");
            locking.rollback().await.unwrap();
        }
        // And the other gateway serves the organisations that the frozen one was at.
        until("the healthy gateway serves them", async || {
            matches!(fleet.customers.create(0, 1).await, Reply::Accepted(_))
        })
        .await;
        fleet.signal(0, Signal::SIGCONT);
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = managers.join_next().await {
        ended.unwrap();
    }
    fleet.conclude(std::time::Instant::now()).await.must_be_clean();
}
