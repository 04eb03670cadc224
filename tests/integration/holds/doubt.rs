//! Tasks whose outcome stays unknown: refunded in time, told apart by operators, corrected by late evidence.

use serde_json::{Value, json};
use tollgate::config::Config;
use tollgate::ids::HoldId;
use tollgate::store::{Fingerprint, HoldPosition, NewHold, Slice, Step};

use super::evidence::until_excerpt;
use crate::support::database::{TestDatabase, until};
use crate::support::fixture::{credits, doubt, funded, grant, ledger, new_hold, run, run_as, write_off};
use crate::support::gateway::{Answer, ENDLESS, TestGateway, body};
use crate::support::process::Said;

/// Sweeps often, and tells its clients early.
fn impatient(config: &mut Config) {
    config.ledger.lease_ms = 1000;
    config.server.create_deadline_ms = 200;
}

async fn keyed(gateway: &TestGateway, key: &str) -> Answer {
    Answer::to(gateway.creating(body("the same each time").to_string()).header("idempotency-key", key)).await
}

/// All doubts have lasted this many hours.
async fn age_doubts(gateway: &TestGateway, hours: i32) {
    sqlx::query(
        "update open_task set doubt_at = now() - make_interval(hours => $1) where state = 'IN_DOUBT'",
    )
    .bind(hours)
    .execute(gateway.db.pool())
    .await
    .unwrap();
}

async fn until_state(gateway: &TestGateway, state: &str) {
    until(state, async || gateway.last_hold().await.state == state).await;
}

async fn admin(gateway: &TestGateway, args: &[&str]) -> Said {
    gateway.admin_says(&[&["--json"], args].concat()).await
}

#[tokio::test]
async fn a_doubt_that_is_too_old_is_refunded_and_may_be_the_platforms_loss() {
    let gateway = TestGateway::builder().config(impatient).start().await;
    gateway.fault_on_create(json!({"kind": "cut_after"})).await;
    let reference = keyed(&gateway, "k").await.reference();
    age_doubts(&gateway, 23).await;
    let listed = admin(&gateway, &["holds", "in-doubt"]).await.json();
    assert_eq!((&listed[0]["hold_id"], &listed[0]["credits"]), (&json!(reference), &json!(400)));
    assert_eq!(gateway.balance().await, [999_600, 400, 0], "a day is not over yet");

    age_doubts(&gateway, 24).await;
    until_state(&gateway, "WRITTEN_OFF").await;
    assert_eq!(gateway.balance().await, [1_000_000, 0, 0]);
    let again = keyed(&gateway, "k").await.refused(504, "OUTCOME_UNKNOWN");
    assert!(again["message"].as_str().unwrap().contains("not charged"), "{again}");
    assert_eq!(gateway.finished(&reference).await.data()["status"], "FAILED");
    let losses = admin(&gateway, &["losses"]).await.json();
    assert_eq!((&losses[0]["credits"], &losses[0]["possible"]), (&json!(400), &json!(true)));
    assert_eq!(admin(&gateway, &["holds", "in-doubt"]).await.json(), json!([]));
}

/// A keyed create whose vendor takes it and answers after the doubt was written off; its reference.
async fn written_off_before_it_was_answered(gateway: &TestGateway, rest: Value) -> String {
    let slow = json!({"kind": "delay", "ms": 1500, "accept": true});
    gateway.script(json!({"rules": [{"on": "create", "fault": [slow, rest]}]})).await;
    let reference = keyed(gateway, "k").await.reference();
    age_doubts(gateway, 25).await;
    until_state(gateway, "WRITTEN_OFF").await;
    assert_eq!(gateway.balance().await, [1_000_000, 0, 0]);
    reference
}

