//! Evidence by hand: an operator's word is compared with the vendor's, can be taken back, and adopts what no ledger knows.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tollgate::ids::HoldId;
use tollgate::store::OperatorRole;

use crate::support::admin_client::{AdminAnswer, AdminClient};
use crate::support::database::until;
use crate::support::gateway::{Answer, Caller, ENDLESS, TestGateway, body};

const WHY: &str = "found in the vendor's list";

/// A create waits a second for its excerpt and is sent without it: on a busy machine it comes a little later.
pub async fn until_excerpt(gateway: &TestGateway, reference: &str) {
    until("its excerpt is stored", async || {
        let stored = "select exists (select from content where hold_id = $1 and digests is not null)";
        let hold = reference.parse::<HoldId>().unwrap().as_uuid();
        sqlx::query_scalar::<_, bool>(stored).bind(hold).fetch_one(gateway.db.pool()).await.unwrap()
    })
    .await;
}

/// A create of `caller` that the vendor takes and nobody hears of; its reference, and the vendor's id.
async fn doubt_of(gateway: &TestGateway, caller: &Caller, prompt: &str) -> (String, String) {
    gateway.fault_on_create(json!({"kind": "cut_after"})).await;
    let sent = gateway.request(Method::POST, "/api/generate").bearer_auth(&caller.text);
    let reference = Answer::to(sent.body(body(prompt).to_string())).await.reference();
    gateway.script(json!({})).await;
    until_excerpt(gateway, &reference).await;
    let books = gateway.books().await;
    let id = books["tasks"].as_array().unwrap().last().unwrap()["task_id"].as_str().unwrap().to_owned();
    (reference, id)
}

async fn doubt(gateway: &TestGateway, prompt: &str) -> (String, String) {
    doubt_of(gateway, &gateway.caller.clone(), prompt).await
}

async fn settle(operator: &AdminClient<'_>, hold: &str, body: Value) -> AdminAnswer {
    operator.post(&format!("/admin/v1/holds/{hold}/settle"), body).await
}

async fn take_back(operator: &AdminClient<'_>, hold: &str) -> AdminAnswer {
    operator.post(&format!("/admin/v1/holds/{hold}/take-back"), json!({"reason": "a wrong id"})).await
}

async fn shown(operator: &AdminClient<'_>, hold: &str) -> Value {
    operator.get(&format!("/admin/v1/holds/{hold}")).await.expect(200)
}

/// The newest entry of the audit log about a hold.
async fn noted(operator: &AdminClient<'_>, hold: &str) -> Value {
    let log = operator.get(&format!("/admin/v1/audit-log?target_id={hold}&limit=1")).await.expect(200);
    log["items"][0].clone()
}

#[tokio::test]
async fn the_right_id_settles_and_the_audit_log_says_what_was_compared() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let (hold, id) = doubt(&gateway, "a boat").await;
    let before = shown(&operator, &hold).await;
    assert_eq!((&before["state"], &before["by_hand"]), (&json!("IN_DOUBT"), &Value::Null));
    let listed = operator.get("/admin/v1/holds/in-doubt").await.expect(200);
    assert_eq!(listed["items"][0]["prompt_digest"], before["digests"]["prompt"], "a prompt can be compared");
    assert_eq!(before["digests"]["prompt"].as_str().unwrap().len(), 43);

    let answer =
        settle(&operator, &hold, json!({"task_id": id, "credits": 400, "reason": WHY})).await.expect(200);
    assert_eq!(answer["state"], "POLLED");
    assert_eq!(gateway.finished(&hold).await.data()["status"], "SUCCESS");
    assert_eq!(gateway.balance().await, [999_600, 0, 400]);

    let entry = noted(&operator, &hold).await;
    let after = &entry["after"];
    assert_eq!((&entry["action"], &after["step"]), (&json!("settle_hold"), &json!("run")));
    assert_eq!(
        (&after["task_id"], &after["credits"], &after["forced"]),
        (&json!(id), &json!(400), &json!(false))
    );
    assert_eq!(after["vendor_credits"], json!(400));
    let matched: Vec<&str> = after["matched"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for name in ["type", "prompt", "duration", "sound"] {
        assert!(matched.contains(&name), "{name}: {after}");
    }
    assert_eq!((&after["differed"], after["reason"].as_str().unwrap().ends_with(WHY)), (&json!([]), true));
    let after_the_end = shown(&operator, &hold).await;
    assert_eq!(after_the_end["by_hand"]["task_id"], json!(id), "the hold keeps it");
    let late = take_back(&operator, &hold).await.expect(409);
    assert!(late["detail"].as_str().unwrap().contains("is confirmed and booked"), "{late}");
}

