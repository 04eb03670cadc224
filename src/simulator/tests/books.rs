//! The books: what they count and what they survive.

use std::path::PathBuf;

use super::*;

/// A state file that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        Scratch(std::env::temp_dir().join(format!("tollgate-simulator-{}.jsonl", uuid::Uuid::new_v4())))
    }

    fn config(&self) -> SimulatorConfig {
        SimulatorConfig { state_file: Some(self.0.clone()), ..instant() }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[tokio::test]
async fn every_account_has_its_own_page() {
    let keys = vec![KEY.to_owned(), "other".to_owned()];
    let rig = Rig::start(SimulatorConfig { master_keys: keys, ..endless() }).await;
    let task_id = rig.task("a").await;
    rig.status(&task_id).await;
    rig.status(&task_id).await;
    let mine = rig.account().await;
    assert_eq!(
        mine,
        json!({"account": KEY, "consumed": 400, "creates_received": 1,
            "counts": {"IN_PROGRESS": 1, "SUCCESS": 0, "FAILED": 0},
            "tasks": [{"task_id": task_id, "status": "IN_PROGRESS", "consumed_credits": 400, "polls": 2,
                "type": "pro-text-to-video", "prompt": "a", "created_ms": mine["tasks"][0]["created_ms"]}]})
    );
    let both = rig.get_json("/_sim/books?summary=true").await;
    let none = json!({"IN_PROGRESS": 0, "SUCCESS": 0, "FAILED": 0});
    assert_eq!(
        both["accounts"][0],
        json!({"account": "other", "consumed": 0, "creates_received": 0, "counts": none})
    );
    assert_eq!(both["accounts"][1]["consumed"], 400);
    assert_eq!(rig.get("/_sim/books?acount=x").await.status(), StatusCode::BAD_REQUEST);
    rig.stop().await;
}

#[tokio::test]
async fn failing_gives_the_credits_back() {
    let config = SimulatorConfig {
        fail_ratio: 1.0,
        task_time: Duration::from_millis(200),
        ..SimulatorConfig::default()
    };
    let rig = Rig::start(SimulatorConfig { task_jitter: Duration::ZERO, ..config }).await;
    let task_id = rig.task("a").await;
    assert_eq!(rig.totals().await, (400, 1));
    eventually(async || rig.status(&task_id).await["status"] == "FAILED").await;
    assert_eq!(rig.totals().await, (0, 1));
    let failed = rig.status(&task_id).await;
    assert_eq!(failed["consumed_credits"], 0);
    assert_eq!(failed["response"], Value::Null);
    assert!(failed["error_message"].is_string());
    assert_eq!(rig.get(&format!("/videos/{task_id}.mp4")).await.status(), StatusCode::NOT_FOUND);
    rig.stop().await;
}

#[tokio::test]
async fn books_outlive_the_process() {
    let scratch = Scratch::new();
    let rule = json!({"on": "create", "match": {"prompt_contains": "odd"}, "fault": [
        {"kind": "outcome", "status": "FAILED", "consumed": 7},
        {"kind": "response_shape", "value": {"a": [null]}}, {"kind": "status_word", "value": "QUEUED"}]});
    let rig = Rig::with_rule(scratch.config(), rule).await;
    let mut ids = vec![rig.task("odd").await];
    for round in 0..20 {
        ids.push(rig.task(&format!("line one\nline two, round {round}")).await);
    }
    let before = rig.account().await;
    let status = rig.status(&ids[3]).await;
    rig.stop().await;

    let rig = Rig::start(scratch.config()).await;
    let after = rig.account().await;
    assert_eq!(after["consumed"], 20 * 400 + 7);
    assert_eq!(after["counts"], before["counts"]);
    assert_eq!(after["tasks"].as_array().unwrap().len(), 21);
    let again = rig.status(&ids[3]).await;
    assert_eq!(again["request"], status["request"]);
    assert_eq!(again["created_at"], status["created_at"]);
    rig.stop().await;
}

#[tokio::test]
async fn an_answered_create_is_already_in_the_file() {
    let scratch = Scratch::new();
    let rig = Rig::start(scratch.config()).await;
    for _ in 0..20 {
        let task_id = rig.task("a").await;
        assert!(std::fs::read_to_string(&scratch.0).unwrap().contains(&task_id));
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_torn_last_line_is_cut_off() {
    let scratch = Scratch::new();
    let rig = Rig::start(scratch.config()).await;
    rig.task("a").await;
    rig.stop().await;
    let whole = std::fs::read_to_string(&scratch.0).unwrap();
    std::fs::write(&scratch.0, format!("{whole}{}", &whole[..whole.len() / 2])).unwrap();

    let rig = Rig::start(scratch.config()).await;
    assert_eq!(rig.totals().await, (400, 1));
    rig.task("b").await;
    rig.stop().await;
    let rig = Rig::start(scratch.config()).await;
    assert_eq!(rig.totals().await, (800, 2));
    rig.stop().await;
}

#[tokio::test]
async fn a_file_of_somebody_else_is_left_alone() {
    let scratch = Scratch::new();
    std::fs::write(&scratch.0, "shopping list\n").unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let error = Simulator::bind(any, scratch.config()).await.err().unwrap();
    assert!(matches!(error, SimulatorError::StateFileLine { line: 1, .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&scratch.0).unwrap(), "shopping list\n");
}

#[tokio::test]
async fn two_simulators_do_not_share_a_file() {
    let scratch = Scratch::new();
    let rig = Rig::start(scratch.config()).await;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let error = Simulator::bind(any, scratch.config()).await.err().unwrap();
    assert!(matches!(error, SimulatorError::StateFileInUse { .. }), "{error}");
    rig.stop().await;
}

#[tokio::test]
async fn an_account_without_its_key_stays_in_the_books() {
    let scratch = Scratch::new();
    let rig = Rig::start(scratch.config()).await;
    rig.task("a").await;
    rig.stop().await;
    let config = SimulatorConfig { master_keys: vec!["new".to_owned()], ..scratch.config() };
    let rig = Rig::start(config).await;
    assert_eq!(rig.totals().await, (400, 1));
    assert_eq!(rig.create(body("b")).await.0, StatusCode::UNAUTHORIZED);
    rig.stop().await;
}

#[tokio::test]
async fn parallel_creates_are_all_counted() {
    let scratch = Scratch::new();
    let rig = Rig::start(scratch.config()).await;
    let creates = (0..200).map(|_| rig.task("a"));
    let ids: std::collections::HashSet<String> =
        futures_util::future::join_all(creates).await.into_iter().collect();
    assert_eq!(ids.len(), 200);
    assert_eq!(rig.totals().await, (200 * 400, 200));
    rig.stop().await;
    let rig = Rig::start(scratch.config()).await;
    assert_eq!(rig.totals().await, (200 * 400, 200));
    rig.stop().await;
}

#[tokio::test]
async fn nobody_else_may_read_the_state_file() {
    use std::os::unix::fs::PermissionsExt;

    let scratch = Scratch::new();
    let mode = || std::fs::metadata(&scratch.0).unwrap().permissions().mode() & 0o777;
    Rig::start(scratch.config()).await.stop().await;
    assert_eq!(mode(), 0o600);
    // One of an earlier version.
    std::fs::set_permissions(&scratch.0, std::fs::Permissions::from_mode(0o644)).unwrap();
    Rig::start(scratch.config()).await.stop().await;
    assert_eq!(mode(), 0o600);
}
