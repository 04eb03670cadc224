//! What holds for every page.

use reqwest::Method;
use serde_json::json;
use tollgate::store::{NewUser, OrgChange, Role};

use crate::support::browser::{Browser, Page};
use crate::support::database::until;
use crate::support::gateway::{TestGateway, body};

/// The pages of members, without parameters.
const MEMBERS: &[&str] = &[
    "/console",
    "/console/playground",
    "/console/clips",
    "/console/clips?view=grid",
    "/console/keys",
    "/console/budgets",
    "/console/usage",
    "/console/usage?by=key",
    "/console/usage?by=label",
];
/// The pages of admins.
const ADMINS: &[&str] = &["/console/statement", "/console/statement.csv", "/console/people"];
const OPERATORS: &[&str] = &["/console"];

/// What every answer has, whatever it says.
pub(super) fn guarded(page: &Page, place: &str) {
    let policy = page.header("content-security-policy");
    assert!(
        policy.starts_with(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'"
        ),
        "{place}: {policy}"
    );
    for part in ["connect-src 'self'", "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"] {
        assert!(policy.contains(part), "{place}: {policy}");
    }
    assert!(!policy.contains("unsafe"), "{place}");
    assert_eq!(page.header("referrer-policy"), "no-referrer", "{place}");
    assert_eq!(page.header("x-content-type-options"), "nosniff", "{place}");
    assert_eq!(page.header("cross-origin-opener-policy"), "same-origin", "{place}");
    assert!(page.header("x-request-id").starts_with("req_"), "{place}");
    assert_eq!(page.header("cache-control"), "private, no-store", "{place}");
    // Nothing that the policy would refuse.
    for refused in ["<style", " style=", "javascript:", " onclick", "<script>", "http-equiv=\"Content"] {
        assert!(!page.text.contains(refused), "{place} has {refused}: {}", page.text);
    }
    assert!(page.text.len() < 60_000, "{place}: {} bytes", page.text.len());
}

#[tokio::test]
async fn every_page_has_its_policy_and_names_nothing_elsewhere() {
    let gateway = TestGateway::start().await;
    let task = gateway.task("a page").await;
    gateway.finished(&task).await;
    let mut browser = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
    let clip = format!("/console/clips/{task}");
    for place in MEMBERS.iter().copied().chain([clip.as_str()]) {
        let page = browser.get(place).await.shown();
        guarded(&page, place);
        assert!(page.text.contains("<main id=\"main\"") && page.text.contains("<h1>"), "{place}");
    }
    for place in ["/console/nothing", "/console/clips/no-such-task"] {
        let page = browser.get(place).await;
        assert_eq!(page.status, 404, "{place}");
        guarded(&page, place);
    }
    let mut operators = Browser::of_operators(&gateway).signed_in(&gateway.operator_token().await).await;
    for place in OPERATORS {
        guarded(&operators.get(place).await.shown(), place);
    }
    guarded(&Browser::of_members(&gateway).get("/console/sign-in").await.shown(), "the sign-in");
}

#[tokio::test]
async fn files_are_kept_for_good_under_names_that_change_with_them() {
    let gateway = TestGateway::start().await;
    let mut browser = Browser::of_members(&gateway);
    let page = browser.get("/console/sign-in").await.shown();
    for ending in [".css", ".js", ".svg"] {
        let at = page.text.find(ending).unwrap();
        let from = page.text[..at].rfind('"').unwrap();
        let place = &page.text[from + 1..at + ending.len()];
        let file = browser.get(place).await.shown();
        assert_eq!(file.header("cache-control"), "public, max-age=31536000, immutable", "{place}");
        assert!(!file.text.contains("http://") || ending == ".svg", "{place} names another host");
    }
    assert_eq!(browser.get("/console/assets/style.css").await.status, 404);
}

#[tokio::test]
async fn names_that_are_markup_are_shown_as_they_are() {
    const HOSTILE: &str = "<img src=x onerror=alert(1)>\"'&amp;";
    let gateway = TestGateway::start().await;
    let database = gateway.db.database();
    let change = OrgChange { name: Some(format!("o {HOSTILE}")), ..OrgChange::default() };
    database.update_org(gateway.caller.org, change, None).await.unwrap();
    let new = NewUser { name: format!("u {HOSTILE} {}", "x".repeat(60)), role: Role::Member, team: None };
    let user = database.add_user(gateway.caller.org, &new).await.unwrap();
    let spec = tollgate::store::KeySpec { name: HOSTILE.into(), env: "test".into(), ..Default::default() };
    let (_, key) = database.create_key(gateway.caller.org, user, &spec).await.unwrap();
    let mut browser = Browser::of_members(&gateway).signed_in(key.expose()).await;
    for place in MEMBERS {
        let page = browser.get(place).await.shown();
        assert!(page.text.contains("&#60;img") || page.text.contains("&lt;img"), "{place}: {}", page.text);
        assert!(!page.text.contains("<img"), "{place}: {}", page.text);
    }
    let hostile = browser.get("/console/clips?user=%3Cimg%3E&key=%22%3E%3Cimg%3E&month=%3Cimg%3E").await;
    assert!(!hostile.text.contains("<img"), "{}", hostile.text);
}

