//! What members do for themselves: keys within a policy, requests for more budget, what they see of themselves.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tollgate::store::{KeySpec, OperatorRole};

use crate::support::admin_client::AdminClient;
use crate::support::gateway::{Answer, Caller, TestGateway, body};
use crate::support::process::run;

/// An instant from now, as the API writes it.
fn in_hours(hours: i64) -> String {
    (OffsetDateTime::now_utc() + time::Duration::hours(hours)).format(&Rfc3339).unwrap()
}

/// The caller of a gateway is a member; this is that member, and an admin of the same organisation.
async fn people(gateway: &TestGateway) -> (AdminClient<'_>, AdminClient<'_>) {
    let member = AdminClient::new(gateway, &*gateway.caller.text).on_data_listener();
    (member, AdminClient::org_admin(gateway, &gateway.caller).await)
}

fn of_org(caller: &Caller, what: &str) -> String {
    format!("/admin/v1/orgs/{}/{what}", caller.org)
}

async fn create_as(gateway: &TestGateway, key: &str) -> Answer {
    let request = gateway.request(Method::POST, "/api/generate").bearer_auth(key);
    Answer::to(request.body(body("a task").to_string())).await
}

#[tokio::test]
async fn members_manage_no_keys_until_their_admin_lets_them() {
    let gateway = TestGateway::start().await;
    let (member, admin) = people(&gateway).await;
    let caller = &gateway.caller;
    let (keys, policy) = (of_org(caller, "keys"), of_org(caller, "key-policy"));
    let shown = member.get(&policy).await;
    assert_eq!(shown.etag.as_deref(), Some("\"0\""));
    assert_eq!(
        shown.expect(200),
        json!({"enabled": false, "max_keys": 3, "max_days": null, "allowed_types": null, "key_budget": null, "version": 0})
    );
    let refused = member.post(&keys, json!({"name": "mine"})).await.expect(403);
    assert!(refused["detail"].as_str().unwrap().contains("key policy"), "{refused}");
    let own = format!("/admin/v1/keys/{}", caller.key);
    member.patch(&own, json!({"name": "renamed"})).await.expect(403);
    for what in ["rotate", "revoke"] {
        member.post(&format!("{own}/{what}"), json!({})).await.expect(403);
    }
    // What is its own it sees; what is somebody else's in its organisation is not there.
    member.get(&own).await.expect(200);
    let listed = member.get(&keys).await.expect(200);
    let ids: Vec<&str> =
        listed["items"].as_array().unwrap().iter().map(|key| key["key_id"].as_str().unwrap()).collect();
    assert_eq!(ids, [caller.key.to_string()]);
    let other = gateway.another_user("somebody else", "member").await;
    let theirs = format!("/admin/v1/keys/{}", other.key);
    member.get(&theirs).await.expect(404);
    member.get(&format!("{keys}?user_id={}", other.user)).await.expect(403);
    // An admin is bound by no policy.
    admin.post(&keys, json!({"name": "hers"})).await.expect(201);
    admin.get(&theirs).await.expect(200);
    // The policy is the admin's, whoever reads it; a condition holds.
    member.patch(&policy, json!({"enabled": true})).await.expect(403);
    let stale = [("if-match", "\"7\"")];
    let patch = Some(json!({"enabled": true, "max_keys": 2}));
    admin.call_with(Method::PATCH, &policy, patch.clone(), &stale).await.expect(412);
    let set = admin.call_with(Method::PATCH, &policy, patch, &[("if-match", "\"0\"")]).await.expect(200);
    assert_eq!((&set["enabled"], &set["version"]), (&json!(true), &json!(1)));
    for wrong in [json!({"max_keys": -1}), json!({"max_days": 0}), json!({"allowed_types": ["no-such-type"]})]
    {
        admin.patch(&policy, wrong).await.expect(400);
    }
    // Somebody else's are as far away as before.
    for (method, path) in [(Method::PATCH, theirs.clone()), (Method::POST, format!("{theirs}/rotate"))] {
        member.call(method, &path, Some(json!({}))).await.expect(404);
    }
    member.call(Method::POST, &format!("{theirs}/revoke"), None).await.expect(404);
}

