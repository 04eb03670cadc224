//! Every way we know of to get in as somebody else.

use serde_json::{Value, json};

use super::{Place, refused};
use crate::support::database::until;
use crate::support::identity_provider::{Signer, forged, now};
use crate::support::openid::{Asked, CLIENT_SECRET, OpenId};

/// A token with these claims, as it should not be.
type Forge<'a> = &'a dyn Fn(&Value) -> String;

#[tokio::test]
async fn an_id_token_that_is_not_for_this_sign_in_opens_nothing() {
    let place = Place::new().await;
    let (openid, invalid) = (&place.openid, "this token is not valid");
    for (more, words) in [
        (json!({"nonce": "another"}), "made for another sign-in"),
        (json!({"nonce": null}), "made for another sign-in"),
        (json!({"aud": "another client"}), "made for another client"),
        (json!({"aud": ["the console", "another"]}), "made for another client"),
        (json!({"azp": "another client"}), "made for another client"),
        (json!({"iss": "https://another.example"}), "another issuer"),
        (json!({"exp": now() - 120}), "has expired"),
        (json!({"exp": null}), invalid),
        (json!({"nbf": now() + 3600}), "not valid yet"),
        (json!({"sub": null}), "which user it is for"),
        (json!({"events": {}}), invalid),
    ] {
        let mut browser = place.browser();
        let page = place.sign_in(&mut browser, "mallory", more).await;
        refused(&browser, &page, 401, words);
    }
    let other = Signer::rsa();
    let access = json!({"alg": "RS256", "typ": "at+jwt", "kid": "k1"});
    let forgeries: [(&str, Forge); 5] = [
        ("alg none", &|claims| forged("none", "k1", claims, None)),
        ("a shared secret", &|claims| forged("HS256", "k1", claims, Some(CLIENT_SECRET.as_bytes()))),
        ("another key", &|claims| other.token("k1", claims)),
        ("an access token", &|claims| openid.signer.token_of(&access, claims)),
        ("no token", &|_| "x.y.z".to_owned()),
    ];
    for (what, token) in forgeries {
        let mut browser = place.browser();
        let asked = place.begin(&mut browser).await;
        let code = openid.code_for(&asked, token(&openid.claims(&asked, "mallory", json!({}))));
        let page = browser.get(&asked.back(&code)).await;
        assert!(
            page.status == 401 && page.text.to_lowercase().contains(invalid),
            "{what}: {} {}",
            page.status,
            page.text
        );
        assert!(!browser.cookies.contains_key("tollgate"), "{what}");
    }
    // One that says for which of its audiences it was made is for us.
    place.signed_in("ida", json!({"aud": ["another", "the console"], "azp": "the console"})).await;
}

#[tokio::test]
async fn an_answer_counts_once_in_the_browser_that_has_asked_and_within_ten_minutes() {
    let place = Place::new().await;
    let (mut mine, mut other) = (place.browser(), place.browser());
    let (asked, of_other) = (place.begin(&mut mine).await, place.begin(&mut other).await);
    let code = place.openid.code(&asked, "mallory", json!({}));

    // Somebody else's answer, in this browser or in one that has asked for nothing.
    for browser in [&mut other, &mut place.browser()] {
        let page = browser.get(&asked.back(&code)).await;
        refused(browser, &page, 401, "not begun in this browser");
    }
    for state in ["", "x", of_other.fields["state"].as_str()] {
        let page = mine.get(&asked.back_with(&[("code", &code), ("state", state)])).await;
        refused(&mine, &page, 401, "not begun in this browser");
    }
    let twice = format!("{}&state=x", asked.back(&code));
    let page = mine.get(&twice).await;
    refused(&mine, &page, 400, "given twice");
    assert_eq!(place.openid.exchanges(), 0, "the provider was asked for none of these");

    // None of them has ended the sign-in.
    let page = mine.get(&asked.back(&code)).await;
    assert_eq!(page.status, 303, "{}", page.text);
    // The same answer again, with the cookie that it came with.
    let mut again = place.browser();
    let asked = place.begin(&mut again).await;
    let kept = again.cookies.clone();
    let code = place.openid.code(&asked, "ida", json!({}));
    assert_eq!(again.get(&asked.back(&code)).await.status, 303);
    let mut replayed = place.browser();
    replayed.cookies = kept;
    let page = replayed.get(&asked.back(&code)).await;
    refused(&replayed, &page, 401, "was used already");

    // A code that was used elsewhere.
    let asked = place.begin(&mut replayed).await;
    let page = replayed.get(&asked.back(&code)).await;
    refused(&replayed, &page, 401, "does not know");

    // Somebody else's code in one's own sign-in (PKCE).
    let mut victim = place.browser();
    let of_victim = place.begin(&mut victim).await;
    let stolen = place.openid.code(&of_victim, "ida", json!({}));
    let mut thief = place.browser();
    let asked = place.begin(&mut thief).await;
    let page = thief.get(&asked.back(&stolen)).await;
    refused(&thief, &page, 401, "does not know");

    let mut late = place.browser();
    let asked = place.begin(&mut late).await;
    let code = place.openid.code(&asked, "ida", json!({}));
    sqlx::query("update console_login set created_at = now() - interval '601 seconds'")
        .execute(place.gateway.db.pool())
        .await
        .unwrap();
    let page = late.get(&asked.back(&code)).await;
    refused(&late, &page, 401, "took longer than 10 minutes");
}

