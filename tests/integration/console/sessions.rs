//! Signing in and out, and what ends a session.

use reqwest::Method;
use tollgate::store::{KeySpec, OperatorRole, OrgChange, Status};

use crate::support::browser::Browser;
use crate::support::database::until;
use crate::support::gateway::TestGateway;

/// Waits until the session is over: the page sends to the sign-in.
async fn over(browser: &mut Browser) {
    until("the session is over", async || {
        let page = browser.get("/console").await;
        page.status == 303 && page.place().contains("/console/sign-in")
    })
    .await;
}

#[tokio::test]
async fn a_key_is_exchanged_for_a_session_of_which_only_a_hash_is_stored() {
    let gateway = TestGateway::start().await;
    let mut browser = Browser::of_members(&gateway);
    let page = browser.get("/console").await;
    assert_eq!((page.status, page.place()), (303, "/console/sign-in?back=%2Fconsole"));
    let page = browser.post("/console/sign-in", &[("credential", &gateway.caller.text)]).await;
    assert_eq!((page.status, page.place()), (303, "/console"));
    let set = page.header("set-cookie").to_owned();
    for flag in ["HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=86400"] {
        assert!(set.contains(flag), "{set}");
    }
    assert!(!set.contains("Domain"), "{set}");
    let text = browser.cookies.values().next().unwrap().clone();
    assert_eq!(text.len(), 43, "256 bits");
    let page = browser.get("/console").await.shown();
    assert!(page.text.contains("a customer") && page.text.contains("1,000,000"), "{}", page.text);
    let stored: (Vec<u8>, String) =
        sqlx::query_as("select session_sha256, to_jsonb(s)::text from console_session s")
            .fetch_one(gateway.db.pool())
            .await
            .unwrap();
    assert_eq!(stored.0.len(), 32);
    assert!(!stored.1.contains(&text) && !stored.1.contains(&gateway.caller.text), "{}", stored.1);
    let secret = &gateway.caller.text[gateway.caller.text.len() - 20..];
    assert!(!page.text.contains(secret) && !page.text.contains(&text), "no secret is in a page");
}

#[tokio::test]
async fn behind_https_the_cookie_is_one_that_no_other_host_can_set() {
    let gateway = TestGateway::start().await;
    let mut browser = Browser::of_members(&gateway);
    let request = browser.request(Method::POST, "/console/sign-in").header("host", "videos.example.com");
    let form = format!("credential={}", gateway.caller.text);
    let page = browser.send(request.header("sec-fetch-site", "same-origin").body(form)).await;
    assert_eq!(page.status, 303, "{}", page.text);
    let set = page.header("set-cookie");
    assert!(set.starts_with("__Host-tollgate=") && set.ends_with("; Secure"), "{set}");
}

#[tokio::test]
async fn a_session_ends_with_the_sign_out() {
    let gateway = TestGateway::start().await;
    let mut browser = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
    let kept = browser.cookies.clone();
    let page = browser.post("/console/sign-out", &[]).await;
    assert_eq!(page.status, 303);
    assert!(browser.cookies.is_empty(), "the browser forgets it");
    browser.cookies = kept;
    let page = browser.get("/console").await;
    assert_eq!(page.status, 303, "and so does the gateway");
}

#[tokio::test]
async fn a_session_ends_with_its_key_and_with_its_organisation() {
    let gateway = TestGateway::start().await;
    let key = gateway.another_key(KeySpec::default()).await;
    let mut browser = Browser::of_members(&gateway).signed_in(&key.text).await;
    browser.get("/console").await.shown();
    gateway.db.database().revoke_key(key.key).await.unwrap();
    over(&mut browser).await;

    let rotated = gateway.another_key(KeySpec::default()).await;
    let mut browser = Browser::of_members(&gateway).signed_in(&rotated.text).await;
    gateway.db.database().rotate_key(rotated.key, std::time::Duration::ZERO).await.unwrap();
    over(&mut browser).await;

    let suspended = gateway.another_key(KeySpec::default()).await;
    let mut browser = Browser::of_members(&gateway).signed_in(&suspended.text).await;
    let change = OrgChange { status: Some(Status::Suspended), ..OrgChange::default() };
    gateway.db.database().update_org(gateway.caller.org, change, None).await.unwrap();
    until("the page says so", async || browser.get("/console").await.shown().text.contains("suspended"))
        .await;
}

