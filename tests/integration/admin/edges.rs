//! The edges of the management API: instants at the end of the calendar, bodies that are none, callers that dawdle.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tollgate::store::OperatorRole;

use crate::support::admin_client::AdminClient;
use crate::support::database::TestDatabase;
use crate::support::gateway::TestGateway;

/// In UTC that is in the year 10000, which neither the database nor RFC 3339 can say.
const BEYOND: &str = "9999-12-31T23:59:59-23:00";
/// And that before the year 0.
const BEFORE: &str = "0000-01-01T00:00:00+23:00";

fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => document.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
        None => schema,
    }
}

fn is_instant(document: &Value, schema: &Value) -> bool {
    resolved(document, schema)["format"] == "date-time"
}

/// Something that fits `schema`.
fn example(document: &Value, name: &str, schema: &Value, known: &BTreeMap<&str, String>) -> Value {
    let schema = resolved(document, schema);
    if let Some(known) = known.get(name) {
        return json!(known);
    }
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    let least = schema["minimum"].as_i64().unwrap_or(0).max(1);
    match schema["type"].as_str() {
        Some("integer") => json!(least),
        Some("string") if schema["format"] == "date-time" => json!("2100-01-01T00:00:00Z"),
        Some("string") => json!("x"),
        Some("boolean") => json!(false),
        other => panic!("{name}: teach this test of {other:?}"),
    }
}

/// Bodies that have all that is required and one instant in the place of each `date-time`.
fn bodies(document: &Value, schema: &Value, known: &BTreeMap<&str, String>, instant: &str) -> Vec<Value> {
    let schema = resolved(document, schema);
    let empty = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&empty);
    let instants = properties.iter().filter(|(_, property)| is_instant(document, property));
    let body = |(instant_name, _): (&String, &Value)| {
        let required = schema["required"].as_array().into_iter().flatten().map(|name| name.as_str().unwrap());
        let mut body: Map<String, Value> = required
            .map(|name| (name.to_owned(), example(document, name, &properties[name], known)))
            .collect();
        body.insert(instant_name.clone(), json!(instant));
        Value::Object(body)
    };
    instants.map(body).collect()
}

/// Every call that has an instant in its query or its body.
fn calls(
    document: &Value,
    known: &BTreeMap<&str, String>,
    instant: &str,
) -> Vec<(Method, String, Option<Value>)> {
    let mut calls = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let mut at = path.clone();
        for (name, value) in known {
            at = at.replace(&format!("{{{name}}}"), value);
        }
        for (method, operation) in methods.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                if parameter["in"] == "query" && is_instant(document, &parameter["schema"]) {
                    let name = parameter["name"].as_str().unwrap();
                    calls.push((
                        method.clone(),
                        format!("{at}?{name}={}", instant.replace('+', "%2B")),
                        None,
                    ));
                }
            }
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            for body in bodies(document, schema, known, instant) {
                calls.push((method.clone(), at.clone(), Some(body)));
            }
        }
    }
    calls
}

