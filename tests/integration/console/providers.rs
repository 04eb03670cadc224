//! Signing in by an identity provider: who gets in, every way we know of to get in as somebody else, and what ends the session.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tollgate::config::Config;
use tollgate::encryption::{BadSecret, StoredSecrets};
use tollgate::ids::ProviderId;
use tollgate::secret::Secret;
use tollgate::store::{GivenRole, OperatorRole, OrgChange, ProviderSpec, Status, UserChange};

use crate::support::admin_client::AdminClient;
use crate::support::browser::{Browser, Page};
use crate::support::database::until;
use crate::support::gateway::TestGateway;
use crate::support::identity_provider::{Signer, forged, now};
use crate::support::openid::{Asked, CLIENT, CLIENT_SECRET, Manner, OpenId, basic};

/// Where browsers see the gateway: nobody listens there, the tests go to the gateway itself.
const PUBLIC: &str = "http://127.0.0.1:9/a/b/";

struct Place {
    gateway: TestGateway,
    openid: OpenId,
    provider: ProviderId,
}

impl Place {
    async fn new() -> Self {
        Self::with(|_| (), |_| ()).await
    }

    async fn with(
        tune: impl FnOnce(&mut Config) + Send + 'static,
        change: impl FnOnce(&mut ProviderSpec),
    ) -> Self {
        let gateway = TestGateway::builder()
            .config(|config| {
                config.limits.failed_logins_per_minute = 0;
                config.console.public_url = Some(PUBLIC.parse().unwrap());
                tune(config);
            })
            .start()
            .await;
        let openid = OpenId::start().await;
        let mut spec = openid.spec("the <company>", gateway.caller.org);
        change(&mut spec);
        let provider = gateway.db.database().create_provider(&spec).await.unwrap();
        let place = Self { gateway, openid, provider };
        until("the gateway knows the provider", async || {
            let page = place.browser().get(&place.start("")).await;
            page.status != 403
        })
        .await;
        place
    }

    fn browser(&self) -> Browser {
        Browser::of_members(&self.gateway)
    }

    fn start(&self, query: &str) -> String {
        format!("/console/sign-in/with/{}{query}", self.provider)
    }

    /// Begins a sign-in: what the browser is sent to the provider with.
    async fn begin(&self, browser: &mut Browser) -> Asked {
        let page = browser.get(&self.start("?back=%2Fconsole%2Fkeys")).await;
        assert_eq!(page.status, 303, "{}", page.text);
        Asked::of(page.place())
    }

    /// Signs this person in, with these claims.
    async fn sign_in(&self, browser: &mut Browser, subject: &str, more: Value) -> Page {
        let asked = self.begin(browser).await;
        let code = self.openid.code(&asked, subject, more);
        browser.get(&asked.back(&code)).await
    }

    /// A browser in which this person is signed in.
    async fn signed_in(&self, subject: &str, more: Value) -> Browser {
        let mut browser = self.browser();
        let page = self.sign_in(&mut browser, subject, more).await;
        assert_eq!((page.status, page.place()), (303, "/a/b/console/keys"), "{}", page.text);
        browser
    }

    async fn edit(&self, edit: impl Fn(&mut ProviderSpec) + Send) {
        self.gateway.db.database().edit_provider(self.provider, None, edit).await.unwrap();
    }
}

/// Nobody is signed in, and the page says why.
fn refused(browser: &Browser, page: &Page, status: u16, words: &str) {
    assert_eq!(page.status, status, "{words}: {}", page.text);
    // A sentence begins with a capital.
    assert!(page.text.to_lowercase().contains(&words.to_lowercase()), "{words}: {}", page.text);
    assert!(!browser.cookies.contains_key("tollgate"), "{words}: there is a session");
}

/// Waits until the next page is the one to sign in at.
async fn over(browser: &mut Browser, what: &str) {
    until(what, async || {
        let page = browser.get("/console").await;
        page.status == 303 && page.place().contains("/console/sign-in")
    })
    .await;
}