#[tokio::test]
async fn another_teams_task_is_refused_with_both_sides_and_moves_nothing() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let other = gateway.another_org("another customer", 1_000).await;
    let (own, own_id) = doubt(&gateway, "a boat").await;
    let (theirs, their_id) = doubt_of(&gateway, &other, "a plane").await;

    let refused = settle(&operator, &own, json!({"task_id": their_id, "reason": WHY})).await.expect(409);
    assert_eq!(refused["code"], "does_not_fit");
    let sides = &refused["data"];
    assert_eq!((&sides["hold"]["hold_id"], &sides["vendor"]["task_id"]), (&json!(own), &json!(their_id)));
    assert!(sides["hold"]["request"]["prompt"].as_str().unwrap().starts_with("a boat"), "{sides}");
    assert!(sides["vendor"]["request"]["prompt"].as_str().unwrap().starts_with("a plane"), "{sides}");
    assert_eq!(sides["differed"], json!(["prompt"]));
    let entry = noted(&operator, &own).await;
    assert_eq!((&entry["after"]["refused"], &entry["after"]["task_id"]), (&json!(true), &json!(their_id)));

    // An id that the vendor does not know, and one that another hold has.
    let unknown = settle(&operator, &own, json!({"task_id": "n75nobody", "reason": WHY})).await.expect(409);
    assert!(unknown["detail"].as_str().unwrap().contains("does not know the task"), "{unknown}");
    assert_eq!(unknown["data"]["vendor"], Value::Null);
    settle(&operator, &theirs, json!({"task_id": their_id, "reason": WHY})).await.expect(200);
    for force in [false, true] {
        let body = json!({"task_id": their_id, "reason": WHY, "force": force});
        let taken = settle(&operator, &own, body).await.expect(409);
        assert!(taken["detail"].as_str().unwrap().contains(&theirs), "{taken}");
        assert_eq!(taken["data"]["other_hold"]["org_id"], json!(other.org));
    }
    // A figure that is not the vendor's is shown too; before the end the vendor's figure is none yet.
    assert_eq!(gateway.balance().await, [999_600, 400, 0]);
    assert_eq!(shown(&operator, &own).await["state"], "IN_DOUBT");
    settle(&operator, &own, json!({"task_id": own_id, "reason": WHY})).await.expect(200);

    let said = gateway.admin_says(&["holds", "show", &own]).await;
    assert!(said.out.contains(&own_id) && said.out.contains("\"forced\": false"), "{said:?}");
}

#[tokio::test]
async fn a_figure_that_the_vendor_does_not_report_is_refused() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let (hold, id) = doubt(&gateway, "a boat").await;
    until("the vendor has finished it", async || {
        let refused = settle(&operator, &hold, json!({"task_id": id, "credits": 390, "reason": WHY})).await;
        // Until its end the vendor's figure may change, and is not compared.
        if refused.status == 200 {
            take_back(&operator, &hold).await;
        }
        refused.status == 409 && refused.body["data"]["differed"] == json!(["credits"])
    })
    .await;
    let said = gateway
        .admin_says(&["holds", "settle", &hold, "--task-id", &id, "--credits", "390", "--reason", WHY])
        .await;
    assert!(said.code == 1 && said.out.contains("\"consumed_credits\": 400"), "{said:?}");
    let body = json!({"task_id": id, "credits": 390, "reason": WHY, "force": true});
    settle(&operator, &hold, body).await.expect(200);
    gateway.finished(&hold).await;
    assert_eq!(gateway.balance().await, [999_600, 0, 400], "the vendor's own figure is charged");
    assert_eq!(shown(&operator, &hold).await["by_hand"]["differed"], json!(["credits"]));
}