#[tokio::test]
async fn a_success_after_the_write_off_is_charged_by_a_correction() {
    let gateway = TestGateway::builder().config(impatient).start().await;
    let rest = json!({"kind": "consumed", "value": 400});
    let reference = written_off_before_it_was_answered(&gateway, rest).await;
    until("the correction", async || gateway.balance().await == [999_600, 0, 400]).await;
    let hold = gateway.last_hold().await;
    assert_eq!((hold.state.as_str(), hold.late.as_deref()), ("WRITTEN_OFF", Some("charged")));
    assert_eq!((hold.loss, hold.possible_loss), (0, 0), "what was booked as lost is taken back");
    let (kind, seq): (String, i32) = sqlx::query_as("select kind, seq from entry where hold_id is not null")
        .fetch_one(gateway.db.pool())
        .await
        .unwrap();
    assert_eq!((kind.as_str(), seq), ("correct", 1));

    // Its tenant gets it, under either name, and by a repetition of the create.
    let task = hold.upstream_task.unwrap();
    for id in [&reference, &task] {
        until("the task can be read", async || gateway.status(id).await.data()["status"] == "SUCCESS").await;
        let shown = gateway.status(id).await.data();
        assert_eq!((&shown["consumed_credits"], &shown["task_id"]), (&json!(400), &json!(task)));
        assert!(shown["response"].is_array(), "{shown}");
    }
    let replayed = keyed(&gateway, "k").await;
    assert_eq!((replayed.task_id(), replayed.header("idempotent-replayed")), (task, "true"));
    for (filter, rows) in [("SUCCESS", 1), ("FAILED", 0), ("WRITTEN_OFF", 1)] {
        let tasks = gateway.get(&format!("/api/tasks?status={filter}")).await.data()["tasks"].clone();
        assert_eq!(tasks.as_array().unwrap().len(), rows, "{filter}");
        assert!(tasks.as_array().unwrap().iter().all(|task| task["status"] == "SUCCESS"));
    }
}

#[tokio::test]
async fn a_failure_after_the_write_off_costs_what_the_vendor_says() {
    let gateway = TestGateway::builder().config(impatient).start().await;
    let rest = json!({"kind": "outcome", "status": "FAILED", "consumed": 120});
    written_off_before_it_was_answered(&gateway, rest).await;
    until("the loss is known", async || gateway.last_hold().await.late.as_deref() == Some("lost")).await;
    let hold = gateway.last_hold().await;
    assert_eq!((hold.loss, hold.possible_loss), (120, 0));
    assert_eq!(gateway.balance().await, [1_000_000, 0, 0]);
    let shown = gateway.finished(&hold.reference()).await.data();
    assert_eq!((&shown["status"], &shown["consumed_credits"]), (&json!("FAILED"), &json!(0)));
}

#[tokio::test]
async fn an_operator_who_releases_too_early_is_corrected_as_well() {
    let gateway = TestGateway::builder().config(impatient).start().await;
    gateway.fault_on_create(json!({"kind": "delay", "ms": 2500, "accept": true})).await;
    let reference = keyed(&gateway, "k").await.reference();
    let released = admin(&gateway, &["holds", "release", &reference, "--reason", "a guess"]).await.json();
    assert_eq!(released["state"], "RELEASED");
    assert_eq!(gateway.balance().await, [1_000_000, 0, 0]);
    // An end that was shown is remembered, but not for longer than it is true.
    assert_eq!(gateway.status(&reference).await.data()["status"], "FAILED");
    until("the correction", async || gateway.balance().await == [999_600, 0, 400]).await;
    until("its owner gets it", async || gateway.status(&reference).await.data()["status"] == "SUCCESS").await;
}

#[tokio::test]
async fn what_is_found_in_the_vendors_books_after_the_write_off_is_corrected() {
    let gateway = TestGateway::builder().config(impatient).start().await;
    gateway.fault_on_create(json!({"kind": "cut_after"})).await;
    let reference = keyed(&gateway, "k").await.reference();
    age_doubts(&gateway, 25).await;
    until_state(&gateway, "WRITTEN_OFF").await;
    let id = gateway.books().await["tasks"][0]["task_id"].as_str().unwrap().to_owned();
    let reason = ["--reason", "found in the vendor's books"];
    for args in [
        &["holds", "release", &reference][..],
        &["holds", "settle", &reference, "--task-id", &id, "--credits", "400"],
    ] {
        let said = admin(&gateway, &[args, &reason].concat()).await;
        assert!(said.code == 1 && said.err.contains("written off"), "{said:?}");
    }
    // Its excerpt may be erased already: then nothing can be compared, and it must be forced.
    let args = [&["holds", "settle", &reference, "--task-id", &id, "--force"][..], &reason].concat();
    assert_eq!(admin(&gateway, &args).await.json()["state"], "POLLED");
    until("the correction", async || gateway.balance().await == [999_600, 0, 400]).await;
    assert_eq!(gateway.last_hold().await.possible_loss, 0);
    assert_eq!(admin(&gateway, &args).await.code, 1, "once is enough");
}

