//! What callers can ask about themselves, the prices, and the cost of a task.

use reqwest::Method;
use serde_json::json;
use tollgate::store::{KeySpec, Rates};

use crate::support::gateway::{Answer, TestGateway};

#[tokio::test]
async fn a_caller_is_told_who_it_is_and_what_its_key_may_do() {
    let gateway = TestGateway::start().await;
    let spec = KeySpec {
        allowed_types: Some(vec!["pro-text-to-video".into()]),
        allowed_networks: Some(vec!["127.0.0.0/8".parse().unwrap()]),
        rates: Rates { create: Some(7), status: None },
        ..KeySpec::default()
    };
    let key = gateway.another_key(spec).await;
    let me = Answer::to(gateway.request(Method::GET, "/api/me").bearer_auth(&key.text)).await.expect(200);
    let data = &me["data"];
    assert_eq!(data["organisation"]["name"], "a customer");
    assert_eq!(data["organisation"]["org_id"], json!(gateway.caller.org));
    assert_eq!(data["user"], json!({"user_id": key.user, "name": "a user"}));
    assert_eq!((&data["team"], &data["role"]), (&json!(null), &json!("member")));
    assert_eq!(data["key"]["key_id"], json!(key.key));
    assert_eq!(data["key"]["allowed_types"], json!(["pro-text-to-video"]));
    assert_eq!(data["key"]["allowed_networks"], json!(["127.0.0.0/8"]));
    assert_eq!(data["key"]["create_per_minute"], 7);
    assert!(!me.to_string().contains(&key.text), "no secret");
}

#[tokio::test]
async fn prices_are_told_with_what_a_create_of_each_type_takes() {
    let gateway = TestGateway::start().await;
    let prices = gateway.get("/api/prices").await.expect(200);
    let types = prices["data"]["types"].as_array().unwrap();
    assert!(types.len() > 5);
    for one in types {
        let name = one["type"].as_str().unwrap();
        let fields = &one["fields"];
        let mut body = json!({"type": name, "prompt": "x"});
        if let Some(least) = fields["seconds"]["least"].as_u64() {
            body["duration"] = json!(least);
        }
        for (field, value) in [
            ("image", json!("https://x/i")),
            ("images", json!(["https://x/i"])),
            ("video", json!("https://x/v")),
        ] {
            if ["required", "one_of"].contains(&fields[field].as_str().unwrap()) {
                body[field] = value;
            }
        }
        let quote =
            Answer::to(gateway.call(Method::POST, "/api/quote").body(body.to_string())).await.expect(200);
        let price = &one["price"];
        let seconds =
            if price["unit"] == "second" { fields["seconds"]["least"].as_i64().unwrap() } else { 1 };
        let unit = price["credits_with_audio"].as_i64().or(price["credits"].as_i64()).unwrap();
        assert_eq!(quote["data"]["list_price"], unit * seconds, "{name}");
    }
}

#[tokio::test]
async fn a_task_tells_why_it_cost_what_it_cost() {
    let gateway = TestGateway::start().await;
    let task = gateway.task("a proof").await;
    gateway.finished(&task).await;
    let answer = gateway.get(&format!("/api/tasks/{task}")).await.expect(200);
    let data = &answer["data"];
    assert_eq!((&data["status"], &data["state"]), (&json!("SUCCESS"), &json!("SETTLED")));
    assert_eq!((&data["price_book"], &data["price_factor_bp"]), (&json!(1), &json!(10_000)));
    for figure in ["list_price", "held_credits", "reported_credits", "consumed_credits"] {
        assert_eq!(data[figure], 400, "{figure}");
    }
    assert_eq!((&data["user_name"], &data["key_name"]), (&json!("a user"), &json!("a key")));
    for time in ["created_at", "accepted_at", "ended_at", "entry_id"] {
        assert!(data[time].is_string(), "{time}: {answer}");
    }
    let by_reference = data["reference"].as_str().unwrap();
    assert_eq!(gateway.get(&format!("/api/tasks/{by_reference}")).await.expect(200)["data"]["task_id"], task);
    let stranger = gateway.another_org("stranger", 0).await;
    let call = gateway.request(Method::GET, &format!("/api/tasks/{task}")).bearer_auth(&stranger.text);
    Answer::to(call).await.refused(404, "TASK_NOT_FOUND");
}
