//! Every route × every role × the own and a foreign organisation, read from the OpenAPI document itself: a route that is
//! added is tried by that alone.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};
use tollgate::ids::{OrgId, UserId};
use tollgate::store::{
    BudgetLevel, KeyPolicyChange, KeySpec, NewBudget, NewUser, OperatorRole, Period, Role,
};

use crate::support::admin_client::AdminClient;
use crate::support::fixture;
use crate::support::gateway::TestGateway;
use crate::support::operations::{Operation, operations};
use crate::support::seed::{org_named, user_named};

/// Somebody who calls: what the document names it, and its token.
struct Somebody {
    role: &'static str,
    org: Option<OrgId>,
    user: Option<UserId>,
    token: String,
}

/// The operations of the management API, each of which says whom it is for.
fn managed(document: &Value) -> Vec<Operation> {
    let all = operations(document);
    for Operation { method, path, roles, .. } in &all {
        assert!(!roles.is_empty(), "{method} {path} is for nobody");
    }
    assert!(all.len() > 20, "this is not the whole document");
    all
}

/// A value for each parameter of a path that is known.
pub(super) type Samples = BTreeMap<&'static str, String>;

/// One of everything that belongs to an organisation, fresh.
pub(super) async fn samples(gateway: &TestGateway, org: OrgId) -> Samples {
    let db = gateway.db.database();
    let name = fixture::new_hold(org, 1).hold.to_string();
    let user = db.add_user(org, &user_named(&name)).await.unwrap();
    let team = db.create_team(org, &name).await.unwrap();
    let spec = KeySpec { name, env: "test".into(), ..KeySpec::default() };
    let (key, _) = db.create_key(org, user, &spec).await.unwrap();
    let new = NewBudget {
        org: Some(org),
        level: BudgetLevel::User,
        subject: Some(user.to_string()),
        period: Period::Daily,
        credits: None,
        thresholds: None,
    };
    let budget = db.make_budget(&new).await.unwrap();
    let (token, _) = db.create_operator_token("a sample", OperatorRole::OperatorRead, None).await.unwrap();
    BTreeMap::from([
        ("org_id", org.to_string()),
        ("user_id", user.to_string()),
        ("team_id", team.to_string()),
        ("key_id", key.to_string()),
        ("budget_id", budget.to_string()),
        ("token_id", token.to_string()),
    ])
}

/// Parameters whose value belongs to an organisation; the others belong to the platform.
pub(super) const OWNED: &[&str] = &["org_id", "user_id", "team_id", "key_id", "hold_id", "budget_id"];

/// A parameter's value: that of the samples, or one that is well formed and names nothing.
pub(super) fn value(samples: &Samples, name: &str) -> String {
    let known = samples.get(name).cloned();
    known.unwrap_or_else(|| match name {
        "hold_id" => format!("hold_{:032x}", 1),
        "budget_id" => format!("bud_{:032x}", 1),
        "request_id" => format!("brq_{:032x}", 1),
        "provider_id" => format!("idp_{:032x}", 1),
        "identity_id" => format!("idn_{:032x}", 1),
        "version" => "1".into(),
        "task_type" => "pro-text-to-video".into(),
        "month" => "2026-01".into(),
        other => format!("{other}_1"),
    })
}

async fn changes(gateway: &TestGateway) -> i64 {
    sqlx::query_scalar("select count(*) from audit_log").fetch_one(gateway.db.pool()).await.unwrap()
}

/// What members may call. Each of these answers them only with what is their own, or their organisation's key policy.
const OF_MEMBERS: &[&str] = &[
    "GET /admin/v1/me",
    "GET /admin/v1/orgs/{org_id}/keys",
    "POST /admin/v1/orgs/{org_id}/keys",
    "GET /admin/v1/keys/{key_id}",
    "PATCH /admin/v1/keys/{key_id}",
    "POST /admin/v1/keys/{key_id}/rotate",
    "POST /admin/v1/keys/{key_id}/revoke",
    "GET /admin/v1/orgs/{org_id}/key-policy",
    "GET /admin/v1/orgs/{org_id}/budget-requests",
    "POST /admin/v1/orgs/{org_id}/budget-requests",
    "GET /admin/v1/orgs/{org_id}/budget-requests/{request_id}",
    "GET /admin/v1/orgs/{org_id}/usage",
];

#[tokio::test]
async fn roles_are_given_by_rule() {
    let gateway = TestGateway::start().await;
    let document = AdminClient::new(&gateway, "").get("/openapi.json").await.expect(200);
    for Operation { method, path, roles, parameters, .. } in managed(&document) {
        let names = |role: &str| roles.iter().any(|named| named == role);
        let looks = method == Method::GET;
        assert!(names("operator"), "{method} {path}: an operator does everything");
        assert!(looks == names("operator-read"), "{method} {path}: who only looks looks at everything");
        let of_members = OF_MEMBERS.contains(&format!("{method} {path}").as_str());
        assert_eq!(
            names("member"),
            of_members,
            "{method} {path}: members see and manage only what is their own"
        );
        let owned = parameters.iter().any(|name| OWNED.contains(&name.as_str()));
        assert!(looks || owned || !names("org-admin"), "{method} {path}: whose is what this changes?");
    }
}