#[tokio::test]
async fn under_a_path_of_a_proxy_every_link_begins_with_it() {
    let gateway = TestGateway::builder()
        .config(|config| config.console.public_url = Some("https://example.com/a/b/".parse().unwrap()))
        .start()
        .await;
    let mut browser = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
    for place in MEMBERS {
        let page = browser.get(place).await.shown();
        for attribute in ["href=\"", "action=\"", "src=\""] {
            for (at, _) in page.text.match_indices(attribute) {
                let rest = &page.text[at + attribute.len()..];
                let link = rest.split('"').next().unwrap();
                assert!(link.starts_with("/a/b/console") || link.starts_with('#'), "{place}: {link}");
            }
        }
    }
    let page = browser.request(Method::GET, "/");
    assert_eq!(browser.send(page).await.place(), "/a/b/console");
    // The proxy sends another Host; the form is from the address that the browser sees.
    let request = browser.request(Method::POST, "/console/theme").header("origin", "https://example.com");
    assert_eq!(browser.send(request.body("theme=dark")).await.status, 303);
    assert!(browser.get("/console").await.shown().text.contains("data-theme=\"dark\""));
}

#[tokio::test]
async fn a_member_sees_its_own_clips_and_an_admin_all() {
    let gateway = TestGateway::start().await;
    let mine = gateway.task("mine").await;
    let other = gateway.another_user("other", "member").await;
    let admin = gateway.another_user("boss", "admin").await;
    let create = gateway.request(Method::POST, "/api/generate").bearer_auth(&other.text);
    let theirs = crate::support::gateway::Answer::to(create.body(body("theirs").to_string())).await.task_id();
    let shown = |page: &Page, task: &str| page.text.contains(&format!("data-copy=\"{task}\""));
    let mut browser = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
    let page = browser.get("/console/clips").await.shown();
    assert!(shown(&page, &mine) && !shown(&page, &theirs));
    let page = browser.get(&format!("/console/clips?user={}", other.user)).await.shown();
    assert!(page.text.contains("FORBIDDEN"), "what the API refuses, the page refuses: {}", page.text);
    let page = browser.post(&format!("/console/clips/{theirs}/erase"), &[]).await;
    assert_eq!(page.status, 403, "{}", page.text);
    let mut browser = Browser::of_members(&gateway).signed_in(&admin.text).await;
    let page = browser.get("/console/clips").await.shown();
    assert!(shown(&page, &mine) && shown(&page, &theirs));
}

#[tokio::test]
async fn no_role_sees_more_than_its_api_shows() {
    let gateway = TestGateway::start().await;
    let admin = gateway.another_user("boss", "admin").await;
    let mut member = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
    let mut boss = Browser::of_members(&gateway).signed_in(&admin.text).await;
    for place in MEMBERS {
        member.get(place).await.shown();
        boss.get(place).await.shown();
    }
    for place in ["/console/usage?by=team", "/console/usage?by=user", "/console/usage.csv"] {
        boss.get(place).await.shown();
    }
    for place in ADMINS {
        let page = member.get(place).await;
        assert_eq!(page.status, 403, "{place} for a member: {}", page.text);
        let page = boss.get(place).await.shown();
        if !place.contains("csv") {
            guarded(&page, place);
        }
    }
    // What a member cannot see it cannot change either, whatever it sends.
    for (place, fields) in [
        ("/console/keys", vec![("user", gateway.caller.user.to_string()), ("name", "k".into())]),
        (&*format!("/console/keys/{}/revoke", admin.key), vec![]),
        (&*format!("/console/keys/{}/rotate", admin.key), vec![("hours", "0".to_owned())]),
        (
            "/console/budgets",
            vec![("subject", "user".into()), ("period", "daily".into()), ("credits", "5".into())],
        ),
        ("/console/people/users", vec![("name", "n".to_owned())]),
        ("/console/people/teams", vec![("name", "n".to_owned())]),
    ] {
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let page = member.post(place, &fields).await;
        // A member is not told that there is another's key.
        let expected = if place.starts_with("/console/keys/") { 404 } else { 403 };
        assert_eq!(page.status, expected, "{place}: {}", page.text);
    }
    boss.get("/console").await.shown();
    // The pages of operators are not on the data listener, nor the other way round.
    let mut operator = Browser::of_operators(&gateway).signed_in(&gateway.operator_token().await).await;
    for place in MEMBERS.iter().skip(1).chain(ADMINS) {
        assert_eq!(operator.get(place).await.status, 404, "{place}");
    }
}

