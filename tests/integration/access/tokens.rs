//! Callers with tokens of identity providers: who they are here, and every way we know of to be somebody one is not.

mod people;
mod signing_keys;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use tollgate::access::LOOKUP_CONNECTIONS;
use tollgate::ids::{OrgId, UserId};
use tollgate::store::{GivenRole, OperatorRole, ProviderSpec, Serves, SigningAlgorithm, StoreError};

use crate::support::admin_client::AdminClient;
use crate::support::database::until;
use crate::support::gateway::{Answer, TestGateway, body};
use crate::support::identity_provider::{
    AUDIENCE, Endpoint, ISSUER, Mood, Signer, TestProvider, claims, forged, now,
};

async fn get(gateway: &TestGateway, token: &str, path: &str) -> Answer {
    Answer::to(gateway.request(Method::GET, path).bearer_auth(token)).await
}

async fn credits(gateway: &TestGateway, token: &str) -> Answer {
    get(gateway, token, "/api/credits").await
}

async fn create(gateway: &TestGateway, token: &str, prompt: &str) -> Answer {
    let call = gateway.request(Method::POST, "/api/generate").bearer_auth(token);
    Answer::to(call.body(body(prompt).to_string())).await
}

/// A gateway that takes tokens of a provider of the caller's organisation.
async fn with_provider(tune: impl FnOnce(&mut ProviderSpec)) -> (TestGateway, TestProvider) {
    let gateway = TestGateway::builder()
        .config(|config| {
            config.limits.failed_logins_per_minute = 0;
            config.auth.jwks_refresh_ms = 3_000;
        })
        .start()
        .await;
    let provider = TestProvider::start().await;
    let mut spec = provider.spec("id", Some(gateway.caller.org));
    tune(&mut spec);
    gateway.db.database().create_provider(&spec).await.unwrap();
    let token = provider.token("warm up", json!({}));
    // Gateways hear of a provider within a moment.
    until("the provider is known", async || {
        let answer = credits(&gateway, &token).await;
        !answer.text.contains("no identity provider is configured for its issuer")
    })
    .await;
    (gateway, provider)
}

/// Tokens that a provider has signed cost it nothing, and sign-ins hang while its organisation's row is locked.
#[tokio::test]
async fn sign_ins_of_one_provider_leave_first_look_ups_to_others() {
    let (gateway, provider) = with_provider(|spec| spec.create_users = true).await;
    let mut holder = PgConnection::connect(gateway.db.url()).await.unwrap();
    holder.execute("begin").await.unwrap();
    let lock = sqlx::query("select from org where org_id = $1 for update").bind(gateway.caller.org.as_uuid());
    lock.execute(&mut holder).await.unwrap();
    let hanging = async || {
        let waiting = "select count(*) from pg_stat_activity where datname = current_database() \
                       and application_name like 'tollgate%' and wait_event_type = 'Lock'";
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(gateway.db.pool()).await.unwrap()
    };
    let tokens: Vec<_> = (0..40).map(|user| provider.token(&format!("user {user}"), json!({}))).collect();
    let signing_in = join_all(tokens.iter().map(|token| credits(&gateway, token)));
    let looking_up = async {
        let most = i64::from(LOOKUP_CONNECTIONS / 2);
        until("sign-ins hang", async || hanging().await == most).await;
        for number in 0..5 {
            let fresh = gateway.another_org(&format!("customer {number}"), 0).await;
            credits(&gateway, &fresh.text).await.expect(200);
            assert!(hanging().await <= most);
        }
        holder.execute("rollback").await.unwrap();
    };
    tokio::join!(signing_in, looking_up);
    credits(&gateway, &tokens[0]).await.expect(200);
}

/// Name, role and team of the users that came by tokens.
async fn users(gateway: &TestGateway) -> Vec<(String, String, Option<String>)> {
    sqlx::query_as(
        "select u.name, u.role, t.name from user_identity i join app_user u using (user_id) \
         left join team t using (team_id) where i.subject <> 'warm up' order by u.name",
    )
    .fetch_all(gateway.db.pool())
    .await
    .unwrap()
}

fn user(name: &str, role: &str, team: Option<&str>) -> (String, String, Option<String>) {
    (name.into(), role.into(), team.map(Into::into))
}

