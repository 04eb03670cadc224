//! What standards allow a key set or a token to be: names of keys and algorithms, types, sizes, and where claims stand.

use reqwest::Method;
use serde_json::{Value, json};
use tollgate::store::{GivenRole, ProviderSpec, StoreError};

use crate::support::connection::{Connection, Http};
use crate::support::database::{TestDatabase, until};
use crate::support::gateway::{Answer, TestGateway};
use crate::support::identity_provider::{AUDIENCE, ISSUER, Mood, Signer, TestProvider, claims};
use crate::support::watched::{Vendor, Watched, key};

async fn credits(gateway: &TestGateway, token: &str) -> Answer {
    Answer::to(gateway.request(Method::GET, "/api/credits").bearer_auth(token)).await
}

async fn with_provider(tune: impl FnOnce(&mut ProviderSpec)) -> (TestGateway, TestProvider) {
    let gateway = TestGateway::builder()
        .config(|config| {
            config.limits.failed_logins_per_minute = 0;
            config.auth.jwks_refresh_ms = 1_000;
        })
        .start()
        .await;
    let provider = TestProvider::start().await;
    let mut spec = provider.spec("id", Some(gateway.caller.org));
    tune(&mut spec);
    gateway.db.database().create_provider(&spec).await.unwrap();
    let token = provider.token("warm up", json!({}));
    until("the provider is known", async || {
        let answer = credits(&gateway, &token).await;
        !answer.text.contains("no identity provider is configured for its issuer")
    })
    .await;
    (gateway, provider)
}

async fn role_of(gateway: &TestGateway, subject: &str) -> String {
    sqlx::query_scalar("select role from user_identity join app_user using (user_id) where subject = $1")
        .bind(subject)
        .fetch_one(gateway.db.pool())
        .await
        .unwrap()
}

#[tokio::test]
async fn keys_of_different_types_may_have_one_id() {
    let (gateway, provider) = with_provider(|_| {}).await;
    let (p256, ed25519, other) = (Signer::p256(), Signer::ed25519(), Signer::rsa());
    let keys = vec![p256.jwk("k1"), ed25519.jwk("k1"), provider.signer.jwk("k1")];
    provider.endpoint.set(Mood::Serve(keys));
    for signer in [&p256, &ed25519, &provider.signer] {
        let token = signer.token("k1", &claims("ada", json!({})));
        until(signer.algorithm(), async || credits(&gateway, &token).await.status == 200).await;
    }
    credits(&gateway, &other.token("k1", &claims("ada", json!({})))).await.refused(401, "INVALID_API_KEY");
}

/// Sets in which the id of a token's key does not lead to one key alone.
#[tokio::test]
async fn each_key_that_may_have_signed_a_token_is_tried() {
    let (gateway, provider) = with_provider(|_| {}).await;
    let (first, second, p256, stranger) = (Signer::rsa(), Signer::rsa(), Signer::p256(), Signer::rsa());
    let without_id = |signer: &Signer| {
        let mut jwk = signer.jwk("");
        jwk.as_object_mut().unwrap().remove("kid");
        jwk
    };
    let unnamed = json!({"alg": "RS256", "typ": "JWT"});
    let named = json!({"alg": "RS256", "typ": "JWT", "kid": "k9"});
    let of = |signer: &Signer, header: &Value| signer.token_of(header, &claims("ada", json!({})));
    for (what, keys, header) in [
        ("no kid, and one key of the kind", vec![p256.jwk("k2"), second.jwk("k1")], &unnamed),
        ("no kid, and two keys of the kind", vec![first.jwk("k1"), second.jwk("k2")], &unnamed),
        ("a kid, and keys without one", vec![without_id(&p256), without_id(&second)], &named),
        ("a kid that two keys have", vec![first.jwk("k9"), p256.jwk("k9"), second.jwk("k9")], &named),
    ] {
        provider.endpoint.set(Mood::Serve(keys));
        let token = of(&second, header);
        until(what, async || credits(&gateway, &token).await.status == 200).await;
        credits(&gateway, &of(&stranger, header)).await.refused(401, "INVALID_API_KEY");
    }
    // One token is not tried with any number of keys.
    let many = (0..4).map(|_| first.jwk("k9")).chain([second.jwk("k9")]).collect();
    provider.endpoint.set(Mood::Serve(many));
    let token = of(&second, &named);
    until("the fifth is not tried", async || credits(&gateway, &token).await.status == 401).await;
}

