//! What a script may say, and how it is told what it may not.

use serde_json::json;

use super::*;

fn complaint(script: Value) -> String {
    Active::read(script.to_string().as_bytes()).err().unwrap_or_else(|| "accepted".to_owned())
}

fn rule(on: &str, fault: Value) -> Value {
    json!({"rules": [{"on": on, "fault": fault}]})
}

#[test]
fn every_fault_can_be_written_on_a_create() {
    let faults = [
        json!({"kind": "delay", "ms": 1, "accept": true}),
        json!({"kind": "hang", "accept": true}),
        json!({"kind": "cut_before"}),
        json!({"kind": "cut_after", "partial": true}),
        json!({"kind": "http_error", "status": 429, "envelope": true, "error": "E", "message": "M",
            "retry_after": "Wed, 21 Oct 2026 07:28:00 GMT", "accept": true}),
        json!({"kind": "body_code", "code": 402, "error": "E", "message": "M", "accept": true}),
        json!({"kind": "html", "accept": true}),
        json!({"kind": "redirect", "status": 307, "location": "/", "accept": true}),
        json!({"kind": "garbage", "accept": true}),
        json!({"kind": "truncated"}),
        json!({"kind": "huge", "bytes": 1}),
        json!({"kind": "slow_drip", "ms_per_byte": 1}),
        json!({"kind": "consumed", "value": null, "charge": 5}),
        json!({"kind": "no_task_id"}),
        json!({"kind": "task_id", "value": "x"}),
        json!({"kind": "create_status", "status": "SUCCESS"}),
        json!({"kind": "outcome", "status": "FAILED", "consumed": 5}),
        json!({"kind": "response_shape", "value": "missing"}),
        json!({"kind": "status_word", "value": "QUEUED"}),
        json!({"kind": "forget"}),
        json!({"kind": "task_ms", "ms": 5}),
    ];
    for fault in faults {
        assert_eq!(complaint(rule("create", fault.clone())), "accepted", "{fault}");
        let mut unknown = fault.clone();
        unknown["unknwon"] = json!(1);
        assert!(complaint(rule("create", unknown)).contains("unknown field `unknwon`"), "{fault}");
    }
}

#[test]
fn a_key_that_stands_twice_is_refused_at_any_depth() {
    for (script, key) in [
        (r#"{"record":true,"record":false}"#, "record"),
        (r#"{"rules":[{"on":"create","on":"status","fault":{"kind":"html"}}]}"#, "on"),
        (r#"{"rules":[{"on":"create","fault":{"kind":"task_id","value":{"a":[{"b":1,"b":2}]}}}]}"#, "b"),
    ] {
        let complaint = Active::read(script.as_bytes()).err().unwrap();
        assert!(complaint.starts_with(&format!("the script: the key {key:?} is given twice")), "{complaint}");
    }
}

#[test]
fn complaints_say_where_and_what() {
    let harmless = json!({"kind": "html"});
    for (script, expected) in [
        (json!({"recrod": true}), "the script: unknown field `recrod`"),
        (json!([]), "the script is not a JSON object"),
        (json!({"rules": [["create", {}]]}), "rules[0] is not a JSON object"),
        (
            json!({"rules": [{"on": "create", "fault": harmless, "time": 1}]}),
            "rules[0]: unknown field `time`",
        ),
        (json!({"rules": [{"on": "create"}]}), "rules[0]: missing field `fault`"),
        (json!({"rules": [{"on": "poll", "fault": harmless}]}), "rules[0]: unknown variant `poll`"),
        (
            json!({"rules": [{"on": "create", "fault": harmless, "match": {"typ": "x"}}]}),
            "unknown field `typ`",
        ),
        (rule("create", json!({"kind": "hagn"})), "rules[0].fault: unknown variant `hagn`"),
        (rule("create", json!([harmless, {"kind": "delay"}])), "rules[0].fault[1]: missing field `ms`"),
        (rule("create", json!([])), "the list is empty"),
        (
            rule("create", json!([harmless, {"kind": "hang"}])),
            "\"html\" and \"hang\" each replace the answer",
        ),
        (rule("create", json!([harmless, harmless])), "\"html\" is named twice"),
        (rule("create", json!({"kind": "http_error", "status": 100})), "100 is no final HTTP status"),
        (rule("create", json!({"kind": "redirect", "status": 200, "location": "/"})), "300 to 399"),
        (rule("create", json!({"kind": "redirect", "location": "a\nb"})), "cannot be a header"),
        (rule("status", json!({"kind": "task_ms", "ms": 1})), "\"task_ms\" works on create rules only"),
        (rule("status", json!({"kind": "hang", "accept": true})), "\"accept\" works on create rules only"),
        (rule("status", json!({"kind": "consumed", "charge": 1})), "\"charge\" works on create rules only"),
        (json!({"rules": [{"on": "create", "fault": harmless, "times": 0}]}), "rules[0].times: "),
        (
            json!({"rules": [{"on": "create", "fault": harmless, "probability": 1.5}]}),
            "1.5 is not between 0 and 1",
        ),
        (json!({"rules": [{"on": "create", "fault": harmless, "match": {"task_id": "x"}}]}), "match.task_id"),
    ] {
        let said = complaint(script.clone());
        assert!(said.contains(expected), "{script}\n  said {said:?}\n  expected {expected:?}");
    }
    assert!(Active::read(b"{").err().unwrap().starts_with("the script is not JSON"));
}
