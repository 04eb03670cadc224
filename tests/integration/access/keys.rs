//! The life of keys: made, changed, rotated, ended, and what becomes of them when those they belong to are suspended or
//! deleted. On a running gateway that has them in memory.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tollgate::ids::KeyId;
use tollgate::store::{KeyEdit, KeySpec, OperatorRole, StoreError};

use crate::support::admin_client::AdminClient;
use crate::support::database::{ahead, until};
use crate::support::gateway::{Answer, Caller, TestGateway, body};

async fn create(gateway: &TestGateway, text: &str) -> Answer {
    let call = gateway.request(Method::POST, "/api/generate").bearer_auth(text);
    Answer::to(call.body(body("x").to_string())).await
}

async fn credits(gateway: &TestGateway, text: &str) -> u16 {
    Answer::to(gateway.request(Method::GET, "/api/credits").bearer_auth(text)).await.status
}

async fn task_of(gateway: &TestGateway, caller: &Caller, task: &str) -> Answer {
    let path = format!("/api/status?task_id={task}");
    Answer::to(gateway.request(Method::GET, &path).bearer_auth(&caller.text)).await
}

/// A key that an organisation's admin made over the API: its id and its text.
async fn made(admin: &AdminClient<'_>, of: &Caller, more: Value) -> (String, String) {
    let mut body = json!({"user_id": of.user, "name": "a key"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let shown = admin.post(&format!("/admin/v1/orgs/{}/keys", of.org), body).await.expect(201);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&shown["key_id"]), text(&shown["api_key"]))
}

#[tokio::test]
async fn suspension_reaches_down_from_each_level_and_is_lifted_again() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let caller = &gateway.caller;
    let colleague = gateway.another_user("a colleague", "member").await;
    let teams = format!("/admin/v1/orgs/{}/teams", caller.org);
    let team = operator.post(&teams, json!({"name": "film"})).await.expect(201)["team_id"].clone();
    let user = format!("/admin/v1/users/{}", caller.user);
    operator.patch(&user, json!({"team_id": team})).await.expect(200);

    for (path, colleague_too) in [
        (format!("/admin/v1/orgs/{}", caller.org), true),
        (format!("/admin/v1/teams/{}", team.as_str().unwrap()), false),
        (user, false),
        (format!("/admin/v1/keys/{}", caller.key), false),
    ] {
        // Both keys are in memory, and a task is under way.
        let task = create(&gateway, &caller.text).await.task_id();
        create(&gateway, &colleague.text).await.expect(200);
        operator.patch(&path, json!({"status": "suspended"})).await.expect(200);
        until("the suspension has arrived", async || gateway.create(&body("suspended")).await.status == 403)
            .await;
        gateway.create(&body("suspended")).await.refused(403, "SUSPENDED");
        let theirs = create(&gateway, &colleague.text).await.status;
        assert_eq!(theirs, if colleague_too { 403 } else { 200 }, "{path}");
        // Looking goes on, and so does settling.
        assert_eq!(task_of(&gateway, caller, &task).await.status, 200, "{path}");
        assert_eq!(credits(&gateway, &caller.text).await, 200, "{path}");
        assert_eq!(gateway.finished(&task).await.data()["status"], "SUCCESS", "{path}");
        operator.patch(&path, json!({"status": "active"})).await.expect(200);
        until("it is lifted", async || gateway.create(&body("again")).await.status == 200).await;
    }
    until("all has ended", async || gateway.balance().await[1] == 0).await;
}

#[tokio::test]
async fn keys_of_the_deleted_are_refused_and_their_tasks_end_as_they_would() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let colleague = gateway.another_user("a colleague", "member").await;
    let task = create(&gateway, &colleague.text).await.task_id();
    operator.delete(&format!("/admin/v1/users/{}", colleague.user)).await.expect(204);
    until("it is refused", async || credits(&gateway, &colleague.text).await == 401).await;
    create(&gateway, &colleague.text).await.refused(401, "INVALID_API_KEY");
    shown_as_revoked(&operator, &colleague).await;
    assert_eq!(task_of(&gateway, &gateway.caller, &task).await.status, 200, "the others still read it");

    create(&gateway, &gateway.caller.text).await.expect(200);
    until("what was under way is settled", async || gateway.balance().await == [999_200, 0, 800]).await;
    operator.delete(&format!("/admin/v1/orgs/{}?forfeit_credits=true", gateway.caller.org)).await.expect(204);
    until("all are refused", async || credits(&gateway, &gateway.caller.text).await == 401).await;
    let user = json!({"user_id": gateway.caller.user, "name": "late"});
    operator.post(&format!("/admin/v1/orgs/{}/keys", gateway.caller.org), user).await.expect(404);
    shown_as_revoked(&operator, &gateway.caller).await;
    let user = format!("/admin/v1/users/{}", gateway.caller.user);
    operator.patch(&user, json!({"name": "late"})).await.expect(404);
}