#[tokio::test]
async fn without_the_vendor_it_must_be_forced_with_a_reason_and_is_marked() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let (hold, id) = doubt(&gateway, "a boat").await;
    gateway.fault_on_status(json!({"kind": "http_error", "status": 502})).await;
    let away = settle(&operator, &hold, json!({"task_id": id, "reason": WHY})).await;
    assert!(away.headers.contains_key("retry-after"));
    assert_eq!(away.expect(503)["code"], "vendor_unreachable");
    settle(&operator, &hold, json!({"task_id": id, "force": true})).await.expect(400);
    settle(&operator, &hold, json!({"task_id": id, "force": true, "reason": " "})).await.expect(400);
    assert_eq!(shown(&operator, &hold).await["state"], "IN_DOUBT");

    settle(&operator, &hold, json!({"task_id": id, "force": true, "reason": WHY})).await.expect(200);
    let marked = shown(&operator, &hold).await;
    assert_eq!((&marked["state"], &marked["by_hand"]["forced"]), (&json!("RUNNING"), &json!(true)));
    assert_eq!(marked["by_hand"]["not_compared"], json!(["type", "prompt"]));
    let entry = noted(&operator, &hold).await;
    assert_eq!((&entry["after"]["forced"], &entry["after"]["matched"]), (&json!(true), &json!([])));
    assert!(entry["after"]["vendor"].as_str().unwrap().contains("HTTP 502"), "{entry}");
}

#[tokio::test]
async fn questions_that_hang_take_no_place_from_polls() {
    let gateway = TestGateway::builder()
        .config(|config| {
            config.upstream.kling_3.max_polls = 2;
            config.upstream.kling_3.status_timeout_ms = 3_000;
        })
        .start()
        .await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let (hold, _) = doubt(&gateway, "a boat").await;
    let hang =
        json!({"rules": [{"on": "status", "match": {"task_id": "n75hangs"}, "fault": {"kind": "hang"}}]});
    gateway.script(hang).await;
    let body = json!({"task_id": "n75hangs", "reason": WHY});
    let ask = async || settle(&operator, &hold, body.clone()).await.expect(503);
    let polled = async {
        for prompt in ["one", "two", "three"] {
            let task = gateway.task(prompt).await;
            assert_eq!(gateway.finished(&task).await.data()["status"], "SUCCESS");
        }
    };
    let (one, two, three, ()) = tokio::join!(ask(), ask(), ask(), polled);
    for answer in [one, two, three] {
        assert_eq!(answer["code"], "vendor_unreachable");
    }
    assert_eq!(gateway.balance().await, [998_400, 400, 1_200]);
}

async fn release(operator: &AdminClient<'_>, hold: &str, body: Value) -> AdminAnswer {
    operator.post(&format!("/admin/v1/holds/{hold}/release"), body).await
}

