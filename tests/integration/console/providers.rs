//! Signing in by an identity provider: who gets in, and what ends the session.

mod attacks;
mod client_secret;
mod trouble;

use serde_json::{Value, json};
use tollgate::config::Config;
use tollgate::ids::ProviderId;
use tollgate::store::{GivenRole, OrgChange, ProviderSpec, Status, UserChange};

use crate::support::browser::{Browser, Page};
use crate::support::database::until;
use crate::support::gateway::TestGateway;
use crate::support::identity_provider::now;
use crate::support::openid::{Asked, CLIENT, OpenId, basic};

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
