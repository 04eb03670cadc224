//! Forms that are refused: the page again, with what was typed, and with the reason beside the field.

use tollgate::ids::KeyId;

use super::pages::guarded;
use crate::support::browser::{Browser, Page};
use crate::support::gateway::TestGateway;

/// A text that no page has of its own.
const TYPED: &str = "typed by hand";

/// Sends a form that must be refused, and looks at the page that comes back.
async fn refused(browser: &mut Browser, place: &str, fields: &[(&str, &str)], status: u16) -> Page {
    let page = browser.post(place, fields).await;
    assert_eq!(page.status, status, "{place}: {}", page.text);
    guarded(&page, place);
    assert!(page.text.contains("role=\"alert\"") && page.text.contains("<nav"), "{place}: {}", page.text);
    page
}

/// The page has the form again with what was typed, and says beside `field` what is wrong.
fn shown_again(page: &Page, place: &str, field: &str) {
    assert!(page.text.contains(TYPED), "{place} has lost what was typed: {}", page.text);
    let input = page.text.split("<input").find(|input| input.contains("aria-invalid=\"true\""));
    let input = input.unwrap_or_else(|| panic!("{place}: no field is wrong: {}", page.text));
    assert!(input.contains(&format!("name=\"{field}\"")), "{place}: {input}");
    assert_eq!(page.text.matches("id=\"wrong\"").count(), 1, "{place}");
}

#[tokio::test]
async fn what_an_admin_typed_is_shown_again_with_the_reason() {
    let gateway = TestGateway::start().await;
    let admin = gateway.another_user("boss", "admin").await;
    let user = gateway.caller.user.to_string();
    let mut boss = Browser::of_members(&gateway).signed_in(&admin.text).await;
    let long = "x".repeat(300);
    for (place, fields, field) in [
        ("/console/keys", vec![("user", &*user), ("name", TYPED), ("days", "soon")], "days"),
        ("/console/keys", vec![("user", &*user), ("name", TYPED), ("networks", "nowhere")], "networks"),
        ("/console/keys", vec![("user", &*user), ("name", &*long), ("types", TYPED)], "name"),
        ("/console/keys/policy", vec![("version", "0"), ("types", TYPED), ("most", "many")], "most"),
        ("/console/budgets", vec![("subject", "user"), ("period", TYPED), ("credits", "much")], "credits"),
        ("/console/people/users", vec![("name", &*long), ("role", "admin"), ("team", TYPED)], "name"),
    ] {
        let page = refused(&mut boss, place, &fields, 400).await;
        if ["/console/budgets", "/console/people/users"].contains(&place) {
            // What was chosen of a list that has no such entry is not there to be chosen again.
            assert!(page.text.contains("aria-invalid=\"true\""), "{place}: {}", page.text);
            continue;
        }
        shown_again(&page, place, field);
    }
    let page = refused(&mut boss, "/console/people/users", &[("name", "boss"), ("role", "admin")], 409).await;
    assert!(
        page.text.contains("value=\"boss\"") && page.text.contains("value=\"admin\" selected"),
        "{}",
        page.text
    );
    let page = refused(&mut boss, "/console/people/teams", &[("name", "")], 400).await;
    assert!(page.text.contains("The field &#39;name&#39; is empty."), "{}", page.text);
}

#[tokio::test]
async fn a_form_that_is_out_of_date_is_shown_with_the_new_version() {
    let gateway = TestGateway::start().await;
    let admin = gateway.another_user("boss", "admin").await;
    let mut boss = Browser::of_members(&gateway).signed_in(&admin.text).await;
    let place = format!("/console/keys/{}/rename", gateway.caller.key);
    let page = boss.post(&place, &[("version", "1"), ("name", "a new name")]).await;
    assert_eq!(page.status, 303, "{}", page.text);
    let page = refused(&mut boss, &place, &[("version", "1"), ("name", TYPED)], 412).await;
    let form = page.text.split_once(&place).unwrap().1.split_once("</form>").unwrap().0;
    assert!(form.contains("name=\"version\" value=\"2\"") && form.contains(TYPED), "{form}");
    // Only that form has it, and what hides it is open.
    assert_eq!(page.text.matches(TYPED).count(), 1, "{}", page.text);
    assert_eq!(page.text.matches("<details open>").count(), 1, "{}", page.text);
    // Pages lead back to themselves, not to where the form was sent.
    assert!(page.text.contains("name=\"back\" value=\"/console/keys\""), "{}", page.text);
    let page = refused(&mut boss, &format!("/console/keys/{}/revoke", KeyId::generate()), &[], 404).await;
    assert!(page.text.contains("<h1>Keys</h1>"), "{}", page.text);
}