#[tokio::test]
async fn no_instant_of_any_operation_is_a_defect() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let org = format!("/admin/v1/orgs/{}", gateway.caller.org);
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let budget = json!({"level": "user", "subject_id": gateway.caller.user, "period": "daily", "credits": 5});
    let budget = operator.post(&format!("{org}/budgets"), budget).await.expect(201);
    let request = json!({
        "level": "user", "period": "daily", "credits": 9, "until": "2050-01-01T00:00:00Z", "reason": "x",
        "user_id": gateway.caller.user,
    });
    let request = operator.post(&format!("{org}/budget-requests"), request).await.expect(201);
    let factor = json!({"factor_bp": 9000, "valid_from": "2050-01-01T00:00:00Z", "reason": "x"});
    let factor = operator.post(&format!("{org}/price-factors"), factor).await.expect(201);
    let book = json!({"name": "next", "copy_of": 1});
    let book = operator.post("/admin/v1/price-books", book).await.expect(201);
    let known = BTreeMap::from([
        ("org_id", gateway.caller.org.to_string()),
        ("user_id", gateway.caller.user.to_string()),
        ("key_id", gateway.caller.key.to_string()),
        ("budget_id", text(&budget["budget_id"])),
        ("request_id", text(&request["request_id"])),
        ("factor_id", text(&factor["factor_id"])),
        ("version", text(&book["version"])),
    ]);

    let document = operator.get("/openapi.json").await.expect(200);
    for instant in [BEYOND, BEFORE] {
        let calls = calls(&document, &known, instant);
        assert!(calls.len() >= 15, "{calls:#?}");
        for (method, path, body) in calls {
            let answer = operator.call(method.clone(), &path, body.clone()).await;
            assert_eq!(answer.status.as_u16(), 400, "{method} {path} {body:?}: {:#}", answer.body);
        }
    }
    // The rest of those calls was right.
    for (method, path, body) in calls(&document, &known, "2060-01-01T00:00:00Z") {
        let answer = operator.call(method.clone(), &path, body.clone()).await;
        let said = answer.body["detail"].to_string();
        assert!(!said.contains("the body: ") && !said.contains("the query: "), "{method} {path}: {said}");
    }

    let address = format!("http://{}", gateway.address());
    let document: Value =
        gateway.client.get(format!("{address}/openapi.json")).send().await.unwrap().json().await.unwrap();
    for instant in [BEYOND, BEFORE] {
        let calls = calls(&document, &known, instant);
        assert!(calls.len() >= 2, "{calls:#?}");
        for (method, path, _) in calls {
            let answer = gateway.call(method, &path).send().await.unwrap();
            assert!(answer.status().as_u16() < 500, "{path}: {}", answer.status());
        }
    }
}

#[tokio::test]
async fn an_array_is_no_object() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    operator.post("/admin/v1/orgs", json!(["Blue"])).await.expect(400);
    let credits = format!("/admin/v1/orgs/{}/credits", gateway.caller.org);
    let before = operator.get(&credits).await.expect(200)["available"].clone();
    operator.post(&format!("{credits}/grants"), json!([5, "x", null, null])).await.expect(400);
    assert_eq!(operator.get(&credits).await.expect(200)["available"], before);
}

#[tokio::test]
async fn a_caller_that_dawdles_does_not_hold_up_the_end() {
    let gateway = TestGateway::start().await;
    let token = gateway.operator_token().await;
    let address = gateway.admin_url("").strip_prefix("http://").unwrap().to_owned();
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "POST /admin/v1/orgs HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: 100\r\nexpect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The gateway has begun to read the body.
    let mut said = [0; 12];
    stream.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"HTTP/1.1 100");
    stream.write_all(b"{").await.unwrap();
    // Its drop fails if the gateway does not finish in time.
    drop(gateway);
}

#[tokio::test]
async fn heads_names_and_empty_changes_are_as_the_document_says() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let admin = AdminClient::org_admin(&gateway, &gateway.caller).await;
    let org = format!("/admin/v1/orgs/{}", gateway.caller.org);
    let key = |length: usize| json!({"user_id": gateway.caller.user, "name": "é".repeat(length)});
    admin.post(&format!("{org}/keys"), key(200)).await.expect(201);
    admin.post(&format!("{org}/keys"), key(201)).await.expect(400);

    let credits = format!("{org}/credits");
    let seen = admin.patch(&credits, json!({"low_threshold": 5})).await;
    let seen = seen.etag.unwrap();
    admin.patch(&credits, json!({"low_threshold": 6})).await.expect(200);
    let nothing = || Some(json!({}));
    admin.call_with(Method::PATCH, &credits, nothing(), &[("if-match", &seen)]).await.expect(412);
    admin.call_with(Method::PATCH, &credits, nothing(), &[]).await.expect(200);

    operator.patch(&org, json!({"status": "suspended"})).await.expect(200);
    crate::support::database::until("the gateway has heard of it", async || {
        admin.patch(&credits, json!({})).await.status.as_u16() == 403
    })
    .await;
    assert_eq!(admin.get(&org).await.status.as_u16(), 200);
    assert_eq!(admin.call(Method::HEAD, &org, None).await.status.as_u16(), 200);
}