/// A task that ran too long is in doubt, and its id is known.
#[tokio::test]
async fn what_the_vendor_has_is_not_released_on_an_operators_word() {
    let mut gateway = TestGateway::builder()
        .task_time(ENDLESS)
        .config(|config| config.ledger.lease_ms = 1000)
        .start()
        .await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let id = gateway.task("a boat").await;
    let hold = gateway.last_hold().await.reference();
    let old = "update open_task set recorded_at = now() - interval '25 hours'";
    let older = "update hold set created_at = now() - interval '25 hours'";
    for statement in [old, older] {
        sqlx::query(statement).execute(gateway.db.pool()).await.unwrap();
    }
    until("it is in doubt", async || {
        gateway.status(&id).await;
        shown(&operator, &hold).await["state"] == "IN_DOUBT"
    })
    .await;

    let refused = release(&operator, &hold, json!({"reason": WHY})).await.expect(409);
    assert_eq!(refused["code"], "does_not_fit");
    assert!(refused["detail"].as_str().unwrap().contains("the vendor runs it"), "{refused}");
    assert_eq!(refused["data"]["vendor"]["task_id"], json!(id));
    let after = noted(&operator, &hold).await["after"].clone();
    assert_eq!((&after["refused"], &after["task_id"]), (&json!(true), &json!(id)));
    let said = gateway.admin_says(&["holds", "release", &hold, "--reason", WHY]).await;
    assert!(said.code == 1 && said.err.contains("the vendor runs it"), "{said:?}");
    gateway.fault_on_status(json!({"kind": "http_error", "status": 502})).await;
    assert_eq!(
        release(&operator, &hold, json!({"reason": WHY})).await.expect(503)["code"],
        "vendor_unreachable"
    );
    assert_eq!(shown(&operator, &hold).await["state"], "IN_DOUBT");
    assert_eq!(gateway.balance().await, [999_600, 400, 0]);

    let said = gateway.admin_says(&["holds", "release", &hold, "--reason", WHY, "--force"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let after = noted(&operator, &hold).await["after"].clone();
    assert_eq!((&after["task_id"], &after["forced"]), (&json!(id), &json!(true)));
    assert!(after["vendor"].as_str().unwrap().contains("HTTP 502"), "{after}");
    assert_eq!(gateway.balance().await, [1_000_000, 0, 0]);
    // The platform pays for what the vendor ran.
    gateway.expect_difference(400);
}

#[tokio::test]
async fn a_mistyped_id_is_taken_back_and_the_right_one_settles() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let (hold, id) = doubt(&gateway, "a boat").await;
    let nothing = take_back(&operator, &hold).await.expect(409);
    assert!(nothing["detail"].as_str().unwrap().contains("nothing to take back"), "{nothing}");
    settle(&operator, &hold, json!({"task_id": "n75typo", "force": true, "reason": WHY})).await.expect(200);
    assert_eq!(shown(&operator, &hold).await["state"], "RUNNING");

    let back = operator
        .call_with(
            Method::POST,
            &format!("/admin/v1/holds/{hold}/take-back"),
            Some(json!({"reason": "a wrong id"})),
            &[("idempotency-key", "back")],
        )
        .await;
    assert_eq!(back.expect(200)["state"], "IN_DOUBT");
    let again = operator
        .call_with(
            Method::POST,
            &format!("/admin/v1/holds/{hold}/take-back"),
            Some(json!({"reason": "a wrong id"})),
            &[("idempotency-key", "back")],
        )
        .await;
    assert_eq!(again.headers["idempotent-replayed"], "true");
    take_back(&operator, &hold).await.expect(409);
    let now = shown(&operator, &hold).await;
    assert_eq!((&now["state"], &now["upstream_task"]), (&json!("IN_DOUBT"), &Value::Null));
    assert!(now["by_hand"]["taken_back"].as_str().unwrap().contains("a wrong id"), "{now}");
    let entry = noted(&operator, &hold).await;
    assert_eq!(
        (&entry["action"], &entry["before"]["task_id"]),
        (&json!("take_back_hold"), &json!("n75typo"))
    );
    assert_eq!(gateway.balance().await, [999_600, 400, 0]);
    assert_eq!(gateway.db.database().audit().await.unwrap().breaches, []);

    settle(&operator, &hold, json!({"task_id": id, "reason": WHY})).await.expect(200);
    assert_eq!(gateway.finished(&hold).await.data()["status"], "SUCCESS");
    assert_eq!(gateway.balance().await, [999_600, 0, 400]);
}

#[tokio::test]
async fn what_was_recorded_wrongly_is_not_shown_any_more_and_its_owner_gets_it() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let other = gateway.another_org("another customer", 1_000).await;
    let (own, _) = doubt(&gateway, "a boat").await;
    let (theirs, their_id) = doubt_of(&gateway, &other, "a plane").await;
    settle(&operator, &own, json!({"task_id": their_id, "force": true, "reason": WHY})).await.expect(200);
    until("it was polled", async || gateway.upstream_polls(&their_id).await > 1).await;
    take_back(&operator, &own).await.expect(200);
    until("nothing of it is shown", async || {
        !gateway.status(&own).await.data().to_string().contains("a plane")
    })
    .await;
    let kept: i64 = sqlx::query_scalar("select count(*) from content where last like '%a plane%'")
        .fetch_one(gateway.db.pool())
        .await
        .unwrap();
    assert_eq!(kept, 0, "another team's prompt is not kept");
    settle(&operator, &theirs, json!({"task_id": their_id, "reason": WHY})).await.expect(200);
    assert_eq!(shown(&operator, &theirs).await["upstream_task"], json!(their_id));
    assert_eq!(gateway.balance().await, [999_600, 400, 0]);
}

