//! The data plane describes itself: every operation, every code, and a page for people that needs no other site.

use std::collections::BTreeSet;

use reqwest::{Method, Response};
use serde_json::{Value, json};
use tollgate::admin::api::Audience;
use tollgate::wire::Code;

use crate::support::gateway::{Answer, TestGateway, body};

async fn open(gateway: &TestGateway, path: &str) -> Response {
    gateway.request(Method::GET, path).send().await.unwrap()
}

async fn document(gateway: &TestGateway) -> Value {
    let answer = open(gateway, "/openapi.json").await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (200, &"application/json".parse().unwrap())
    );
    answer.json().await.unwrap()
}

/// Every value of `key` at any depth.
fn all<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                if name == key {
                    found.push(inner);
                }
                all(inner, key, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| all(item, key, found)),
        _ => {}
    }
}

/// The codes that the document has for an answer of this status.
fn codes(document: &Value, path: &str, method: &str, status: u16) -> BTreeSet<String> {
    let mut found = Vec::new();
    let answer = &document["paths"][path][method]["responses"][status.to_string()];
    all(&answer["content"]["application/json"]["schema"]["properties"]["error"], "enum", &mut found);
    let words = found.into_iter().flat_map(|words| words.as_array().unwrap());
    words.map(|word| word.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn every_operation_and_every_code_is_in_the_document() {
    let gateway = TestGateway::start().await;
    let document = document(&gateway).await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    let paths: BTreeSet<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "/api/credits",
        "/api/generate",
        "/api/me",
        "/api/prices",
        "/api/quote",
        "/api/status",
        "/api/tasks",
        "/api/tasks/{task_id}",
        "/api/tasks/{task_id}/content",
        "/healthz",
    ];
    assert_eq!(paths, expected.into());
    let mut references = Vec::new();
    all(&document, "$ref", &mut references);
    for reference in references {
        let pointer = reference.as_str().unwrap().strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    for operation in ["generate", "quote"].map(|name| &document["paths"][format!("/api/{name}")]["post"]) {
        assert_eq!(operation["security"], json!([{"bearer": []}]));
    }
    assert!(document["paths"]["/healthz"]["get"].get("security").is_none());

    // What no operation can answer has another path, or another method.
    let text = document.to_string();
    let elsewhere = [Code::NotFound, Code::MethodNotAllowed];
    for code in Code::ALL.iter().filter(|code| !elsewhere.contains(code)) {
        assert!(text.contains(code.as_str()), "{} is not documented", code.as_str());
    }
}

#[tokio::test]
async fn what_is_answered_is_what_is_documented() {
    let gateway = TestGateway::builder().credits(400).start().await;
    let document = document(&gateway).await;
    let quoted = gateway.call(Method::POST, "/api/quote?valid_for=10").body(body("x").to_string());
    let calls = [
        ("/api/generate", "post", gateway.creating(body("x").to_string())),
        ("/api/generate", "post", gateway.creating(body("poor").to_string())),
        ("/api/generate", "post", gateway.creating("{}")),
        ("/api/generate", "post", gateway.request(Method::POST, "/api/generate")),
        ("/api/quote", "post", quoted),
        (
            "/api/quote",
            "post",
            gateway.call(Method::POST, "/api/quote?valid_for=x").body(body("x").to_string()),
        ),
        ("/api/status", "get", gateway.call(Method::GET, "/api/status")),
        ("/api/status", "get", gateway.call(Method::GET, "/api/status?task_id=nothing")),
        ("/api/credits", "get", gateway.call(Method::GET, "/api/credits")),
        ("/api/tasks", "get", gateway.call(Method::GET, "/api/tasks?status=SUCCESS")),
        ("/api/tasks", "get", gateway.call(Method::GET, "/api/tasks?status=DONE")),
    ];
    for (path, method, call) in calls {
        let answer = Answer::to(call).await;
        let documented = &document["paths"][path][method]["responses"][answer.status.to_string()];
        assert!(documented.is_object(), "{path}: {answer:?}");
        for name in answer.headers.keys().filter(|name| {
            // Every answer has these.
            let usual = ["content-type", "content-length", "date", "cache-control", "x-content-type-options"];
            !usual.contains(&name.as_str())
        }) {
            let known = documented["headers"].as_object().unwrap().keys();
            assert!(
                known.into_iter().any(|known| known.eq_ignore_ascii_case(name.as_str())),
                "{path}: {name}"
            );
        }
        let (json, vendors) = (answer.json(), (path, answer.status) == ("/api/generate", 400));
        match json["error"].as_str() {
            Some(code) => {
                assert!(vendors || codes(&document, path, method, answer.status).contains(code), "{answer:?}")
            }
            // Of our own data every field is described.
            None => {
                let envelope = &documented["content"]["application/json"]["schema"]["$ref"];
                let envelope = document.pointer(&envelope.as_str().unwrap()[1..]).unwrap();
                let mut fields = Vec::new();
                let data = &envelope["properties"]["data"];
                let data = data["$ref"].as_str().map_or(data, |name| document.pointer(&name[1..]).unwrap());
                let balance = document.pointer("/components/schemas/Balance").unwrap();
                for schema in [data, balance] {
                    all(schema, "properties", &mut fields);
                }
                for name in json["data"].as_object().unwrap().keys() {
                    let open = data["additionalProperties"] == true;
                    assert!(open || fields.iter().any(|fields| fields.get(name).is_some()), "{path}: {name}");
                }
            }
        }
    }
}

#[tokio::test]
async fn the_page_for_people_comes_whole_from_here() {
    let gateway = TestGateway::start().await;
    let page = open(&gateway, "/docs/").await;
    assert_eq!(page.headers()["content-type"], "text/html");
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("default-src 'self'") && !policy.contains("http"), "{policy}");
    assert!(page.text().await.unwrap().contains("swagger-ui-bundle.js"));
    let start = open(&gateway, "/docs/swagger-initializer.js").await.text().await.unwrap();
    assert!(start.contains("/openapi.json"), "{start}");
    assert_eq!(open(&gateway, "/docs").await.headers()["location"], "/docs/");
    Answer::of(open(&gateway, "/docs/nothing").await).await.refused(404, "NOT_FOUND");
    for path in ["/docs/", "/openapi.json", "/healthz"] {
        let refused = Answer::to(gateway.request(Method::POST, path)).await;
        refused.refused(405, "METHOD_NOT_ALLOWED");
        assert_eq!(refused.header("allow"), "GET, HEAD");
    }
}

#[tokio::test]
async fn the_examples_are_creates_of_every_kind_and_can_be_priced() {
    let gateway = TestGateway::start().await;
    let document: Value = open(&gateway, "/openapi.json").await.json().await.unwrap();
    let mut types = Vec::new();
    for path in ["/api/generate", "/api/quote"] {
        let content = &document["paths"][path]["post"]["requestBody"]["content"];
        for example in content["application/json"]["examples"].as_object().unwrap().values() {
            assert!(example["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{example}");
            let quoted = gateway.request(Method::POST, "/api/quote").bearer_auth(&gateway.caller.text);
            Answer::to(quoted.body(example["value"].to_string())).await.expect(200);
            types.push(example["value"]["type"].as_str().unwrap().to_owned());
        }
    }
    let prices = gateway.get("/api/prices").await.expect(200);
    for one in prices["data"]["types"].as_array().unwrap() {
        let name = one["type"].as_str().unwrap();
        let kinds = ["text-to-video", "image-to-video", "reference-to-video", "video-edit"];
        let kind = kinds.into_iter().find(|kind| name.ends_with(kind)).unwrap();
        assert!(types.iter().any(|example| example.ends_with(kind)), "no example of {name}");
    }
}

/// What a document leaves without a description: generators refuse a response without one, and the tools that are made from a
/// document have nothing else to go by.
fn undescribed(document: &Value) -> Vec<String> {
    let missing = |part: &Value| part["description"].as_str().is_none_or(|text| text.trim().is_empty());
    let mut found = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let place = format!("{method} {path}");
            if operation["summary"].as_str().is_none_or(str::is_empty) {
                found.push(format!("{place}: no summary"));
            }
            for (status, response) in operation["responses"].as_object().unwrap() {
                if missing(response) {
                    found.push(format!("{place}: response {status}"));
                }
                for (name, header) in response["headers"].as_object().into_iter().flatten() {
                    if missing(header) {
                        found.push(format!("{place}: header {name} of response {status}"));
                    }
                }
            }
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                if missing(parameter) {
                    found.push(format!("{place}: parameter {}", parameter["name"]));
                }
            }
            if operation.get("requestBody").is_some_and(missing) {
                found.push(format!("{place}: body"));
            }
            // Tools for language models have one object of arguments.
            for content in
                operation["requestBody"]["content"].as_object().into_iter().flat_map(|map| map.values())
            {
                let schema = &content["schema"];
                let schema =
                    schema["$ref"].as_str().map_or(schema, |name| document.pointer(&name[1..]).unwrap());
                if schema["type"] != "object" {
                    found.push(format!("{place}: the body is not described as one object"));
                }
            }
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        if missing(schema) {
            found.push(format!("schema {name}"));
        }
    }
    found
}

