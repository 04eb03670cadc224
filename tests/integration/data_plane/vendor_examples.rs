//! A client of the vendor changes its base URL and its key, and nothing else: the vendor's documents, byte for byte.

use serde_json::{Value, json};

use crate::support::gateway::{RawClient, TestGateway};

const QUICK_START: &str = r#"{
 "type": "pro-text-to-video",
 "prompt": "A cinematic shot of mountains at sunrise",
 "duration": 5,
 "aspect_ratio": "16:9"
 }"#;
const TEXT: &str = r#"{
 "type": "pro-text-to-video",
 "prompt": "A majestic eagle soaring through clouds at sunset",
 "duration": 5,
 "aspect_ratio": "16:9",
 "sound": true
}"#;
const IMAGE: &str = r#"{
 "type": "pro-image-to-video",
 "prompt": "The character slowly turns and smiles",
 "image": "https://example.com/my-image.jpg",
 "duration": 5
}"#;
const REFERENCE: &str = r#"{
 "type": "o3-pro-reference-to-video",
 "prompt": "The character walks through a futuristic city",
 "images": [
 "https://example.com/character-reference.jpg",
 "https://example.com/style-reference.jpg"
 ],
 "duration": 5,
 "aspect_ratio": "16:9"
}"#;
const EDIT: &str = r#"{
 "type": "o3-pro-video-edit",
 "prompt": "Change the background to a snowy mountain landscape",
 "video": "https://example.com/original-video.mp4",
 "keep_original_sound": true
}"#;

/// What curl writes for `-X POST -H -H -d`.
fn post(gateway: &TestGateway, body: &str) -> String {
    format!(
        "POST /api/generate HTTP/1.1\r\nHost: {}\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\
         Authorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        gateway.address(),
        gateway.caller.text,
        body.len()
    )
}

fn get(gateway: &TestGateway, task: &str) -> String {
    format!(
        "GET /api/status?task_id={task} HTTP/1.1\r\nHost: {}\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\
         Authorization: Bearer {}\r\n\r\n",
        gateway.address(),
        gateway.caller.text
    )
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn documented_requests_get_documented_answers_and_are_settled_to_the_credit() {
    let gateway = TestGateway::start().await;
    let mut connection = RawClient::connect(gateway.address()).await;
    let mut spent = 0;
    for (request, credits, id) in [
        (QUICK_START, 400, ("n75", "kling3")),
        (TEXT, 400, ("n75", "kling3")),
        (IMAGE, 400, ("n75", "kling3")),
        (REFERENCE, 360, ("n71", "klingo3")),
        (EDIT, 435, ("n71", "klingo3")),
    ] {
        connection.write(post(&gateway, request).as_bytes()).await;
        let created = connection.read().await;
        let task = created.task_id();
        assert!(task.starts_with(id.0) && task.ends_with(id.1), "{task}");
        let data = json!({"task_id": task, "status": "IN_PROGRESS", "consumed_credits": credits});
        assert_eq!(created.json(), json!({"code": 200, "message": "success", "data": data}));

        gateway.finished(&task).await;
        connection.write(get(&gateway, &task).as_bytes()).await;
        let answer = connection.read().await.expect(200);
        assert_eq!(keys(&answer), ["code", "data", "message"]);
        let data = &answer["data"];
        let documented = [
            "consumed_credits",
            "created_at",
            "error_message",
            "request",
            "response",
            "status",
            "task_id",
            "type",
        ];
        assert_eq!(keys(data), documented);
        assert_eq!(data["task_id"], task.as_str());
        assert_eq!(data["status"], "SUCCESS");
        assert_eq!(data["consumed_credits"], credits);
        assert!(data["response"][0].as_str().unwrap().ends_with(".mp4"));
        assert_eq!(data["error_message"], Value::Null);
        let sent: Value = serde_json::from_str(request).unwrap();
        assert_eq!(data["type"], sent["type"]);
        for (field, value) in sent.as_object().unwrap() {
            assert_eq!(&data["request"][field], value, "{field}");
        }
        spent += credits;
        assert_eq!(gateway.balance().await, [1_000_000 - spent, 0, spent]);
    }
    assert_eq!(gateway.books().await["consumed"], spent);
}

#[tokio::test]
async fn each_type_is_held_shown_and_charged_at_its_list_price() {
    // Per second without and with sound, or the fixed price; and what the type needs besides its prompt.
    let list = [
        ("pro-text-to-video", (54, 80), ""),
        ("pro-image-to-video", (54, 80), r#","image":"https://example.com/a.jpg""#),
        ("std-text-to-video", (40, 60), ""),
        ("std-image-to-video", (40, 60), r#","image":"https://example.com/a.jpg""#),
        ("o3-pro-text-to-video", (48, 48), ""),
        ("o3-pro-image-to-video", (48, 48), r#","image":"https://example.com/a.jpg""#),
        ("o3-pro-reference-to-video", (72, 72), r#","images":["https://example.com/a.jpg"]"#),
        ("o3-std-text-to-video", (36, 36), ""),
        ("o3-std-image-to-video", (36, 36), r#","image":"https://example.com/a.jpg""#),
        ("o3-std-reference-to-video", (20, 20), r#","video":"https://example.com/a.mp4""#),
    ];
    let mut creates = vec![];
    for (name, (silent, loud), source) in list {
        for (duration, seconds) in [("", 5), (r#","duration":3"#, 3), (r#","duration":"15""#, 15)] {
            for (sound, rate) in [("", loud), (r#","sound":true"#, loud), (r#","sound":false"#, silent)] {
                creates.push((name, format!("{source}{duration}{sound}"), seconds * rate));
            }
        }
    }
    for (name, price) in [("o3-pro-video-edit", 435), ("o3-std-video-edit", 360)] {
        for more in ["", r#","duration":15,"sound":false"#, r#","duration":"auto""#] {
            creates.push((name, format!(r#","video":"https://example.com/a.mp4"{more}"#), price));
        }
    }
    let gateway = TestGateway::start().await;
    let mut tasks: Vec<(String, i64)> = Vec::new();
    for (name, more, price) in &creates {
        let request = format!(r#"{{"type":"{name}","prompt":"x"{more}}}"#);
        let answer = crate::support::gateway::Answer::to(gateway.creating(request.clone())).await;
        assert_eq!(answer.data()["consumed_credits"], *price, "{request}");
        assert_eq!(gateway.last_hold().await.amount, *price, "{request}");
        tasks.push((answer.task_id(), *price));
    }
    for (task, price) in &tasks {
        let data = gateway.finished(task).await.data();
        assert_eq!((&data["status"], &data["consumed_credits"]), (&json!("SUCCESS"), &json!(price)));
    }
    let total: i64 = creates.iter().map(|(_, _, price)| price).sum();
    assert_eq!(gateway.balance().await, [1_000_000 - total, 0, total]);
    assert_eq!(gateway.books().await["consumed"], total);
}