#[tokio::test]
async fn sign_ins_are_limited_as_calls_of_their_organisation_are() {
    let place = Place::with(|config| config.limits.org_management_per_minute = 2, |_| ()).await;
    for status in [303, 303, 429] {
        let mut browser = place.browser();
        let page = place.sign_in(&mut browser, "ida", json!({})).await;
        assert_eq!(page.status, status, "{}", page.text);
        assert_eq!(browser.cookies.contains_key("tollgate"), status == 303);
    }
}

#[tokio::test]
async fn a_person_signs_in_without_a_key_and_comes_back_to_its_page() {
    let place = Place::new().await;
    let mut browser = place.browser();
    let page = browser.get("/console/sign-in?back=%2Fconsole%2Fkeys").await.shown();
    let link = format!("href=\"/a/b{}\"", place.start("?back=%2Fconsole%2Fkeys"));
    assert!(page.text.contains(&link) || page.text.contains(&link.replace("%2F", "/")), "{}", page.text);
    assert!(page.text.contains("Sign in with") && !page.text.contains("<company>"), "{}", page.text);
    let page = browser.get(&place.start("?back=%2Fconsole%2Fkeys")).await;
    let set = page.header("set-cookie");
    for flag in ["tollgate-login=", "HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=600"] {
        assert!(set.contains(flag), "{set}");
    }
    let asked = Asked::of(page.place());
    assert!(asked.place.as_str().starts_with(&format!("{}/auth?", place.openid.issuer)));
    let field = |name: &str| asked.fields[name].as_str();
    assert_eq!(field("response_type"), "code");
    assert_eq!(field("client_id"), CLIENT);
    assert_eq!(field("scope"), "openid");
    assert_eq!(field("redirect_uri"), "http://127.0.0.1:9/a/b/console/sign-in/return");
    let kept = browser.cookies["tollgate-login"].clone();
    let row: String = sqlx::query_scalar("select string_agg(to_jsonb(l)::text, ' ') from console_login l")
        .fetch_one(place.gateway.db.pool())
        .await
        .unwrap();
    for secret in [kept.as_str(), field("state"), field("nonce"), field("code_challenge")] {
        assert!(!row.contains(secret) && secret.len() == 43, "{row}");
    }

    let code = place.openid.code(&asked, "ida", json!({}));
    let page = browser.get(&asked.back(&code)).await;
    assert_eq!((page.status, page.place()), (303, "/a/b/console/keys"), "{}", page.text);
    assert!(!browser.cookies.contains_key("tollgate-login"), "the sign-in is over");
    let (headers, form) = place.openid.last_exchange();
    assert_eq!(headers["authorization"], basic().as_str());
    assert!(!form.contains_key("client_secret") && !form.contains_key("client_id"), "{form:?}");
    let page = browser.get("/console").await.shown();
    assert!(page.text.contains("ida") && page.text.contains("a customer"), "{}", page.text);
    for page in
        ["/console/playground", "/console/clips", "/console/keys", "/console/budgets", "/console/usage"]
    {
        browser.get(page).await.shown();
    }
    assert!(browser.get("/console/sessions").await.shown().text.contains("This one"));
    assert_eq!(browser.get("/console/people").await.status, 403, "it is a member");
    let kind: String = sqlx::query_scalar("select kind from console_session")
        .fetch_one(place.gateway.db.pool())
        .await
        .unwrap();
    assert_eq!(kind, "identity");
    browser.post("/console/sign-out", &[]).await;
    over(&mut browser, "signed out").await;
}