#[tokio::test]
async fn another_provider_cannot_answer_for_the_one_that_was_asked() {
    let place = Place::new().await;
    let mut browser = place.browser();
    let asked = place.begin(&mut browser).await;
    let state = asked.fields["state"].clone();
    let code = place.openid.code(&asked, "ida", json!({}));
    let fields = [("code", code.as_str()), ("state", state.as_str()), ("iss", "https://another.example")];
    let page = browser.get(&asked.back_with(&fields)).await;
    refused(&browser, &page, 401, "another identity provider has answered");
    assert_eq!(place.openid.exchanges(), 0, "the code was given to nobody");
    let asked = place.begin(&mut browser).await;
    let state = asked.fields["state"].clone();
    let code = place.openid.code(&asked, "ida", json!({}));
    let fields = [("code", code.as_str()), ("state", state.as_str()), ("iss", place.openid.issuer.as_str())];
    assert_eq!(browser.get(&asked.back_with(&fields)).await.status, 303);
}

#[tokio::test]
async fn one_who_names_itself_must_do_so() {
    let place = Place::new().await;
    // One whose description was not read before.
    let openid = OpenId::start().await;
    openid.describe("authorization_response_iss_parameter_supported", json!(true));
    let spec = openid.spec("one who names itself", place.gateway.caller.org);
    let provider = place.gateway.db.database().create_provider(&spec).await.unwrap();
    let start = format!("/console/sign-in/with/{provider}");
    let mut browser = place.browser();
    until("the provider is known", async || browser.get(&start).await.status == 303).await;
    let asked = Asked::of(browser.get(&start).await.place());
    let code = openid.code(&asked, "ida", json!({}));
    let page = browser.get(&asked.back(&code)).await;
    refused(&browser, &page, 401, "another identity provider has answered");
}

#[tokio::test]
async fn failed_sign_ins_count_with_failed_keys() {
    let place = Place::with(|config| config.limits.failed_logins_per_minute = 2, |_| ()).await;
    let mut browser = place.browser();
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let page = place.sign_in(&mut browser, "mallory", json!({"nonce": "x"})).await;
        statuses.push(page.status);
    }
    let wrong = format!("{}x", &place.gateway.caller.text[..place.gateway.caller.text.len() - 1]);
    statuses.push(browser.post("/console/sign-in", &[("credential", &wrong)]).await.status);
    statuses.push(browser.get("/console/sign-in/return?code=x&state=y").await.status);
    assert_eq!(statuses, [401, 401, 429, 429]);
    // A good one passes all the same.
    place.signed_in("ida", json!({})).await;
}

#[tokio::test]
async fn nobody_is_sent_anywhere_else_afterwards() {
    let place = Place::new().await;
    for back in
        ["https://evil.example", "//evil.example", "/console\\@evil.example", "/console/sign-out", "x"]
    {
        let mut browser = place.browser();
        let back: String = url::form_urlencoded::byte_serialize(back.as_bytes()).collect();
        let page = browser.get(&place.start(&format!("?back={back}"))).await;
        let asked = Asked::of(page.place());
        let code = place.openid.code(&asked, "ida", json!({}));
        assert_eq!(browser.get(&asked.back(&code)).await.place(), "/a/b/console", "{back}");
    }
}