#[tokio::test]
async fn ed25519_is_a_name_of_eddsa() {
    let (gateway, provider) = with_provider(|_| {}).await;
    let signer = Signer::ed25519();
    let mut jwk = signer.jwk("k2");
    jwk["alg"] = json!("Ed25519");
    provider.endpoint.set(Mood::Serve(vec![provider.signer.jwk("k1"), jwk]));
    for algorithm in ["EdDSA", "Ed25519"] {
        let header = json!({"alg": algorithm, "typ": "JWT", "kid": "k2"});
        let token = signer.token_of(&header, &claims("ada", json!({})));
        until(algorithm, async || credits(&gateway, &token).await.status == 200).await;
        let parts: Vec<&str> = token.split('.').collect();
        let forged = signer.token_of(&header, &claims("eve", json!({})));
        let forged: Vec<&str> = forged.split('.').collect();
        let mixed = format!("{}.{}.{}", parts[0], forged[1], parts[2]);
        credits(&gateway, &mixed).await.refused(401, "INVALID_API_KEY");
    }
    for algorithm in ["Ed448", "ed25519", "HS256"] {
        let header = json!({"alg": algorithm, "kid": "k2"});
        credits(&gateway, &signer.token_of(&header, &claims("ada", json!({})))).await.expect(401);
    }
}

#[tokio::test]
async fn a_token_with_two_hundred_groups_is_taken_on_both_listeners_and_a_larger_one_is_not() {
    let (gateway, provider) = with_provider(|spec| {
        spec.role_claim = Some("groups".into());
        spec.role_map = [("the last".to_owned(), GivenRole::Admin)].into();
    })
    .await;
    let mut groups: Vec<String> = (0..200).map(|n| format!("{n:08x}-aaaa-bbbb-cccc-{n:012x}")).collect();
    groups.push("the last".into());
    let token = provider.token("ada", json!({"groups": groups}));
    assert!(token.len() > 10_000, "{}", token.len());
    credits(&gateway, &token).await.expect(200);
    assert_eq!(role_of(&gateway, "ada").await, "admin");
    let me = gateway.client.get(gateway.admin_url("/admin/v1/me")).bearer_auth(&token).send().await.unwrap();
    assert_eq!(me.status().as_u16(), 200);
    let mut line = Connection::open(gateway.address(), None, Http::Two).await.unwrap();
    line.get("/api/credits", &token).await.unwrap().expect(200);
    let larger = provider.token("ada", json!({"groups": groups, "more": "x".repeat(12_000)}));
    assert!(larger.len() > 24 * 1024 && larger.len() < 31 * 1024, "{}", larger.len());
    let refused = credits(&gateway, &larger).await.refused(401, "INVALID_API_KEY");
    assert!(refused["message"].as_str().unwrap().contains("24 KiB"), "{refused}");
}