/// A key that works no more is not called active, and gets no text that would not work either.
async fn shown_as_revoked(operator: &AdminClient<'_>, of: &Caller) {
    let path = format!("/admin/v1/keys/{}", of.key);
    let shown = operator.get(&path).await.expect(200);
    assert!(shown["status"] == "revoked" && shown["revoked_at"].is_string(), "{shown}");
    for (status, there) in [("revoked", true), ("active", false)] {
        let listed = format!("/admin/v1/orgs/{}/keys?status={status}", of.org);
        let listed = operator.get(&listed).await.expect(200);
        let found = listed["items"].as_array().unwrap().iter().any(|key| key["key_id"] == json!(of.key));
        assert_eq!(found, there, "{status}: {listed}");
    }
    operator.post(&format!("{path}/rotate"), json!({})).await.expect(409);
    operator.patch(&path, json!({"name": "late"})).await.expect(409);
}

#[tokio::test]
async fn a_rotated_key_keeps_its_id_and_its_former_text_works_until_the_overlap_ends() {
    let gateway = TestGateway::start().await;
    let admin = AdminClient::org_admin(&gateway, &gateway.caller).await;
    let (id, first) = made(&admin, &gateway.caller, json!({"env": "eu1"})).await;
    let path = format!("/admin/v1/keys/{id}");
    let rotate = async |overlap: Value| {
        let shown = admin.post(&format!("{path}/rotate"), overlap).await.expect(200);
        assert_eq!(shown["key_id"], *id);
        shown["api_key"].as_str().unwrap().to_owned()
    };
    assert_eq!(create(&gateway, &first).await.status, 200);
    let second = rotate(json!({})).await;
    assert!(second.starts_with("tg_eu1_") && second != first);
    assert_eq!(create(&gateway, &second).await.status, 200);
    assert_eq!(create(&gateway, &first).await.status, 200, "the overlap is a day");
    let tasks: Vec<Option<uuid::Uuid>> =
        sqlx::query_scalar("select key_id from task").fetch_all(gateway.db.pool()).await.unwrap();
    let key: KeyId = id.parse().unwrap();
    assert_eq!(tasks, [Some(key.as_uuid()); 3], "it is one key");

    // Another rotation ends the first text at once, and the second when its overlap does.
    let third = rotate(json!({"overlap_seconds": 3600})).await;
    until("the first is refused", async || credits(&gateway, &first).await == 401).await;
    assert_eq!(credits(&gateway, &second).await, 200);
    assert_eq!(credits(&gateway, &third).await, 200);
    let shown = admin.get(&path).await.expect(200);
    assert!(shown["previous_until"].is_string() && shown["rotated_at"].is_string(), "{shown}");
    let ending = rotate(json!({"overlap_seconds": 3})).await;
    until("the overlap has ended", async || credits(&gateway, &third).await == 401).await;
    assert_eq!(credits(&gateway, &ending).await, 200);
    assert_eq!(admin.get(&path).await.expect(200)["previous_until"], Value::Null);

    let fourth = rotate(json!({"overlap_seconds": 0})).await;
    until("no overlap", async || credits(&gateway, &ending).await == 401).await;
    let fifth = rotate(json!({"overlap_seconds": 60})).await;
    assert_eq!([credits(&gateway, &fourth).await, credits(&gateway, &fifth).await], [200, 200]);
    // A revocation ends both.
    let revoked = admin.post(&format!("{path}/revoke"), json!({})).await.expect(200);
    assert_eq!(revoked["status"], "revoked");
    for text in [&fourth, &fifth] {
        until("both are refused", async || credits(&gateway, text).await == 401).await;
    }
    admin.post(&format!("{path}/rotate"), json!({})).await.expect(409);
    admin.post(&format!("{path}/rotate"), json!({"overlap_seconds": 2_592_001})).await.expect(400);
}

