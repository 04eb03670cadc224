//! First look-ups of credentials: strangers cause them, and others must not wait for them.

use reqwest::Method;
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};
use tokio::task::JoinSet;
use tollgate::access::LOOKUP_CONNECTIONS;
use tollgate::api_key::NewKey;
use tollgate::store::KeySpec;

use crate::support::database::until;
use crate::support::gateway::{Answer, TestGateway, body};

async fn credits(gateway: &TestGateway, key: &str) -> u16 {
    Answer::to(gateway.request(Method::GET, "/api/credits").bearer_auth(key)).await.status
}

fn key_of_nobody() -> String {
    NewKey::generate("live").unwrap().text.expose().to_owned()
}

/// Look-ups hang for as long as this lives.
async fn keys_locked(gateway: &TestGateway) -> PgConnection {
    let mut holder = PgConnection::connect(gateway.db.url()).await.unwrap();
    holder.execute("begin; lock table api_key in access exclusive mode").await.unwrap();
    holder
}

async fn hanging(gateway: &TestGateway) -> i64 {
    sqlx::query_scalar(
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' \
         and query like '%from api_key%'",
    )
    .fetch_one(gateway.db.pool())
    .await
    .unwrap()
}

#[tokio::test]
async fn keys_that_nobody_has_fill_no_pool_that_others_use() {
    let gateway = TestGateway::builder()
        .config(|config| {
            config.limits.failed_logins_per_minute = 0;
            config.database.max_connections = 4;
        })
        .start()
        .await;
    let task = gateway.task("before").await;
    let mut holder = keys_locked(&gateway).await;
    let mut strangers = JoinSet::new();
    for _ in 0..40 {
        let call = gateway.request(Method::GET, "/api/credits").bearer_auth(key_of_nobody());
        strangers.spawn(async move { Answer::to(call).await.status });
    }
    until("the pool of first look-ups hangs", async || {
        hanging(&gateway).await >= i64::from(LOOKUP_CONNECTIONS / 2)
    })
    .await;
    for _ in 0..5 {
        gateway.get("/api/credits").await.expect(200);
        gateway.get("/api/tasks").await.expect(200);
        gateway.status(&task).await.expect(200);
        gateway.create(&body("beside strangers")).await.expect(200);
        let keyed = gateway.creating(body("keyed").to_string()).header("idempotency-key", "the-same");
        Answer::to(keyed).await.expect(200);
    }
    assert!(hanging(&gateway).await <= i64::from(LOOKUP_CONNECTIONS));
    holder.execute("rollback").await.unwrap();
    while let Some(status) = strangers.join_next().await {
        assert!([401, 503].contains(&status.unwrap()));
    }
    assert_eq!(credits(&gateway, &key_of_nobody()).await, 401);
}

#[tokio::test]
async fn an_id_that_nobody_has_is_not_looked_up_again() {
    let gateway = TestGateway::start().await;
    let wrong = key_of_nobody();
    assert_eq!(credits(&gateway, &wrong).await, 401);
    let mut holder = keys_locked(&gateway).await;
    assert_eq!(credits(&gateway, &wrong).await, 401);
    holder.execute("rollback").await.unwrap();
}

#[tokio::test]
async fn a_network_of_many_wrong_keys_gets_in_with_a_valid_one() {
    let gateway =
        TestGateway::builder().config(|config| config.limits.failed_logins_per_minute = 2).start().await;
    let fresh = gateway.another_key(KeySpec::default()).await;
    let mut refused = Vec::new();
    for _ in 0..5 {
        refused.push(credits(&gateway, &key_of_nobody()).await);
    }
    assert_eq!(refused, [401, 401, 429, 429, 429]);
    // It is in no cache: it is looked up behind those.
    assert_eq!(credits(&gateway, &fresh.text).await, 200);
    let answer = Answer::to(gateway.request(Method::GET, "/api/credits").bearer_auth(key_of_nobody())).await;
    assert_eq!(answer.refused(429, "RATE_LIMITED")["data"], json!({"limit": "address"}));
}