#[tokio::test]
async fn roles_are_found_within_claims_and_by_names_with_dots() {
    for (claim, more) in [
        ("realm_access.roles", json!({"realm_access": {"roles": ["x", "bosses"]}})),
        ("resource_access.my.client.roles", json!({"resource_access": {"my.client": {"roles": ["bosses"]}}})),
        ("https://example.com/roles", json!({"https://example.com/roles": ["bosses"]})),
        ("a.b", json!({"a.b": "bosses", "a": {"b": "staff"}})),
        ("scope", json!({"scope": "openid bosses profile"})),
        ("scp", json!({"scp": ["openid", "bosses"]})),
    ] {
        let (gateway, provider) = with_provider(|spec| {
            spec.role_claim = Some(claim.into());
            spec.role_map = [("bosses".to_owned(), GivenRole::Admin)].into();
        })
        .await;
        credits(&gateway, &provider.token("ada", more)).await.expect(200);
        assert_eq!(role_of(&gateway, "ada").await, "admin", "{claim}");
        // Words of a text are no roles anywhere else.
        let words = json!({"name": "bosses", claim.split('.').next().unwrap(): "my bosses"});
        credits(&gateway, &provider.token("bob", words)).await.expect(200);
        let expected = if claim == "scope" || claim == "scp" { "admin" } else { "member" };
        assert_eq!(role_of(&gateway, "bob").await, expected, "{claim}");
    }
}

#[tokio::test]
async fn a_long_claim_locks_nobody_out() {
    let (gateway, provider) = with_provider(|spec| {
        spec.role_claim = Some("scope".into());
        spec.role_map = [("s39:read".to_owned(), GivenRole::Admin)].into();
        spec.team_claim = Some("department".into());
    })
    .await;
    let scope = (0..40).map(|n| format!("s{n:02}:read")).collect::<Vec<_>>().join(" ");
    assert!(scope.len() > 200);
    let long = "x".repeat(500);
    let token =
        provider.token("ada", json!({"scope": scope, "picture": long, "department": long, "a\nb": "c\nd"}));
    credits(&gateway, &token).await.expect(200);
    assert_eq!(role_of(&gateway, "ada").await, "admin");
    let token = provider.token("bob", json!({"scope": "x".repeat(4_000)}));
    credits(&gateway, &token).await.expect(200);
    assert_eq!(role_of(&gateway, "bob").await, "member");
}

#[tokio::test]
async fn tokens_for_other_things_say_nothing_about_a_caller() {
    let (gateway, provider) = with_provider(|_| {}).await;
    let token = |typ: Value, more: Value| {
        let mut header = json!({"alg": "RS256", "kid": "k1"});
        if !typ.is_null() {
            header["typ"] = typ;
        }
        provider.signer.token_of(&header, &claims("ada", more))
    };
    for typ in [json!("JWT"), json!("at+jwt"), json!("application/at+jwt"), Value::Null] {
        credits(&gateway, &token(typ, json!({}))).await.expect(200);
    }
    for typ in
        ["logout+jwt", "dpop+jwt", "secevent+jwt", "application/logout+jwt", "client-authentication+jwt"]
    {
        let refused = credits(&gateway, &token(json!(typ), json!({}))).await.refused(401, "INVALID_API_KEY");
        assert!(refused["message"].as_str().unwrap().contains("(typ)"), "{typ}: {refused}");
    }
    let logout = json!({"events": {"http://schemas.openid.net/event/backchannel-logout": {}}});
    credits(&gateway, &token(json!("JWT"), logout)).await.refused(401, "INVALID_API_KEY");
    credits(&gateway, &token(json!(7), json!({}))).await.refused(401, "INVALID_API_KEY");
}