/// Every text at any depth.
fn texts<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| texts(field, found)),
        _ => {}
    }
}

async fn logged(operator: &AdminClient<'_>, query: &str) -> Vec<Value> {
    let log = operator.get(&format!("/admin/v1/audit-log?limit=200{query}")).await.expect(200);
    log["items"].as_array().unwrap().clone()
}

#[tokio::test]
async fn every_id_in_the_log_is_as_the_api_says_it() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let org = format!("/admin/v1/orgs/{}", gateway.caller.org);
    let team = operator.post(&format!("{org}/teams"), json!({"name": "film"})).await.expect(201);
    let user = json!({"team_id": team["team_id"]});
    operator.patch(&format!("/admin/v1/users/{}", gateway.caller.user), user).await.expect(200);
    let mut made = vec![team["team_id"].clone()];
    for (level, subject) in [
        ("team", team["team_id"].clone()),
        ("user", json!(gateway.caller.user)),
        ("key", json!(gateway.caller.key)),
    ] {
        let budget = json!({"level": level, "subject_id": subject, "period": "daily", "credits": 5_000});
        let budget = operator.post(&format!("{org}/budgets"), budget).await.expect(201);
        made.push(budget["budget_id"].clone());
    }
    let factor = json!({"factor_bp": 9000, "valid_from": "2050-01-01T00:00:00Z", "reason": "x"});
    made.push(operator.post(&format!("{org}/price-factors"), factor).await.expect(201)["factor_id"].clone());
    let provider = json!({"name": "new", "issuer": "https://x.example", "audiences": ["a"],
                          "jwks_url": "https://x.example/keys", "org_id": gateway.caller.org});
    let provider = operator.post("/admin/v1/identity-providers", provider).await.expect(201);
    made.push(provider["provider_id"].clone());
    let link =
        json!({"provider_id": provider["provider_id"], "subject": "ada", "user_id": gateway.caller.user});
    made.push(operator.post(&format!("{org}/identities"), link).await.expect(201)["identity_id"].clone());
    let other = gateway.another_org("another customer", 0).await;
    let transfer = json!({"from_org": gateway.caller.org, "to_org": other.org, "credits": 5, "reason": "x"});
    operator.post("/admin/v1/transfers", transfer).await.expect(201);
    let token = json!({"name": "second", "role": "operator_read"});
    made.push(operator.post("/admin/v1/operator-tokens", token).await.expect(201)["token_id"].clone());
    operator.post("/admin/v1/price-books", json!({"name": "next", "copy_of": 1})).await.expect(201);

    let log = json!(logged(&operator, "").await);
    let mut found = Vec::new();
    texts(&log, &mut found);
    let bare: Vec<&&str> = found.iter().filter(|text| uuid::Uuid::try_parse(text).is_ok()).collect();
    assert!(bare.is_empty(), "{bare:?}");
    let ours = ["org", "team", "usr", "key", "hold", "ent", "bud", "opt", "fac", "idp", "idn", "req"];
    for text in &found {
        if let Some((prefix, hex)) = text.rsplit_once('_')
            && hex.len() == 32
            && uuid::Uuid::try_parse(hex).is_ok()
        {
            let prefix = prefix.rsplit(':').next().unwrap();
            assert!(ours.contains(&prefix), "{text} is no id");
        }
    }
    for id in made {
        let id = id.as_str().unwrap();
        let of = logged(&operator, &format!("&target_id={id}")).await;
        assert!(!of.is_empty() && of.iter().all(|entry| entry["target_id"] == id), "{id}: {of:#?}");
    }
}

#[tokio::test]
async fn what_changes_nothing_is_not_logged_but_a_new_secret_is() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let path = format!("/admin/v1/orgs/{}", gateway.caller.org);
    operator.patch(&path, json!({})).await.expect(200);
    operator.patch(&path, json!({"name": "a customer", "overdraft": 0})).await.expect(200);
    assert_eq!(logged(&operator, "&action=update_org").await, Vec::<Value>::new());
    sqlx::query("update api_key set secret_sha256 = sha256('x') where key_id = $1")
        .bind(gateway.caller.key.as_uuid())
        .execute(gateway.db.pool())
        .await
        .unwrap();
    let changed = logged(&operator, "&action=key.update").await;
    assert_eq!(changed.len(), 1, "{changed:#?}");
    assert_eq!((&changed[0]["before"], &changed[0]["after"]), (&json!({}), &json!({})));
}