#[tokio::test]
async fn doubts_and_losses_come_in_pages_and_all_of_them() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (ledger(&db).await, funded(&db, 1000).await);
    let mut guards = Vec::new();
    for _ in 0..5 {
        let new = NewHold { refuse_if_in_doubt: false, ..new_hold(org, 100) };
        let mut guard = grant(&ledger, new).await;
        guard.step(doubt()).await.unwrap();
        guards.push(guard);
    }
    // All of one instant: only their ids tell them apart.
    let at_once = "update open_task set doubt_at = '2026-01-01' where state = 'IN_DOUBT'";
    sqlx::query(at_once).execute(db.pool()).await.unwrap();
    let cursor = |place: HoldPosition| place.to_string().parse::<HoldPosition>().unwrap();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = db.database().doubts(Some(org), Slice { after, limit: 2 }).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(cursor(last.place()));
        seen.extend(page.iter().map(|doubt| doubt.hold_id));
    }
    let all: Vec<HoldId> = guards.iter().map(|guard| guard.id()).collect();
    assert_eq!(seen, all);

    for guard in &mut guards {
        guard.step(write_off(100)).await.unwrap();
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = db.database().losses(30, Slice { after, limit: 2 }).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(cursor(last.place()));
        seen.extend(page.iter().map(|loss| loss.hold_id));
    }
    seen.reverse();
    assert_eq!(seen, all);
}

#[tokio::test]
async fn an_operators_word_does_not_hide_what_the_vendor_reported() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (ledger(&db).await, funded(&db, 1000).await);
    let mut guard = grant(&ledger, new_hold(org, 400)).await;
    let run = match run_as("n74") {
        Step::Run { task, poll_in, .. } => Step::Run { task, raw: Some(credits(400)), poll_in },
        other => other,
    };
    guard.step(run).await.unwrap();
    guard.step(doubt()).await.unwrap();
    let found = db.database().hold(guard.id()).await.unwrap().unwrap();
    db.database().release(&found, "test", json!({"task_id": "n74"}), None).await.unwrap();
    let drift: i64 = sqlx::query_scalar("select drift from task where hold_id = $1")
        .bind(guard.id().as_uuid())
        .fetch_one(db.pool())
        .await
        .unwrap();
    assert_eq!(drift, -400);
}

#[tokio::test]
async fn an_absurd_report_hides_no_other() {
    let mut gateway = TestGateway::start().await;
    gateway
        .script(json!({"rules": [
            {"on": "create", "fault": {"kind": "outcome", "status": "FAILED", "consumed": 0}},
            {"on": "status", "fault": {"kind": "consumed", "value": i64::MAX}},
        ]}))
        .await;
    for _ in 0..2 {
        let task = gateway.task("x").await;
        gateway.finished(&task).await;
    }
    let drift = admin(&gateway, &["drift"]).await.json();
    assert_eq!(drift["accounts"][0]["lost"], json!(800), "what cannot be stands for the price");
    gateway.expect_difference(-800);
}

