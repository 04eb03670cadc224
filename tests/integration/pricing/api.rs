//! Prices over the management API: a book's life, a factor's, and who may look.

use reqwest::Method;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use tollgate::clock::Clock;
use tollgate::store::OperatorRole;

use crate::support::admin_client::{AdminAnswer, AdminClient};
use crate::support::database::until;
use crate::support::gateway::{TestGateway, body};

const BOOKS: &str = "/admin/v1/price-books";

async fn put(client: &AdminClient<'_>, path: &str, body: Value, tag: &str) -> AdminAnswer {
    client.call_with(Method::PUT, path, Some(body), &[("if-match", tag)]).await
}

fn at(hours: i64) -> String {
    (Clock.wall() + time::Duration::hours(hours)).format(&Rfc3339).unwrap()
}

fn states(page: &Value) -> Vec<(i64, &str)> {
    let books = page["items"].as_array().unwrap().iter();
    books.map(|book| (book["version"].as_i64().unwrap(), book["state"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn a_book_is_drafted_compared_scheduled_put_in_force_and_rolled_back() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    gateway.finished(&gateway.task("x").await).await;
    let draft = operator.post(BOOKS, json!({"name": "spring", "copy_of": 1})).await;
    let tag = draft.etag.clone().unwrap();
    let draft = draft.expect(201);
    assert_eq!((&draft["version"], &draft["state"]), (&json!(2), &json!("draft")));
    assert_eq!(draft["prices"].as_object().unwrap().len(), 12);

    let price = format!("{BOOKS}/2/prices/pro-text-to-video");
    let tariff = json!({"unit": "second", "credits": 60, "credits_with_audio": 90});
    let edited = put(&operator, &price, tariff.clone(), &tag).await;
    assert_ne!(edited.etag.as_deref(), Some(tag.as_str()));
    assert_eq!(edited.expect(200)["prices"]["pro-text-to-video"], tariff);
    let stale = put(&operator, &price, tariff.clone(), &tag).await;
    assert_eq!(stale.expect(412)["code"], "changed_meanwhile");
    let odd = json!({"unit": "second", "credits": 60, "credits_with_sound": 90});
    operator.call(Method::PUT, &price, Some(odd)).await.expect(400);
    operator.delete(&format!("{BOOKS}/2/prices/o3-pro-video-edit")).await.expect(200);
    operator.patch(&format!("{BOOKS}/2"), json!({"name": "summer"})).await.expect(200);

    let compared = operator.get(&format!("{BOOKS}/2/diff")).await.expect(200);
    assert_eq!((&compared["before"], &compared["after"]), (&json!(1), &json!(2)));
    let changes = compared["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 2, "{compared}");
    assert_eq!((&changes[0]["task_type"], &changes[0]["after"]), (&json!("o3-pro-video-edit"), &Value::Null));
    let itself = operator.get(&format!("{BOOKS}/2/diff?against=2")).await.expect(200);
    assert_eq!(itself["changes"], json!([]));
    let what_if = operator.get(&format!("{BOOKS}/2/what-if?days=1")).await.expect(200);
    assert_eq!((&what_if["total"]["priced"], &what_if["total"]["difference"]), (&json!(400), &json!(50)));
    assert_eq!(what_if["orgs"][0]["name"], "a customer");
    operator.get(&format!("{BOOKS}/2/what-if?days=91")).await.expect(400);

    let activate = format!("{BOOKS}/2/activate");
    operator.post(&activate, json!({"at": at(-1)})).await.expect(400);
    let scheduled = operator.post(&activate, json!({"at": at(1)})).await.expect(200);
    assert_eq!(scheduled["state"], "scheduled");
    operator.call(Method::PUT, &price, Some(tariff)).await.expect(409);
    let books = operator.get(BOOKS).await.expect(200);
    assert_eq!(states(&books), [(2, "scheduled"), (1, "in_force")]);
    operator.call(Method::POST, &format!("{BOOKS}/2/unschedule"), None).await.expect(200);
    assert_eq!(operator.post(&activate, json!({})).await.expect(200)["state"], "in_force");
    operator.delete(&format!("{BOOKS}/2")).await.expect(409);
    until("creates cost more", async || gateway.create(&body("y")).await.data()["consumed_credits"] == 450)
        .await;

    operator.post(&format!("{BOOKS}/rollback"), json!({"from": 1})).await.expect(409);
    let back = operator.post(&format!("{BOOKS}/rollback"), json!({"from": 2})).await.expect(200);
    assert_eq!((&back["version"], &back["state"]), (&json!(1), &json!("in_force")));
    let former = operator.get(&format!("{BOOKS}?state=former")).await.expect(200);
    assert_eq!(states(&former), [(2, "former")]);
    let history = operator.get("/admin/v1/price-activations?limit=3").await.expect(200);
    let versions: Vec<&Value> =
        history["items"].as_array().unwrap().iter().map(|line| &line["version"]).collect();
    assert_eq!(versions, [1, 2, 2]);
    let actor = history["items"][0]["actor"].as_str().unwrap();
    assert!(actor.starts_with("operator:") && actor.ends_with(" (a test)"), "{actor}");
    let cursor = history["next_cursor"].as_str().unwrap();
    let rest = operator.get(&format!("/admin/v1/price-activations?cursor={cursor}")).await.expect(200);
    assert_eq!(rest["items"].as_array().unwrap().len(), 1);
    until("creates cost what they did", async || {
        gateway.create(&body("z")).await.data()["consumed_credits"] == 400
    })
    .await;
}

#[tokio::test]
async fn a_factor_is_given_shown_and_ended() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let factors = format!("/admin/v1/orgs/{}/price-factors", gateway.caller.org);
    let now = json!({"factor_bp": 5000, "valid_until": at(1), "reason": "a promotion"});
    let made = operator.post(&factors, now.clone()).await.expect(201);
    assert_eq!((&made["active"], &made["factor_bp"]), (&json!(true), &json!(5000)));
    operator.post(&factors, now).await.expect(409);
    operator.post(&factors, json!({"factor_bp": 1_000_001, "reason": "x"})).await.expect(400);
    let later = json!({"factor_bp": 0, "valid_from": at(1), "reason": "free from then on"});
    let later = operator.post(&factors, later).await.expect(201);
    assert_eq!(later["active"], false);
    until("it is in force", async || gateway.create(&body("x")).await.data()["consumed_credits"] == 200)
        .await;

    let one = |factor: &Value| format!("{factors}/{}", factor["factor_id"].as_str().unwrap());
    operator.post(&format!("{}/end", one(&later)), json!({})).await.expect(204);
    operator.get(&one(&later)).await.expect(404);
    let end = format!("{}/end", one(&made));
    let stale = operator.call_with(Method::POST, &end, Some(json!({})), &[("if-match", "\"7\"")]).await;
    stale.expect(412);
    operator.post(&end, json!({})).await.expect(204);
    operator.post(&end, json!({})).await.expect(409);
    assert_eq!(operator.get(&one(&made)).await.expect(200)["active"], false);
    let page = operator.get(&factors).await.expect(200);
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_organisations_admin_sees_its_prices_and_nothing_more() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let reader = AdminClient::operator(&gateway, OperatorRole::OperatorRead).await;
    let admin = AdminClient::org_admin(&gateway, &gateway.caller).await;
    let stranger = gateway.another_org("a stranger", 0).await;
    let factors = format!("/admin/v1/orgs/{}/price-factors", gateway.caller.org);
    let theirs = format!("/admin/v1/orgs/{}/price-factors", stranger.org);
    let give = json!({"factor_bp": 1, "valid_from": at(1), "reason": "x"});
    let factor = operator.post(&theirs, give.clone()).await.expect(201);
    let factor = factor["factor_id"].as_str().unwrap();

    let shown = admin.get(&format!("{BOOKS}/in-force")).await.expect(200);
    assert_eq!(shown["prices"]["o3-pro-video-edit"], json!({"unit": "fixed", "credits": 435}));
    assert_eq!(admin.get(&factors).await.expect(200)["items"], json!([]));
    admin.get(&theirs).await.expect(404);
    // Nor by its own organisation's name.
    admin.get(&format!("{factors}/{factor}")).await.expect(404);
    for path in [BOOKS, &format!("{BOOKS}/1"), &format!("{BOOKS}/1/what-if"), "/admin/v1/price-activations"] {
        admin.get(path).await.expect(403);
        reader.get(path).await.expect(200);
    }
    for (path, body) in [
        (BOOKS.to_owned(), json!({"name": "x"})),
        (format!("{BOOKS}/1/activate"), json!({})),
        (format!("{BOOKS}/rollback"), json!({})),
        ("/admin/v1/quote-keys/rotate".to_owned(), json!({})),
        (factors.clone(), give),
    ] {
        admin.post(&path, body.clone()).await.expect(403);
        reader.post(&path, body).await.expect(403);
    }
    let rotated = operator.call(Method::POST, "/admin/v1/quote-keys/rotate", None).await.expect(200);
    assert_eq!(rotated["generation"], 2);
    assert_eq!(gateway.create(&body("x")).await.data()["consumed_credits"], 400);
}