#[tokio::test]
async fn an_export_that_goes_on_misses_nothing() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let path = format!("/admin/v1/orgs/{}", gateway.caller.org);
    let rename = async |name: &str| {
        operator.patch(&path, json!({"name": name})).await.expect(200);
    };
    let mut forward = logged(&operator, "&order=asc").await;
    forward.reverse();
    assert_eq!(forward, logged(&operator, "").await);
    let last = forward[0]["audit_id"].as_i64().unwrap();
    rename("first").await;
    rename("second").await;
    let mut seen = Vec::new();
    let mut cursor = last.to_string();
    loop {
        let page = operator.get(&format!("/admin/v1/audit-log?order=asc&limit=1&cursor={cursor}")).await;
        let page = page.expect(200);
        seen.push(page["items"][0]["after"]["name"].clone());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, ["first", "second"]);

    // Somebody writes an entry and does not end; a younger one must not be shown before it.
    let mut slow = gateway.db.pool().begin().await.unwrap();
    sqlx::query(
        "insert into audit_log (actor, action, target_kind, target_id) values ('x', 'slow', 'org', 'x')",
    )
    .execute(&mut *slow)
    .await
    .unwrap();
    rename("third").await;
    let newest = logged(&operator, "").await;
    assert_eq!(newest[0]["after"]["name"], "third");
    operator.get("/admin/v1/audit-log?order=asc").await.expect(503);
    slow.commit().await.unwrap();
    let all = logged(&operator, "&order=asc").await;
    let slow = all.iter().position(|entry| entry["action"] == "slow").unwrap();
    assert_eq!(all[slow + 1]["after"]["name"], "third");
}

#[tokio::test]
async fn an_organisation_says_what_it_pays_now() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let path = format!("/admin/v1/orgs/{}", gateway.caller.org);
    let usual = operator.patch(&path, json!({"price_factor_bp": 11_000})).await.expect(200);
    assert_eq!(usual["price_factor_in_force_bp"], 11_000);
    operator
        .post(&format!("{path}/price-factors"), json!({"factor_bp": 9000, "reason": "x"}))
        .await
        .expect(201);
    let shown = operator.get(&path).await.expect(200);
    assert_eq!(
        (&shown["price_factor_bp"], &shown["price_factor_in_force_bp"]),
        (&json!(11_000), &json!(9000))
    );
    assert_eq!(operator.get("/admin/v1/orgs").await.expect(200)["items"][0], shown);
}

#[tokio::test]
async fn what_is_pasted_into_a_path_is_not_logged() {
    let gateway = TestGateway::start().await;
    // Everything that is logged is searched at the end.
    for path in [format!("/admin/v1/keys/{}", gateway.caller.text), "/admin/https://x/y.png".to_owned()] {
        let answer = reqwest::get(gateway.admin_url(&path)).await.unwrap();
        assert!(answer.status().is_client_error(), "{path}: {}", answer.status());
    }
}

#[tokio::test]
async fn a_slash_at_the_end_of_a_path_is_dropped() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let orgs = operator.get("/admin/v1/orgs/?limit=1").await.expect(200);
    assert_eq!(orgs["items"].as_array().unwrap().len(), 1);
    operator.post("/admin/v1/orgs/", json!({"name": "made with a slash"})).await.expect(201);
    operator.get("/readyz/").await.expect(200);
    operator.get("/admin/v1/orgs/none/").await.expect(404);
    // The console is there.
    operator.get("/").await.expect(303);
}