#[tokio::test]
async fn what_a_key_may_is_changed_while_it_is_in_use() {
    let gateway = TestGateway::start().await;
    let admin = AdminClient::org_admin(&gateway, &gateway.caller).await;
    let (id, text) = made(&admin, &gateway.caller, json!({})).await;
    let path = format!("/admin/v1/keys/{id}");
    let edit = async |body: Value| admin.patch(&path, body).await.expect(200);
    let status = async |expected: u16| {
        until("the change has arrived", async || create(&gateway, &text).await.status == expected).await;
    };
    status(200).await;
    edit(json!({"allowed_types": ["o3-std-text-to-video"]})).await;
    status(403).await;
    create(&gateway, &text).await.refused(403, "TYPE_NOT_ALLOWED");
    edit(json!({"allowed_types": null, "allowed_networks": ["10.0.0.0/8", "fd00::/8"]})).await;
    until("networks", async || credits(&gateway, &text).await == 403).await;
    create(&gateway, &text).await.refused(403, "NETWORK_NOT_ALLOWED");
    edit(json!({"allowed_networks": null, "create_per_minute": 1})).await;
    status(429).await;
    edit(json!({"create_per_minute": null, "name": "renamed", "expires_at": "2100-01-01T00:00:00Z"})).await;
    status(200).await;
    let shown = admin.get(&path).await;
    let tag = shown.etag.clone().unwrap();
    let shown = shown.expect(200);
    assert_eq!((&shown["name"], &shown["expires_at"]), (&json!("renamed"), &json!("2100-01-01T00:00:00Z")));

    let if_seen = [("if-match", tag.as_str())];
    let name = |name: &str| Some(json!({"name": name}));
    admin.call_with(Method::PATCH, &path, name("first"), &if_seen).await.expect(200);
    admin.call_with(Method::PATCH, &path, name("second"), &if_seen).await.expect(412);
    for (wrong, status) in [
        (json!({"allowed_types": []}), 400),
        (json!({"allowed_types": ["no-such-type"]}), 400),
        (json!({"allowed_networks": ["10.0.0.0/33"]}), 400),
        (json!({"allowed_networks": ["::ffff:10.0.0.0/104"]}), 400),
        (json!({"expires_at": "2020-01-01T00:00:00Z"}), 400),
        (json!({"name": " "}), 400),
        (json!({"expires_at": "9999-12-31T23:59:59-01:00"}), 400),
        (json!({"allowed_types": ["\u{0}"]}), 400),
        (json!({"secret_sha256": "x"}), 400),
    ] {
        admin.patch(&path, wrong.clone()).await.expect(status);
    }
    // An end that comes while the key is in memory.
    ahead(async |end| {
        let end = end.format(&time::format_description::well_known::Rfc3339).unwrap();
        let changed = admin.patch(&path, json!({"expires_at": end})).await;
        (changed.status == 200).then_some(())
    })
    .await;
    until("it has expired", async || credits(&gateway, &text).await == 401).await;
    assert_eq!(admin.get(&path).await.expect(200)["status"], "expired");
    admin.post(&format!("{path}/rotate"), json!({})).await.expect(409);
    edit(json!({"expires_at": null})).await;
    status(200).await;
}

