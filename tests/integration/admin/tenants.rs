//! The organisations' own part of the management API on the data listener: what is answered there, to whom, and what is not
//! there.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};
use tollgate::ids::OrgId;
use tollgate::store::{KeySpec, NewUser, OperatorRole, Role};

use super::authorisation::{OWNED, Samples, samples, value};
use crate::support::admin_client::{AdminAnswer, AdminClient};
use crate::support::gateway::TestGateway;
use crate::support::operations::{Operation, operations};
use crate::support::seed::{org_named, user_named};

const OF_TENANTS: [&str; 2] = ["org-admin", "member"];

const DOCUMENT: &str = "/admin/v1/openapi.json";

/// Who calls, and in which role of the document.
struct Somebody {
    who: &'static str,
    role: Option<&'static str>,
    token: String,
}

async fn tenant(
    gateway: &TestGateway,
    org: OrgId,
    who: &'static str,
    role: Role,
    named: &'static str,
) -> Somebody {
    let db = gateway.db.database();
    let user = db.add_user(org, &NewUser { role, ..user_named(who) }).await.unwrap();
    let spec = KeySpec { name: who.into(), env: "test".into(), ..KeySpec::default() };
    let (_, key) = db.create_key(org, user, &spec).await.unwrap();
    Somebody { who, role: Some(named), token: key.expose().to_owned() }
}

async fn operator(gateway: &TestGateway, who: &'static str, role: OperatorRole) -> Somebody {
    let (_, token) = gateway.db.database().create_operator_token(who, role, None).await.unwrap();
    Somebody { who, role: Some(who), token: token.expose().to_owned() }
}

async fn callers(gateway: &TestGateway) -> Vec<Somebody> {
    let own = gateway.caller.org;
    let foreign = gateway.db.database().add_org(&org_named("another customer")).await.unwrap();
    vec![
        Somebody { who: "nobody", role: None, token: String::new() },
        tenant(gateway, own, "a member", Role::Member, "member").await,
        tenant(gateway, own, "an admin", Role::Admin, "org-admin").await,
        tenant(gateway, foreign, "a foreign admin", Role::Admin, "org-admin").await,
        operator(gateway, "operator", OperatorRole::Operator).await,
        operator(gateway, "operator-read", OperatorRole::OperatorRead).await,
    ]
}

/// An answer without what differs between two calls of one kind: ids that were made for each, and times.
fn comparable(answer: &AdminAnswer, samples: &Samples) -> (u16, String) {
    let mut text =
        if answer.status.is_success() && answer.body.is_object() && !answer.body["items"].is_array() {
            let fields = answer.body.as_object().unwrap().keys();
            fields.cloned().collect::<Vec<_>>().join(" ")
        } else {
            answer.body.to_string()
        };
    for (name, id) in samples {
        text = text.replace(id, name);
    }
    (answer.status.as_u16(), text)
}

/// Calls an operation about things that were made for this call.
async fn tried(client: &AdminClient<'_>, operation: &Operation, samples: &Samples) -> (u16, String) {
    let path = operation.path_with(|name| value(samples, name));
    let body = operation.takes_body.then(|| json!({"no such field": 1}));
    let never = [("if-match", "2147483647")];
    comparable(&client.call_with(operation.method.clone(), &path, body, &never).await, samples)
}