#[tokio::test]
async fn after_the_write_off_a_wrong_id_is_taken_back_too() {
    let gateway = TestGateway::builder().config(|config| config.ledger.lease_ms = 1000).start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let (hold, id) = doubt(&gateway, "a boat").await;
    sqlx::query("update open_task set doubt_at = now() - interval '25 hours'")
        .execute(gateway.db.pool())
        .await
        .unwrap();
    until("it is written off", async || shown(&operator, &hold).await["state"] == "WRITTEN_OFF").await;
    settle(&operator, &hold, json!({"task_id": "n75typo", "force": true, "reason": WHY})).await.expect(200);
    assert_eq!(shown(&operator, &hold).await["late"], "open");
    assert_eq!(take_back(&operator, &hold).await.expect(200)["state"], "WRITTEN_OFF");
    let now = shown(&operator, &hold).await;
    assert_eq!((&now["late"], &now["upstream_task"]), (&Value::Null, &Value::Null));
    assert_eq!(gateway.db.database().audit().await.unwrap().breaches, []);
    settle(&operator, &hold, json!({"task_id": id, "force": true, "reason": WHY})).await.expect(200);
    until("the correction", async || gateway.balance().await == [999_600, 0, 400]).await;
}

#[tokio::test]
async fn a_figure_that_the_vendor_never_confirms_is_charged_at_the_maximum_age() {
    let mut gateway = TestGateway::builder().config(|config| config.ledger.lease_ms = 1000).start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    gateway
        .script(json!({"rules": [{"on": "create", "fault": [{"kind": "forget"}, {"kind": "cut_after"}]}]}))
        .await;
    let hold = gateway.create(&body("a boat")).await.reference();
    gateway.script(json!({})).await;
    let id = gateway.books().await["tasks"][0]["task_id"].as_str().unwrap().to_owned();
    let body = json!({"task_id": id, "credits": 380, "reason": "their invoice", "force": true});
    settle(&operator, &hold, body).await.expect(200);
    let old = "update hold set created_at = now() - interval '25 hours'";
    sqlx::query(old).execute(gateway.db.pool()).await.unwrap();
    let polls = gateway.upstream_polls(&id).await;
    until("it is asked for in vain", async || gateway.upstream_polls(&id).await > polls + 1).await;
    assert_eq!(shown(&operator, &hold).await["state"], "RUNNING", "its age counts from when it was recorded");
    let old = "update open_task set recorded_at = now() - interval '25 hours'";
    sqlx::query(old).execute(gateway.db.pool()).await.unwrap();
    until("it is charged", async || shown(&operator, &hold).await["state"] == "SETTLED").await;
    assert_eq!(gateway.balance().await, [999_620, 0, 380]);
    gateway.expect_difference(20);
}