#[tokio::test]
async fn whoever_its_provider_vouches_for_creates_sees_and_pays_as_a_user_without_a_key() {
    let (gateway, provider) = with_provider(|_| {}).await;
    let ada = provider.token("ada", json!({}));
    let task = create(&gateway, &ada, "x").await.task_id();
    let status = format!("/api/status?task_id={task}");
    until("it ends", async || get(&gateway, &ada, &status).await.data()["status"] == "SUCCESS").await;
    assert_eq!(gateway.balance().await, [999_600, 0, 400]);
    let tasks = get(&gateway, &ada, "/api/tasks").await.data();
    assert_eq!((tasks["tasks"].as_array().unwrap().len(), &tasks["tasks"][0]["key_id"]), (1, &Value::Null));
    // A member sees its own; the organisation's status is for all of it.
    let bob = provider.token("bob", json!({}));
    assert_eq!(get(&gateway, &bob, "/api/tasks").await.data()["tasks"], json!([]));
    get(&gateway, &bob, &status).await.expect(200);
    let quote = gateway.request(Method::POST, "/api/quote").bearer_auth(&bob);
    Answer::to(quote.body(body("x").to_string())).await.expect(200);
    assert_eq!(users(&gateway).await, [user("ada", "member", None), user("bob", "member", None)]);
    let actor: String = sqlx::query_scalar("select distinct actor from audit_log where action = 'sign_in'")
        .fetch_one(gateway.db.pool())
        .await
        .unwrap();
    assert!(actor.starts_with("jwt:idp_"), "{actor}");
}

#[tokio::test]
async fn each_algorithm_that_is_allowed_is_taken() {
    let (gateway, provider) =
        with_provider(|spec| spec.algorithms = vec![SigningAlgorithm::Es256, SigningAlgorithm::EdDsa]).await;
    let (p256, ed25519) = (Signer::p256(), Signer::ed25519());
    let keys = vec![p256.jwk("k2"), provider.signer.jwk("k1"), ed25519.jwk("k3")];
    provider.endpoint.set(Mood::Serve(keys));
    for (signer, kid) in [(&p256, "k2"), (&ed25519, "k3")] {
        let token = signer.token(kid, &claims("ada", json!({})));
        until("the key is known", async || credits(&gateway, &token).await.status == 200).await;
    }
    let rsa = provider.token("ada", json!({}));
    credits(&gateway, &rsa).await.refused(401, "INVALID_API_KEY");
    // A key verifies only what it is made for.
    let mixed = p256.token_of(&json!({"alg": "EdDSA", "kid": "k2"}), &claims("ada", json!({})));
    credits(&gateway, &mixed).await.expect(401);
    let mixed = ed25519.token_of(&json!({"alg": "ES256", "kid": "k3"}), &claims("ada", json!({})));
    credits(&gateway, &mixed).await.expect(401);
    // A token without a kid is taken where its algorithm says which key it is.
    let unnamed = p256.token_of(&json!({"alg": "ES256"}), &claims("ada", json!({})));
    credits(&gateway, &unnamed).await.expect(200);
}