#[tokio::test]
async fn an_operator_resolves_doubts_by_what_the_vendors_books_say() {
    let gateway = TestGateway::start().await;
    gateway.fault_on_create(json!({"kind": "cut_after"})).await;
    let references = [
        keyed(&gateway, "a").await.reference(),
        keyed(&gateway, "b").await.reference(),
        keyed(&gateway, "c").await.reference(),
    ];
    gateway.script(json!({})).await;
    let books = gateway.books().await;
    let ids: Vec<String> = books["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| task["task_id"].as_str().unwrap().to_owned())
        .collect();
    let [a, b, c] = &references;
    for reference in &references {
        until_excerpt(&gateway, reference).await;
    }

    let why = ["--reason", "the vendor's page of tasks"];
    // Polled to its end: the tenant gets the video.
    let args = [&["holds", "settle", a, "--task-id", &ids[0]][..], &why].concat();
    assert_eq!(admin(&gateway, &args).await.json()["state"], "POLLED");
    assert_eq!(gateway.finished(a).await.data()["status"], "SUCCESS");
    // The figure that the operator read is the vendor's.
    let args = [&["holds", "settle", b, "--task-id", &ids[1], "--credits", "400"][..], &why].concat();
    assert_eq!(admin(&gateway, &args).await.json()["state"], "POLLED");
    assert_eq!(gateway.finished(b).await.data()["status"], "SUCCESS");
    let args = [&["holds", "release", c][..], &why].concat();
    assert_eq!(admin(&gateway, &args).await.json()["state"], "RELEASED");
    assert_eq!(gateway.balance().await, [999_200, 0, 800]);

    // Their keys: two are answered as if the vendor had been heard in time, one is free again.
    for (key, id) in [("a", &ids[0]), ("b", &ids[1])] {
        assert_eq!(keyed(&gateway, key).await.task_id(), *id);
    }
    let fresh = keyed(&gateway, "c").await.task_id();
    assert!(!ids.contains(&fresh));
    let hold = &gateway.holds().await[1];
    assert_eq!((hold.charged, hold.upstream_task.as_deref()), (Some(400), Some(ids[1].as_str())));
    // The vendor's third task has no owner here: its hold was released by an operator who knew better.
    let lost = "with lost as (update hold set lost = 400 where hold_id = $1 returning org_id, hold_id) \
                insert into platform_loss select org_id, hold_id, 0, 400, true, 'test', now() from lost";
    sqlx::query(lost)
        .bind(c.parse::<tollgate::ids::HoldId>().unwrap().as_uuid())
        .execute(gateway.db.pool())
        .await
        .unwrap();
}

#[tokio::test]
async fn an_operators_mistake_moves_nothing() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    let running = gateway.task("running").await;
    let recorded = gateway.last_hold().await.reference();
    gateway.fault_on_create(json!({"kind": "cut_after"})).await;
    let doubtful = gateway.create(&body("x")).await.reference();
    let nobody = tollgate::ids::HoldId::generate().to_string();
    let reason = ["--reason", "r"];
    for (args, complaint) in [
        (&["holds", "release", &nobody][..], "is not in doubt"),
        (&["holds", "release", &recorded], "is not in doubt"),
        (&["holds", "settle", &doubtful, "--task-id", &running], "belongs to another hold"),
        (&["holds", "settle", &doubtful, "--task-id", "x y", "--credits", "1"], "visible ASCII"),
        (&["holds", "settle", &doubtful, "--task-id", "x", "--credits", "-1"], "-1"),
        (&["holds", "settle", &doubtful, "--task-id", "x", "--credits", "9223372036854775807"], "cannot be"),
        (&["holds", "release", "hold_1"], "hold_1"),
    ] {
        let said = admin(&gateway, &[args, &reason].concat()).await;
        assert_ne!(said.code, 0, "{args:?}");
        assert!(said.err.contains(complaint), "{args:?}: {said:?}");
    }
    let said = admin(&gateway, &["holds", "release", &doubtful, "--reason", " "]).await;
    assert!(said.err.contains("1 to 200 characters"), "{said:?}");
    assert_eq!(gateway.balance().await, [999_200, 800, 0]);
}

#[tokio::test]
async fn a_task_the_vendor_has_forgotten_is_in_doubt_at_its_maximum_age_and_refunded_in_the_end() {
    let gateway = TestGateway::builder().config(impatient).start().await;
    gateway.script(json!({"rules": [{"on": "create", "fault": [{"kind": "forget"}, {"kind": "consumed", "value": 0}]}]})).await;
    let task = gateway.task("forgotten").await;
    until("it was asked for in vain", async || gateway.upstream_polls(&task).await > 2).await;
    assert_eq!(gateway.last_hold().await.state, "RUNNING", "one 404 proves nothing");
    let aged = "update hold set created_at = now() - interval '25 hours'";
    sqlx::query(aged).execute(gateway.db.pool()).await.unwrap();
    until_state(&gateway, "IN_DOUBT").await;
    let listed = admin(&gateway, &["holds", "in-doubt"]).await.json();
    assert!(listed[0]["reason"].as_str().unwrap().contains("does not know it"), "{listed}");
    assert_eq!(listed[0]["upstream_task"], json!(task));
    assert_eq!(gateway.status(&task).await.data()["status"], "IN_PROGRESS");
    age_doubts(&gateway, 25).await;
    until_state(&gateway, "WRITTEN_OFF").await;
    assert_eq!(gateway.last_hold().await.possible_loss, 400);
    assert_eq!(gateway.finished(&task).await.data()["status"], "FAILED");
    assert_eq!(gateway.balance().await, [1_000_000, 0, 0]);
}