#[tokio::test]
async fn a_role_is_what_the_provider_gives_and_the_person_buys_as_itself() {
    let place = Place::with(
        |_| (),
        |spec| {
            spec.role_claim = Some("groups".into());
            spec.role_map = [("bosses".to_owned(), GivenRole::Admin)].into();
            spec.console_scopes = vec!["openid".into(), "groups".into()];
        },
    )
    .await;
    let mut browser = place.signed_in("ida", json!({"groups": ["bosses"]})).await;
    browser.get("/console/people").await.shown();
    let made = browser.post("/console/people/teams", &[("name", "a team")]).await;
    assert_eq!(made.status, 303, "{}", made.text);
    let actor: String = sqlx::query_scalar("select actor from audit_log where target_kind = 'team'")
        .fetch_one(place.gateway.db.pool())
        .await
        .unwrap();
    assert!(actor.starts_with("user:usr_"), "{actor}");
    let form = browser.get("/console/playground").await.shown();
    let key = form.input("key");
    let fields = [
        ("type", "pro-text-to-video"),
        ("prompt", crate::support::leaks::PROMPT),
        ("duration", "5"),
        ("aspect_ratio", "16:9"),
        ("key", &key),
    ];
    let priced =
        browser.post("/console/playground", &[&fields[..], &[("do", "price")]].concat()).await.shown();
    let quote = priced.input("quote");
    let bought = [&fields[..], &[("quote", quote.as_str()), ("do", "create")]].concat();
    let created = browser.post("/console/playground", &bought).await;
    assert_eq!(created.status, 303, "{}", created.text);
    let user: String = sqlx::query_scalar("select u.name from hold h join app_user u using (user_id)")
        .fetch_one(place.gateway.db.pool())
        .await
        .unwrap();
    assert_eq!(user, "ida");
    // Less is given by the next sign-in, also in the session that is there.
    place.signed_in("ida", json!({"groups": [], "iat": now()})).await;
    until("it is a member", async || browser.get("/console/people").await.status == 403).await;
}

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
async fn who_is_not_wanted_is_told_so() {
    let place = Place::with(|_| (), |spec| spec.create_users = false).await;
    let mut browser = place.browser();
    let page = place.sign_in(&mut browser, "a stranger", json!({})).await;
    refused(&browser, &page, 403, "ask its admin to add you");
    // The provider has refused, or the person has pressed 'cancel'.
    let asked = place.begin(&mut browser).await;
    let fields = [("error", "access_denied"), ("state", asked.fields["state"].as_str())];
    let page = browser.get(&asked.back_with(&fields)).await;
    refused(&browser, &page, 403, "broken the sign-in off");
    let asked = place.begin(&mut browser).await;
    let page = browser.get(&asked.back_with(&[("state", asked.fields["state"].as_str())])).await;
    refused(&browser, &page, 401, "has sent no code");
}

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
async fn a_session_ends_with_whatever_it_rests_on() {
    let place = Place::new().await;
    let (database, org) = (place.gateway.db.database(), place.gateway.caller.org);
    let user = async |name: &str| -> tollgate::ids::UserId {
        let id = sqlx::query_scalar("select user_id from app_user where name = $1").bind(name);
        tollgate::ids::UserId::from_uuid(id.fetch_one(place.gateway.db.pool()).await.unwrap())
    };
    let mut browser = place.signed_in("suspended", json!({})).await;
    let suspend = UserChange { status: Some(Status::Suspended), ..UserChange::default() };
    database.update_user(user("suspended").await, suspend, None).await.unwrap();
    over(&mut browser, "the user is suspended").await;
    let page = place.sign_in(&mut browser, "suspended", json!({})).await;
    assert!(page.status == 403 && page.text.contains("You are suspended"), "{}", page.text);

    let mut browser = place.signed_in("deleted", json!({})).await;
    database.delete_user(user("deleted").await, None).await.unwrap();
    over(&mut browser, "the user is deleted").await;

    let mut browser = place.signed_in("unlinked", json!({})).await;
    sqlx::query("delete from user_identity where subject = 'unlinked'")
        .execute(place.gateway.db.pool())
        .await
        .unwrap();
    over(&mut browser, "the identity is unlinked").await;

    let mut browser = place.signed_in("ida", json!({})).await;
    place.edit(|spec| spec.suspended = true).await;
    over(&mut browser, "the provider is suspended").await;
    until("nobody begins", async || place.browser().get(&place.start("")).await.status == 403).await;
    place.edit(|spec| spec.suspended = false).await;
    until("people begin", async || place.browser().get(&place.start("")).await.status == 303).await;

    let mut browser = place.signed_in("ida", json!({})).await;
    place.edit(|spec| (spec.console_client_id, spec.console_client_secret) = (None, None)).await;
    over(&mut browser, "the console has no client there").await;
    let client = |spec: &mut ProviderSpec| spec.console_client_id = Some(CLIENT.into());
    place.edit(client).await;
    until("people begin", async || place.browser().get(&place.start("")).await.status == 303).await;

    let mut browser = place.signed_in("ida", json!({})).await;
    // A client without a secret names itself.
    assert_eq!(place.openid.last_exchange().1["client_id"], CLIENT);
    let change = OrgChange { status: Some(Status::Suspended), ..OrgChange::default() };
    database.update_org(org, change, None).await.unwrap();
    until("one can look", async || browser.get("/console").await.shown().text.contains("suspended")).await;
    let change = OrgChange { status: Some(Status::Active), ..OrgChange::default() };
    database.update_org(org, change, None).await.unwrap();
    database.delete_provider(place.provider, None).await.unwrap();
    over(&mut browser, "the provider is deleted").await;
    let begun = place.browser().get(&place.start("")).await;
    assert!(begun.status == 403 && begun.text.contains("Nobody signs in here"), "{}", begun.text);
}

