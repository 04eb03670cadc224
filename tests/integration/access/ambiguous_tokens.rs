//! Tokens and key sets that say a thing twice: two readers could take them for different ones.

use reqwest::Method;
use serde_json::json;

use crate::support::database::until;
use crate::support::gateway::{Answer, TestGateway};
use crate::support::identity_provider::{Mood, TestProvider, claims};

async fn credits(gateway: &TestGateway, token: &str) -> Answer {
    Answer::to(gateway.request(Method::GET, "/api/credits").bearer_auth(token)).await
}

async fn with_provider() -> (TestGateway, TestProvider) {
    let gateway = TestGateway::builder()
        .config(|config| {
            config.limits.failed_logins_per_minute = 0;
            config.auth.jwks_refresh_ms = 100;
            config.auth.stale_max_ms = 0;
        })
        .start()
        .await;
    let provider = TestProvider::start().await;
    let spec = provider.spec("id", Some(gateway.caller.org));
    gateway.db.database().create_provider(&spec).await.unwrap();
    (gateway, provider)
}

#[tokio::test]
async fn a_token_that_says_a_thing_twice_is_not_valid_though_it_is_signed() {
    let (gateway, provider) = with_provider().await;
    let good = claims("ada", json!({})).to_string();
    let header = r#"{"alg":"RS256","typ":"JWT","kid":"k1"}"#;
    let signed = |header: &str, claims: &str| provider.signer.token_of_texts(header, claims);
    let token = signed(header, &good);
    until("the provider is known", async || credits(&gateway, &token).await.status == 200).await;

    let twice = |more: &str| good.replacen('{', &format!("{{{more},"), 1);
    for (what, header, claims) in [
        ("who", header.to_owned(), twice(r#""sub":"eve""#)),
        ("who, in another spelling", header.to_owned(), twice(r#""\u0073ub":"eve""#)),
        ("a claim that nobody reads", header.to_owned(), twice(r#""x":{"y":1,"y":2}"#)),
        ("until when", header.to_owned(), twice(r#""exp":99999999999"#)),
        ("which key", header.replacen('{', r#"{"kid":"k2","#, 1), good.clone()),
        (
            "a field of the header that nobody reads",
            header.replacen('{', r#"{"x":1,"x":2,"#, 1),
            good.clone(),
        ),
    ] {
        let answer = credits(&gateway, &signed(&header, &claims)).await;
        let said = answer.refused(401, "INVALID_API_KEY");
        assert!(said["message"].as_str().unwrap().contains("given twice"), "{what}: {said}");
    }
    credits(&gateway, &token).await.expect(200);
}

#[tokio::test]
async fn a_key_set_that_says_a_thing_twice_is_none() {
    let (gateway, provider) = with_provider().await;
    let token = provider.token("ada", json!({}));
    let key = provider.signer.jwk("k1").to_string();
    let ambiguous = format!(r#"{{"keys":[{}]}}"#, key.replacen('{', r#"{"kid":"k0","#, 1));
    provider.endpoint.set(Mood::Text(ambiguous));
    until("it was fetched", async || {
        let answer = credits(&gateway, &token).await;
        assert!([401, 503].contains(&answer.status), "{answer:?}");
        answer.status == 503 && provider.endpoint.asked() > 1
    })
    .await;
    provider.endpoint.set(Mood::Serve(vec![provider.signer.jwk("k1")]));
    until("the set is a good one", async || credits(&gateway, &token).await.status == 200).await;
}