#[tokio::test]
async fn no_forgery_is_taken_and_none_leaves_a_user_behind() {
    let (gateway, provider) = with_provider(|spec| spec.leeway_seconds = 5).await;
    credits(&gateway, &provider.token("ada", json!({}))).await.expect(200);
    let good = claims("eve", json!({}));
    let jwk = provider.signer.jwk("k1");
    let modulus = jwk["n"].as_str().unwrap();
    let (mine, published) = (Signer::rsa(), jwk.to_string());
    let with = |header: Value| {
        let mut full = json!({"alg": "RS256", "typ": "JWT", "kid": "k1"});
        full.as_object_mut().unwrap().extend(header.as_object().unwrap().clone());
        full
    };
    let valid = provider.token("eve", json!({}));
    let parts: Vec<&str> = valid.split('.').collect();
    let other = provider.token("ada", json!({}));
    let other: Vec<&str> = other.split('.').collect();
    let claim = |more: Value| provider.token("eve", more);
    let evil = Endpoint::start(Mood::Serve(vec![mine.jwk("k1")])).await;
    let url = evil.url().to_string();
    for (what, token) in [
        ("no signature", forged("none", "k1", &good, None)),
        ("no signature, another spelling", forged("None", "k1", &good, None)),
        ("a signature left out", format!("{}.{}.", parts[0], parts[1])),
        ("HMAC with the modulus", forged("HS256", "k1", &good, Some(modulus.as_bytes()))),
        ("HMAC with the published key", forged("HS256", "k1", &good, Some(published.as_bytes()))),
        ("HMAC that calls itself RSA", forged("RS256", "k1", &good, Some(modulus.as_bytes()))),
        ("somebody's own key", mine.token("k1", &good)),
        ("somebody's own key, brought along", mine.token_of(&with(json!({"jwk": mine.jwk("k1")})), &good)),
        ("a key from elsewhere", mine.token_of(&with(json!({"jku": url, "x5u": url})), &good)),
        ("another's claims", format!("{}.{}.{}", other[0], other[1], parts[2])),
        ("an algorithm that is not taken", provider.signer.token_of(&with(json!({"alg": "RS512"})), &good)),
        (
            "an extension that must be understood",
            provider.signer.token_of(&with(json!({"crit": ["b64"], "b64": false})), &good),
        ),
        ("a foreign issuer", claim(json!({"iss": "https://evil.example"}))),
        ("two issuers", claim(json!({"iss": [ISSUER, "https://evil.example"]}))),
        ("no issuer", claim(json!({"iss": null}))),
        ("another audience", claim(json!({"aud": "elsewhere"}))),
        ("no audience", claim(json!({"aud": null}))),
        ("no audience in a list", claim(json!({"aud": []}))),
        ("expired", claim(json!({"exp": now() - 60}))),
        ("without an end", claim(json!({"exp": null}))),
        ("an end that is a text", claim(json!({"exp": "tomorrow"}))),
        ("not yet valid", claim(json!({"nbf": now() + 60}))),
        ("nobody in particular", claim(json!({"sub": null}))),
        ("an empty name", claim(json!({"sub": " "}))),
        ("a number for a name", claim(json!({"sub": 7}))),
        ("a name with a line break", claim(json!({"sub": "eve\nada"}))),
        ("a name with a character that is not seen", claim(json!({"sub": "ada\u{200b}"}))),
        ("a name that turns its direction", claim(json!({"sub": "\u{202e}ada"}))),
        ("a very long name", claim(json!({"sub": "e".repeat(201)}))),
        ("huge", claim(json!({"padding": "x".repeat(19_000)}))),
        ("a huge kid", provider.signer.token_of(&with(json!({"kid": "k".repeat(19_000)})), &good)),
        ("dots", "..".into()),
        ("many dots", ".".repeat(4000)),
        ("garbage", "YWJj.YWJj.YWJj".into()),
        ("not base64", "%%%.%%%.%%%".into()),
        ("deep", format!("{}.{}.x", parts[0], "W1tb".repeat(1500))),
    ] {
        let answer = credits(&gateway, &token).await;
        assert_eq!(answer.status, 401, "{what}: {answer:?}");
        create(&gateway, &token, "x").await.refused(401, "INVALID_API_KEY");
    }
    // Under an id that nobody knows it may be a new key, until a fetch has told.
    let unknown = mine.token("k9", &good);
    until("it is refused", async || {
        let status = create(&gateway, &unknown, "x").await.status;
        assert!([401, 503].contains(&status), "{status}");
        status == 401
    })
    .await;
    assert_eq!(evil.asked(), 0, "a token said whom to ask");
    assert_eq!(users(&gateway).await, [user("ada", "member", None)]);
    assert_eq!(gateway.holds().await.len(), 0);
    // Within the leeway, and several audiences, and a fraction of a second.
    for more in [
        json!({"exp": now() - 2}),
        json!({"nbf": now() + 3}),
        json!({"aud": ["elsewhere", AUDIENCE]}),
        json!({"exp": (now() + 60) as f64 + 0.5, "iat": now() as f64 - 0.5}),
    ] {
        credits(&gateway, &provider.token("ada", more)).await.expect(200);
    }
    gateway.db.database().audit().await.unwrap();
}

#[tokio::test]
async fn failed_tokens_count_against_their_address() {
    let gateway =
        TestGateway::builder().config(|config| config.limits.failed_logins_per_minute = 3).start().await;
    let token = Signer::ed25519().token("k1", &claims("eve", json!({})));
    for _ in 0..3 {
        credits(&gateway, &token).await.refused(401, "INVALID_API_KEY");
    }
    assert_eq!(credits(&gateway, &token).await.refused(429, "RATE_LIMITED")["data"]["limit"], "address");
    // Too late is not wrong.
    let provider = TestProvider::start().await;
    gateway.db.database().create_provider(&provider.spec("id", Some(gateway.caller.org))).await.unwrap();
    let good = provider.token("ada", json!({}));
    until("the provider is known", async || credits(&gateway, &good).await.status == 200).await;
    let expired = provider.token("ada", json!({"exp": now() - 3600}));
    for _ in 0..5 {
        credits(&gateway, &expired).await.refused(401, "INVALID_API_KEY");
    }
    gateway.get("/api/credits").await.expect(200);
}

