//! Callers with tokens of identity providers: who they are here, and every way we know of to be somebody one is not.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use tollgate::access::LOOKUP_CONNECTIONS;
use tollgate::ids::{OrgId, UserId};
use tollgate::store::{
    GivenRole, OperatorRole, ProviderSpec, Role, Serves, SigningAlgorithm, StoreError, UserChange,
};

use crate::support::admin_client::AdminClient;
use crate::support::database::until;
use crate::support::gateway::{Answer, ENDLESS, TestGateway, body};
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

#[tokio::test]
async fn no_more_users_sign_in_than_their_organisation_may_have() {
    let (gateway, provider) = with_provider(|spec| spec.create_users = true).await;
    sqlx::query(
        "insert into quota select org_id, 'users', count(*) + 1 from app_user where deleted_at is null group by org_id",
    )
    .execute(gateway.db.pool())
    .await
    .unwrap();
    let last = provider.token("the last", json!({}));
    credits(&gateway, &last).await.expect(200);
    let refused =
        credits(&gateway, &provider.token("one too many", json!({}))).await.refused(403, "FORBIDDEN");
    assert!(refused["message"].as_str().unwrap().contains("as many users as it may have"), "{refused}");
    credits(&gateway, &last).await.expect(200);
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
async fn subjects_are_never_taken_for_one_another_nor_for_users_that_were_there() {
    let (gateway, provider) = with_provider(|_| {}).await;
    // One of that name is there already, and is an admin.
    gateway.another_user("ada", "admin").await;
    let token = provider.token("ada", json!({}));
    get(&gateway, &token, "/api/tasks").await.expect(200);
    assert_eq!(users(&gateway).await, [user("ada (id)", "member", None)]);
    gateway.another_user("bob (id)", "admin").await;
    gateway.another_user("bob", "admin").await;
    credits(&gateway, &provider.token("bob", json!({}))).await.expect(200);
    let all = users(&gateway).await;
    assert!(all[1].0.starts_with("bob (usr_") && all[1].1 == "member", "{all:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subject_that_comes_many_times_at_once_becomes_one_user() {
    let (gateway, provider) = with_provider(|_| {}).await;
    let token = provider.token("ada", json!({}));
    let answers = join_all((0..40).map(|_| credits(&gateway, &token))).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert_eq!(users(&gateway).await, [user("ada", "member", None)]);
}

#[tokio::test]
async fn who_may_not_be_made_is_refused_until_somebody_ties_it_to_a_user() {
    let (gateway, provider) = with_provider(|spec| spec.create_users = false).await;
    let admin = AdminClient::org_admin(&gateway, &gateway.caller).await;
    let token = provider.token("ada", json!({}));
    credits(&gateway, &token).await.refused(403, "FORBIDDEN");
    assert_eq!(users(&gateway).await, []);
    let id = gateway.db.database().providers().await.unwrap()[0].provider_id;
    let path = format!("/admin/v1/orgs/{}/identities", gateway.caller.org);
    let link = json!({"provider_id": id, "subject": "ada", "user_id": gateway.caller.user});
    let linked = admin.post(&path, link.clone()).await.expect(201);
    admin.post(&path, link).await.expect(409);
    for unseen in ["ada\u{200b}", "\u{202e}ada", "a\u{a0}da"] {
        let link = json!({"provider_id": id, "subject": unseen, "user_id": gateway.caller.user});
        let refused = admin.post(&path, link).await.expect(400);
        assert!(refused["detail"].as_str().unwrap().contains("the invisible character U+"), "{refused}");
    }
    let stranger = gateway.another_org("another customer", 0).await;
    let foreign = json!({"provider_id": id, "subject": "eve", "user_id": stranger.user});
    admin.post(&path, foreign).await.expect(404);
    credits(&gateway, &token).await.expect(200);
    let listed = admin.get(&format!("{path}?user_id={}", gateway.caller.user)).await.expect(200);
    assert_eq!(listed["items"][0]["subject"], "ada");
    admin.delete(&format!("{path}/{}", linked["identity_id"].as_str().unwrap())).await.expect(204);
    until("it is unlinked", async || credits(&gateway, &token).await.status == 403).await;

    let link = |number: i32| json!({"provider_id": id, "subject": format!("ada {number}"), "user_id": gateway.caller.user});
    for number in 0..20 {
        admin.post(&path, link(number)).await.expect(201);
    }
    let refused = admin.post(&path, link(20)).await.expect(409);
    assert!(refused["detail"].as_str().unwrap().contains("has 20 subjects"), "{refused}");
}

#[tokio::test]
async fn role_and_team_follow_the_newest_token_and_no_older_one_takes_them_back() {
    let (gateway, provider) = with_provider(|spec| {
        spec.role_claim = Some("groups".into());
        spec.role_map = [("bosses".to_owned(), GivenRole::Admin)].into();
        spec.team_claim = Some("team".into());
    })
    .await;
    let db = gateway.db.database();
    db.create_team(gateway.caller.org, "film").await.unwrap();
    db.create_team(gateway.caller.org, "print").await.unwrap();
    let token = |age: i64, groups: Value, team: &str| {
        provider.token("ada", json!({"iat": now() - age, "groups": groups, "team": team}))
    };
    let first = token(300, json!(["staff"]), "film");
    credits(&gateway, &first).await.expect(200);
    assert_eq!(users(&gateway).await, [user("ada", "member", Some("film"))]);
    let second = token(200, json!(["staff", "bosses"]), "print");
    credits(&gateway, &second).await.expect(200);
    assert_eq!(users(&gateway).await, [user("ada", "admin", Some("print"))]);
    // A newer one takes the power back; those from before do not return it.
    credits(&gateway, &token(100, json!("staff"), "no such team")).await.expect(200);
    for old in [&first, &second, &second] {
        credits(&gateway, old).await.expect(200);
    }
    assert_eq!(users(&gateway).await, [user("ada", "member", Some("print"))]);
    let other = gateway.get("/api/tasks").await;
    other.expect(200);
    // One that tells no time, or one to come, would decide for good.
    let mut claimed = json!({"groups": "bosses", "team": "film", "iat": null});
    for iat in [Value::Null, json!("now"), json!(0), json!(now() + 3600), json!(1e300)] {
        claimed["iat"] = iat.clone();
        for subject in ["ada", "bob"] {
            let answer = credits(&gateway, &provider.token(subject, claimed.clone())).await;
            assert_eq!(answer.status, 401, "{iat}: {answer:?}");
        }
    }
    claimed["iat"] = json!(now() + 30);
    credits(&gateway, &provider.token("ada", claimed)).await.expect(200);
    assert_eq!(users(&gateway).await, [user("ada", "admin", Some("film"))]);
}

#[tokio::test]
async fn claims_that_nothing_can_be_called_are_refused_and_other_groups_are_passed_over() {
    let (gateway, provider) = with_provider(|spec| {
        spec.org_claim = Some("organisation".into());
        spec.team_claim = Some("team".into());
        spec.role_claim = Some("groups".into());
        spec.role_map = [("bosses".to_owned(), GivenRole::Admin)].into();
    })
    .await;
    for (claim, status) in [("sub", 401), ("organisation", 401), ("team", 200), ("groups", 200)] {
        for wrong in ["a\u{0}".to_owned(), "a\nb".to_owned(), "x".repeat(201)] {
            let answer = credits(&gateway, &provider.token("bob", json!({claim: wrong}))).await;
            assert_eq!(answer.status, status, "{claim}: {wrong:?}: {answer:?}");
        }
    }
    // What cannot be a role or a team gives none.
    assert_eq!(users(&gateway).await, [user("bob", "member", None)]);
    let groups = json!(["x".repeat(201), "a\u{0}", "bosses"]);
    credits(&gateway, &provider.token("ada", json!({"groups": groups, "team": "é".repeat(200)})))
        .await
        .expect(200);
    assert_eq!(users(&gateway).await, [user("ada", "admin", None), user("bob", "member", None)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tokens_that_move_a_user_stand_in_the_way_of_nobody_who_edits_it() {
    let (gateway, provider) = with_provider(|spec| spec.team_claim = Some("team".into())).await;
    let db = gateway.db.database();
    let [film, print] = ["film", "print"];
    for team in [film, print] {
        db.create_team(gateway.caller.org, team).await.unwrap();
    }
    let token = |age: i64, team: &str| provider.token("ada", json!({"iat": now() - age, "team": team}));
    credits(&gateway, &token(5000, film)).await.expect(200);
    let id: uuid::Uuid = sqlx::query_scalar("select user_id from user_identity where subject = 'ada'")
        .fetch_one(gateway.db.pool())
        .await
        .unwrap();
    let ada = UserId::from_uuid(id);
    for round in 0..100 {
        let newer = token(4000 - round, if round % 2 == 0 { print } else { film });
        let edit = async || {
            let role = Some(if round % 2 == 0 { Role::Admin } else { Role::Member });
            db.update_user(ada, UserChange { role, ..UserChange::default() }, None).await
        };
        let (signed_in, first, second) = tokio::join!(credits(&gateway, &newer), edit(), edit());
        signed_in.expect(200);
        assert!(first.is_ok() && second.is_ok(), "round {round}: {first:?} {second:?}");
    }
}

#[tokio::test]
async fn a_suspended_or_deleted_user_stays_so_whatever_its_tokens_say() {
    let (gateway, provider) = with_provider(|_| {}).await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let token = provider.token("ada", json!({}));
    create(&gateway, &token, "one").await.expect(200);
    let id: uuid::Uuid = sqlx::query_scalar("select user_id from user_identity where subject = 'ada'")
        .fetch_one(gateway.db.pool())
        .await
        .unwrap();
    let path = format!("/admin/v1/users/{}", UserId::from_uuid(id));
    operator.patch(&path, json!({"status": "suspended"})).await.expect(200);
    until("it is suspended", async || create(&gateway, &token, "two").await.status == 403).await;
    create(&gateway, &token, "two").await.refused(403, "SUSPENDED");
    credits(&gateway, &provider.token("ada", json!({}))).await.expect(200);
    operator.patch(&path, json!({"status": "active"})).await.expect(200);
    until("it is not", async || create(&gateway, &token, "three").await.status == 200).await;
    operator.delete(&path).await.expect(204);
    until("it is refused", async || credits(&gateway, &token).await.status == 401).await;
    credits(&gateway, &provider.token("ada", json!({}))).await.expect(401);
    assert_eq!(users(&gateway).await.len(), 1, "nobody new was made of it");
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
async fn a_provider_that_changes_its_keys_is_followed_and_its_old_ones_end() {
    let (gateway, provider) = with_provider(|_| {}).await;
    let old = provider.token("ada", json!({}));
    credits(&gateway, &old).await.expect(200);
    let next = Signer::p256();
    provider.endpoint.set(Mood::Serve(vec![provider.signer.jwk("k1"), next.jwk("k2")]));
    let new = next.token("k2", &claims("ada", json!({})));
    until("the new key is known", async || credits(&gateway, &new).await.status == 200).await;
    credits(&gateway, &old).await.expect(200);
    provider.endpoint.set(Mood::Serve(vec![next.jwk("k2")]));
    until("the old key has ended", async || credits(&gateway, &old).await.status == 401).await;
    credits(&gateway, &new).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_key_ids_do_not_hammer_the_provider() {
    let gateway =
        TestGateway::builder().config(|config| config.limits.failed_logins_per_minute = 100).start().await;
    let provider = TestProvider::start().await;
    gateway.db.database().create_provider(&provider.spec("id", Some(gateway.caller.org))).await.unwrap();
    let good = provider.token("ada", json!({}));
    until("the provider is known", async || credits(&gateway, &good).await.status == 200).await;
    let storm: Vec<String> =
        (0..300).map(|n| provider.signer.token(&format!("made up {n}"), &claims("eve", json!({})))).collect();
    let answers = join_all(storm.iter().map(|token| credits(&gateway, token))).await;
    // Nobody can know yet; and what is not known to be wrong does not count as that.
    assert!(answers.iter().all(|answer| [401, 503].contains(&answer.status)), "{answers:?}");
    assert!(answers.iter().filter(|answer| answer.status == 401).count() <= 3);
    let unknown = answers.iter().find(|answer| answer.status == 503).unwrap();
    assert!(!unknown.header("retry-after").is_empty());
    assert!(provider.endpoint.asked() <= 3, "asked {} times", provider.endpoint.asked());
    credits(&gateway, &good).await.expect(200);
    // A key that was published since the last fetch is not known yet, and not wrong.
    let next = Signer::p256();
    provider.endpoint.set(Mood::Serve(vec![provider.signer.jwk("k1"), next.jwk("k2")]));
    let new = credits(&gateway, &next.token("k2", &claims("ada", json!({})))).await;
    assert!([200, 503].contains(&new.status), "{new:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_is_away_from_the_beginning_is_no_refusal() {
    let gateway = TestGateway::builder().config(|config| config.auth.jwks_refresh_ms = 3_000).start().await;
    let signer = Signer::rsa();
    let good = vec![signer.jwk("k1")];
    let elsewhere = Endpoint::start(Mood::Serve(good.clone())).await;
    let token = signer.token("k1", &claims("ada", json!({})));
    let endpoint = Endpoint::start(Mood::Hang).await;
    let spec = ProviderSpec {
        create_users: true,
        ..ProviderSpec::new("id", Some(gateway.caller.org), ISSUER, AUDIENCE, endpoint.url())
    };
    gateway.db.database().create_provider(&spec).await.unwrap();
    until("the provider is known", async || credits(&gateway, &token).await.status != 401).await;
    // Many wait for one that hangs, none of them for long, and callers with keys not at all.
    // (Each for three seconds, and one after the other for more than two minutes.)
    let asking = join_all((0..50).map(|_| credits(&gateway, &token)));
    let answers = tokio::time::timeout(Duration::from_secs(60), asking).await.unwrap();
    for answer in &answers {
        answer.refused(503, "UNAVAILABLE");
        assert!(!answer.header("retry-after").is_empty());
    }
    gateway.get("/api/credits").await.expect(200);
    let huge = format!("{{\"keys\":[],\"padding\":\"{}\"}}", "x".repeat(2 << 20));
    for mood in [
        Mood::Status(500),
        Mood::Status(404),
        Mood::Redirect(elsewhere.url().to_string()),
        Mood::Text(huge),
        Mood::Text("<html>Sign in</html>".into()),
        Mood::Text("{\"keys\": 7}".into()),
    ] {
        endpoint.set(mood);
        let before = endpoint.asked();
        until("it was asked", async || {
            credits(&gateway, &token).await.refused(503, "UNAVAILABLE");
            endpoint.asked() > before
        })
        .await;
        credits(&gateway, &token).await.refused(503, "UNAVAILABLE");
    }
    assert_eq!(elsewhere.asked(), 0, "a redirect was followed");
    endpoint.set(Mood::Serve(good));
    until("it is there", async || credits(&gateway, &token).await.status == 200).await;
}

#[tokio::test]
async fn known_keys_are_used_on_while_the_provider_is_away_and_not_for_ever() {
    let gateway = TestGateway::builder()
        .task_time(ENDLESS)
        .config(|config| {
            config.auth.jwks_refresh_ms = 500;
            config.auth.stale_max_ms = 8_000;
        })
        .start()
        .await;
    let provider = TestProvider::start().await;
    gateway.db.database().create_provider(&provider.spec("id", Some(gateway.caller.org))).await.unwrap();
    let token = provider.token("ada", json!({}));
    until("the provider is known", async || credits(&gateway, &token).await.status == 200).await;
    provider.endpoint.set(Mood::Hang);
    let before = provider.endpoint.asked();
    let (mut away, mut worked) = (0, 0);
    until("they are used no more", async || {
        away += usize::from(provider.endpoint.asked() > before);
        let answer = credits(&gateway, &token).await;
        worked += usize::from(answer.status == 200 && away > 0);
        answer.status == 503
    })
    .await;
    // Callers that waited for the provider would wait for three seconds each.
    assert!(worked > 5, "{worked} calls while the provider was away");
    provider.endpoint.set(Mood::Serve(vec![provider.signer.jwk("k1")]));
    until("they are fetched again", async || credits(&gateway, &token).await.status == 200).await;
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