#[tokio::test]
async fn a_provider_that_no_token_could_match_is_refused_when_it_is_made() {
    let db = TestDatabase::new().await;
    let url = || "https://id.example/keys".parse().unwrap();
    let good = || ProviderSpec::new("id", None, ISSUER, AUDIENCE, url());
    type Spoil = fn(&mut ProviderSpec);
    let spoiled: &[(&str, Spoil)] = &[
        ("blanks", |spec| spec.issuer.push(' ')),
        ("blanks", |spec| spec.issuer.insert(0, '\t')),
        ("blanks", |spec| spec.audiences.push(" other".into())),
        ("blanks", |spec| spec.user_claim.push('\n')),
        ("empty", |spec| spec.audiences.clear()),
        ("empty", |spec| spec.audiences = vec![String::new()]),
        ("algorithm", |spec| spec.algorithms.clear()),
        ("role_claim needs a role_map", |spec| spec.role_claim = Some("groups".into())),
        ("role_map needs a role_claim", |spec| spec.role_map = [("a".into(), GivenRole::Admin)].into()),
        ("values in role_map", |spec| {
            spec.role_claim = Some("groups".into());
            spec.role_map = [(" ".into(), GivenRole::Admin)].into();
        }),
        ("blanks", |spec| {
            spec.role_claim = Some("groups".into());
            spec.role_map = [("admin ".into(), GivenRole::Admin)].into();
        }),
        ("placeholder", |spec| spec.issuer = "https://login.microsoftonline.com/{tenantid}/v2.0".into()),
        ("placeholder", |spec| {
            spec.jwks_url = "https://login.microsoftonline.com/{tenantid}/keys".parse().unwrap();
        }),
        ("user_claim must identify", |spec| spec.user_claim = "jti".into()),
        ("user_claim must identify", |spec| spec.user_claim = "iss".into()),
        ("single words", |spec| {
            spec.role_claim = Some("scope".into());
            spec.role_map = [("video admin".into(), GivenRole::Admin)].into();
        }),
        ("must be texts", |spec| {
            spec.role_claim = Some("exp".into());
            spec.role_map = [("1".into(), GivenRole::Admin)].into();
        }),
        ("must be texts", |spec| spec.team_claim = Some("iat".into())),
        ("must be texts", |spec| spec.org_claim = Some("nbf".into())),
    ];
    for (expected, spoil) in spoiled {
        let mut spec = good();
        spoil(&mut spec);
        let refused = db.database().create_provider(&spec).await.unwrap_err();
        assert!(
            matches!(&refused, StoreError::Invalid(why) if why.contains(expected)),
            "{expected}: {refused:?}"
        );
    }
    let id = db.database().create_provider(&good()).await.unwrap();
    let refused = db.database().edit_provider(id, None, |spec| spec.audiences.clear()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Invalid(_)), "{refused:?}");
    // One that was made before there was such a rule can still be suspended, and be mended, but not be spoiled further.
    sqlx::query("update identity_provider set role_claim = 'groups'").execute(db.pool()).await.unwrap();
    let suspended = db.database().edit_provider(id, None, |spec| spec.suspended = true).await.unwrap();
    assert!(suspended.spec.suspended);
    let refused = db.database().edit_provider(id, None, |spec| spec.issuer.push(' ')).await.unwrap_err();
    assert!(matches!(refused, StoreError::Invalid(_)), "{refused:?}");
    let mended = db.database().edit_provider(id, None, |spec| spec.role_claim = None).await.unwrap();
    assert_eq!(mended.spec.role_claim, None);
}

#[tokio::test]
async fn tokens_that_name_unknown_keys_are_counted() {
    const UNKNOWN: &str = "tollgate_jwks_unknown_keys_total";
    let (db, vendor) = (TestDatabase::new().await, Vendor::start(10).await);
    let (org, _, _) = key(&db, "a customer", 0).await;
    let provider = TestProvider::start().await;
    db.database().create_provider(&provider.spec("id", Some(org))).await.unwrap();
    let gateway = Watched::start(&db, vendor.address, "").await;
    let call = async |token: &str| Answer::to(gateway.call(Method::GET, "/api/credits", token)).await.status;
    let good = provider.token("ada", json!({}));
    until("the provider is known", async || call(&good).await == 200).await;
    assert_eq!(gateway.scrape().await.value(UNKNOWN), 0.0);
    let unknown = provider.signer.token("elsewhere", &claims("ada", json!({})));
    for _ in 0..3 {
        assert_ne!(call(&unknown).await, 200);
    }
    assert_eq!(gateway.scrape().await.value(UNKNOWN), 3.0);
    gateway.stop().await;
}