#[tokio::test]
async fn a_session_ends_when_it_is_not_used_and_after_a_day() {
    let gateway = TestGateway::start().await;
    for change in ["seen_at = now() - interval '481 minutes'", "created_at = now() - interval '1441 minutes'"]
    {
        let mut browser = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
        browser.get("/console").await.shown();
        let sql = format!("update console_session set {change}");
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(gateway.db.pool()).await.unwrap();
        let page = browser.get("/console").await;
        assert_eq!(page.status, 303, "{change}");
    }
}

#[tokio::test]
async fn one_credential_has_no_more_than_twenty_sessions() {
    let gateway = TestGateway::start().await;
    let mut first = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
    for _ in 0..20 {
        Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
    }
    let count: i64 = sqlx::query_scalar("select count(*) from console_session")
        .fetch_one(gateway.db.pool())
        .await
        .unwrap();
    assert_eq!(count, 20);
    assert_eq!(first.get("/console").await.status, 303, "the oldest has ended");
}

#[tokio::test]
async fn a_wrong_key_is_told_and_counts_as_a_failed_login() {
    let gateway =
        TestGateway::builder().config(|config| config.limits.failed_logins_per_minute = 2).start().await;
    let mut browser = Browser::of_members(&gateway);
    let wrong = format!("{}x", &gateway.caller.text[..gateway.caller.text.len() - 1]);
    for status in [401, 401, 429] {
        let page = browser.post("/console/sign-in", &[("credential", &wrong)]).await;
        assert_eq!(page.status, status, "{}", page.text);
        assert!(!page.text.contains(&wrong) && browser.cookies.is_empty());
    }
    browser.signed_in(&gateway.caller.text).await;
}

#[tokio::test]
async fn a_text_that_opens_no_session_counts_as_a_failed_login() {
    let gateway =
        TestGateway::builder().config(|config| config.limits.failed_logins_per_minute = 3).start().await;
    let mut signed_in = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
    let mut stranger = Browser::of_members(&gateway);
    for letter in ["a", "b", "c", "d"] {
        stranger.cookies.insert("tollgate".into(), letter.repeat(43));
        assert_eq!(stranger.get("/console").await.status, 303, "it may sign in");
    }
    stranger.cookies.clear();
    let wrong = format!("{}x", &gateway.caller.text[..gateway.caller.text.len() - 1]);
    let page = stranger.post("/console/sign-in", &[("credential", &wrong)]).await;
    assert_eq!(page.status, 429, "{}", page.text);
    signed_in.get("/console").await.shown();
    stranger.signed_in(&gateway.caller.text).await;
}

#[tokio::test]
async fn a_sign_out_of_no_session_counts_as_a_failed_login() {
    let gateway =
        TestGateway::builder().config(|config| config.limits.failed_logins_per_minute = 2).start().await;
    let mut stranger = Browser::of_members(&gateway);
    let mut statuses = Vec::new();
    for letter in ["a", "b", "c"] {
        stranger.cookies.insert("tollgate".into(), letter.repeat(43));
        statuses.push(stranger.post("/console/sign-out", &[]).await.status);
    }
    assert_eq!(statuses, [303, 303, 429]);
}

#[tokio::test]
async fn sign_ins_are_limited_as_calls_of_their_organisation_are() {
    let gateway =
        TestGateway::builder().config(|config| config.limits.org_management_per_minute = 2).start().await;
    for status in [303, 303, 429] {
        let mut browser = Browser::of_members(&gateway);
        let page = browser.post("/console/sign-in", &[("credential", &gateway.caller.text)]).await;
        assert_eq!(page.status, status, "{}", page.text);
    }
}

/// In memory a field takes many times as much as in the form.
#[tokio::test]
async fn a_form_has_no_more_fields_than_a_page_and_none_of_them_twice() {
    let gateway = TestGateway::start().await;
    let mut browser = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
    for (form, told) in
        [("a&".repeat(8 << 20), "more than 200 fields"), ("type=a&type=b".into(), "there twice")]
    {
        let request = browser.request(Method::POST, "/console/playground");
        let request = request.header("sec-fetch-site", "same-origin").body(form);
        let page = browser.send(request).await;
        assert!(page.status == 400 && page.text.contains(told), "{} {}", page.status, page.text);
    }
    let page = browser.get(&format!("/console/playground?{}", "a&".repeat(300))).await;
    assert_eq!(page.status, 400, "{}", page.text);
    let page = Browser::of_members(&gateway)
        .post("/console/sign-in", &[("credential", "a"), ("credential", "b")])
        .await;
    assert_eq!(page.status, 400, "{}", page.text);
}

