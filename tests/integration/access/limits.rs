//! Who may call, how often, for what, from where.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use time::OffsetDateTime;
use tollgate::store::{KeySpec, OrgChange, Rates};

use crate::support::database::{ahead, soon, until};
use crate::support::gateway::{Answer, Caller, ENDLESS, TestGateway, body};

async fn create(gateway: &TestGateway, caller: &Caller) -> Answer {
    let call = gateway.request(Method::POST, "/api/generate").bearer_auth(&caller.text);
    Answer::to(call.body(body("x").to_string())).await
}

async fn get(gateway: &TestGateway, caller: &Caller, path: &str) -> Answer {
    Answer::to(gateway.request(Method::GET, path).bearer_auth(&caller.text)).await
}

async fn set_limits(gateway: &TestGateway, limits: OrgChange) {
    gateway.db.database().update_org(gateway.caller.org, limits, None).await.unwrap();
}

/// Changes rows as an operator's tool would, and tells the gateways.
async fn operate(gateway: &TestGateway, change: &'static str) {
    sqlx::query(change).execute(gateway.db.pool()).await.unwrap();
    sqlx::query("select bump_epoch('auth')").execute(gateway.db.pool()).await.unwrap();
}

#[tokio::test]
async fn the_narrowest_level_refuses_and_costs_the_wider_ones_nothing() {
    let gateway =
        TestGateway::builder().config(|config| config.limits.org_create_per_minute = 3).start().await;
    let rates = Rates { create: Some(2), status: None };
    let narrow = gateway.another_key(KeySpec { rates, ..KeySpec::default() }).await;
    for left in [1, 0] {
        let answer = create(&gateway, &narrow).await;
        answer.expect(200);
        assert_eq!(answer.header("ratelimit-policy"), r#""key";q=2;w=60"#);
        assert!(answer.header("ratelimit").starts_with(&format!(r#""key";r={left};t="#)), "{answer:?}");
    }
    for _ in 0..5 {
        let answer = create(&gateway, &narrow).await;
        assert_eq!(answer.refused(429, "RATE_LIMITED")["data"]["limit"], "key");
        assert!(answer.header("ratelimit").starts_with(r#""key";r=0;t="#), "{answer:?}");
        // Two a minute: the next one in half a minute.
        let seconds: u64 = answer.header("retry-after").parse().unwrap();
        assert!((1..=30).contains(&seconds), "{seconds}");
    }
    // The organisation has one left.
    create(&gateway, &gateway.caller).await.expect(200);
    let answer = create(&gateway, &gateway.caller).await;
    assert_eq!(answer.refused(429, "RATE_LIMITED")["data"]["limit"], "organisation");
    assert_eq!(answer.header("ratelimit-policy"), r#""organisation";q=3;w=60"#);
    assert_eq!(gateway.upstream_creates().await, (3, 3));
    assert_eq!(gateway.holds().await.len(), 3);
    // Status has limits of its own.
    get(&gateway, &gateway.caller, "/api/credits").await.expect(200);
}

#[tokio::test]
async fn all_keys_of_a_user_share_its_limit_and_other_users_have_their_own() {
    let limits = TestGateway::builder().config(|config| {
        config.limits.user_create_per_minute = 3;
        config.limits.user_status_per_minute = 2;
        config.limits.org_create_per_minute = 5;
    });
    let gateway = limits.start().await;
    let second = gateway.another_key(KeySpec::default()).await;
    let colleague = gateway.another_user("a colleague", "member").await;
    create(&gateway, &gateway.caller).await.expect(200);
    let answer = create(&gateway, &second).await;
    assert_eq!(answer.header("ratelimit-policy"), r#""user";q=3;w=60"#);
    create(&gateway, &second).await.expect(200);
    for key in [&gateway.caller, &second, &second] {
        let answer = create(&gateway, key).await;
        assert_eq!(answer.refused(429, "RATE_LIMITED")["data"]["limit"], "user");
    }
    // What was refused to one user has cost the organisation nothing.
    for _ in 0..2 {
        create(&gateway, &colleague).await.expect(200);
    }
    let answer = create(&gateway, &colleague).await;
    assert_eq!(answer.refused(429, "RATE_LIMITED")["data"]["limit"], "organisation");
    for expected in [200, 200, 429] {
        assert_eq!(get(&gateway, &second, "/api/credits").await.status, expected);
    }
    get(&gateway, &colleague, "/api/credits").await.expect(200);
}

#[tokio::test]
async fn status_calls_have_limits_of_their_own() {
    let gateway = TestGateway::start().await;
    let rates = Rates { create: None, status: Some(1) };
    let key = gateway.another_key(KeySpec { rates, ..KeySpec::default() }).await;
    get(&gateway, &key, "/api/tasks").await.expect(200);
    get(&gateway, &key, "/api/credits").await.refused(429, "RATE_LIMITED");
    create(&gateway, &key).await.expect(200);
}

#[tokio::test]
async fn wrong_keys_are_limited_by_address_and_a_valid_one_always_passes() {
    let gateway =
        TestGateway::builder().config(|config| config.limits.failed_logins_per_minute = 3).start().await;
    let wrong = async || Answer::to(gateway.request(Method::GET, "/api/credits").bearer_auth("wrong")).await;
    for _ in 0..3 {
        wrong().await.refused(401, "INVALID_API_KEY");
    }
    assert_eq!(wrong().await.refused(429, "RATE_LIMITED")["data"]["limit"], "address");
    get(&gateway, &gateway.caller, "/api/credits").await.expect(200);
    // Who presents nothing has not failed.
    Answer::to(gateway.request(Method::GET, "/api/credits")).await.refused(401, "INVALID_API_KEY");
    wrong().await.expect(429);
}

/// A key as it should be in form, with another secret.
fn with_another_secret(text: &str) -> String {
    use sha2::{Digest, Sha256};
    let (head, _) = text.rsplit_once('_').unwrap();
    let body = format!("{head}_{}", "x".repeat(32));
    let digest = Sha256::digest(body.as_bytes());
    format!("{body}{}", digest[..3].iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

#[tokio::test]
async fn the_right_id_with_another_secret_is_refused_in_memory_or_not() {
    let gateway = TestGateway::start().await;
    let wrong = Caller { text: with_another_secret(&gateway.caller.text), ..gateway.caller.clone() };
    get(&gateway, &wrong, "/api/credits").await.refused(401, "INVALID_API_KEY");
    gateway.get("/api/credits").await.expect(200);
    get(&gateway, &wrong, "/api/credits").await.refused(401, "INVALID_API_KEY");
    create(&gateway, &wrong).await.refused(401, "INVALID_API_KEY");
    let database = gateway.db.database();
    until("its use is written down", async || {
        database.key(gateway.caller.key).await.unwrap().unwrap().last_used_at.is_some()
    })
    .await;
}

#[tokio::test]
async fn unfinished_tasks_are_capped_and_doubtful_ones_do_not_count() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    set_limits(&gateway, OrgChange { max_open_tasks: Some(Some(2)), ..OrgChange::default() }).await;
    gateway.fault_on_create(json!({"kind": "cut_before"})).await;
    gateway.create(&body("doubtful")).await.reference();
    gateway.script(json!({"rules": [{"on": "create", "match": {"prompt_contains": "brief"}, "fault": {"kind": "task_ms", "ms": 1500}}]})).await;
    let brief = gateway.task("brief").await;
    gateway.task("long").await;
    let before = gateway.balance().await;
    gateway.create(&body("one too many")).await.refused(429, "TOO_MANY_TASKS");
    assert_eq!(gateway.balance().await, before);
    assert_eq!(gateway.upstream_creates().await, (3, 2));
    gateway.finished(&brief).await;
    gateway.task("fits again").await;
}

#[tokio::test]
async fn a_key_ends_at_its_expiry() {
    let gateway = TestGateway::start().await;
    let expiring = |end: OffsetDateTime| KeySpec { expires_at: Some(end), ..KeySpec::default() };
    let expired = ahead(async |end| {
        let key = gateway.another_key(expiring(end)).await;
        (create(&gateway, &key).await.status == 200).then_some(key)
    })
    .await;
    let later = gateway.another_key(expiring(OffsetDateTime::now_utc() + Duration::from_secs(3600))).await;
    until("the key has expired", async || create(&gateway, &expired).await.status == 401).await;
    get(&gateway, &expired, "/api/status?task_id=n75x").await.refused(401, "INVALID_API_KEY");
    create(&gateway, &later).await.expect(200);
}

#[tokio::test]
async fn a_revoked_key_is_refused_at_once_and_its_tasks_stay_readable() {
    let gateway = TestGateway::start().await;
    let lost = gateway.another_key(KeySpec::default()).await;
    let task = create(&gateway, &lost).await.task_id();
    assert!(gateway.db.database().revoke_key(lost.key).await.unwrap());
    soon("the key is refused", async || get(&gateway, &lost, "/api/credits").await.status == 401).await;
    for _ in 0..3 {
        create(&gateway, &lost).await.refused(401, "INVALID_API_KEY");
    }
    gateway.finished(&task).await;
    assert_eq!(gateway.balance().await, [999_600, 0, 400]);
}

#[tokio::test]
async fn a_key_creates_only_its_types() {
    let gateway = TestGateway::start().await;
    let allowed_types = Some(vec!["o3-std-text-to-video".to_owned()]);
    let key = gateway.another_key(KeySpec { allowed_types, ..KeySpec::default() }).await;
    create(&gateway, &key).await.refused(403, "TYPE_NOT_ALLOWED");
    assert_eq!(gateway.holds().await.len(), 0);
    let o3 = json!({"type": "o3-std-text-to-video", "prompt": "x"}).to_string();
    let call = gateway.request(Method::POST, "/api/generate").bearer_auth(&key.text).body(o3);
    Answer::to(call).await.expect(200);
    create(&gateway, &gateway.caller).await.expect(200);
}

#[tokio::test]
async fn a_key_works_only_from_its_networks() {
    let gateway = TestGateway::start().await;
    let from = |network: &str| KeySpec {
        allowed_networks: Some(vec![network.parse().unwrap()]),
        ..KeySpec::default()
    };
    let elsewhere = gateway.another_key(from("10.0.0.0/8")).await;
    create(&gateway, &elsewhere).await.refused(403, "NETWORK_NOT_ALLOWED");
    get(&gateway, &elsewhere, "/api/credits").await.refused(403, "NETWORK_NOT_ALLOWED");
    let forged = gateway.request(Method::GET, "/api/credits").bearer_auth(&elsewhere.text);
    Answer::to(forged.header("x-forwarded-for", "10.1.2.3")).await.expect(403);
    assert_eq!(gateway.holds().await.len(), 0);
    let here = gateway.another_key(from("127.0.0.0/8")).await;
    create(&gateway, &here).await.expect(200);
}

#[tokio::test]
async fn the_suspended_create_nothing_and_read_everything() {
    let gateway = TestGateway::start().await;
    let colleague = gateway.another_user("a colleague", "member").await;
    let task = gateway.task("under way").await;
    for (suspend, resume, colleague_too) in [
        ("update org set status = 'suspended'", "update org set status = 'active'", true),
        (
            "update app_user set status = 'suspended' where name = 'a user'",
            "update app_user set status = 'active'",
            false,
        ),
    ] {
        operate(&gateway, suspend).await;
        let [available, _, _] = gateway.balance().await;
        let empty = async || gateway.create(&json!({})).await.status;
        until("the suspension has arrived", async || empty().await == 403).await;
        gateway.create(&body("x")).await.refused(403, "SUSPENDED");
        let theirs = create(&gateway, &colleague).await;
        assert_eq!(theirs.status, if colleague_too { 403 } else { 200 });
        assert_eq!(gateway.balance().await[0], available - if colleague_too { 0 } else { 400 });
        gateway.status(&task).await.expect(200);
        gateway.get("/api/credits").await.expect(200);
        gateway.finished(&task).await;
        operate(&gateway, resume).await;
        until("it is lifted", async || empty().await == 400).await;
    }
    assert_eq!(gateway.create(&body("again")).await.status, 200);
}