#[tokio::test]
async fn limits_of_keys_are_not_for_callers_without_one_and_those_of_users_are() {
    let limits = TestGateway::builder().config(|config| {
        config.limits.key_status_per_minute = 1;
        config.limits.user_status_per_minute = 6;
    });
    let gateway = limits.start().await;
    let provider = TestProvider::start().await;
    gateway.db.database().create_provider(&provider.spec("id", Some(gateway.caller.org))).await.unwrap();
    let token = provider.token("ada", json!({}));
    until("the provider is known", async || credits(&gateway, &token).await.status == 200).await;
    let answer = credits(&gateway, &token).await;
    assert_eq!(answer.header("ratelimit-policy"), r#""user";q=6;w=60"#);
    for _ in 0..4 {
        credits(&gateway, &token).await.expect(200);
    }
    // One more every ten seconds: while somebody counts slowly.
    let mut refused = None;
    until("the user has no more", async || {
        refused = Some(credits(&gateway, &token).await).filter(|answer| answer.status != 200);
        refused.is_some()
    })
    .await;
    assert_eq!(refused.unwrap().refused(429, "RATE_LIMITED")["data"]["limit"], "user");
    credits(&gateway, &provider.token("bob", json!({}))).await.expect(200);
}

#[tokio::test]
async fn a_provider_of_one_organisation_speaks_for_no_other() {
    let (gateway, provider) = with_provider(|spec| spec.org_claim = Some("organisation".into())).await;
    let victim = gateway.another_org("victim", 1000).await.org;
    let own = gateway.caller.org;
    for (claimed, status) in [
        (json!(own), 200),
        (json!("a customer"), 200),
        (Value::Null, 200),
        (json!(victim), 403),
        (json!("victim"), 403),
        (json!("nobody"), 403),
        (json!(OrgId::generate()), 403),
    ] {
        let token = provider.token("ada", json!({"organisation": claimed}));
        assert_eq!(credits(&gateway, &token).await.status, status, "{claimed}");
    }
    // Without such a claim configured it is not looked at.
    let of_victim: i64 =
        sqlx::query_scalar("select count(*) from app_user where org_id = $1 and name = 'ada'")
            .bind(victim.as_uuid())
            .fetch_one(gateway.db.pool())
            .await
            .unwrap();
    assert_eq!(of_victim, 0);
    // Nor can another provider take its tokens over.
    let again = ProviderSpec { org_id: Some(victim), ..provider.spec("double", Some(victim)) };
    let refused = gateway.db.database().create_provider(&again).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict(_)), "{refused:?}");
}

#[tokio::test]
async fn a_shared_provider_says_which_organisation_by_id_or_name() {
    let gateway = TestGateway::start().await;
    let provider = TestProvider::start().await;
    let other = gateway.another_org("another customer", 1000).await.org;
    gateway.db.database().create_provider(&provider.spec("shared", None)).await.unwrap();
    let token = |organisation: Value| provider.token("ada", json!({"organisation": organisation}));
    let by_id = token(json!(gateway.caller.org));
    until("the provider is known", async || credits(&gateway, &by_id).await.status == 200).await;
    let available = async |token: &str| credits(&gateway, token).await.data()["available"].clone();
    assert_eq!(available(&by_id).await, 1_000_000);
    assert_eq!(available(&token(json!("another customer"))).await, 1000);
    assert_eq!(available(&token(json!(other))).await, 1000);
    for nowhere in [json!("nobody"), Value::Null, json!(7), json!("")] {
        credits(&gateway, &token(nowhere.clone())).await.refused(403, "FORBIDDEN");
    }
    // One subject, two organisations, two users.
    assert_eq!(users(&gateway).await, [user("ada", "member", None), user("ada", "member", None)]);
}

