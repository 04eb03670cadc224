//! Providers that hang, or answer what cannot be used.

use std::time::Duration;

use serde_json::json;

use super::{PUBLIC, Place, refused};
use crate::support::browser::Browser;
use crate::support::database::until;
use crate::support::gateway::TestGateway;
use crate::support::openid::{Asked, Manner, OpenId};

#[tokio::test]
async fn a_provider_that_hangs_or_answers_garbage_is_told_of_in_words() {
    let place = Place::new().await;
    let mut browser = place.browser();
    let large = format!("{{\"id_token\":\"{}\"}}", "x".repeat(300 << 10));
    for (manner, words) in [
        (Manner::Hang, "did not answer in time"),
        (Manner::Answer(200, "<html>busy</html>".into()), "cannot be read"),
        (Manner::Answer(200, large), "cannot be read"),
        (Manner::Answer(200, "{}".into()), "gave no ID token"),
        (Manner::Answer(200, r#"{"id_token":"a","id_token":"b"}"#.into()), "cannot be read"),
        (Manner::Answer(502, "<html>".into()), "cannot be reached"),
        (Manner::Answer(401, r#"{"error":"invalid_client"}"#.into()), "refuses this console&#39;s client"),
        (Manner::Answer(302, String::new()), "cannot be read"),
    ] {
        place.openid.set("token", manner.clone());
        let page = place.sign_in(&mut browser, "ida", json!({})).await;
        refused(&browser, &page, 503, words);
        assert_eq!(page.header("retry-after"), "5", "{manner:?}");
    }
    place.openid.set("token", Manner::Serve);
    place.openid.set("jwks", Manner::Hang);
    let page = place.sign_in(&mut browser, "ida", json!({})).await;
    refused(&browser, &page, 503, "keys of your identity provider cannot be fetched");
    // Others sign in meanwhile, and by other means it does too.
    browser.signed_in(&place.gateway.caller.text).await;
}

#[tokio::test]
async fn a_description_that_cannot_be_used_lets_nobody_in_and_is_not_asked_for_at_once() {
    let gateway = TestGateway::builder()
        .config(|config| config.console.public_url = Some(PUBLIC.parse().unwrap()))
        .start()
        .await;
    let mut browser = Browser::of_members(&gateway);
    let answer = |status, text: &str| Some(Manner::Answer(status, text.to_owned()));
    for (number, (field, value, manner, words)) in [
        ("issuer", json!("https://another.example"), None, "another one than is configured"),
        ("token_endpoint", json!("http://id.example/token"), None, "not protected by https"),
        ("authorization_endpoint", json!("javascript://x/%0aalert(1)"), None, "not protected by https"),
        ("x", json!(1), answer(200, "<html>"), "cannot be read"),
        ("x", json!(1), answer(500, ""), "cannot be read"),
        ("x", json!(1), Some(Manner::Hang), "did not answer in time"),
    ]
    .into_iter()
    .enumerate()
    {
        let openid = OpenId::start().await;
        openid.describe(field, value);
        if let Some(manner) = manner {
            openid.set("openid-configuration", manner);
        }
        let spec = openid.spec(&format!("provider {number}"), gateway.caller.org);
        let provider = gateway.db.database().create_provider(&spec).await.unwrap();
        let start = format!("/console/sign-in/with/{provider}");
        until("the provider is known", async || browser.get(&start).await.status != 403).await;
        let page = browser.get(&start).await;
        refused(&browser, &page, 503, words);
        assert!(openid.described() <= 2, "it is asked again after a pause: {}", openid.described());
        assert!(!browser.cookies.contains_key("tollgate-login"), "{words}");
    }
}

#[tokio::test]
async fn a_hanging_provider_holds_nobody_elses_sign_in_up() {
    let place = Place::new().await;
    place.openid.set("token", Manner::Hang);
    let mut waiting = Vec::new();
    for _ in 0..30 {
        let mut browser = place.browser();
        let asked = place.begin(&mut browser).await;
        let code = place.openid.code(&asked, "ida", json!({}));
        waiting.push(async move { browser.get(&asked.back(&code)).await.status });
    }
    let other = OpenId::start().await;
    let spec = other.spec("other", place.gateway.caller.org);
    let provider = place.gateway.db.database().create_provider(&spec).await.unwrap();
    let start = format!("/console/sign-in/with/{provider}");
    let good = async {
        let mut browser = place.browser();
        until("the provider is known", async || browser.get(&start).await.status == 303).await;
        let asked = Asked::of(browser.get(&start).await.place());
        let code = other.code(&asked, "eve", json!({}));
        browser.get(&asked.back(&code)).await.status
    };
    let stuck = tokio::time::timeout(Duration::from_secs(120), futures_util::future::join_all(waiting));
    let (good, stuck) = tokio::join!(good, stuck);
    assert_eq!(good, 303);
    assert_eq!(stuck.unwrap(), [503; 30]);
}