#[tokio::test]
async fn what_an_operator_typed_is_shown_again_with_the_reason() {
    let gateway = TestGateway::start().await;
    let mut operator = Browser::of_operators(&gateway).signed_in(&gateway.operator_token().await).await;
    let org = format!("/console/orgs/{}", gateway.caller.org);
    let long = "x".repeat(300);
    for (place, fields, field) in [
        (
            format!("{org}/credits/grant"),
            vec![("key", "k1"), ("credits", "many"), ("reason", TYPED)],
            "credits",
        ),
        (
            format!("{org}/credits/grant"),
            vec![("key", "k2"), ("credits", "5"), ("reason", &*long), ("external_ref", TYPED)],
            "reason",
        ),
        (format!("{org}/credits/adjust"), vec![("key", "k3"), ("credits", ""), ("reason", TYPED)], "credits"),
        (
            format!("{org}/credits/transfer"),
            vec![("key", "k4"), ("credits", "5"), ("to", ""), ("reason", TYPED)],
            "to",
        ),
        (
            format!("{org}/limits"),
            vec![("version", "1"), ("name", TYPED), ("max_open_tasks", "few")],
            "max_open_tasks",
        ),
        (format!("{org}/limits/factors"), vec![("factor_bp", "half"), ("reason", TYPED)], "factor_bp"),
        (
            format!("{org}/limits/factors"),
            vec![("factor_bp", "9000"), ("valid_from", "soon"), ("reason", TYPED)],
            "valid_from",
        ),
        ("/console".into(), vec![("name", TYPED), ("time_zone", "Nowhere/Else")], "time_zone"),
        ("/console/operators".into(), vec![("name", TYPED), ("expires", "soon")], "expires"),
        ("/console/providers".into(), vec![("name", TYPED), ("audiences", "a"), ("issuer", "")], "issuer"),
        (
            "/console/tasks/adopt".into(),
            vec![("key", "k5"), ("id", "n75"), ("org", TYPED), ("user", "")],
            "user",
        ),
    ] {
        let page = refused(&mut operator, &place, &fields, 400).await;
        shown_again(&page, &place, field);
    }
    assert_eq!(gateway.balance().await[0], 1_000_000, "nothing was booked");
    // The key of the form stays, so that a second press counts once.
    let place = format!("{org}/credits/grant");
    let page =
        refused(&mut operator, &place, &[("key", "mine"), ("credits", ""), ("reason", TYPED)], 400).await;
    assert_eq!(page.input("key"), "mine");
}

#[tokio::test]
async fn a_member_asks_for_more_and_its_admin_answers() {
    let gateway = TestGateway::start().await;
    let admin = gateway.another_user("boss", "admin").await;
    let mut boss = Browser::of_members(&gateway).signed_in(&admin.text).await;
    let mut member = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
    let budget = [("subject", "user"), ("period", "monthly"), ("credits", "600")];
    assert_eq!(boss.post("/console/budgets", &budget).await.status, 303);
    let ask = |credits: &'static str| {
        [("level", "user"), ("period", "monthly"), ("credits", credits), ("days", "7"), ("reason", TYPED)]
    };
    let place = "/console/budgets/requests";
    let page = refused(&mut member, place, &ask("100"), 409).await;
    assert!(page.text.contains(TYPED) && page.text.contains("<details open>"), "{}", page.text);
    for answer in ["decline", "grant"] {
        let page = member.post(place, &ask("5,000")).await;
        assert_eq!(page.place(), "/console/budgets?done=asked", "{}", page.text);
        assert!(member.get("/console/budgets").await.shown().text.contains("Not answered yet"));
        let page = boss.get("/console/budgets").await.shown();
        assert!(page.text.contains(TYPED), "{}", page.text);
        let end = format!("/{answer}\"");
        let end = page.text.find(&end).unwrap();
        let begin = page.text[..end].rfind('"').unwrap() + 1;
        let form = format!("{}/{answer}", &page.text[begin..end]);
        // Who asks cannot grant.
        assert_eq!(member.post(&form, &[]).await.status, 403);
        let page = boss.post(&form, &[]).await;
        assert_eq!(page.status, 303, "{}", page.text);
        assert!(!boss.get("/console/budgets").await.shown().text.contains(TYPED), "it is answered");
    }
    let page = member.get("/console/budgets").await.shown();
    assert!(page.text.contains("Declined") && page.text.contains("Granted"), "{}", page.text);
    assert!(page.text.contains("5,000"), "{}", page.text);
}
