//! The keys of a provider: new ones, made-up ones, and none while it is away.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tollgate::store::ProviderSpec;

use super::{credits, with_provider};
use crate::support::database::until;
use crate::support::gateway::{ENDLESS, TestGateway};
use crate::support::identity_provider::{AUDIENCE, Endpoint, ISSUER, Mood, Signer, TestProvider, claims};

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