#[tokio::test]
async fn drift_names_each_task_that_was_not_booked_as_reported() {
    let mut gateway = TestGateway::start().await;
    for (on_create, on_status) in
        [(400, json!(400)), (400, json!(460)), (380, json!(99_999_999)), (400, json!("?"))]
    {
        let rule = |on: &str, value| json!({"on": on, "fault": {"kind": "consumed", "value": value}});
        gateway.script(json!({"rules": [rule("create", json!(on_create)), rule("status", on_status)]})).await;
        let task = gateway.task("x").await;
        gateway.finished(&task).await;
    }
    gateway.fault_on_create(json!({"kind": "outcome", "status": "FAILED", "consumed": 50})).await;
    let failed = gateway.task("fails").await;
    gateway.finished(&failed).await;
    // The vendor took 400 for each that succeeded, whatever it said.
    gateway.expect_difference(400 - 460 + 400 - 380);
    let drift = admin(&gateway, &["drift"]).await.json();
    let account = &drift["accounts"][0];
    assert_eq!((&account["account"], &account["tasks"]), (&json!("main"), &json!(5)));
    assert_eq!((&account["charged"], &account["lost"]), (&json!(400 + 460 + 380 + 400), &json!(50)));
    assert_eq!(account["reported"], json!(400 + 460 + 99_999_999 + 400 + 50));
    assert_eq!((&account["drift"], &account["differing"]), (&json!(380 - 99_999_999), &json!(1)));
    let tasks = drift["tasks"].as_array().unwrap();
    assert_eq!((tasks.len(), &tasks[0]["reported"]), (1, &json!(99_999_999)));
    let prices: Vec<_> = drift["prices"].as_array().unwrap().iter().collect();
    assert_eq!((prices.len(), &prices[0]["type"]), (1, &Value::Null));
    assert_eq!((&prices[0]["task_type"], &prices[0]["tasks"]), (&json!("pro-text-to-video"), &json!(2)));
    assert_eq!((&prices[0]["listed"], &prices[0]["consumed"]), (&json!(800), &json!(840)));
    let table = gateway.admin_says(&["drift"]).await;
    assert!(table.out.contains("99999999") && table.out.contains("prices that disagree"), "{table:?}");
}

/// Whatever became of a like create, one whose caller has gone before it was sent buys nothing beside it.
#[tokio::test]
async fn a_create_whose_caller_has_gone_gives_way_to_a_like_one() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (ledger(&db).await, funded(&db, 100).await);
    let body = Fingerprint::of(b"x");
    let alike = || NewHold { fingerprint: body, ..new_hold(org, 10) };
    let own = grant(&ledger, alike()).await;
    let mut other = grant(&ledger, alike()).await;
    let user = alike().user;
    let way = async |body: Fingerprint| {
        let within = std::time::Duration::from_secs(60);
        db.database().give_way(own.id(), org, user, body, within).await.unwrap()
    };
    assert_eq!(way(body).await, Some(other.id()), "it has no answer yet");
    other.step(doubt()).await.unwrap();
    assert_eq!(way(body).await, Some(other.id()), "it is in doubt");
    other.step(run(other.id())).await.unwrap();
    assert_eq!(way(body).await, Some(other.id()), "it was accepted");
    let noted = async || -> i64 {
        sqlx::query_scalar("select count(*) from gone_caller").fetch_one(db.pool()).await.unwrap()
    };
    assert_eq!(noted().await, 0);
    assert_eq!(way(Fingerprint::of(b"y")).await, None);
    assert_eq!(noted().await, 1, "that its caller has gone is noted");
}