#[tokio::test]
async fn a_sign_in_that_has_begun_ends_with_its_provider() {
    let place = Place::new().await;
    let mut browser = place.browser();
    let asked = place.begin(&mut browser).await;
    let code = place.openid.code(&asked, "ida", json!({}));
    place.edit(|spec| spec.suspended = true).await;
    until("it is suspended", async || place.browser().get(&place.start("")).await.status == 403).await;
    let page = browser.get(&asked.back(&code)).await;
    refused(&browser, &page, 403, "nobody signs in here by this identity provider");
    assert_eq!(place.openid.exchanges(), 0);
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

#[tokio::test]
async fn what_is_not_for_the_console_is_not_offered_there() {
    let place = Place::new().await;
    let page = Browser::of_operators(&place.gateway).get("/console/sign-in").await.shown();
    assert!(!page.text.contains("Sign in with"), "{}", page.text);
    let begun = Browser::of_operators(&place.gateway).get(&place.start("")).await;
    assert_eq!(begun.status, 404, "operators have no such page");
    let unknown = place.browser().get("/console/sign-in/with/idp_1").await;
    assert!(unknown.status == 404 && unknown.text.contains("no identity provider"), "{}", unknown.text);

    let gateway = TestGateway::start().await;
    let spec = place.openid.spec("elsewhere", gateway.caller.org);
    let provider = gateway.db.database().create_provider(&spec).await.unwrap();
    let mut browser = Browser::of_members(&gateway);
    let page = browser.get(&format!("/console/sign-in/with/{provider}")).await;
    assert!(page.status == 404 && page.text.contains("console.public_url"), "{}", page.text);
    assert!(!browser.get("/console/sign-in").await.shown().text.contains("Sign in with"));
}

#[tokio::test]
async fn a_network_has_a_bounded_number_of_sign_ins_under_way() {
    let place = Place::new().await;
    let fill = "insert into console_login (login_sha256, provider_id, back, network, created_at) \
                select sha256(i::text::bytea), $1, '', $2, now() - make_interval(secs => i * 0.0001) \
                from generate_series(1, $3) i";
    let pool = place.gateway.db.pool();
    let count = async |of: &str| -> i64 {
        let count = "select count(*) from console_login where network = $1";
        sqlx::query_scalar(count).bind(of).fetch_one(pool).await.unwrap()
    };
    sqlx::query("delete from console_login").execute(pool).await.unwrap();
    let fill_with = async |network: &str, some: i32| {
        sqlx::query(fill)
            .bind(place.provider.as_uuid())
            .bind(network)
            .bind(some)
            .execute(pool)
            .await
            .map(drop)
    };
    fill_with("127.0.0.1", 700).await.unwrap();
    let mut browser = place.browser();
    let asked = place.begin(&mut browser).await;
    assert_eq!(count("127.0.0.1").await, 500, "the oldest have ended");
    let code = place.openid.code(&asked, "ida", json!({}));
    assert_eq!(browser.get(&asked.back(&code)).await.status, 303, "the newest has not");
    sqlx::query("delete from console_login").execute(pool).await.unwrap();
    fill_with("192.0.2.1", 20_100).await.unwrap();
    place.begin(&mut browser).await;
    assert_eq!(count("192.0.2.1").await, 19_999, "nor do many networks fill the table");
    sqlx::query("update console_login set created_at = now() - interval '11 minutes'")
        .execute(pool)
        .await
        .unwrap();
    for _ in 0..21 {
        place.gateway.db.database().forget_sessions().await.unwrap();
    }
    assert_eq!(count("192.0.2.1").await, 0);
}

#[tokio::test]
async fn the_secret_of_the_client_is_in_no_answer_and_in_no_line_of_the_audit_log() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, tollgate::store::OperatorRole::Operator).await;
    let path = "/admin/v1/identity-providers";
    let body = json!({
        "name": "a company", "issuer": "https://id.example", "audiences": ["an api"], "org_id": gateway.caller.org,
        "jwks_url": "https://id.example/keys", "console_client_id": "caf\u{e9}", "console_client_secret": CLIENT_SECRET,
    });
    let refused = operator.post(path, body.clone()).await.expect(400);
    assert!(refused["detail"].as_str().unwrap().contains("console_client_id must be"), "{refused}");
    let mut body = body;
    body["console_client_id"] = json!("console");
    let made = operator.post(path, body).await.expect(201);
    assert_eq!((&made["console_has_secret"], &made["console_client_id"]), (&json!(true), &json!("console")));
    let one = format!("{path}/{}", made["provider_id"].as_str().unwrap());
    let mut seen = vec![made.to_string()];
    for (patch, has_secret, client) in [
        (json!({"leeway_seconds": 30}), true, json!("console")),
        (json!({"console_client_secret": format!("{CLIENT_SECRET}-2")}), true, json!("console")),
        (json!({"console_client_id": "another"}), false, json!("another")),
        (json!({"console_client_secret": CLIENT_SECRET}), true, json!("another")),
        (json!({"console_client_secret": null}), false, json!("another")),
        (json!({"console_client_secret": CLIENT_SECRET}), true, json!("another")),
        (json!({"console_client_id": null}), false, Value::Null),
    ] {
        let changed = operator.patch(&one, patch.clone()).await.expect(200);
        assert_eq!(changed["console_has_secret"], has_secret, "{patch}");
        assert_eq!(changed["console_client_id"], client, "{patch}");
        seen.push(changed.to_string());
    }
    for (patch, words) in [
        (json!({"console_client_secret": CLIENT_SECRET}), "needs a console_client_id"),
        (json!({"console_client_id": "x", "issuer": "not a url"}), "needs an issuer"),
        (json!({"console_client_id": "x", "issuer": "http://id.example"}), "needs an issuer"),
        (json!({"console_scopes": ["email"]}), "must have 'openid'"),
        (json!({"console_client_secret": 7}), "a secret must be a string"),
    ] {
        let refused = operator.patch(&one, patch.clone()).await.expect(400);
        assert!(refused.to_string().contains(words), "{patch}: {refused}");
        seen.push(refused.to_string());
    }
    let log = operator.get("/admin/v1/audit-log?limit=100").await.expect(200);
    let lines =
        log["items"].as_array().unwrap().iter().filter(|line| line["target_kind"] == "identity_provider");
    assert_eq!(lines.count(), 8, "a new secret is a change: {log:#}");
    seen.push(log.to_string());
    seen.push(operator.get(path).await.expect(200).to_string());
    assert!(seen.iter().all(|text| !text.contains(CLIENT_SECRET)), "{seen:#?}");
    let staff = json!({
        "name": "staff", "issuer": "https://id.example", "audiences": ["ops"], "serves": "operators",
        "role_claim": "groups", "role_map": {"ops": "operator"}, "jwks_url": "https://id.example/keys",
        "console_client_id": "x",
    });
    let refused = operator.post(path, staff).await.expect(400);
    assert!(refused["detail"].as_str().unwrap().contains("operators sign in"), "{refused}");
}