#[tokio::test]
async fn a_member_manages_keys_of_its_own_where_the_policy_lets_it() {
    let gateway = TestGateway::start().await;
    let admin = gateway.another_user("boss", "admin").await;
    let other = gateway.another_user("other", "member").await;
    let mut member = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
    let page = member.get("/console/keys").await.shown();
    assert!(page.text.contains("An admin of your organisation makes") && !page.text.contains("/revoke"));
    assert_eq!(member.post("/console/keys", &[("name", "mine")]).await.status, 403);

    let mut boss = Browser::of_members(&gateway).signed_in(&admin.text).await;
    let page = boss.get("/console/keys").await.shown();
    let form = page.text.split_once("/console/keys/policy").unwrap().1.to_owned();
    let version = Page { text: form, ..page }.input("version");
    let policy = [("version", &*version), ("enabled", "yes"), ("most", "2"), ("days", "30"), ("types", "")];
    assert_eq!(boss.post("/console/keys/policy", &policy).await.place(), "/console/keys?done=policy");
    let page = boss.get("/console/keys").await.shown();
    assert!(page.text.contains("name=\"enabled\" value=\"yes\" checked"), "{}", page.text);

    let page = member.get("/console/keys").await.shown();
    assert!(page.text.contains("You may have 2 keys, each for at most 30 days."), "{}", page.text);
    assert!(page.text.contains("/revoke") && !page.text.contains("name=\"user\""), "{}", page.text);
    assert!(!page.text.contains(&other.key.to_string()), "it sees another's key");
    let made = member.post("/console/keys", &[("name", "mine"), ("days", "7")]).await.shown();
    assert!(made.text.contains("tg_"), "{}", made.text);
    let page = member.get("/console/keys").await.shown();
    assert!(page.text.contains("mine"), "{}", page.text);
    // As many as it may have, and none for others or of others.
    let page = member.post("/console/keys", &[("name", "third"), ("days", "7")]).await;
    assert_eq!(page.status, 409, "{}", page.text);
    assert!(page.text.contains("may have 2 keys"), "{}", page.text);
    let page = member.post(&format!("/console/keys/{}/revoke", other.key), &[]).await;
    assert!([403, 404].contains(&page.status), "{}", page.text);
    assert_eq!(member.post("/console/keys/policy", &policy).await.status, 403);
}

#[tokio::test]
async fn an_admin_makes_a_key_changes_a_budget_and_adds_a_user() {
    let gateway = TestGateway::start().await;
    let admin = gateway.another_user("boss", "admin").await;
    let mut browser = Browser::of_members(&gateway).signed_in(&admin.text).await;
    let user = gateway.caller.user.to_string();
    let page =
        browser.post("/console/keys", &[("user", &user), ("name", "farm"), ("days", "30")]).await.shown();
    guarded(&page, "the new key");
    let at = page.text.find("tg_live_").unwrap();
    let text: String =
        page.text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    Browser::of_members(&gateway).signed_in(&text).await;
    let page = browser.get("/console/keys").await.shown();
    assert!(page.text.contains("farm") && !page.text.contains(&text), "the text is shown once");

    let page = browser
        .post("/console/budgets", &[("subject", "user"), ("period", "monthly"), ("credits", "5,000")])
        .await;
    assert_eq!((page.status, page.place()), (303, "/console/budgets?done=created"), "{}", page.text);
    let page = browser.get(page.place()).await.shown();
    assert!(page.text.contains("Created.") && page.text.contains("5,000"), "{}", page.text);
    let at = page.text.find("/console/budgets/bud_").unwrap();
    let place: String = page.text[at..].chars().take_while(|c| *c != '"').collect();
    let page = browser.post(&place, &[("version", "1"), ("credits", "9000"), ("days", "7")]).await;
    assert_eq!(page.status, 303, "{}", page.text);
    let page = browser.get("/console/budgets").await.shown();
    assert!(page.text.contains("raised until") && page.text.contains("9,000"), "{}", page.text);
    let page = browser.post(&place, &[("version", "1"), ("credits", "1"), ("days", "0")]).await;
    assert_eq!(page.status, 412, "a form that is out of date changes nothing: {}", page.text);

    let page = browser.post("/console/people/users", &[("name", "Grace"), ("role", "member")]).await;
    assert_eq!(page.status, 303, "{}", page.text);
    assert!(browser.get("/console/people").await.shown().text.contains("Grace"));
}

