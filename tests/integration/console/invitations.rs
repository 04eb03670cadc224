//! Links by which an admin lets people in without a key.

use serde_json::json;
use tollgate::store::{OperatorRole, Status, UserChange};

use crate::support::admin_client::AdminClient;
use crate::support::browser::Browser;
use crate::support::database::until;
use crate::support::gateway::TestGateway;

/// The place of a link that a page shows.
fn shown_link(text: &str) -> String {
    let at = text.find("/console/link/").unwrap_or_else(|| panic!("no link: {text}"));
    text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || "/-_".contains(*c)).collect()
}

async fn opened(gateway: &TestGateway, place: &str) -> Browser {
    let mut browser = Browser::of_members(gateway);
    let page = browser.post(place, &[]).await;
    assert_eq!((page.status, page.place()), (303, "/console"), "{}", page.text);
    browser
}

async fn over(browser: &mut Browser, what: &str) {
    until(what, async || browser.get("/console").await.status == 303).await;
}

#[tokio::test]
async fn an_admin_invites_somebody_new_by_a_link_that_works_once() {
    let gateway = TestGateway::start().await;
    let admin = gateway.another_user("ada", "admin").await;
    let mut ada = Browser::of_members(&gateway).signed_in(&admin.text).await;
    let page =
        ada.post("/console/people/invite", &[("name", "neil <new>"), ("role", "member")]).await.shown();
    assert!(
        page.text.contains("neil &#60;new&#62;") || page.text.contains("neil &lt;new&gt;"),
        "{}",
        page.text
    );
    assert_eq!(page.header("cache-control"), "private, no-store");
    let link = shown_link(&page.text);
    assert_eq!(link.len(), "/console/link/".len() + 43, "{link}");
    let stored: Vec<String> = sqlx::query_scalar("select to_jsonb(l)::text from console_link l")
        .fetch_all(gateway.db.pool())
        .await
        .unwrap();
    assert!(stored.len() == 1 && !stored[0].contains(&link[14..]), "{stored:?}");
    let audited: (String, String, String) = sqlx::query_as(
        "select actor, target_kind, after::text from audit_log where action = 'create_invitation'",
    )
    .fetch_one(gateway.db.pool())
    .await
    .unwrap();
    assert_eq!((audited.0, audited.1), (format!("key:{}", admin.key), "user".to_owned()));
    assert!(!audited.2.contains("sha256") && audited.2.contains("expires_at"), "{}", audited.2);

    let mut neil = opened(&gateway, &link).await;
    let page = neil.get("/console").await.shown();
    assert!(page.text.contains("neil"), "{}", page.text);
    assert_eq!(neil.get("/console/people").await.status, 403, "a member");
    assert!(neil.get("/console/sessions").await.shown().text.contains("the same account as this one"));
    let page = Browser::of_members(&gateway).post(&link, &[]).await;
    assert!(page.status == 401 && page.text.contains("used already"), "{}", page.text);

    // It ends with the user, and can be ended by the admin.
    let user = neil_of(&gateway).await;
    let place = format!("/console/people/users/{user}");
    let again = shown_link(&ada.post(&format!("{place}/invite"), &[]).await.shown().text);
    let unused = shown_link(&ada.post(&format!("{place}/invite"), &[]).await.shown().text);
    let mut second = opened(&gateway, &again).await;
    let page = ada.post(&format!("{place}/end-sessions"), &[]).await;
    assert_eq!((page.status, page.place()), (303, "/console/people?done=signed_out"), "{}", page.text);
    over(&mut neil, "the first has ended").await;
    over(&mut second, "the second has ended").await;
    let page = Browser::of_members(&gateway).post(&unused, &[]).await;
    assert_eq!(page.status, 401, "open invitations end too: {}", page.text);
    let ended: String = sqlx::query_scalar(
        "select after::text from audit_log where action = 'end_user_sessions' and target_kind = 'user'",
    )
    .fetch_one(gateway.db.pool())
    .await
    .unwrap();
    assert_eq!(ended, r#"{"ended_sessions": 2}"#);
    ada.get("/console").await.shown();

    let link = shown_link(&ada.post(&format!("{place}/invite"), &[]).await.shown().text);
    let mut third = opened(&gateway, &link).await;
    let suspend = UserChange { status: Some(Status::Suspended), ..UserChange::default() };
    gateway.db.database().update_user(user, suspend, None).await.unwrap();
    over(&mut third, "the user is suspended").await;
    let page = ada.post(&format!("{place}/invite"), &[]).await;
    assert!(page.status == 409 && page.text.contains("suspended"), "{}", page.text);
}

async fn neil_of(gateway: &TestGateway) -> tollgate::ids::UserId {
    let id = sqlx::query_scalar("select user_id from app_user where name like 'neil%'");
    tollgate::ids::UserId::from_uuid(id.fetch_one(gateway.db.pool()).await.unwrap())
}

#[tokio::test]
async fn only_those_who_manage_the_user_invite_it() {
    let gateway = TestGateway::start().await;
    let member = gateway.another_user("a member", "member").await;
    let other = gateway.another_org("another", 0).await;
    let place = |name: &str| format!("/admin/v1/users/{}/{name}", gateway.caller.user);
    let (own, foreign) = (
        AdminClient::org_admin(&gateway, &gateway.caller).await,
        AdminClient::org_admin(&gateway, &other).await,
    );
    for operation in ["invitations", "end-sessions"] {
        let call =
            async |client: &AdminClient<'_>| client.post(&place(operation), json!({})).await.status.as_u16();
        let granted = if operation == "invitations" { 201 } else { 200 };
        assert_eq!(call(&own).await, granted);
        assert_eq!(call(&own.on_data_listener()).await, granted);
        assert_eq!(call(&AdminClient::operator(&gateway, OperatorRole::Operator).await).await, granted);
        assert_eq!(call(&AdminClient::operator(&gateway, OperatorRole::OperatorRead).await).await, 403);
        assert_eq!(call(&AdminClient::new(&gateway, &member.text)).await, 403);
        assert_eq!(call(&foreign).await, 404);
    }
    let mut browser = Browser::of_members(&gateway).signed_in(&member.text).await;
    let page = browser.post("/console/people/invite", &[("name", "x")]).await;
    assert_eq!(page.status, 403, "{}", page.text);
    let page = browser.post(&format!("/console/people/users/{}/invite", gateway.caller.user), &[]).await;
    assert_eq!(page.status, 403, "{}", page.text);
}

#[tokio::test]
async fn a_link_ends_after_fifteen_minutes_and_a_sixth_ends_the_first() {
    let gateway = TestGateway::builder()
        .config(|config| config.console.public_url = Some("https://videos.example.com/a/".parse().unwrap()))
        .start()
        .await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let path = format!("/admin/v1/users/{}/invitations", gateway.caller.user);
    let mut links = Vec::new();
    for _ in 0..6 {
        let made = operator.post(&path, json!({})).await.expect(201);
        let link = made["path"].as_str().unwrap().to_owned();
        assert_eq!(made["url"], format!("https://videos.example.com/a{link}"));
        links.push(link);
    }
    let status = async |place: &str| Browser::of_members(&gateway).post(place, &[]).await.status;
    assert_eq!(status(&links[0]).await, 401);
    assert_eq!(status(&links[5]).await, 303);
    sqlx::query("update console_link set expires_at = now() - interval '1 second'")
        .execute(gateway.db.pool())
        .await
        .unwrap();
    assert_eq!(status(&links[4]).await, 401);
    let said = gateway.admin_says(&["user", "invite", &gateway.caller.user.to_string()]).await;
    assert!(said.out.contains("https://videos.example.com/a/console/link/"), "{said:?}");
    let said = gateway.admin_says(&["user", "end-sessions", &gateway.caller.user.to_string()]).await;
    assert!(said.out.contains("1 session(s) ended"), "{said:?}");
}

#[tokio::test]
async fn all_sessions_of_a_user_end_whatever_opened_them() {
    let gateway = TestGateway::start().await;
    let mut by_key = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
    let other = gateway.another_user("other", "member").await;
    let mut of_other = Browser::of_members(&gateway).signed_in(&other.text).await;
    let ended = gateway.db.database().end_sessions(gateway.caller.user).await.unwrap();
    assert_eq!(ended, 1);
    over(&mut by_key, "it has ended").await;
    of_other.get("/console").await.shown();
}

#[tokio::test]
async fn no_link_is_made_where_there_is_no_console() {
    let gateway = TestGateway::builder().config(|config| config.console.enabled = false).start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let path = format!("/admin/v1/users/{}/invitations", gateway.caller.user);
    let refused = operator.post(&path, json!({})).await.expect(409);
    assert!(refused["detail"].as_str().unwrap().contains("switched off"), "{refused}");
}