#[tokio::test]
async fn what_the_vendor_never_confirmed_is_taken_back_after_the_write_off_too() {
    let gateway = TestGateway::builder().config(|config| config.ledger.lease_ms = 1000).start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let (hold, id) = doubt(&gateway, "a boat").await;
    settle(&operator, &hold, json!({"task_id": "n75typo", "force": true, "reason": WHY})).await.expect(200);
    let old = "update open_task set recorded_at = now() - interval '25 hours'";
    sqlx::query(old).execute(gateway.db.pool()).await.unwrap();
    until("it is in doubt again", async || shown(&operator, &hold).await["state"] == "IN_DOUBT").await;
    let old = "update open_task set doubt_at = now() - interval '25 hours'";
    sqlx::query(old).execute(gateway.db.pool()).await.unwrap();
    until("it is written off", async || shown(&operator, &hold).await["state"] == "WRITTEN_OFF").await;
    settle(&operator, &hold, json!({"task_id": id, "force": true, "reason": WHY})).await.expect(409);
    assert_eq!(take_back(&operator, &hold).await.expect(200)["state"], "WRITTEN_OFF");
    assert_eq!(gateway.db.database().audit().await.unwrap().breaches, []);
    settle(&operator, &hold, json!({"task_id": id, "force": true, "reason": WHY})).await.expect(200);
    until("the correction", async || gateway.balance().await == [999_600, 0, 400]).await;
    assert_eq!(gateway.last_hold().await.possible_loss, 0);
}