#[tokio::test]
async fn a_member_makes_keys_within_the_policy() {
    let gateway = TestGateway::start().await;
    let (member, admin) = people(&gateway).await;
    let caller = &gateway.caller;
    let keys = of_org(caller, "keys");
    let policy = json!({
        "enabled": true, "max_keys": 2, "max_days": 30, "allowed_types": ["pro-text-to-video", "std-text-to-video"],
        "key_budget": {"period": "total", "credits": 500},
    });
    admin.patch(&of_org(caller, "key-policy"), policy).await.expect(200);
    let other = gateway.another_user("somebody else", "member").await;
    let refusals = [
        (json!({"expires_at": in_hours(31 * 24)}), "30 days"),
        (json!({"allowed_types": ["pro-image-to-video"]}), "pro-text-to-video, std-text-to-video"),
        (json!({"create_per_minute": 0}), "rates"),
        (json!({"user_id": other.user}), "their own"),
    ];
    for (wrong, words) in refusals {
        let mut wrong = wrong;
        wrong["name"] = json!("mine");
        let refused = member.post(&keys, wrong).await.expect(403);
        assert!(refused["detail"].as_str().unwrap().contains(words), "{refused}");
    }
    let made = member.post(&keys, json!({"name": "mine", "user_id": caller.user})).await.expect(201);
    assert_eq!(made["allowed_types"], json!(["pro-text-to-video", "std-text-to-video"]));
    assert_eq!(made["user_id"], caller.user.to_string());
    assert!(made["expires_at"].is_string(), "{made}");
    // Its budget was there with its text.
    let text = made["api_key"].as_str().unwrap();
    create_as(&gateway, text).await.expect(200);
    assert_eq!(create_as(&gateway, text).await.expect(402)["error"], "BUDGET_EXCEEDED");
    // Two are as many as it may have.
    let full = member.post(&keys, json!({"name": "another"})).await.expect(409);
    assert!(full["detail"].as_str().unwrap().contains("2 keys"), "{full}");
    let own = format!("/admin/v1/keys/{}", made["key_id"].as_str().unwrap());
    assert_eq!(member.patch(&own, json!({"name": "renamed"})).await.expect(200)["name"], "renamed");
    for change in [
        json!({"allowed_types": null}),
        json!({"name": "x", "expires_at": null}),
        json!({"status": "suspended"}),
    ] {
        member.patch(&own, change).await.expect(403);
    }
    let rotated = member.post(&format!("{own}/rotate"), json!({"overlap_seconds": 0})).await.expect(200);
    assert_eq!((&rotated["key_id"], &rotated["expires_at"]), (&made["key_id"], &made["expires_at"]));
    assert_eq!(
        member.call(Method::POST, &format!("{own}/revoke"), None).await.expect(200)["status"],
        "revoked"
    );
    member.post(&keys, json!({"name": "another"})).await.expect(201);
    // The audit log names the key that the member called with.
    let log = admin.get(&of_org(caller, "audit-log?action=create_key")).await.expect(200);
    let actors: BTreeSet<&str> =
        log["items"].as_array().unwrap().iter().map(|entry| entry["actor"].as_str().unwrap()).collect();
    assert_eq!(actors, BTreeSet::from([&*format!("key:{}", caller.key)]));
}

#[tokio::test]
async fn parallel_creations_make_no_more_keys_than_the_policy_allows() {
    let gateway = TestGateway::start().await;
    let (member, admin) = people(&gateway).await;
    let caller = &gateway.caller;
    let policy = json!({"enabled": true, "max_keys": 6, "key_budget": {"period": "daily", "credits": 10}});
    admin.patch(&of_org(caller, "key-policy"), policy).await.expect(200);
    let keys = of_org(caller, "keys");
    let (here, there) = (&member, AdminClient::new(&gateway, &*caller.text));
    let calls = (0..24).map(|n| {
        let (client, keys) = (if n % 2 == 0 { here } else { &there }, &keys);
        async move { client.post(keys, json!({"name": format!("key {n}")})).await.status.as_u16() }
    });
    let answers = join_all(calls).await;
    // It calls with one that it has already.
    assert_eq!(answers.iter().filter(|status| **status == 201).count(), 5, "{answers:?}");
    assert!(answers.iter().all(|status| matches!(status, 201 | 409)), "{answers:?}");
    let listed = member.get(&format!("{keys}?status=active")).await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 6);
    let waiting: i64 =
        sqlx::query_scalar("select count(*) from budget_count").fetch_one(gateway.db.pool()).await.unwrap();
    assert_eq!(waiting, 0, "nothing has to be counted for a new key");
}

