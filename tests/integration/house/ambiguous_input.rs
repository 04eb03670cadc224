//! Whatever is given twice is refused, and named. Both OpenAPI documents say what there is to give: no operation, field,
//! parameter or header of them can be forgotten here.

use futures_util::{StreamExt, stream};
use reqwest::Method;
use serde_json::{Value, json};
use tollgate::store::OperatorRole;

use crate::support::admin_client::AdminClient;
use crate::support::gateway::{TestGateway, body};
use crate::support::process::Scratch;

/// An operation that wants credentials, with something in the place of each part of its path.
struct Operation {
    method: Method,
    path: String,
    /// The fields of its body, if it has one.
    fields: Option<Vec<String>>,
    query: Vec<String>,
    headers: Vec<String>,
}

fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => document.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
        None => schema,
    }
}

/// The fields of a schema, also of one that has several forms.
fn fields(document: &Value, schema: &Value) -> Vec<String> {
    let schema = resolved(document, schema);
    let own = schema["properties"].as_object().into_iter().flat_map(|properties| properties.keys().cloned());
    let forms = ["oneOf", "anyOf", "allOf"].into_iter().flat_map(|of| schema[of].as_array()).flatten();
    let mut all: Vec<String> = own.chain(forms.flat_map(|form| fields(document, form))).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Something that can stand in a path: the id of nobody, the first version, a name.
fn something(schema: &Value) -> String {
    let pattern = schema["pattern"].as_str().and_then(|pattern| pattern.strip_prefix('^'));
    match (pattern.and_then(|pattern| pattern.split_once("_[")), schema["type"].as_str()) {
        (Some((prefix, _)), _) => format!("{prefix}_{}", "0".repeat(32)),
        (None, Some("integer")) => "1".into(),
        _ => "x".into(),
    }
}

fn operations(document: &Value) -> Vec<Operation> {
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            if operation["security"].is_null() {
                continue;
            }
            let (mut at, mut query, mut headers) = (path.clone(), Vec::new(), Vec::new());
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let name = parameter["name"].as_str().unwrap();
                match parameter["in"].as_str().unwrap() {
                    "path" => {
                        let schema = resolved(document, &parameter["schema"]);
                        at = at.replace(&format!("{{{name}}}"), &something(schema));
                    }
                    "query" => query.push(name.to_owned()),
                    "header" => headers.push(name.to_owned()),
                    other => panic!("{method} {path}: teach this test of {other}"),
                }
            }
            assert!(!at.contains('{'), "{method} {path}: a part of the path is not described");
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let fields = (!operation["requestBody"].is_null()).then(|| fields(document, schema));
            let method = method.to_uppercase().parse().unwrap();
            operations.push(Operation { method, path: at, fields, query, headers });
        }
    }
    operations
}