#[tokio::test]
async fn a_newcomer_is_told_which_call_was_refused_and_why() {
    const SAID: &str = "Your last call was refused";
    let gateway = TestGateway::start().await;
    let other = gateway.another_user("grace", "member").await;
    let mut browser = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
    assert!(!browser.get("/console").await.shown().text.contains(SAID));
    gateway
        .create(&json!({"type": "no-such-type", "prompt": "x", "duration": 5}))
        .await
        .refused(400, "INVALID_TYPE");
    let page = browser.get("/console").await.shown();
    assert!(page.text.contains(SAID) && page.text.contains("400 INVALID_TYPE"), "{}", page.text);
    let mut another = Browser::of_members(&gateway).signed_in(&other.text).await;
    assert!(!another.get("/console").await.shown().text.contains(SAID), "it is another's");
    let task = gateway.task("the first").await;
    gateway.finished(&task).await;
    assert!(!browser.get("/console").await.shown().text.contains(SAID));
}

#[tokio::test]
async fn a_member_asks_for_more_budget_and_an_admin_grants_it() {
    let gateway = TestGateway::start().await;
    let admin = gateway.another_user("boss", "admin").await;
    let mut boss = Browser::of_members(&gateway).signed_in(&admin.text).await;
    let user = format!("user:{}", gateway.caller.user);
    for subject in ["user", &user] {
        let sent = [("subject", subject), ("period", "monthly"), ("credits", "600")];
        assert_eq!(boss.post("/console/budgets", &sent).await.status, 303);
        let mut member = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
        let page = member.get("/console/budgets").await.shown();
        let at = page.text.find("/console/budgets?ask=").unwrap();
        let link: String = page.text[at..].chars().take_while(|c| *c != '"').collect();
        let link = link.replace("&#38;", "&").replace("&amp;", "&");
        assert_eq!(link, format!("/console/budgets?ask={user}&period=monthly&credits=900"));
        let page = boss.get(&link).await.shown();
        let own = page.text.contains("Raise it for a week");
        assert_eq!(
            (own, page.text.contains("Give it a budget of its own")),
            (subject != "user", subject == "user")
        );
        // Who may not grant is not shown the wish.
        assert!(!member.get(&link).await.shown().text.contains("asks for a larger budget"));
    }
}

#[tokio::test]
async fn while_the_database_is_away_a_page_says_so() {
    let gateway =
        TestGateway::builder().config(|config| config.database.acquire_timeout_ms = 500).start().await;
    let mut browser = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
    gateway.let_in(false).await;
    for place in ["/console", "/console/playground", "/console/clips"] {
        let page = browser.get(place).await;
        assert_eq!(page.status, 503, "{place}: {}", page.text);
        guarded(&page, place);
        assert!(
            page.text.contains("Not available right now") && !page.header("retry-after").is_empty(),
            "{}",
            page.text
        );
        assert!(!browser.cookies.is_empty(), "the session is kept");
    }
    let page = browser.post("/console/sign-in", &[("credential", &gateway.caller.text)]).await;
    assert_eq!(page.status, 503, "{}", page.text);
    gateway.let_in(true).await;
    until("the page is back", async || browser.get("/console").await.status == 200).await;
}

#[tokio::test]
async fn pages_look_by_themselves_only_while_something_runs_and_not_for_ever() {
    let gateway = TestGateway::start().await;
    let mut browser = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
    // A newcomer's page watches for the first call: for some minutes.
    let page = browser.get("/console").await.shown();
    assert!(
        page.text.contains("data-poll=\"600\"") && page.text.contains("url=/console?look=1\""),
        "{}",
        page.text
    );
    let page = browser.get("/console?look=59").await.shown();
    assert!(page.text.contains("url=/console?look=60\""), "{}", page.text);
    let page = browser.get("/console?look=60").await.shown();
    assert!(!page.text.contains("http-equiv=\"refresh") && page.text.contains("Look again"), "{}", page.text);
    let task = gateway.task("a page").await;
    gateway.finished(&task).await;
    for place in ["/console", "/console/clips", "/console/playground", &format!("/console/clips/{task}")] {
        let page = browser.get(place).await.shown();
        assert!(
            !page.text.contains("data-poll") && !page.text.contains("http-equiv"),
            "{place}: {}",
            page.text
        );
    }
    let page = browser.get("/console").await.shown();
    assert!(page.text.contains("Your newest clip"), "{}", page.text);
}

#[tokio::test]
async fn the_console_can_be_switched_off() {
    let gateway = TestGateway::builder().config(|config| config.console.enabled = false).start().await;
    let mut browser = Browser::of_members(&gateway);
    assert_eq!(browser.get("/console").await.status, 404);
    assert_eq!(browser.get("/").await.status, 404);
    assert_eq!(Browser::of_operators(&gateway).get("/console").await.status, 404);
}
