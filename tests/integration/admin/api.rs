//! The management API: what it lets whom do, how it refuses, and that it writes down who changed what.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tollgate::secret::Secret;
use tollgate::store::{OperatorRole, StoreError};

use crate::support::admin_client::AdminClient;
use crate::support::gateway::TestGateway;
use crate::support::seed::org_named;

#[tokio::test]
async fn tenants_are_made_edited_suspended_and_deleted() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let org = operator
        .post("/admin/v1/orgs", json!({"name": " Blue ", "time_zone": "Europe/Berlin"}))
        .await
        .expect(201);
    assert_eq!((&org["name"], &org["available"]), (&json!("Blue"), &json!(0)), "{org}");
    let path = format!("/admin/v1/orgs/{}", org["org_id"].as_str().unwrap());
    operator.post("/admin/v1/orgs", json!({"name": "Blue"})).await.expect(409);
    operator.post("/admin/v1/orgs", json!({"name": "Red", "time_zone": "Mars/Olympus"})).await.expect(400);
    operator.post("/admin/v1/orgs", json!({"name": "Red", "colour": "red"})).await.expect(400);
    operator.post("/admin/v1/orgs", json!({"name": "\u{0}"})).await.expect(400);

    let team = operator.post(&format!("{path}/teams"), json!({"name": "film"})).await.expect(201);
    let team_path = format!("/admin/v1/teams/{}", team["team_id"].as_str().unwrap());
    let user = json!({"name": "ada", "team_id": team["team_id"], "role": "admin"});
    let user = operator.post(&format!("{path}/users"), user).await.expect(201);
    let user_path = format!("/admin/v1/users/{}", user["user_id"].as_str().unwrap());
    let foreign = json!({"name": "eve", "team_id": team["team_id"]});
    let other = format!("/admin/v1/orgs/{}/users", gateway.caller.org);
    operator.post(&other, foreign).await.expect(404);
    let listed = operator.get(&format!("{path}/users?team_id={}", team["team_id"].as_str().unwrap())).await;
    assert_eq!(listed.expect(200)["items"][0]["name"], "ada");

    let patched = operator.patch(&team_path, json!({"status": "suspended"})).await.expect(200);
    assert_eq!(patched["status"], "suspended");
    operator.delete(&team_path).await.expect(204);
    operator.get(&team_path).await.expect(404);
    assert_eq!(operator.get(&user_path).await.expect(200)["team_id"], Value::Null);
    operator.delete(&user_path).await.expect(204);
    operator.post(&format!("{path}/users"), json!({"name": "ada"})).await.expect(201);

    operator.delete(&path).await.expect(204);
    operator.delete(&path).await.expect(404);
    assert_ne!(operator.get(&path).await.expect(200)["deleted_at"], Value::Null);
    let deleted = operator.get("/admin/v1/orgs?deleted=true").await.expect(200);
    assert_eq!(deleted["items"].as_array().unwrap().len(), 1);
    operator.post("/admin/v1/orgs", json!({"name": "Blue"})).await.expect(201);
}

#[tokio::test]
async fn an_edit_of_what_was_changed_meanwhile_is_refused() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let path = format!("/admin/v1/orgs/{}", gateway.caller.org);
    let seen = operator.get(&path).await;
    let tag = seen.etag.clone().unwrap();
    let if_seen = [("if-match", tag.as_str())];
    let edit = |body: Value| operator.call_with(Method::PATCH, &path, Some(body), &if_seen);
    let edited = edit(json!({"overdraft": 5, "max_open_tasks": null})).await;
    assert_ne!(edited.etag, seen.etag);
    assert_eq!(edited.expect(200)["overdraft"], 5);
    edit(json!({"overdraft": 6})).await.expect(412);
    assert_eq!(operator.get(&path).await.expect(200)["overdraft"], 5);
    operator.patch(&path, json!({"overdraft": -1})).await.expect(400);
    operator.patch(&path, json!({"price_factor_bp": 1_000_001})).await.expect(400);
}