/// Bodies in which one key stands twice, and its path. That they are no good otherwise does not matter.
fn bodies(field: &str) -> [(String, String); 4] {
    let spelled: String = field.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
    [
        (format!(r#"{{"{field}":1,"{field}":2}}"#), field.to_owned()),
        (format!(r#"{{"{field}":1,"{spelled}":1}}"#), field.to_owned()),
        (format!(r#"{{"{field}":{{"a":{{"b":80,"b":8}}}}}}"#), format!("{field}.a.b")),
        (format!(r#"{{"{field}":[{{"b":1}},{{"b":1,"c":2,"b":1}}]}}"#), format!("{field}[1].b")),
    ]
}

/// How one plane is called, and where its refusals say what is wrong.
struct Plane<'a> {
    gateway: &'a TestGateway,
    base: String,
    token: String,
    words: &'static str,
}

impl Plane<'_> {
    async fn refused(
        &self,
        operation: &Operation,
        query: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
        expected: &str,
    ) {
        let (method, path) = (operation.method.clone(), &operation.path);
        let mut call = self.gateway.client.request(method, format!("{}{path}{query}", self.base));
        call = call.bearer_auth(&self.token);
        for (name, value) in headers {
            call = call.header(*name, *value);
        }
        if let Some(body) = body.clone() {
            call = call.body(body);
        }
        let answer = call.send().await.unwrap();
        let status = answer.status().as_u16();
        let said: Value = answer.json().await.unwrap();
        let what = format!("{} {path}{query} {headers:?} {body:?}: {said:#}", operation.method);
        assert_eq!(status, 400, "{what}");
        let said = said[self.words].as_str().unwrap();
        assert!(said.contains(expected) && said.contains("given twice"), "{what}");
    }

    /// How many bodies, parameters and headers were tried.
    async fn refuses_all(&self, document: &Value) -> [usize; 3] {
        let (mut tried, mut calls) = ([0; 3], Vec::new());
        let operations = operations(document);
        for operation in &operations {
            // A field that nobody knows is no exception.
            let fields =
                operation.fields.iter().flat_map(|fields| fields.iter().map(String::as_str).chain(["x"]));
            for (body, path) in fields.flat_map(bodies) {
                calls.push((operation, String::new(), None, Some(body), format!("'{path}'")));
                tried[0] += 1;
            }
            for name in &operation.query {
                calls.push((operation, format!("?{name}=1&{name}=1"), None, None, format!("'{name}'")));
                tried[1] += 1;
            }
            for name in operation.headers.iter().map(String::as_str) {
                calls.push((operation, String::new(), Some([(name, "1"); 2]), None, name.to_owned()));
                tried[2] += 1;
            }
            // Beside the token itself.
            let token = [("authorization", "Bearer x"); 2];
            calls.push((operation, String::new(), Some(token), None, "Authorization".into()));
            tried[2] += 1;
        }
        let calls = calls.into_iter().map(|(operation, query, headers, body, expected)| async move {
            let headers = headers.as_ref().map_or(&[][..], |headers| &headers[..]);
            self.refused(operation, &query, headers, body, &expected).await;
        });
        stream::iter(calls).buffer_unordered(16).for_each(|()| std::future::ready(())).await;
        tried
    }
}

async fn audit_log(operator: &AdminClient<'_>) -> Value {
    operator.get("/admin/v1/audit-log?limit=200").await.expect(200)
}

#[tokio::test]
async fn no_operation_of_the_management_api_takes_a_thing_twice() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let before = audit_log(&operator).await;
    let document = operator.get("/openapi.json").await.expect(200);
    let (base, token) = (gateway.admin_url(""), operator.token.clone());
    let plane = Plane { gateway: &gateway, base, token, words: "detail" };
    let [bodies, parameters, headers] = plane.refuses_all(&document).await;
    assert!(bodies > 400 && parameters > 60 && headers > 80, "{bodies} {parameters} {headers}");
    for operation in operations(&document).iter().filter(|operation| operation.fields.is_some()) {
        let types = [("content-type", "application/json"), ("content-type", "text/plain")];
        plane.refused(operation, "", &types, Some("{}".into()), "Content-Type").await;
    }
    assert_eq!(audit_log(&operator).await, before, "nothing of it was done");
}

#[tokio::test]
async fn no_operation_of_the_data_plane_takes_a_thing_twice() {
    let gateway = TestGateway::start().await;
    let base = format!("http://{}", gateway.address());
    let document: Value =
        gateway.client.get(format!("{base}/openapi.json")).send().await.unwrap().json().await.unwrap();
    let plane = Plane { gateway: &gateway, base, token: gateway.caller.text.clone(), words: "message" };
    let create =
        operations(&document).into_iter().find(|operation| operation.path == "/api/generate").unwrap();
    for name in ["Idempotency-Key", "X-Tollgate-Quote", "X-Tollgate-Resend"] {
        assert!(create.headers.iter().any(|known| known == name), "{name}");
        for values in [["yes", "yes"], ["a", "b"]] {
            let headers = [(name, values[0]), (name, values[1])];
            plane.refused(&create, "", &headers, Some(body("x").to_string()), name).await;
        }
    }
    let [bodies, parameters, headers] = plane.refuses_all(&document).await;
    assert!(bodies > 80 && parameters > 8 && headers > 7, "{bodies} {parameters} {headers}");
    assert_eq!(gateway.holds().await.len(), 0);
    assert_eq!(gateway.upstream_creates().await, (0, 0));
}

#[tokio::test]
async fn a_price_that_stands_twice_makes_no_book() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let books = async || operator.get("/admin/v1/price-books").await.expect(200)["items"].clone();
    let before = books().await;
    let price = |credits| format!(r#""pro-text-to-video":{{"unit":"second","credits":{credits}}}"#);
    let book = format!(r#"{{"name":"twice","prices":{{{},{}}}}}"#, price(80), price(8));
    let call = gateway.client.post(gateway.admin_url("/admin/v1/price-books")).bearer_auth(&operator.token);
    let answer = call.body(book.clone()).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 400);
    let problem: Value = answer.json().await.unwrap();
    let said = problem["detail"].as_str().unwrap();
    assert_eq!(said, "the body: the key 'prices.pro-text-to-video' is given twice");

    let scratch = Scratch::new();
    let line = |credits| format!("pro-text-to-video = {{ unit = \"second\", credits = {credits} }}\n");
    let toml = format!("name = \"twice\"\n[prices]\n{}{}", line(80), line(8));
    for (name, text) in [("book.json", &book), ("book.toml", &toml)] {
        let said = gateway.admin_says(&["price", "import", &scratch.file(name, text)]).await;
        assert_eq!(said.code, 2, "{said:?}");
        assert!(said.err.contains(name) && said.err.contains("pro-text-to-video"), "{said:?}");
    }
    assert_eq!(books().await, before);
    let once = scratch.file("once.json", &format!(r#"{{"name":"once","prices":{{{}}}}}"#, price(80)));
    assert_eq!(gateway.admin_says(&["price", "import", &once]).await.code, 0);

    let roles = ["identity-provider", "create", "--name", "x", "--operators", "--role-claim", "groups"];
    let said =
        gateway.admin_says(&[&roles[..], &["--roles", "ops=operator,ops=operator_read"]].concat()).await;
    assert!(said.code == 2 && said.err.contains("'ops' is given twice"), "{said:?}");
}

#[tokio::test]
async fn two_idempotency_keys_on_a_grant_move_nothing() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let grants = format!("/admin/v1/orgs/{}/credits/grants", gateway.caller.org);
    let keys = [("idempotency-key", "a"), ("Idempotency-Key", "b")];
    let grant = json!({"credits": 5, "reason": "x"});
    let answer = operator.call_with(Method::POST, &grants, Some(grant.clone()), &keys).await.expect(400);
    assert!(answer["detail"].as_str().unwrap().contains("Idempotency-Key is given twice"), "{answer}");
    assert_eq!(gateway.balance().await, [1_000_000, 0, 0]);
    operator.call_with(Method::POST, &grants, Some(grant), &keys[..1]).await.expect(201);
    assert_eq!(gateway.balance().await, [1_000_005, 0, 0]);
}