/// A task that the vendor runs and no ledger knows, as after a restore; the vendor's id.
async fn unknown_task(gateway: &TestGateway, prompt: &str) -> String {
    let answer = gateway
        .client
        .post(format!("http://{}/api/generate", gateway.simulator()))
        .bearer_auth(crate::support::gateway::MASTER_KEY)
        .body(body(prompt).to_string())
        .send()
        .await
        .unwrap();
    let answer: Value = answer.json().await.unwrap();
    answer["data"]["task_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_task_that_no_ledger_knows_is_adopted_once_and_charged_by_its_evidence() {
    let gateway = TestGateway::builder().credits(100).start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let id = unknown_task(&gateway, "a boat").await;
    let path = format!("/admin/v1/orgs/{}/adopt-task", gateway.caller.org);
    let body = json!({"user_id": gateway.caller.user, "backend": "kling-3.0", "task_id": id, "reason": WHY});
    let keyed = async |body: &Value| {
        operator.call_with(Method::POST, &path, Some(body.clone()), &[("idempotency-key", "adopt")]).await
    };
    let adopted = keyed(&body).await.expect(201);
    assert_eq!((&adopted["credits"], &adopted["task_type"]), (&json!(400), &json!("pro-text-to-video")));
    let hold = adopted["hold_id"].as_str().unwrap().to_owned();
    let again = keyed(&body).await;
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_eq!(again.expect(201), adopted);
    let twice = operator.post(&path, body).await.expect(409);
    assert!(twice["detail"].as_str().unwrap().contains(&hold), "{twice}");

    assert_eq!(gateway.finished(&id).await.data()["status"], "SUCCESS", "its owner gets it");
    assert_eq!(
        gateway.balance().await,
        [-300, 0, 400],
        "the vendor has taken it: the balance cannot refuse it"
    );
    let marked = shown(&operator, &hold).await;
    assert_eq!((&marked["by_hand"]["adopted"], &marked["charged"]), (&json!(true), &json!(400)));
    let entry = noted(&operator, &hold).await;
    assert_eq!((&entry["action"], &entry["after"]["task_id"]), (&json!("adopt_task"), &json!(id)));
    assert_eq!((&entry["after"]["held"], &entry["after"]["step"]), (&json!(400), &json!("adopt")));
    assert_eq!(gateway.db.database().audit().await.unwrap().breaches, []);
}

#[tokio::test]
async fn an_adopted_task_counts_in_budgets_and_can_be_taken_back() {
    let gateway = TestGateway::builder().task_time(Duration::from_secs(3600)).start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let org = gateway.caller.org;
    let budget = json!({"level": "user", "period": "daily", "credits": 300});
    operator.post(&format!("/admin/v1/orgs/{org}/budgets"), budget).await.expect(201);
    until("it is in force", async || gateway.create(&body("a test")).await.status == 402).await;
    let id = unknown_task(&gateway, "a boat").await;
    let path = format!("/admin/v1/orgs/{org}/adopt-task");
    let body = json!({"user_id": gateway.caller.user, "backend": "kling-3.0", "task_id": id, "reason": WHY});
    let held = async || -> i64 {
        let held = sqlx::query_scalar("select coalesce(sum(held), 0)::bigint from budget_window");
        held.fetch_one(gateway.db.pool()).await.unwrap()
    };
    let hold = operator.post(&path, body.clone()).await.expect(201)["hold_id"].as_str().unwrap().to_owned();
    assert_eq!((held().await, gateway.balance().await), (400, [999_600, 400, 0]));
    assert_eq!(gateway.db.database().audit().await.unwrap().breaches, []);
    assert_eq!(take_back(&operator, &hold).await.expect(200)["state"], "RELEASED");
    assert_eq!((held().await, gateway.balance().await), (0, [1_000_000, 0, 0]));
    assert_eq!(gateway.db.database().audit().await.unwrap().breaches, []);
    // The id is free: it can be adopted for whom it belongs to.
    operator.post(&path, body).await.expect(201);
}

#[tokio::test]
async fn what_cannot_be_adopted_is_refused_in_words() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let path = format!("/admin/v1/orgs/{}/adopt-task", gateway.caller.org);
    let (doubtful, id) = doubt(&gateway, "a boat").await;
    let of = |backend: &str, task: &str, user: &str| json!({"user_id": user, "backend": backend, "task_id": task, "reason": WHY});
    let user = gateway.caller.user.to_string();
    let nobody = "usr_00000000000000000000000000000001";
    for (body, status, words) in [
        (of("kling-3.0", "n75nobody", &user), 409, "does not know a task"),
        (of("kling-3.0", &id, &user), 409, doubtful.as_str()),
        (of("kling-o3", &id, &user), 409, "is no type of kling-o3"),
        (of("kling-4", &id, &user), 400, "backend must be"),
        (of("kling-3.0", "x y", &user), 400, "visible ASCII"),
    ] {
        let refused = operator.post(&path, body).await.expect(status);
        assert!(refused["detail"].as_str().unwrap().contains(words), "{words}: {refused}");
        assert!(
            !refused["data"].to_string().contains("a boat"),
            "no words of a request without a record: {refused}"
        );
    }
    let free = unknown_task(&gateway, "a plane").await;
    operator.post(&path, of("kling-3.0", &free, nobody)).await.expect(400);
    gateway.fault_on_status(json!({"kind": "http_error", "status": 502})).await;
    operator.post(&path, of("kling-3.0", &free, &user)).await.expect(503);
    gateway.script(json!({})).await;
    assert_eq!(gateway.balance().await, [999_600, 400, 0]);
    let org = gateway.caller.org.to_string();
    let args =
        ["holds", "adopt", "--org", &org, "--user", &user, "--backend", "kling-3.0", "--task-id", &free];
    let said = gateway.admin_says(&[&args[..], &["--reason", WHY]].concat()).await;
    assert!(said.code == 0 && said.out.contains(&free), "{said:?}");
    settle(&operator, &doubtful, json!({"task_id": id, "reason": WHY})).await.expect(200);
}

#[tokio::test]
async fn only_operators_record_by_hand() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    let reader = AdminClient::operator(&gateway, OperatorRole::OperatorRead).await;
    let admin = AdminClient::org_admin(&gateway, &gateway.caller).await;
    let (hold, id) = doubt(&gateway, "a boat").await;
    let adopt = format!("/admin/v1/orgs/{}/adopt-task", gateway.caller.org);
    for caller in [&reader, &admin] {
        settle(caller, &hold, json!({"task_id": id, "reason": WHY})).await.expect(403);
        take_back(caller, &hold).await.expect(403);
        let body =
            json!({"user_id": gateway.caller.user, "backend": "kling-3.0", "task_id": id, "reason": WHY});
        caller.post(&adopt, body).await.expect(403);
    }
    assert_eq!(shown(&reader, &hold).await["state"], "IN_DOUBT");
    admin.get(&format!("/admin/v1/holds/{hold}")).await.expect(403);
}