#[tokio::test]
async fn each_listener_is_for_its_own_people() {
    let gateway = TestGateway::start().await;
    let token = gateway.operator_token().await;
    let mut members = Browser::of_members(&gateway);
    let page = members.post("/console/sign-in", &[("credential", &token)]).await;
    assert!(page.status == 403 && page.text.contains("operations listener"), "{}", page.text);
    let mut operators = Browser::of_operators(&gateway);
    let page = operators.post("/console/sign-in", &[("credential", &gateway.caller.text)]).await;
    assert!(page.status == 403 && page.text.contains("data listener"), "{}", page.text);
    let mut operators = operators.signed_in(&token).await;
    let page = operators.get("/console").await.shown();
    assert!(page.text.contains("a customer"), "{}", page.text);
    // A session of one listener is none of the other's.
    let session = operators.cookies.values().next().unwrap().clone();
    members.cookies.insert("tollgate".into(), session);
    assert_eq!(members.get("/console").await.status, 303);
}

#[tokio::test]
async fn an_operators_session_ends_with_the_token() {
    let gateway = TestGateway::start().await;
    gateway.operator_token().await;
    let made = gateway.db.database().create_operator_token("leaving", OperatorRole::OperatorRead, None).await;
    let (id, token) = made.unwrap();
    let mut browser = Browser::of_operators(&gateway).signed_in(token.expose()).await;
    browser.get("/console").await.shown();
    gateway.db.database().revoke_operator_token(id).await.unwrap();
    assert_eq!(browser.get("/console").await.status, 303);
}

#[tokio::test]
async fn a_form_of_another_site_is_refused() {
    let gateway = TestGateway::start().await;
    let mut browser = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://evil.example"),
    ] {
        let request = browser.request(Method::POST, "/console/sign-out").header(name, value);
        let page = browser.send(request).await;
        assert_eq!(page.status, 403, "{name}: {value}");
        assert!(page.text.contains("was not sent by a page of this console"), "{}", page.text);
    }
    browser.get("/console").await.shown();
}

#[tokio::test]
async fn a_link_opens_one_session_once() {
    let gateway = TestGateway::start().await;
    let credential = tollgate::secret::Secret::new(gateway.caller.text.clone());
    let lasts = std::time::Duration::from_secs(900);
    let link = tollgate::access::sessions::new_link(gateway.db.database(), &credential, lasts).await;
    let place = format!("/console/link/{}", link.unwrap().unwrap().expose());
    let mut browser = Browser::of_members(&gateway);
    // A program that looks at links in advance uses nothing up.
    browser.get(&place).await.shown();
    browser.get(&place).await.shown();
    let page = browser.post(&place, &[]).await;
    assert_eq!((page.status, page.place()), (303, "/console"), "{}", page.text);
    browser.get("/console").await.shown();
    let page = Browser::of_members(&gateway).post(&place, &[]).await;
    assert!(page.status == 401 && page.text.contains("used already"), "{}", page.text);
}

#[tokio::test]
async fn a_key_that_may_not_be_used_from_here_opens_no_session() {
    let gateway = TestGateway::start().await;
    let spec =
        KeySpec { allowed_networks: Some(vec!["192.0.2.0/24".parse().unwrap()]), ..KeySpec::default() };
    let key = gateway.another_key(spec).await;
    let mut browser = Browser::of_members(&gateway);
    let page = browser.post("/console/sign-in", &[("credential", &key.text)]).await;
    assert_eq!(page.status, 403, "{}", page.text);
}

#[tokio::test]
async fn the_sessions_of_a_key_are_listed_and_the_others_can_be_ended() {
    let gateway = TestGateway::start().await;
    let mut other = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
    let key = gateway.another_key(KeySpec::default()).await;
    let mut strange = Browser::of_members(&gateway).signed_in(&key.text).await;
    let mut browser = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
    let page = browser.get("/console/sessions").await.shown();
    assert_eq!(page.text.matches("<tr><td>").count(), 2, "{}", page.text);
    assert_eq!(browser.post("/console/sessions", &[]).await.status, 303);
    assert_eq!(other.get("/console").await.status, 303);
    browser.get("/console").await.shown();
    strange.get("/console").await.shown();
    let mut operator = Browser::of_operators(&gateway).signed_in(&gateway.operator_token().await).await;
    assert!(operator.get("/console/sessions").await.shown().text.contains("This one"));
}