#[tokio::test]
async fn a_provider_is_changed_suspended_and_deleted_by_operators_only() {
    let (gateway, provider) = with_provider(|_| {}).await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let admin = AdminClient::org_admin(&gateway, &gateway.caller).await;
    let token = provider.token("ada", json!({}));
    credits(&gateway, &token).await.expect(200);
    let all = "/admin/v1/identity-providers";
    let listed = operator.get(all).await.expect(200);
    let path = format!("{all}/{}", listed["items"][0]["provider_id"].as_str().unwrap());
    admin.get(all).await.expect(403);
    admin.patch(&path, json!({"suspended": true})).await.expect(403);
    let shown = operator.get(&path).await;
    let tag = shown.etag.clone().unwrap();
    let if_seen = [("if-match", tag.as_str())];
    let suspend = Some(json!({"suspended": true}));
    operator.call_with(Method::PATCH, &path, suspend.clone(), &if_seen).await.expect(200);
    operator.call_with(Method::PATCH, &path, suspend, &if_seen).await.expect(412);
    until("it is refused", async || credits(&gateway, &token).await.status == 401).await;
    operator.patch(&path, json!({"suspended": false, "audiences": ["elsewhere"]})).await.expect(200);
    let elsewhere = provider.token("ada", json!({"aud": "elsewhere"}));
    until("the other audience", async || credits(&gateway, &elsewhere).await.status == 200).await;
    credits(&gateway, &token).await.expect(401);
    operator.delete(&path).await.expect(204);
    until("it is refused", async || credits(&gateway, &elsewhere).await.status == 401).await;
    operator.get(&path).await.expect(404);

    let good = json!({"name": "new", "issuer": "https://x.example", "audiences": ["a"],
                      "jwks_url": "https://x.example/keys", "org_id": gateway.caller.org});
    for (field, wrong) in [
        ("jwks_url", json!("http://x.example/keys")),
        ("jwks_url", json!("file:///etc/passwd")),
        ("jwks_url", json!("http://169.254.169.254/latest")),
        ("algorithms", json!(["HS256"])),
        ("algorithms", json!(["none"])),
        ("algorithms", json!([])),
        ("audiences", json!([])),
        ("leeway_seconds", json!(301)),
        ("org_id", json!(null)),
        ("serves", json!("operators")),
        ("role_map", json!({"x": "admin"})),
        ("role_map", json!({"x": "operator"})),
        ("role_map", json!({"x": "boss"})),
        ("secret", json!("x")),
    ] {
        let mut body = good.clone();
        body[field] = wrong.clone();
        assert_eq!(operator.post(all, body).await.status.as_u16(), 400, "{field}: {wrong}");
    }
    operator.post(all, good.clone()).await.expect(201);
    operator.post(all, good).await.expect(409);
}

#[tokio::test]
async fn operators_may_sign_in_with_the_role_their_provider_gives_and_create_no_tasks() {
    let gateway = TestGateway::start().await;
    let provider = TestProvider::start().await;
    let staff = ProviderSpec {
        serves: Serves::Operators,
        org_claim: None,
        role_claim: Some("groups".into()),
        role_map: [("ops", GivenRole::Operator), ("support", GivenRole::OperatorRead)]
            .map(|(group, role)| (group.to_owned(), role))
            .into(),
        create_users: false,
        ..provider.spec("staff", None)
    };
    gateway.db.database().create_provider(&staff).await.unwrap();
    let of = |groups: Value| AdminClient::new(&gateway, provider.token("ada", json!({"groups": groups})));
    let orgs = "/admin/v1/orgs";
    let ops = of(json!(["support", "ops"]));
    until("the provider is known", async || ops.get(orgs).await.status.as_u16() == 200).await;
    ops.post(orgs, json!({"name": "made by ada"})).await.expect(201);
    let support = of(json!("support"));
    support.get(orgs).await.expect(200);
    support.post(orgs, json!({"name": "x"})).await.expect(403);
    of(json!(["visitors"])).get(orgs).await.expect(403);
    of(Value::Null).get(orgs).await.expect(403);
    create(&gateway, &ops.token, "x").await.refused(403, "FORBIDDEN");
    credits(&gateway, &ops.token).await.refused(403, "FORBIDDEN");
    let actor: String =
        sqlx::query_scalar("select actor from audit_log where after ->> 'name' = 'made by ada'")
            .fetch_one(gateway.db.pool())
            .await
            .unwrap();
    assert!(actor.starts_with("jwt:idp_") && actor.ends_with(":ada"), "{actor}");
}

#[tokio::test]
async fn a_create_that_is_in_doubt_is_not_sent_again_for_a_caller_without_a_key_that_is_told_so() {
    let (gateway, provider) = with_provider(|_| {}).await;
    let token = provider.token("ada", json!({}));
    gateway.fault_on_create(json!({"kind": "cut_before"})).await;
    create(&gateway, &token, "doubtful").await.reference();
    assert_eq!(gateway.last_hold().await.state, "IN_DOUBT");
    // Somebody else's same body is somebody else's.
    let database = gateway.db.database();
    let row: (uuid::Uuid, Vec<u8>) =
        sqlx::query_as("select user_id, fingerprint from task").fetch_one(gateway.db.pool()).await.unwrap();
    let body = tollgate::store::Fingerprint::from_bytes(&row.1).unwrap();
    let found = async |user: UserId| database.in_doubt(gateway.caller.org, user, body).await.unwrap();
    assert!(found(UserId::from_uuid(row.0)).await.is_some());
    assert!(found(gateway.caller.user).await.is_none());
}