#[tokio::test]
async fn no_name_looks_like_another_one_in_use() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let create = async |name: &str| operator.post("/admin/v1/orgs", json!({"name": name})).await;
    let acme = create("Ace Copy").await.expect(201);
    let users = format!("/admin/v1/orgs/{}/users", acme["org_id"].as_str().unwrap());
    // In small letters, in wide ones, and in Cyrillic ones alone.
    for name in ["ace copy", "Ａce Copy", "АСЕ СОРУ"] {
        let refused = create(name).await.expect(409);
        let detail = refused["detail"].as_str().unwrap();
        assert!(detail.contains("looks like Ace Copy, which is in use"), "{detail}");
    }
    create("Ace Copying").await.expect(201);
    // Each in letters of its own script: Cherokee, Lisu, Greek, and Latin ones that are like others.
    for (name, like) in [
        ("CLASH", "\u{13df}\u{13de}\u{13aa}\u{13da}\u{13bb}"),
        ("LIZA", "\u{a4e1}\u{a4f2}\u{a4dc}\u{a4ee}"),
        ("KATO", "\u{39a}\u{391}\u{3a4}\u{39f}"),
        ("Bill 10", "BiII lO"),
        ("Modern", "Modem"),
        ("paypal", "paypaI"),
    ] {
        create(name).await.expect(201);
        let detail = create(like).await.expect(409)["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(&format!("looks like {name}")), "{detail}");
    }
    for name in ["Bill 11", "Modest", "paypals", "東京", "Müller"] {
        create(name).await.expect(201);
    }
    let ada = operator.post(&users, json!({"name": "ada"})).await.expect(201);
    operator.post(&users, json!({"name": "Ada"})).await.expect(409);
    let other = operator.post(&users, json!({"name": "bea"})).await.expect(201);
    let path = |user: &Value| format!("/admin/v1/users/{}", user["user_id"].as_str().unwrap());
    operator.patch(&path(&other), json!({"name": "ADA"})).await.expect(409);
    // Its own name may be spelled in another way, and a name that is free again may be given.
    operator.patch(&path(&ada), json!({"name": "Ada"})).await.expect(200);
    operator.delete(&path(&ada)).await.expect(204);
    operator.patch(&path(&other), json!({"name": "ADA"})).await.expect(200);
}

/// Every kind of name that the management API takes: a kind that is missing here has no rule.
#[tokio::test]
async fn no_name_of_any_kind_looks_like_another_one_beside_it() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let org = format!("/admin/v1/orgs/{}", gateway.caller.org);
    let other = operator.post("/admin/v1/orgs", json!({"name": "another"})).await.expect(201);
    let other = format!("/admin/v1/orgs/{}", other["org_id"].as_str().unwrap());
    let stranger = operator.post(&format!("{other}/users"), json!({"name": "somebody"})).await.expect(201);
    let book = json!({"prices": {"x": {"unit": "second", "credits": 1}}});
    let provider = |audience: &str| {
        json!({"org_id": gateway.caller.org, "issuer": "https://id.example.com", "audiences": [audience],
               "jwks_url": "https://id.example.com/keys"})
    };
    let key = json!({"user_id": gateway.caller.user});
    let of_stranger = json!({"user_id": stranger["user_id"]});
    // Where it is made; whether a name may stand there twice; where else the name is another's.
    let kinds = [
        ("/admin/v1/orgs".to_owned(), json!({}), json!({}), false, None),
        (format!("{org}/teams"), json!({}), json!({}), false, Some((format!("{other}/teams"), json!({})))),
        (format!("{org}/users"), json!({}), json!({}), false, Some((format!("{other}/users"), json!({})))),
        (format!("{org}/keys"), key.clone(), key, true, Some((format!("{other}/keys"), of_stranger))),
        (
            "/admin/v1/operator-tokens".into(),
            json!({"role": "operator"}),
            json!({"role": "operator"}),
            true,
            None,
        ),
        ("/admin/v1/price-books".into(), book.clone(), book, true, None),
        ("/admin/v1/identity-providers".into(), provider("a"), provider("b"), false, None),
    ];
    let named = |body: &Value, name: &str| {
        let mut body = body.clone();
        body["name"] = name.into();
        body
    };
    for (path, body, second, twice, elsewhere) in kinds {
        operator.post(&path, named(&body, "Studio 1")).await.expect(201);
        for like in ["Studio I", "Studio l", "STUDIO 1", "Ｓtudio 1", "Studi\u{43e} 1"] {
            let answer = operator.post(&path, named(&second, like)).await;
            let mixed = like.contains('\u{43e}');
            let detail = answer.expect(if mixed { 400 } else { 409 })["detail"].as_str().unwrap().to_owned();
            assert!(mixed || detail.contains("looks like Studio 1, which is in use"), "{path}: {detail}");
        }
        operator.post(&path, named(&second, "Studio 1")).await.expect(if twice { 201 } else { 409 });
        operator.post(&path, named(&second, "Studio 2")).await.expect(201);
        if let Some((path, body)) = elsewhere {
            operator.post(&path, named(&body, "Studio I")).await.expect(201);
        }
    }
    let kinds: Vec<String> = sqlx::query_scalar("select distinct kind from name_look order by 1")
        .fetch_all(gateway.db.pool())
        .await
        .unwrap();
    let named: Vec<String> = sqlx::query_scalar(
        "select c.table_name::text from information_schema.columns c join information_schema.tables t \
           on t.table_schema = c.table_schema and t.table_name = c.table_name and t.table_type = 'BASE TABLE' \
         where c.table_schema = 'public' and c.column_name = 'name' \
           and c.table_name not in ('epoch', 'name_look', 'schema_definition') and c.table_name not like 'label%' order by 1",
    )
    .fetch_all(gateway.db.pool())
    .await
    .unwrap();
    // A label is a word that a caller writes on tasks, and nobody's name.
    assert_eq!(kinds, named, "the tables of what has a name");
}