#[tokio::test]
async fn every_route_lets_in_whom_its_description_names_and_nobody_else() {
    let gateway = TestGateway::start().await;
    let db = gateway.db.database();
    let (own, foreign) = (gateway.caller.org, db.add_org(&org_named("another customer")).await.unwrap());
    let mut callers = Vec::new();
    for (role, as_stored) in
        [("operator", OperatorRole::Operator), ("operator-read", OperatorRole::OperatorRead)]
    {
        let (_, token) = db.create_operator_token(role, as_stored, None).await.unwrap();
        callers.push(Somebody { role, org: None, user: None, token: token.expose().to_owned() });
    }
    for (role, as_stored) in [("org-admin", Role::Admin), ("member", Role::Member)] {
        let user = db.add_user(own, &NewUser { role: as_stored, ..user_named(role) }).await.unwrap();
        let spec = KeySpec { name: role.into(), env: "test".into(), ..KeySpec::default() };
        let (_, key) = db.create_key(own, user, &spec).await.unwrap();
        callers.push(Somebody { role, org: Some(own), user: Some(user), token: key.expose().to_owned() });
    }
    let policy = KeyPolicyChange { enabled: Some(true), ..KeyPolicyChange::default() };
    db.change_key_policy(own, &policy, None).await.unwrap();
    let document = AdminClient::new(&gateway, "").get("/openapi.json").await.expect(200);
    let theirs = samples(&gateway, foreign).await;
    let mut wrong = Vec::new();
    let mut tried = 0;
    let never = [("if-match", "2147483647")];
    for operation in managed(&document) {
        // A body that no operation takes, a version that nothing has: whoever is let in gets no further than its refusal.
        let body = || operation.takes_body.then(|| json!({"no such field": 1}));
        let path = |samples: &Samples| {
            operation.parameters.iter().fold(operation.path.clone(), |path, name| {
                path.replace(&format!("{{{name}}}"), &value(samples, name))
            })
        };
        let owned = operation.parameters.iter().any(|name| OWNED.contains(&name.as_str()));
        let mut expect = |who: &str, whose: &str, expected: &str, fits: bool, got: u16| {
            tried += 1;
            if !fits {
                let Operation { method, path, .. } = &operation;
                wrong.push(format!("{method} {path} by {who}, {whose}: {got}, not {expected}"));
            }
        };
        for caller in &callers {
            let client = AdminClient::new(&gateway, &*caller.token);
            let named = operation.roles.iter().any(|role| role == caller.role);
            if !named {
                let before = changes(&gateway).await;
                let got = client
                    .call_with(operation.method.clone(), &path(&theirs), body(), &never)
                    .await
                    .status
                    .as_u16();
                expect(caller.role, "theirs", "403", got == 403, got);
                assert_eq!(changes(&gateway).await, before, "{} {}", operation.method, operation.path);
            }
            let mut ours = samples(&gateway, own).await;
            // A member reaches its own keys only.
            if let (true, Some(user)) = (caller.role == "member", caller.user) {
                let spec = KeySpec { name: "its own".into(), env: "test".into(), ..KeySpec::default() };
                let (key, _) = db.create_key(own, user, &spec).await.unwrap();
                ours.insert("key_id", key.to_string());
            }
            let before = changes(&gateway).await;
            let answer = client.call_with(operation.method.clone(), &path(&ours), body(), &never).await;
            let got = answer.status.as_u16();
            if named {
                // What it names may be gone or not be there at all; that it was let in is what counts.
                let known = operation.parameters.iter().all(|name| ours.contains_key(name.as_str()));
                let fits = !matches!(got, 401 | 403 | 405) && got < 500 && (got != 404 || !known);
                expect(caller.role, "its own", "let in", fits, got);
                if caller.org.is_some() {
                    let text = answer.body.to_string();
                    assert!(!text.contains(&foreign.to_string()), "{}: {text}", operation.path);
                }
            } else {
                expect(caller.role, "its own", "403", got == 403, got);
                assert_eq!(changes(&gateway).await, before, "{} {}", operation.method, operation.path);
            }
            if named && owned && caller.org.is_some() {
                let before = changes(&gateway).await;
                let got = client
                    .call_with(operation.method.clone(), &path(&theirs), body(), &never)
                    .await
                    .status
                    .as_u16();
                expect(caller.role, "theirs", "404", got == 404, got);
                assert_eq!(changes(&gateway).await, before, "{} {}", operation.method, operation.path);
            }
        }
        for token in ["", "nonsense"] {
            let nobody = AdminClient::new(&gateway, token);
            let got = nobody
                .call_with(operation.method.clone(), &path(&theirs), body(), &never)
                .await
                .status
                .as_u16();
            expect("nobody", "theirs", "401", matches!(got, 401 | 429), got);
        }
    }
    assert!(wrong.is_empty(), "{} of {tried} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    println!("{tried} combinations of route, role and organisation");
}
