//! The excerpt of an unfinished request, which operators may read.

use serde_json::{Value, json};
use tollgate::order::digest;
use tollgate::store::OperatorRole;

use crate::support::admin_client::AdminClient;
use crate::support::database::{lock, until};
use crate::support::gateway::{Answer, ENDLESS, TestGateway, body};
use crate::support::leaks::PROMPT;

fn path(hold: &str) -> String {
    format!("/admin/v1/holds/{hold}/read-request")
}

/// How many rows of `content` there are, and how many of them have an excerpt.
async fn kept(gateway: &TestGateway) -> (i64, i64) {
    let rows = "select count(*), count(coalesce(excerpt, digests::text)) from content";
    sqlx::query_as(rows).fetch_one(gateway.db.pool()).await.unwrap()
}

/// The names of those who read a request, and of which hold, by the audit log.
async fn readers(gateway: &TestGateway, operator: &AdminClient<'_>) -> Vec<(String, String)> {
    let log = operator.get("/admin/v1/audit-log?action=read_hold_request").await.expect(200);
    let entries = log["items"].as_array().unwrap().iter();
    let read = |entry: &Value| {
        assert_eq!(entry["org_id"], json!(gateway.caller.org.to_string()), "{entry}");
        assert_eq!(
            (&entry["target_kind"], &entry["before"], &entry["after"]),
            (&json!("hold"), &Value::Null, &Value::Null)
        );
        assert!(entry["address"].is_string() && entry["request_id"].is_string(), "{entry}");
        (entry["actor"].as_str().unwrap().to_owned(), entry["target_id"].as_str().unwrap().to_owned())
    };
    entries.map(read).collect()
}

#[tokio::test]
async fn an_operator_reads_the_request_of_an_unfinished_task_and_the_audit_log_has_it() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    let create =
        gateway.creating(body("not kept after the end").to_string()).header("x-tollgate-store", "no");
    Answer::to(create).await.expect(200);
    let hold = gateway.last_hold().await.reference();
    let reader = AdminClient::operator(&gateway, OperatorRole::OperatorRead).await;
    let admin = AdminClient::org_admin(&gateway, &gateway.caller).await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    for other in [&reader, &admin] {
        other.call(reqwest::Method::POST, &path(&hold), None).await.expect(403);
    }
    assert!(readers(&gateway, &operator).await.is_empty());
    let read = operator.call(reqwest::Method::POST, &path(&hold), None).await.expect(200);
    assert_eq!((&read["hold_id"], &read["state"]), (&json!(hold), &json!("RUNNING")));
    let prompt = format!("not kept after the end {PROMPT}");
    let excerpt = json!({"type": "pro-text-to-video", "prompt": prompt, "duration": 5, "sound": true});
    assert_eq!(read["excerpt"], excerpt);
    let said = gateway.admin_says(&["holds", "request", &hold]).await;
    assert!(said.code == 0 && said.out.contains(&prompt), "{said:?}");
    let read = readers(&gateway, &operator).await;
    assert_eq!(read.len(), 2, "once here, once by the command: {read:?}");
    assert!(read.iter().all(|(actor, target)| actor.starts_with("operator") && *target == hold), "{read:?}");

    let unknown = path("hold_00000000000000000000000000000000");
    operator.call(reqwest::Method::POST, &unknown, None).await.expect(404);
    assert_eq!(readers(&gateway, &operator).await.len(), 2, "nothing was read");
}

#[tokio::test]
async fn what_the_vendor_repeats_has_the_digests_of_what_was_sent() {
    let gateway = TestGateway::start().await;
    let image = format!("data:image/jpeg;base64,{}", "A".repeat(3 << 20));
    let create = json!({"type": "o3-pro-reference-to-video", "prompt": "caf\u{e9} \"x\"", "images": [image, "u"],
                        "duration": "5", "cfg_scale": 0.5, "more": {"b": [1.0], "a": null}});
    gateway.fault_on_status(json!({"kind": "status_word", "value": "RENDERING"})).await;
    let task = gateway.create(&create).await.task_id();
    let digests: Value =
        sqlx::query_scalar("select digests from content").fetch_one(gateway.db.pool()).await.unwrap();
    gateway.script(json!({})).await;
    let told = gateway.finished(&task).await.data();
    let echoed = told["request"].as_object().unwrap();
    assert_eq!(echoed.len(), 6, "{:?}", echoed.keys());
    for (name, value) in echoed {
        assert_eq!(digests[name], json!(digest(&value.to_string())), "{name}");
    }
    assert_eq!(digests.as_object().unwrap().len(), 6);
}

/// A gateway that is killed at any instant after it has sent a create leaves an excerpt.
#[tokio::test]
async fn the_excerpt_is_there_before_the_vendor_sees_the_create() {
    let gateway = TestGateway::start().await;
    gateway.fault_on_create(json!({"kind": "hang"})).await;
    let create = body("the vendor hangs");
    let asking = gateway.create(&create);
    let looking = async {
        until("the vendor has the create", async || gateway.upstream_creates().await.0 == 1).await;
        assert_eq!(kept(&gateway).await, (1, 1));
    };
    tokio::select! {
        answer = asking => panic!("nobody answers: {answer:?}"),
        () = looking => {}
    }
}

#[tokio::test]
async fn nothing_of_an_excerpt_is_left_once_the_task_has_ended() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let ended = gateway.task("it ends").await;
    gateway.finished(&ended).await;
    assert_eq!(kept(&gateway).await, (1, 0));
    let hold = gateway.last_hold().await.reference();
    operator.call(reqwest::Method::POST, &path(&hold), None).await.expect(404);

    gateway
        .fault_on_create(json!({"kind": "http_error", "status": 422, "error": "X", "message": "no"}))
        .await;
    gateway.create(&body("refused, with a NUL: \0")).await.refused(400, "X");
    until("the refused one's row is gone", async || kept(&gateway).await == (1, 0)).await;

    // A doubt that an operator ends: nobody can read it from then on, and it is erased within a minute.
    gateway.fault_on_create(json!({"kind": "cut_before"})).await;
    let hold = gateway.create(&body("in doubt, with a NUL: \0")).await.reference();
    let read = operator.call(reqwest::Method::POST, &path(&hold), None).await.expect(200);
    assert_eq!(read["state"], "IN_DOUBT");
    let release = format!("/admin/v1/holds/{hold}/release");
    operator.post(&release, json!({"reason": "not in the list"})).await.expect(200);
    operator.call(reqwest::Method::POST, &path(&hold), None).await.expect(404);
    gateway.db.database().erase_old_content(30).await.unwrap();
    assert_eq!(kept(&gateway).await, (1, 0));
    assert_eq!(readers(&gateway, &operator).await.len(), 1);
}

/// An operator's convenience is no reason to refuse a create.
#[tokio::test]
async fn a_create_whose_excerpt_cannot_be_stored_is_sent() {
    use sqlx::{Connection, Executor, PgConnection};

    let gateway = TestGateway::start().await;
    let mut holder = PgConnection::connect(gateway.db.url()).await.unwrap();
    lock(&mut holder, "content in exclusive mode").await;
    let task = gateway.create(&body("without an excerpt")).await.task_id();
    holder.execute("rollback").await.unwrap();
    gateway.finished(&task).await;
}