#[tokio::test]
async fn a_key_makes_no_key_that_may_do_more_than_itself() {
    let gateway = TestGateway::start().await;
    let (_, admin) = people(&gateway).await;
    let policy =
        json!({"enabled": true, "max_keys": 9, "allowed_types": ["pro-text-to-video", "std-text-to-video"]});
    admin.patch(&of_org(&gateway.caller, "key-policy"), policy).await.expect(200);
    let bound = KeySpec {
        allowed_types: Some(vec!["std-text-to-video".into(), "std-image-to-video".into()]),
        allowed_networks: Some(vec!["127.0.0.0/8".parse().unwrap()]),
        ..KeySpec::default()
    };
    let bound = gateway.another_key(bound).await;
    let member = AdminClient::new(&gateway, &*bound.text);
    let keys = of_org(&bound, "keys");
    let made = member.post(&keys, json!({"name": "as far as it goes"})).await.expect(201);
    assert_eq!(made["allowed_types"], json!(["std-text-to-video"]));
    assert_eq!(made["allowed_networks"], json!(["127.0.0.0/8"]));
    for wrong in [
        json!({"name": "x", "allowed_types": ["pro-text-to-video"]}),
        json!({"name": "x", "allowed_networks": ["10.0.0.0/8"]}),
        json!({"name": "x", "allowed_networks": ["127.0.0.1/32", "0.0.0.0/0"]}),
    ] {
        member.post(&keys, wrong).await.expect(403);
    }
    let narrower = json!({"name": "narrower", "allowed_networks": ["127.0.0.1/32"]});
    assert_eq!(member.post(&keys, narrower).await.expect(201)["allowed_networks"], json!(["127.0.0.1/32"]));
}

/// A request of a member for its own budget of a period.
fn asking(level: &str, credits: i64) -> Value {
    json!({"level": level, "period": "total", "credits": credits, "until": in_hours(48), "reason": "a deadline"})
}

async fn limit_of(client: &AdminClient<'_>, level: &str) -> Option<i64> {
    let me = client.get("/admin/v1/me").await.expect(200);
    let budgets = me["budgets"].as_array().unwrap();
    budgets.iter().find(|budget| budget["level"] == level).and_then(|budget| budget["limit"].as_i64())
}