#[tokio::test]
async fn tenants_are_answered_alike_on_both_listeners_and_operators_on_one() {
    let gateway = TestGateway::start().await;
    let document = AdminClient::new(&gateway, "").get(DOCUMENT).await.expect(200);
    let all = operations(&document);
    let of_tenants =
        |operation: &Operation| operation.roles.iter().any(|role| OF_TENANTS.contains(&role.as_str()));
    let served: BTreeSet<&str> = all
        .iter()
        .filter(|&operation| of_tenants(operation))
        .map(|operation| operation.path.as_str())
        .collect();
    let callers = callers(&gateway).await;
    let unchanged = samples(&gateway, gateway.caller.org).await;
    let (mut wrong, mut seen) = (Vec::new(), [0; 3]);
    for operation in &all {
        for caller in &callers {
            let client = AdminClient::new(&gateway, &*caller.token);
            let fresh = async || match operation.method == Method::GET {
                true => unchanged.clone(),
                false => samples(&gateway, gateway.caller.org).await,
            };
            let here = tried(&client.on_data_listener(), operation, &fresh().await).await;
            let operator = caller.role.is_some_and(|role| !OF_TENANTS.contains(&role));
            let (kind, fits) = if !of_tenants(operation) {
                // As for a path, or for a method, that nobody has ever heard of.
                let expected = if served.contains(operation.path.as_str()) { 405 } else { 404 };
                let told = here.1.contains("operator") || here.1.contains(&operation.path);
                (0, here.0 == expected && !told)
            } else if operator {
                (1, here.0 == 403 && here.1.contains("operations listener"))
            } else {
                let there = tried(&client, operation, &fresh().await).await;
                let owned = operation.parameters.iter().any(|name| OWNED.contains(&name.as_str()));
                let foreign = caller.who == "a foreign admin" && owned && there.0 != 404 && there.0 != 403;
                (2, here == there && !foreign)
            };
            seen[kind] += 1;
            if !fits {
                wrong.push(format!("{operation} by {}: {here:?}", caller.who));
            }
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(seen.iter().all(|seen| *seen > 50), "{seen:?}");
    println!("{seen:?} combinations: not there, refused to operators, alike");
}

/// Every reference at any depth.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                match (name.as_str(), inner.as_str()) {
                    ("$ref", Some(to)) => drop(found.insert(to.rsplit('/').next().unwrap().to_owned())),
                    _ => references(inner, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_document_of_the_data_listener_is_that_of_its_operations() {
    let gateway = TestGateway::start().await;
    let nobody = AdminClient::new(&gateway, "");
    let whole = nobody.get("/openapi.json").await.expect(200);
    assert_eq!(whole, nobody.get(DOCUMENT).await.expect(200));
    let nobody = nobody.on_data_listener();
    let own = nobody.get(DOCUMENT).await.expect(200);
    assert_ne!(own["info"]["title"], whole["info"]["title"]);
    let (all, ours) = (operations(&whole), operations(&own));
    let expected: Vec<_> = all
        .iter()
        .filter(|operation| operation.roles.iter().any(|role| OF_TENANTS.contains(&role.as_str())))
        .map(ToString::to_string)
        .collect();
    assert_eq!(ours.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    assert!(ours.len() > 20 && ours.len() < all.len(), "{} of {}", ours.len(), all.len());
    for operation in &ours {
        assert!(operation.roles.iter().all(|role| OF_TENANTS.contains(&role.as_str())), "{operation}");
        let method = operation.method.as_str().to_lowercase();
        let described = |document: &Value| {
            let mut operation = document["paths"][&operation.path][&method].clone();
            operation["security"] = Value::Null;
            operation
        };
        assert_eq!(described(&own), described(&whole), "{operation}");
    }
    let mut named = BTreeSet::new();
    references(&own, &mut named);
    let known: BTreeSet<String> = own["components"]["schemas"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(named.difference(&known).count(), 0, "{named:?}");
    assert!(
        !known.contains("NewOperatorToken")
            && known.len() < whole["components"]["schemas"].as_object().unwrap().len()
    );
    // The data plane's own document and pages are where they were.
    let data = nobody.get("/openapi.json").await.expect(200);
    assert!(data["paths"].get("/api/generate").is_some());
    let docs = gateway.request(Method::GET, "/docs/").send().await.unwrap();
    assert_eq!(docs.status(), 200);
}

#[tokio::test]
async fn paths_are_read_as_everywhere_on_the_data_listener() {
    let gateway = TestGateway::start().await;
    let caller = AdminClient::new(&gateway, &*gateway.caller.text).on_data_listener();
    for path in ["/admin/v1/me", "//admin//v1/me/", "/admin/v1/me/"] {
        let answer = caller.get(path).await;
        assert!(answer.headers["x-request-id"].to_str().unwrap().starts_with("req_"));
        assert_eq!(answer.expect(200)["org_id"], gateway.caller.org.to_string(), "{path}");
    }
    let head = gateway.call(Method::HEAD, "/admin/v1/me").send().await.unwrap();
    assert_eq!(head.status(), 200);
    for path in ["/admin/v1", "/admin/v1/no-such-thing", "/admin/v1/price-books", "/admin/v1/docs"] {
        let answer = AdminClient::new(&gateway, "").on_data_listener().get(path).await;
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert_eq!(answer.expect(404)["detail"], "there is nothing at this path", "{path}");
    }
    // The data plane answers in its own form.
    for path in ["/admin", "/admin/v2/me", "/metrics", "/readyz"] {
        assert_eq!(caller.get(path).await.expect(404)["error"], "NOT_FOUND", "{path}");
    }
}

#[tokio::test]
async fn it_can_be_switched_off() {
    let gateway = TestGateway::builder().config(|config| config.server.tenant_api = false).start().await;
    let caller = AdminClient::new(&gateway, &*gateway.caller.text);
    caller.get("/admin/v1/me").await.expect(200);
    for path in ["/admin/v1/me", DOCUMENT] {
        assert_eq!(caller.on_data_listener().get(path).await.expect(404)["error"], "NOT_FOUND");
    }
}

#[tokio::test]
async fn wrong_credentials_count_together_with_those_of_the_data_plane() {
    let gateway =
        TestGateway::builder().config(|config| config.limits.failed_logins_per_minute = 3).start().await;
    let wrong = AdminClient::new(&gateway, "nonsense").on_data_listener();
    for _ in 0..3 {
        wrong.get("/admin/v1/me").await.expect(401);
    }
    wrong.get("/admin/v1/me").await.expect(429);
    let answer = gateway.request(Method::GET, "/api/credits").bearer_auth("nonsense").send().await.unwrap();
    assert_eq!(answer.status(), 429);
    // A valid credential always passes.
    AdminClient::new(&gateway, &*gateway.caller.text)
        .on_data_listener()
        .get("/admin/v1/me")
        .await
        .expect(200);
}

#[tokio::test]
async fn calls_on_both_listeners_count_against_one_limit() {
    let gateway =
        TestGateway::builder().config(|config| config.limits.org_management_per_minute = 4).start().await;
    let caller = AdminClient::new(&gateway, &*gateway.caller.text);
    for client in [&caller, &caller.on_data_listener(), &caller, &caller.on_data_listener()] {
        client.get("/admin/v1/me").await.expect(200);
    }
    for client in [&caller, &caller.on_data_listener()] {
        let answer = client.get("/admin/v1/me").await;
        assert!(answer.headers.contains_key("retry-after"));
        assert_eq!(answer.expect(429)["code"], "rate_limited");
    }
}
