//! Somebody else has locked tables: callers are refused in time, on both sides of the connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::Value;
use sqlx::postgres::PgPool;
use sqlx::{Connection, Executor, PgConnection};
use tollgate::background::CONNECTIONS;
use tollgate::store::{CONTENT_CONNECTIONS, OperatorRole, SIDE_LANES};

use crate::support::admin_client::AdminClient;
use crate::support::database::{PATIENCE, lock, until};
use crate::support::gateway::{Answer, TestGateway, body};

/// Without these nobody is let in, and the lock is not what a call meets.
const LEFT_OPEN: &[&str] = &["operator_token", "epoch", "gateway"];

/// Holds every table but those for as long as it lives.
async fn lock_tables(gateway: &TestGateway) -> PgConnection {
    let tables: Vec<String> = sqlx::query_scalar(
        "select format('%I', relname) from pg_class where relnamespace = 'public'::regnamespace \
         and relkind in ('r', 'p') and not relname = any($1)",
    )
    .bind(LEFT_OPEN)
    .fetch_all(gateway.db.pool())
    .await
    .unwrap();
    let mut holder = PgConnection::connect(gateway.db.url()).await.unwrap();
    lock(&mut holder, &format!("{} in access exclusive mode", tables.join(", "))).await;
    holder
}

async fn backends(pool: &PgPool) -> i64 {
    sqlx::query_scalar(
        "select count(*) from pg_stat_activity where datname = current_database() and application_name like 'tollgate%'",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_question_is_answered_while_the_tables_are_locked() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let document = operator.get("/openapi.json").await.expect(200);
    let paths = document["paths"].as_object().unwrap().iter();
    let questions: Vec<String> = paths
        .filter(|(_, item)| item.get("get").is_some())
        .map(|(path, _)| named(path, gateway.caller.org.to_string().as_str()))
        .collect();
    assert!(questions.len() > 20, "this is not the whole document");
    let mut holder = lock_tables(&gateway).await;
    let asked = questions.iter().map(async |path| {
        let answer = tokio::time::timeout(PATIENCE, operator.get(path)).await;
        let answer = answer.unwrap_or_else(|_| panic!("{path} is not answered while the lock is held"));
        (path, answer.status.as_u16())
    });
    let answers = join_all(asked).await;
    assert!(
        answers.iter().filter(|(_, status)| *status == 503).count() > 10,
        "nothing met the lock: {answers:?}"
    );
    holder.execute("rollback").await.unwrap();
    until("all is well again", async || {
        operator.get("/admin/v1/orgs").await.status == 200
            && operator.get("/admin/v1/drift").await.status == 200
    })
    .await;
}

/// The path with something in place of each parameter.
fn named(path: &str, org: &str) -> String {
    let filled = path.replace("{org_id}", org).replace("{version}", "1").replace("{month}", "2026-01");
    let mut text = filled.as_str();
    let mut whole = String::new();
    while let Some((before, rest)) = text.split_once('{') {
        let (name, after) = rest.split_once('}').unwrap();
        let prefix = name.split('_').next().unwrap();
        let prefix = match prefix {
            "budget" => "bud",
            "provider" => "idp",
            "identity" => "idn",
            "user" => "usr",
            other => other,
        };
        whole += &format!("{before}{prefix}_{:032x}", 1);
        text = after;
    }
    whole + text
}

/// A caller that is gone, or was told that it takes too long, must not leave a backend behind that works on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_makes_no_more_backends_than_the_pools_have() {
    const CALLERS: usize = 60;
    const POOL: u32 = 6;
    const LANES: usize = 2;
    // the pool of this test, upkeep, the listener, an audit, the lease, management, look-ups, content, lanes aside
    const OTHERS: i64 =
        8 + (CONNECTIONS + CONTENT_CONNECTIONS) as i64 + SIDE_LANES as i64 + 1 + 1 + 1 + 6 + 4;
    // Each waits for a connection, or for the ledger, for as long as it may: 45 seconds under the lock.
    const ROUNDS: usize = 9;
    let gateway = TestGateway::builder()
        .config(|config| {
            config.database.max_connections = POOL;
            config.database.acquire_timeout_ms = 5000;
            config.ledger.lanes = LANES;
            config.ledger.reserve_timeout_ms = 5000;
        })
        .start()
        .await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let create = async |caller: usize| {
        let call = gateway
            .client
            .post(format!("http://{}/api/generate", gateway.address()))
            .bearer_auth(&gateway.caller.text);
        Answer::to(call.body(body(&format!("locked {caller}")).to_string())).await.status
    };
    let mut holder = lock_tables(&gateway).await;
    let done = AtomicBool::new(false);
    let calls = join_all((0..CALLERS).map(async |caller| {
        for _ in 0..ROUNDS {
            match caller % 3 {
                0 => assert_eq!(operator.call(Method::GET, "/admin/v1/orgs", None).await.status, 503),
                1 => assert_eq!(create(caller).await, 503),
                // These do not wait for their answers.
                _ => drop(tokio::time::timeout(Duration::from_millis(800), create(caller)).await),
            }
        }
    }));
    let calls = async {
        calls.await;
        done.store(true, Ordering::Relaxed);
    };
    let mut most = 0;
    let watch = until("all are answered", async || {
        most = most.max(backends(gateway.db.pool()).await);
        done.load(Ordering::Relaxed)
    });
    tokio::join!(calls, watch);
    let allowed = i64::from(POOL) + i64::try_from(LANES).unwrap() + OTHERS;
    assert!(most <= allowed, "{most} backends; the pools have {allowed} places");
    assert_eq!(gateway.upstream_creates().await, (0, 0));
    holder.execute("rollback").await.unwrap();
    until("all is well again", async || {
        let answer: Value = operator.get("/admin/v1/orgs").await.body;
        answer["items"].is_array() || answer["data"].is_array()
    })
    .await;
    until("creates are taken again", async || create(CALLERS).await == 200).await;
}