#[tokio::test]
async fn a_member_asks_for_more_budget_and_its_admin_grants_it_once() {
    let gateway = TestGateway::start().await;
    let (member, admin) = people(&gateway).await;
    let caller = &gateway.caller;
    let requests = of_org(caller, "budget-requests");
    member.post(&requests, asking("user", 2000)).await.expect(409);
    let budget = json!({"level": "user", "subject_id": caller.user, "period": "total", "credits": 100});
    let budget = admin.post(&of_org(caller, "budgets"), budget).await.expect(201);
    assert_eq!(create_as(&gateway, &caller.text).await.expect(402)["error"], "BUDGET_EXCEEDED");
    let soon =
        json!({"level": "user", "period": "total", "credits": 500, "until": in_hours(0), "reason": "now"});
    member.post(&requests, soon).await.expect(400);
    for (wrong, status) in [(asking("user", 100), 409), (asking("team", 500), 409), (asking("user", 0), 400)]
    {
        member.post(&requests, wrong).await.expect(status);
    }
    let asked = member.post(&requests, asking("user", 500)).await.expect(201);
    assert_eq!((&asked["state"], &asked["user_id"]), (&json!("open"), &json!(caller.user)));
    let one = format!("{requests}/{}", asked["request_id"].as_str().unwrap());
    // Others neither see it nor answer it.
    let other = gateway.another_user("somebody else", "member").await;
    let other = AdminClient::new(&gateway, &*other.text).on_data_listener();
    other.get(&one).await.expect(404);
    assert_eq!(other.get(&requests).await.expect(200)["items"], json!([]));
    for answer in ["grant", "decline"] {
        member.post(&format!("{one}/{answer}"), json!({})).await.expect(403);
    }
    let stranger = AdminClient::org_admin(&gateway, &gateway.another_org("a stranger", 0).await).await;
    stranger.post(&format!("{one}/grant"), json!({})).await.expect(404);
    // Granted at once by several, it is granted once.
    let grant = format!("{one}/grant");
    let granted = join_all((0..6).map(|_| admin.post(&grant, json!({"answer": "good luck"})))).await;
    for answer in granted {
        let granted = answer.expect(200);
        assert_eq!((&granted["state"], &granted["granted"]), (&json!("granted"), &json!(500)), "{granted}");
    }
    let own = format!("/admin/v1/budgets/{}", budget["budget_id"].as_str().unwrap());
    let raised = admin.get(&own).await.expect(200);
    assert_eq!(
        (&raised["raised_to"], &raised["credits"], &raised["version"]),
        (&json!(500), &json!(100), &json!(2))
    );
    create_as(&gateway, &caller.text).await.expect(200);
    assert_eq!(member.get(&one).await.expect(200)["answer"], "good luck");
    admin.post(&format!("{one}/decline"), json!({})).await.expect(409);
    // Three may be open; one that is declined makes room.
    for _ in 0..3 {
        member.post(&requests, asking("user", 900)).await.expect(201);
    }
    member.post(&requests, asking("user", 900)).await.expect(409);
    let open = admin.get(&format!("{requests}?state=open")).await.expect(200);
    let open = open["items"].as_array().unwrap();
    assert_eq!(open.len(), 3);
    let declined = format!("{requests}/{}", open[0]["request_id"].as_str().unwrap());
    for _ in 0..2 {
        let answer =
            admin.post(&format!("{declined}/decline"), json!({"answer": "not now"})).await.expect(200);
        assert_eq!(answer["state"], "declined");
    }
    admin.post(&format!("{declined}/grant"), json!({})).await.expect(409);
    member.post(&requests, asking("user", 900)).await.expect(201);
    let log = admin.get(&of_org(caller, "audit-log?action=grant_budget_request")).await.expect(200);
    let kinds: BTreeSet<&str> =
        log["items"].as_array().unwrap().iter().map(|entry| entry["target_kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, BTreeSet::from(["budget", "user"]));
    assert_eq!(log["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_budget_for_everybody_is_raised_for_the_one_that_asks() {
    let gateway = TestGateway::start().await;
    let (member, admin) = people(&gateway).await;
    let caller = &gateway.caller;
    let requests = of_org(caller, "budget-requests");
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    for level in ["user", "organisation"] {
        let budget = json!({"level": level, "period": "total", "credits": 100});
        operator.post(&of_org(caller, "budgets"), budget).await.expect(201);
    }
    let other = gateway.another_user("somebody else", "member").await;
    let other = AdminClient::new(&gateway, &*other.text);
    let mut asked = Vec::new();
    for level in ["user", "organisation"] {
        let request = member.post(&requests, asking(level, 500)).await.expect(201);
        asked.push(format!("{requests}/{}/grant", request["request_id"].as_str().unwrap()));
    }
    admin.post(&asked[0], json!({"credits": 300})).await.expect(200);
    assert_eq!(limit_of(&member, "user").await, Some(300));
    assert_eq!(limit_of(&other, "user").await, Some(100));
    // An organisation's own budget is the operators'.
    admin.post(&asked[1], json!({})).await.expect(403);
    operator.post(&asked[1], json!({})).await.expect(200);
    assert_eq!(limit_of(&member, "organisation").await, Some(500));
}

#[tokio::test]
async fn a_member_sees_who_it_is_and_what_it_has_used() {
    let gateway = TestGateway::start().await;
    let (member, admin) = people(&gateway).await;
    let caller = &gateway.caller;
    let budget = json!({"level": "user", "subject_id": caller.user, "period": "total", "credits": 1000});
    admin.post(&of_org(caller, "budgets"), budget).await.expect(201);
    let other = gateway.another_user("somebody else", "member").await;
    gateway.finished(&gateway.task("one").await).await;
    let theirs = create_as(&gateway, &other.text).await.task_id();
    gateway.finished(&theirs).await;
    let me = member.get("/admin/v1/me").await.expect(200);
    for (field, expected) in [
        ("role", json!("member")),
        ("org_id", json!(caller.org)),
        ("org_name", json!("a customer")),
        ("time_zone", json!("UTC")),
        ("user_id", json!(caller.user)),
        ("user_name", json!("a user")),
        ("team_id", Value::Null),
        ("key_id", json!(caller.key)),
        ("suspended", json!(false)),
    ] {
        assert_eq!(me[field], expected, "{field}: {me}");
    }
    let budget = &me["budgets"][0];
    assert_eq!(
        (&budget["limit"], &budget["used"], &budget["left"]),
        (&json!(1000), &json!(400), &json!(600))
    );
    let usage = of_org(caller, "usage?group_by=user");
    let users = |usage: Value| -> BTreeSet<String> {
        let items = usage["items"].as_array().unwrap().clone();
        items.iter().map(|item| item["user_id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(users(member.get(&usage).await.expect(200)), BTreeSet::from([caller.user.to_string()]));
    assert_eq!(users(admin.get(&usage).await.expect(200)).len(), 2);
    member.get(&format!("{usage}&user_id={}", other.user)).await.expect(403);
    let operator = AdminClient::operator(&gateway, OperatorRole::OperatorRead).await;
    let me = operator.get("/admin/v1/me").await.expect(200);
    assert_eq!(
        (&me["role"], &me["org_id"], &me["budgets"]),
        (&json!("operator-read"), &Value::Null, &json!([]))
    );
}

#[tokio::test]
async fn the_command_line_does_all_of_it() {
    let gateway = TestGateway::start().await;
    let (member, admin) = people(&gateway).await;
    let org = gateway.caller.org.to_string();
    let url = gateway.url("");
    // Both call the data listener.
    let says = async |token: &str, args: &[&str]| -> Value {
        let said = run(&[&["admin", "--url", &url, "--token", token, "--json"], args].concat()).await;
        assert_eq!(said.code, 0, "{args:?}: {said:?}");
        serde_json::from_str(&said.out).unwrap()
    };
    let policy = [
        "key-policy",
        "update",
        "--org",
        &org,
        "--enabled",
        "true",
        "--max-days",
        "9",
        "--key-budget",
        "daily:700",
    ];
    let policy = says(&admin.token, &policy).await;
    assert_eq!(policy["key_budget"], json!({"period": "daily", "credits": 700}));
    assert_eq!(says(&member.token, &["key-policy", "show", "--org", &org]).await["max_days"], 9);
    let made = says(&member.token, &["key", "create", "--org", &org, "--name", "laptop"]).await;
    assert_eq!(made["user_id"], gateway.caller.user.to_string());
    let text = made["api_key"].as_str().unwrap();
    let me = says(text, &["me"]).await;
    assert_eq!((&me["budgets"][0]["level"], &me["budgets"][0]["left"]), (&json!("key"), &json!(700)));
    let ask = async |reason: &str| -> String {
        let until = in_hours(30);
        let whose = ["budget-request", "create", "--org", &org, "--level", "key", "--period", "daily"];
        let what = ["--credits", "900", "--until", &until, "--reason", reason];
        let asked = says(text, &[&whose[..], &what[..]].concat()).await;
        asked["request_id"].as_str().unwrap().to_owned()
    };
    let (first, second) = (ask("a deadline").await, ask("another").await);
    let listed = says(&admin.token, &["budget-request", "list", "--org", &org, "--state", "open"]).await;
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let grant = ["budget-request", "grant", &first, "--org", &org, "--credits", "800", "--answer", "yes"];
    assert_eq!(says(&admin.token, &grant).await["granted"], 800);
    let decline = ["budget-request", "decline", &second, "--org", &org, "--answer", "no"];
    assert_eq!(says(&admin.token, &decline).await["state"], "declined");
    assert_eq!(says(text, &["budget-request", "show", &second, "--org", &org]).await["answer"], "no");
    assert_eq!(says(text, &["me"]).await["budgets"][0]["left"], 800);
}
