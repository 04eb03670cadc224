//! What is refused before any credit moves, and with which code.

use reqwest::Method;
use reqwest::header::AUTHORIZATION;
use serde_json::{Value, json};
use tollgate::api_key::NewKey;

use crate::support::gateway::{Answer, TestGateway, body};

/// Nothing was held, charged or sent.
async fn nothing_moved(gateway: &TestGateway, credits: i64) {
    assert_eq!(gateway.balance().await, [credits, 0, 0]);
    assert_eq!(gateway.holds().await.len(), 0);
    assert_eq!(gateway.upstream_creates().await, (0, 0));
}

fn of(name: &str, more: &str) -> String {
    format!(r#"{{"type":"{name}","prompt":"x"{more}}}"#)
}

fn text(more: &str) -> String {
    of("pro-text-to-video", more)
}

fn prompt(text: &str) -> String {
    format!(r#"{{"type":"std-text-to-video","prompt":"{text}"}}"#)
}

fn bad_requests() -> Vec<(String, &'static str)> {
    let mut rows = Vec::new();
    let mut refuse = |code, bodies: Vec<String>| rows.extend(bodies.into_iter().map(|body| (body, code)));
    let mut objects = vec![
        String::new(),
        "no json".into(),
        "[]".into(),
        r#"["type"]"#.into(),
        "null".into(),
        "5".into(),
        r#""text""#.into(),
        text("").replace('}', ""),
        format!("{} {}", text(""), text("")),
        format!("\u{feff}{}", text("")),
        text(r#","prompt":"y""#),
        text(r#","typ\u0065":"std-text-to-video""#),
        text(r#","extra":{"a":[{"b":1,"b":2}]}"#),
        text(&format!(r#","deep":{}{}"#, "[".repeat(100_000), "]".repeat(100_000))),
    ];
    for option in [
        r#""cfg_scale":1.01"#,
        r#""cfg_scale":-0.1"#,
        r#""cfg_scale":"0.5""#,
        r#""cfg_scale":true"#,
        r#""cfg_scale":1e999"#,
        r#""sound":"true""#,
        r#""sound":1"#,
        r#""keep_original_sound":0"#,
        r#""end_image":["https://example.com/a.jpg"]"#,
        r#""end_image":5"#,
        r#""negative_prompt":{"no":"rain"}"#,
        r#""negative_prompt":false"#,
    ] {
        objects.push(text(&format!(",{option}")));
    }
    refuse("INVALID_REQUEST", objects);
    let types = ["{}", r#"{"type":null,"prompt":"x"}"#, r#"{"type":5,"prompt":"x"}"#, r#"{"prompt":"x"}"#];
    let mut types: Vec<String> = types.map(Into::into).into();
    types.extend(["", "pro-text-to-video ", "PRO-TEXT-TO-VIDEO", "sora"].map(|name| of(name, "")));
    refuse("INVALID_TYPE", types);
    refuse(
        "INVALID_PROMPT",
        vec![
            r#"{"type":"pro-text-to-video"}"#.into(),
            r#"{"type":"pro-text-to-video","prompt":null}"#.into(),
            r#"{"type":"pro-text-to-video","prompt":["x"]}"#.into(),
            prompt(""),
            prompt(" \\n\\t "),
            prompt("\u{3000}\u{a0}"),
            prompt(&"a".repeat(2001)),
            prompt(&"🦅".repeat(2001)),
        ],
    );
    let durations = [
        "2",
        "16",
        "0",
        "-5",
        "5.5",
        "\"five\"",
        "\"\"",
        "true",
        "[5]",
        "{}",
        "1e1",
        "15.000001",
        "18446744073709551621",
    ];
    refuse("INVALID_DURATION", durations.map(|value| text(&format!(r#","duration":{value}"#))).into());
    let ratios = ["\"4:3\"", "\"16:9 \"", "\"\"", "1.78", "[\"16:9\"]"];
    refuse("INVALID_ASPECT_RATIO", ratios.map(|value| text(&format!(r#","aspect_ratio":{value}"#))).into());
    let mut images = Vec::new();
    for name in ["pro", "std", "o3-pro", "o3-std"].map(|family| format!("{family}-image-to-video")) {
        for image in [
            "",
            r#","image":"""#,
            r#","image":null"#,
            r#","image":5"#,
            r#","image":["u"]"#,
            r#","image_url":"u""#,
        ] {
            images.push(of(&name, image));
        }
    }
    for name in ["o3-pro-reference-to-video", "o3-std-reference-to-video"] {
        for media in
            ["", r#","images":[]"#, r#","images":null,"video":null"#, r#","images":"u""#, r#","image":"u""#]
        {
            images.push(of(name, media));
        }
    }
    refuse("MISSING_IMAGE", images);
    refuse(
        "TOO_MANY_IMAGES",
        vec![of("o3-pro-reference-to-video", r#","images":["1","2","3","4","5","6","7","8"]"#)],
    );
    let edits = ["", r#","video":"""#, r#","video":null"#, r#","video":{}"#, r#","image":"u""#];
    refuse(
        "MISSING_VIDEO",
        edits
            .iter()
            .flat_map(|more| ["o3-pro-video-edit", "o3-std-video-edit"].map(|name| of(name, more)))
            .collect(),
    );
    // Of several faults the first row of the contract's table is told.
    for (request, code) in [
        (r#"{"type":"x","type":"y"}"#.into(), "INVALID_REQUEST"),
        (r#"{"type":"x","prompt":""}"#.into(), "INVALID_TYPE"),
        (r#"{"type":"pro-image-to-video","prompt":"","duration":99}"#.into(), "INVALID_PROMPT"),
        (of("pro-image-to-video", r#","duration":99,"aspect_ratio":"x""#), "INVALID_DURATION"),
        (of("pro-image-to-video", r#","aspect_ratio":"x","sound":5"#), "INVALID_ASPECT_RATIO"),
        (of("pro-image-to-video", r#","sound":5"#), "MISSING_IMAGE"),
        (of("o3-pro-video-edit", r#","cfg_scale":5"#), "MISSING_VIDEO"),
    ] {
        rows.push((request, code));
    }
    rows
}

#[tokio::test]
async fn a_bad_request_gets_its_code_and_moves_nothing() {
    let gateway = TestGateway::start().await;
    for (request, code) in bad_requests() {
        let shown: String = request.chars().take(120).collect();
        for path in ["/api/generate", "/api/quote"] {
            let answer = Answer::to(gateway.call(Method::POST, path).body(request.clone())).await;
            assert_eq!((answer.status, &answer.json()["error"]), (400, &json!(code)), "{path} {shown}");
        }
    }
    nothing_moved(&gateway, 1_000_000).await;
}

#[tokio::test]
async fn what_is_odd_but_allowed_is_accepted() {
    let gateway = TestGateway::start().await;
    let images = r#","images":["1","2","3","4","5","6","7"]"#;
    for request in [
        text(r#","duration":"5""#),
        text(r#","duration":5.0"#),
        text(r#","duration":null,"aspect_ratio":null,"sound":null,"cfg_scale":null,"image":null"#),
        text(r#","cfg_scale":0"#),
        text(r#","cfg_scale":1.0,"negative_prompt":"","end_image":"""#),
        text(r#","watermark":false,"public":[1.50,{"x":null}],"model":"kling""#),
        text(r#","images":"not for this type","video":5"#),
        of("o3-pro-text-to-video", r#","cfg_scale":0.5"#),
        of("o3-pro-reference-to-video", images),
        of("o3-pro-reference-to-video", r#","images":[],"video":"u""#),
        of("o3-pro-video-edit", r#","video":"u","duration":99"#),
        of("pro-image-to-video", r#","image":"data:image/png;base64,iVBORw0KGgo=""#),
        prompt(&"a".repeat(2000)),
        prompt(&"🦅".repeat(2000)),
        format!("  {}\r\n", text("")),
    ] {
        let answer = Answer::to(gateway.creating(request.clone())).await;
        assert_eq!(answer.status, 200, "{request}: {answer:?}");
        gateway.finished(&answer.task_id()).await;
    }
    assert_eq!(gateway.balance().await[1], 0);
}

#[tokio::test]
async fn a_common_mistake_is_named() {
    let gateway = TestGateway::start().await;
    let request = of("std-image-to-video", r#","image_url":"https://example.com/a.jpg""#);
    let answer = Answer::to(gateway.creating(request)).await.refused(400, "MISSING_IMAGE");
    assert!(answer["message"].as_str().unwrap().contains("'image'"), "{answer}");
    nothing_moved(&gateway, 1_000_000).await;
}

#[tokio::test]
async fn only_a_valid_key_gets_in() {
    let gateway =
        TestGateway::builder().config(|config| config.limits.failed_logins_per_minute = 0).start().await;
    let valid = gateway.caller.text.clone();
    let mut changed = valid.clone().into_bytes();
    changed[20] = if changed[20] == b'x' { b'y' } else { b'x' };
    let stranger = NewKey::generate("test").unwrap().text.expose().to_owned();
    let headers = [
        None,
        Some(String::new()),
        Some("Bearer".into()),
        Some("Bearer ".into()),
        Some("Bearer YOUR_API_KEY".into()),
        Some(format!("Bearer {}", String::from_utf8(changed).unwrap())),
        Some(format!("Bearer {stranger}")),
        Some(format!("Basic {valid}")),
        Some(valid.clone()),
        Some(format!("Bearer {valid}x")),
    ];
    for header in headers {
        for (method, path) in [
            (Method::POST, "/api/generate"),
            (Method::GET, "/api/status?task_id=n75made-up"),
            (Method::GET, "/api/status"),
            (Method::POST, "/api/quote"),
            (Method::GET, "/api/credits"),
            (Method::GET, "/api/tasks"),
        ] {
            let mut request = gateway.request(method, path).body(body("x").to_string());
            if let Some(header) = &header {
                request = request.header(AUTHORIZATION, header);
            }
            let answer = Answer::to(request).await;
            answer.refused(401, "INVALID_API_KEY");
            assert_eq!(answer.header("www-authenticate"), "Bearer");
        }
    }
    nothing_moved(&gateway, 1_000_000).await;
    let lower = gateway.request(Method::GET, "/api/credits").header(AUTHORIZATION, format!("bearer {valid}"));
    Answer::to(lower).await.expect(200);
}

#[tokio::test]
async fn an_empty_balance_is_told_with_both_figures() {
    let gateway = TestGateway::builder().credits(399).start().await;
    let answer = gateway.create(&body("too dear")).await;
    let json = answer.refused(402, "INSUFFICIENT_CREDITS");
    assert_eq!(json["data"], json!({"required": 400, "available": 399}));
    assert_eq!(answer.header("retry-after"), "3600");
    nothing_moved(&gateway, 399).await;
    let cheap = json!({"type": "o3-std-text-to-video", "prompt": "x", "duration": 11, "sound": Value::Null});
    gateway.create(&cheap).await.expect(200);
    assert_eq!(gateway.balance().await.iter().sum::<i64>(), 399);
}