/// A secret of the gateways, as long as one must be.
fn quote_secret(text: &str) -> Secret {
    Secret::new(text.repeat(32))
}

/// What the database has of the client secret, and with it every backup.
async fn stored(gateway: &TestGateway) -> Option<String> {
    let stored = sqlx::query_scalar("select console_client_secret from identity_provider");
    stored.fetch_one(gateway.db.pool()).await.unwrap()
}

#[tokio::test]
async fn the_secret_of_the_client_is_encrypted_in_the_database_and_people_sign_in_by_it() {
    let place = Place::with(|config| config.quotes.secret = Some(quote_secret("a")), |_| ()).await;
    let operator = AdminClient::operator(&place.gateway, OperatorRole::Operator).await;
    let one = format!("/admin/v1/identity-providers/{}", place.provider);
    operator.patch(&one, json!({"console_client_secret": CLIENT_SECRET})).await.expect(200);
    let text = stored(&place.gateway).await.unwrap();
    assert!(text.starts_with("enc1.") && !text.contains(CLIENT_SECRET), "{text}");
    let gets_in = async |who: &str| {
        until("people begin", async || place.browser().get(&place.start("")).await.status == 303).await;
        place.signed_in(who, json!({})).await;
        let (headers, _) = place.openid.last_exchange();
        assert_eq!(headers["authorization"], basic().as_str());
    };
    gets_in("ida").await;

    // What is not about the secret leaves it as it is; what is refused stores nothing.
    operator.patch(&one, json!({"leeway_seconds": 30})).await.expect(200);
    operator.patch(&one, json!({"console_client_secret": "x".repeat(501)})).await.expect(400);
    assert_eq!(stored(&place.gateway).await.unwrap(), text);

    // One that is stored in clear, and the gateways' secret is replaced.
    let database = place.gateway.db.database();
    place.edit(|spec| spec.console_client_secret = Some(Secret::new(CLIENT_SECRET))).await;
    let [a, b] = [quote_secret("a"), quote_secret("b")];
    let (first, both) = (StoredSecrets::under(Some(&a), None), StoredSecrets::under(Some(&b), Some(&a)));
    assert_eq!(database.encrypt_client_secrets(&first).await.unwrap(), []);
    let under_a = stored(&place.gateway).await.unwrap();
    assert!(under_a.starts_with("enc1.") && under_a != text, "{under_a}");
    gets_in("bob").await;
    assert_eq!(database.encrypt_client_secrets(&both).await.unwrap(), []);
    let under_b = stored(&place.gateway).await.unwrap();
    assert_eq!(both.decrypt(&Secret::new(&*under_b), &place.openid.issuer).unwrap().expose(), CLIENT_SECRET);
    assert_eq!(database.encrypt_client_secrets(&both).await.unwrap(), []);
    assert_eq!(stored(&place.gateway).await.unwrap(), under_b, "nothing is encrypted again");
    let unreadable = database.encrypt_client_secrets(&first).await.unwrap();
    assert_eq!(unreadable, [(place.provider, BadSecret::OtherKey)]);
    assert_eq!(stored(&place.gateway).await.unwrap(), under_b);
    // This gateway has not got the new secret.
    until("that nobody gets in is told", async || {
        let mut browser = place.browser();
        let page = place.sign_in(&mut browser, "ida", json!({})).await;
        page.text.contains("secret for your identity provider cannot be read")
    })
    .await;

    // Another issuer gets no secret that was not meant for it.
    let changed = operator.patch(&one, json!({"issuer": "https://id.example"})).await.expect(200);
    assert_eq!((changed["console_has_secret"].as_bool(), stored(&place.gateway).await), (Some(false), None));
    operator.patch(&one, json!({"console_client_secret": CLIENT_SECRET})).await.expect(200);
    operator.call_with(Method::DELETE, &one, None, &[]).await.expect(204);
    assert_eq!(stored(&place.gateway).await, None);
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