/// What is revoked has no name in use, what was called so before stays, and Unicode's tables may change.
#[tokio::test]
async fn names_that_look_alike_already_stay() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let keys = format!("/admin/v1/orgs/{}/keys", gateway.caller.org);
    let body = |name: &str| json!({"user_id": gateway.caller.user, "name": name});
    let made = operator.post(&keys, body("ci 1")).await.expect(201);
    let one = format!("/admin/v1/keys/{}", made["key_id"].as_str().unwrap());
    operator.post(&keys, body("ci l")).await.expect(409);
    operator.post(&format!("{one}/revoke"), json!({})).await.expect(200);
    let second = operator.post(&keys, body("ci l")).await.expect(201);

    // As if it had been made before there was a rule for keys.
    sqlx::query("delete from name_look").execute(gateway.db.pool()).await.unwrap();
    operator.post(&keys, body("ci I")).await.expect(201);
    sqlx::query("update letter_look set written = 'of before' where letter = ''")
        .execute(gateway.db.pool())
        .await
        .unwrap();
    gateway.db.database().migrate().await.unwrap();
    operator.post(&keys, body("ci 1")).await.expect(409);
    let second = format!("/admin/v1/keys/{}", second["key_id"].as_str().unwrap());
    operator
        .patch(&second, json!({"name": "ci l", "allowed_types": ["std-text-to-video"]}))
        .await
        .expect(200);
    operator.patch(&second, json!({"name": "CI L"})).await.expect(200);
    operator.patch(&second, json!({"name": "CI 1"})).await.expect(409);
}

/// A name that is in use a thousand times is compared with what looks like it, and not with itself.
#[tokio::test]
async fn a_name_that_many_have_costs_no_more_than_another() {
    let db = TestDatabase::new().await;
    let mut transaction = db.pool().begin().await.unwrap();
    let mut add = async |some: i32| {
        sqlx::query(
            "insert into operator_token (token_id, public_id, name, role, secret_sha256) \
             select gen_random_uuid(), gen_random_uuid()::text, 'laptop', 'operator_read', sha256('x') \
             from generate_series(1, $1)",
        )
        .bind(some)
        .execute(&mut *transaction)
        .await
        .unwrap();
        let read =
            "select idx_tup_fetch + seq_tup_read from pg_stat_xact_user_tables where relname = 'name_look'";
        sqlx::query_scalar::<_, i64>(read).fetch_one(&mut *transaction).await.unwrap()
    };
    let before = add(1_000).await;
    let after = add(1).await;
    assert!(after - before < 10, "{} rows were read for one more", after - before);
}