#[tokio::test]
async fn keys_are_listed_by_user_and_state_and_made_only_for_ones_own() {
    let gateway = TestGateway::start().await;
    let admin = AdminClient::org_admin(&gateway, &gateway.caller).await;
    let colleague = gateway.another_user("a colleague", "member").await;
    let stranger = gateway.another_org("another customer", 0).await;
    let keys = format!("/admin/v1/orgs/{}/keys", gateway.caller.org);
    let (revoked, _) = made(&admin, &colleague, json!({})).await;
    admin.post(&format!("/admin/v1/keys/{revoked}/revoke"), json!({})).await.expect(200);
    admin.post(&format!("/admin/v1/keys/{revoked}/revoke"), json!({})).await.expect(200);
    admin.patch(&format!("/admin/v1/keys/{revoked}"), json!({"name": "late"})).await.expect(409);
    let ids = async |query: &str| -> Vec<String> {
        let page = admin.get(&format!("{keys}?{query}")).await.expect(200);
        let items = page["items"].as_array().unwrap();
        items.iter().map(|key| key["key_id"].as_str().unwrap().to_owned()).collect()
    };
    let of_colleague = format!("user_id={}", colleague.user);
    assert_eq!(ids(&of_colleague).await, [colleague.key.to_string(), revoked.clone()]);
    assert_eq!(ids(&format!("{of_colleague}&status=active")).await, [colleague.key.to_string()]);
    assert_eq!(ids("status=revoked").await, [revoked]);
    assert_eq!(ids("").await.len(), 4);

    for (user, path) in [
        (stranger.user, keys.clone()),
        (stranger.user, keys.replace(&gateway.caller.org.to_string(), &stranger.org.to_string())),
    ] {
        admin.post(&path, json!({"user_id": user, "name": "stolen"})).await.expect(404);
    }
    let foreign = format!("/admin/v1/keys/{}", stranger.key);
    admin.get(&foreign).await.expect(404);
    admin.patch(&foreign, json!({"name": "stolen"})).await.expect(404);
    for action in ["rotate", "revoke"] {
        admin.post(&format!("{foreign}/{action}"), json!({})).await.expect(404);
    }
    assert_eq!(credits(&gateway, &stranger.text).await, 200);
    let operators = json!({"user_id": gateway.caller.user, "name": "x", "env": "op"});
    admin.post(&keys, operators).await.expect(400);
    let member = AdminClient::new(&gateway, gateway.caller.text.clone());
    let own = member.get(&keys).await.expect(200);
    assert_eq!(own["items"].as_array().unwrap().len(), 1);
    assert_eq!(own["items"][0]["key_id"], gateway.caller.key.to_string());
    member.post(&keys, json!({"user_id": gateway.caller.user, "name": "x"})).await.expect(403);
}

#[tokio::test]
async fn the_last_use_is_written_down_later_and_moves_nothing_else() {
    let gateway = TestGateway::start().await;
    let db = gateway.db.database();
    let unused = gateway.another_key(KeySpec::default()).await;
    let last_use = async |key: KeyId| db.key(key).await.unwrap().unwrap().last_used_at;
    let (key, text) = (gateway.caller.key, gateway.caller.text.clone());
    let epochs = db.epochs().await.unwrap();
    let before = db.key(key).await.unwrap().unwrap();
    let audited = async || -> i64 {
        sqlx::query_scalar("select count(*) from audit_log").fetch_one(gateway.db.pool()).await.unwrap()
    };
    let changes = audited().await;
    assert_eq!(before.last_used_at, None);
    assert_eq!(credits(&gateway, &text).await, 200);
    until("it is written down", async || last_use(key).await.is_some()).await;
    let first = last_use(key).await;
    for _ in 0..20 {
        assert_eq!(credits(&gateway, &text).await, 200);
    }
    // Wrong secrets are no use of a key.
    let broken = format!(
        "{}{}",
        &unused.text[..unused.text.len() - 1],
        if unused.text.ends_with('0') { "1" } else { "0" }
    );
    assert_eq!(credits(&gateway, &broken).await, 401);
    // Another key's use arrives after those of the first would have.
    let late = gateway.another_key(KeySpec::default()).await;
    assert_eq!(credits(&gateway, &late.text).await, 200);
    until("the next writing", async || last_use(late.key).await.is_some()).await;
    assert_eq!(last_use(key).await, first, "once a minute");
    assert_eq!(last_use(unused.key).await, None);
    assert_eq!(db.epochs().await.unwrap(), epochs);
    assert_eq!(db.key(key).await.unwrap().unwrap().version, before.version);
    assert_eq!(audited().await, changes + 1, "the making of a key, and nothing else");
}