#[test]
fn every_response_parameter_body_and_schema_has_a_description() {
    for document in [
        tollgate::handlers::document(),
        tollgate::admin::api::document(Audience::Everybody),
        tollgate::admin::api::document(Audience::Tenants),
    ] {
        let document = serde_json::to_value(document).unwrap();
        assert!(document["paths"].as_object().unwrap().len() > 5);
        assert_eq!(undescribed(&document), [""; 0], "{}", document["info"]["title"]);
    }
}

/// Many a tool sends the examples of a document as they stand.
#[tokio::test]
async fn the_example_of_a_create_is_the_cheapest_task_that_needs_no_image() {
    let gateway = TestGateway::start().await;
    let document = document(&gateway).await;
    let schema = &document["components"]["schemas"]["CreateBody"];
    let quoted = async |body: &Value| {
        let call = gateway.call(Method::POST, "/api/quote").body(body.to_string());
        Answer::to(call).await.json()["data"]["credits"].as_i64()
    };
    let example = quoted(&schema["example"]).await.unwrap();
    let fields = schema["properties"].as_object().unwrap();
    let of_fields: serde_json::Map<String, Value> = fields
        .iter()
        .filter_map(|(name, field)| Some((name.clone(), field.get("example")?.clone())))
        .collect();
    assert_eq!(quoted(&of_fields.into()).await, Some(example), "field by field it is the same task");
    let mut compared = 0;
    for family in ["", "o3-"] {
        for grade in ["std", "pro"] {
            let other =
                json!({"type": format!("{family}{grade}-text-to-video"), "prompt": "x", "duration": 3});
            let other = quoted(&other).await.unwrap();
            assert!(example <= other, "{example} is more than {other}");
            compared += 1;
        }
    }
    assert_eq!(compared, 4);
}

#[test]
fn ids_in_examples_are_placeholders() {
    let document = serde_json::to_value(tollgate::admin::api::document(Audience::Everybody)).unwrap();
    let mut seen = 0;
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        if name.ends_with("Id") {
            let example = schema["examples"][0].as_str().unwrap_or_default();
            assert!(example.ends_with(&format!("_{}", "0".repeat(32))), "{name}: {example}");
            seen += 1;
        }
    }
    assert!(seen > 5, "only {seen} kinds of ids were found");
}
