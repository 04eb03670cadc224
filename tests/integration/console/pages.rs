//! What holds for every page.

use reqwest::Method;
use tollgate::store::{NewUser, OrgChange, Role};

use crate::support::browser::{Browser, Page};
use crate::support::gateway::{TestGateway, body};

/// The pages of members, without parameters.
const MEMBERS: &[&str] = &["/console", "/console/playground", "/console/clips", "/console/clips?view=grid"];
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
async fn the_console_can_be_switched_off() {
    let gateway = TestGateway::builder().config(|config| config.console.enabled = false).start().await;
    let mut browser = Browser::of_members(&gateway);
    assert_eq!(browser.get("/console").await.status, 404);
    assert_eq!(browser.get("/").await.status, 404);
    assert_eq!(Browser::of_operators(&gateway).get("/console").await.status, 404);
}