#[tokio::test]
async fn pages_follow_one_another_to_the_end() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::OperatorRead).await;
    for n in 0..5 {
        gateway.db.database().add_org(&org_named(&format!("org {n}"))).await.unwrap();
    }
    let (mut names, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = operator.get(&format!("/admin/v1/orgs?limit=2{cursor}")).await.expect(200);
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2);
        names.extend(items.iter().map(|org| org["name"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(names, ["a customer", "org 0", "org 1", "org 2", "org 3", "org 4"]);
    operator.get("/admin/v1/orgs?limit=0").await.expect(400);
    operator.get("/admin/v1/orgs?limit=201").await.expect(400);
    operator.get("/admin/v1/orgs?cursor=nonsense").await.expect(400);
    operator.get("/admin/v1/orgs?colour=red").await.expect(400);
}

#[tokio::test]
async fn every_change_is_in_the_audit_log_and_no_secret_is() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let admin = AdminClient::org_admin(&gateway, &gateway.caller).await;
    let org = gateway.caller.org;
    let path = format!("/admin/v1/orgs/{org}");
    operator.patch(&path, json!({"name": "renamed", "overdraft": 7})).await.expect(200);
    let user = format!("/admin/v1/users/{}", gateway.caller.user);
    admin.patch(&user, json!({"status": "suspended"})).await.expect(200);
    let token = json!({"name": "second", "role": "operator_read"});
    let token = operator.post("/admin/v1/operator-tokens", token).await.expect(201);

    let log = operator.get("/admin/v1/audit-log?limit=200").await.expect(200);
    let text = log.to_string();
    assert!(!text.contains("sha256"), "{text}");
    let secret = token["token"].as_str().unwrap().rsplit('_').next().unwrap();
    assert!(!text.contains(secret));
    let of = |action: &str| -> Vec<&Value> {
        log["items"].as_array().unwrap().iter().filter(|entry| entry["action"] == action).collect()
    };
    let renamed = of("update_org");
    assert_eq!(renamed.len(), 2, "the organisation and its balance: {renamed:#?}");
    let name = renamed.iter().find(|entry| entry["after"]["name"] == "renamed").unwrap();
    // Names are not unique: the id says which token it was.
    let all = operator.get("/admin/v1/operator-tokens").await.expect(200);
    let actor = format!("operator:{} (a test)", all["items"][0]["token_id"].as_str().unwrap());
    assert_eq!(name["before"], json!({"name": "a customer"}));
    assert_eq!(
        (&name["actor"], &name["address"], &name["target_id"]),
        (&json!(actor), &json!("127.0.0.1"), &json!(org))
    );
    assert!(name["request_id"].as_str().unwrap().starts_with("req_"));
    let suspended = of("update_user");
    assert!(suspended[0]["actor"].as_str().unwrap().starts_with("key:key_"), "{suspended:?}");
    assert_eq!(suspended[0]["after"], json!({"status": "suspended"}));
    assert_eq!(of("create_operator_token").len(), 1);

    let own = admin.get(&format!("{path}/audit-log?target_id={}", gateway.caller.user)).await.expect(200);
    assert_eq!(own["items"][0]["action"], "update_user");
    admin.get("/admin/v1/audit-log").await.expect(403);
}

#[tokio::test]
async fn what_leads_nowhere_is_a_problem_document_too() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    operator.get("/admin/v1/nothing").await.expect(404);
    let refused = operator.delete("/admin/v1/orgs").await;
    assert_eq!(refused.headers["allow"], "GET, POST");
    assert_eq!(refused.expect(405)["code"], "method_not_allowed");
    operator.get("/admin/v1/orgs/org_123").await.expect(404);
    let nobody = AdminClient::new(&gateway, "");
    let refused = nobody.get("/admin/v1/orgs").await.expect(401);
    assert_eq!((&refused["status"], &refused["title"]), (&json!(401), &json!("Authentication required")));
    AdminClient::new(&gateway, "tg_op_abc").get("/admin/v1/orgs").await.expect(401);
    let huge = json!({"name": "x".repeat(2 << 20)});
    operator.post("/admin/v1/orgs", huge).await.expect(413);
    let document = nobody.get("/openapi.json").await.expect(200);
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
}

#[tokio::test]
async fn the_last_operator_token_stays_and_a_revoked_one_is_refused_at_once() {
    let gateway = TestGateway::start().await;
    let db = gateway.db.database();
    let mut first = None;
    let lost = async || db.bootstrap_operator(None, |_| Err(StoreError::Unreachable)).await;
    assert!(lost().await.is_err(), "nobody saw it: there is none");
    let shown = |token: &Secret| {
        first = Some(token.clone());
        Ok::<(), StoreError>(())
    };
    assert!(db.bootstrap_operator(None, shown).await.unwrap());
    assert!(!lost().await.unwrap(), "only once");
    let first = AdminClient::new(&gateway, first.unwrap().expose());
    let listed = first.get("/admin/v1/operator-tokens").await.expect(200);
    let path = |id: &Value| format!("/admin/v1/operator-tokens/{}", id.as_str().unwrap());
    let own = path(&listed["items"][0]["token_id"]);
    first.delete(&own).await.expect(409);
    let second = json!({"name": "second", "role": "operator"});
    let second = first.post("/admin/v1/operator-tokens", second).await.expect(201);
    first.delete(&own).await.expect(204);
    first.get("/admin/v1/orgs").await.expect(401);
    let second = AdminClient::new(&gateway, second["token"].as_str().unwrap());
    second.get("/admin/v1/orgs").await.expect(200);
    let past = json!({"name": "late", "role": "operator", "expires_at": "2020-01-01T00:00:00Z"});
    second.post("/admin/v1/operator-tokens", past).await.expect(400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_team_is_deleted_while_its_members_are_edited_leave_and_join() {
    const MEMBERS: usize = 6;
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let org = format!("/admin/v1/orgs/{}", gateway.caller.org);
    let made = async |what: &str, body: Value, id: &str| {
        let made = operator.post(&format!("{org}/{what}"), body).await.expect(201);
        made[id].as_str().unwrap().to_owned()
    };
    let mut users = Vec::new();
    for number in 0..MEMBERS {
        let id = made("users", json!({"name": format!("member {number}")}), "user_id").await;
        users.push(format!("/admin/v1/users/{id}"));
    }
    for round in 0..25 {
        let team = made("teams", json!({"name": format!("team {round}")}), "team_id").await;
        for user in &users[1..] {
            operator.patch(user, json!({"team_id": team})).await.expect(200);
        }
        let edits = users.iter().enumerate().map(async |(number, user)| {
            let patch = match number {
                0 => json!({"team_id": team}),
                1 => json!({"team_id": null}),
                _ => json!({"role": if round % 2 == 0 { "admin" } else { "member" }}),
            };
            operator.patch(user, patch).await.status.as_u16()
        });
        let path = format!("/admin/v1/teams/{team}");
        let (deleted, edited) = tokio::join!(operator.delete(&path), join_all(edits));
        deleted.expect(204);
        assert!(edited[1..].iter().all(|status| *status == 200), "round {round}: {edited:?}");
        assert!([200, 404].contains(&edited[0]), "round {round}: {edited:?}");
        let members = operator.get(&format!("{org}/users?team_id={team}")).await.expect(200);
        assert_eq!(members["items"], json!([]), "round {round}: nobody is left in it");
    }
}