#[tokio::test]
async fn two_who_rotate_or_edit_at_once_do_so_one_after_the_other() {
    let gateway = TestGateway::start().await;
    let db = gateway.db.database();
    let key = gateway.caller.key;
    let rotations = (0..8).map(|_| db.rotate_key(key, Duration::from_secs(60)));
    let texts: Vec<String> = futures_util::future::try_join_all(rotations)
        .await
        .unwrap()
        .into_iter()
        .map(|rotated| rotated.text.expose().to_owned())
        .collect();
    until("only the last two work", async || {
        let mut works = 0;
        for text in &texts {
            works += usize::from(credits(&gateway, text).await == 200);
        }
        works == 2
    })
    .await;
    let version = db.key(key).await.unwrap().unwrap().version;
    let edits = (0..8).map(|number| async move {
        let edit = KeyEdit { name: Some(format!("name {number}")), ..KeyEdit::default() };
        db.edit_key(key, Some(version), &edit).await
    });
    let outcomes = futures_util::future::join_all(edits).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for outcome in outcomes.into_iter().filter_map(Result::err) {
        assert!(matches!(outcome, StoreError::Stale { .. }), "{outcome:?}");
    }
}

#[tokio::test]
async fn the_command_line_rotates_keys_and_manages_identity_providers() {
    let gateway = TestGateway::start().await;
    let admin = async |args: &[&str]| gateway.admin_says(&[&["--json"], args].concat()).await;
    let (org, user) = (gateway.caller.org.to_string(), gateway.caller.user.to_string());
    let key = gateway.caller.key.to_string();
    let rotated = admin(&["key", "rotate", &key, "--overlap", "60"]).await.json();
    assert_eq!((&rotated["key_id"], rotated["previous_until"].is_string()), (&json!(key), true));
    assert_eq!(credits(&gateway, rotated["api_key"].as_str().unwrap()).await, 200);
    let update = [
        "key",
        "update",
        &key,
        "--name",
        "laptop",
        "--types",
        "o3-std-text-to-video",
        "--create-per-minute",
        "5",
    ];
    let updated = admin(&update).await.json();
    assert_eq!((&updated["name"], &updated["create_per_minute"]), (&json!("laptop"), &json!(5)));
    assert_eq!(admin(&["key", "update", &key, "--all-types"]).await.json()["allowed_types"], Value::Null);
    assert_eq!(admin(&["key", "show", &key]).await.json()["status"], "active");
    let listed = admin(&["key", "list", "--org", &org, "--user", &user, "--status", "active"]).await;
    assert_eq!(listed.json().as_array().unwrap().len(), 1);
    assert_eq!(admin(&["key", "rotate", &key, "--overlap", "2592001"]).await.code, 2);

    let create = [
        "identity-provider",
        "create",
        "--name",
        "ours",
        "--org",
        &org,
        "--issuer",
        "https://id.example",
        "--audiences",
        "a,b",
        "--jwks-url",
        "https://id.example/keys",
        "--algorithms",
        "ES256",
        "--role-claim",
        "groups",
        "--roles",
        "bosses=admin",
        "--create-users",
        "false",
    ];
    let provider = admin(&create).await.json();
    let id = provider["provider_id"].as_str().unwrap();
    assert_eq!(
        (&provider["audiences"], &provider["role_map"], &provider["algorithms"]),
        (&json!(["a", "b"]), &json!({"bosses": "admin"}), &json!(["ES256"]))
    );
    let http = ["identity-provider", "update", id, "--jwks-url", "http://id.example/keys"];
    assert_eq!(admin(&http).await.code, 1);
    assert_eq!(admin(&["identity-provider", "suspend", id]).await.json()["suspended"], true);
    assert_eq!(admin(&["identity-provider", "resume", id]).await.json()["suspended"], false);
    let link = ["identity", "link", "--org", &org, "--provider", id, "--subject", "ada", "--user", &user];
    let linked = admin(&link).await.json();
    assert_eq!(admin(&["identity", "list", "--org", &org]).await.json()[0]["subject"], "ada");
    assert_eq!(
        admin(&["identity", "unlink", "--org", &org, linked["identity_id"].as_str().unwrap()]).await.code,
        0
    );
    assert_eq!(admin(&["identity-provider", "delete", id]).await.code, 0);
    assert_eq!(admin(&["identity-provider", "list"]).await.json(), json!([]));
}
