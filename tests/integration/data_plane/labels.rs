//! Labels: what callers find and count their tasks by. They are stored with the hold, and seen by their organisation alone.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tollgate::store::OperatorRole;

use crate::support::admin_client::AdminClient;
use crate::support::gateway::{Answer, Caller, ENDLESS, TestGateway, body};

const LABELS: &str = "x-tollgate-labels";

async fn labelled(gateway: &TestGateway, prompt: &str, labels: &str) -> Answer {
    Answer::to(gateway.creating(body(prompt).to_string()).header(LABELS, labels)).await
}

fn with_metadata(prompt: &str, metadata: Value) -> String {
    let mut body = body(prompt);
    body["metadata"] = metadata;
    body.to_string()
}

async fn get(gateway: &TestGateway, caller: &Caller, path: &str) -> Answer {
    Answer::to(gateway.request(Method::GET, path).bearer_auth(&caller.text)).await
}

/// The labels of a task as each call shows them that shows any.
async fn shown(gateway: &TestGateway, task: &str) -> Value {
    let detail = get(gateway, &gateway.caller, &format!("/api/tasks/{task}")).await.data();
    let list = get(gateway, &gateway.caller, "/api/tasks?limit=100").await.data();
    let row = list["tasks"].as_array().unwrap().iter().find(|row| row["task_id"] == task).unwrap();
    assert_eq!(row["labels"], detail["labels"]);
    let operator = AdminClient::operator(gateway, OperatorRole::OperatorRead).await;
    let hold = format!("/admin/v1/holds/{}", detail["reference"].as_str().unwrap());
    assert_eq!(operator.get(&hold).await.expect(200)["labels"], detail["labels"]);
    detail["labels"].clone()
}

#[tokio::test]
async fn labels_come_in_a_header_or_as_metadata_and_are_shown_wherever_the_task_is() {
    let gateway = TestGateway::start().await;
    let task = labelled(&gateway, "one", "project=x, shot=12,by=A%2CB").await.task_id();
    assert_eq!(shown(&gateway, &task).await, json!({"by": "A,B", "project": "x", "shot": "12"}));
    let status = gateway.status(&task).await;
    assert_eq!(status.header(LABELS), "by=A%2CB, project=x, shot=12");
    assert_eq!(gateway.finished(&task).await.header(LABELS), "by=A%2CB, project=x, shot=12");

    let metadata = with_metadata("two", json!({"project": "y", "caf\u{e9}": "\u{fc}"}));
    let created = Answer::to(gateway.creating(metadata.clone())).await.task_id();
    assert_eq!(shown(&gateway, &created).await, json!({"project": "y", "caf\u{e9}": "\u{fc}"}));
    assert_eq!(gateway.status(&created).await.header(LABELS), "caf%C3%A9=%C3%BC, project=y");
    let both = gateway.creating(with_metadata("three", json!({"project": "x"})));
    let created = Answer::to(both.header(LABELS, "shot=1, project=x")).await.task_id();
    assert_eq!(shown(&gateway, &created).await, json!({"project": "x", "shot": "1"}));

    let plain = Answer::to(gateway.creating(body("four").to_string())).await.task_id();
    assert_eq!(shown(&gateway, &plain).await, json!({}));
    assert_eq!(gateway.status(&plain).await.headers.get(LABELS), None);
}

#[tokio::test]
async fn metadata_goes_to_the_vendor_as_it_is_whether_it_gives_labels_or_not() {
    // While a task goes on there are digests of what was sent.
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    for (prompt, metadata, labels) in [
        ("texts", json!({" a ": "b"}), json!({"a": "b"})),
        ("numbers", json!({"a": 1}), json!({})),
        ("nested", json!({"a": {"b": "c"}}), json!({})),
        ("list", json!(["a=b"]), json!({})),
        ("long", json!({"a": "x".repeat(129)}), json!({})),
    ] {
        let task = Answer::to(gateway.creating(with_metadata(prompt, metadata.clone()))).await.task_id();
        assert_eq!(shown(&gateway, &task).await, labels, "{prompt}");
        let sent: i64 = sqlx::query_scalar("select count(*) from content where digests ->> 'metadata' = $1")
            .bind(tollgate::order::digest(&metadata.to_string()))
            .fetch_one(gateway.db.pool())
            .await
            .unwrap();
        assert_eq!(sent, 1, "{prompt}");
    }
}

#[tokio::test]
async fn what_is_ambiguous_or_too_much_is_refused_before_credits_are_held() {
    let gateway = TestGateway::start().await;
    let seventeen = (0..17).map(|n| format!("l{n}=v")).collect::<Vec<_>>().join(",");
    for (labels, why) in [
        ("project", "no label"),
        ("project=x, project=y", "two values"),
        ("a=%zz", "%25"),
        ("a=", "value"),
        (&*seventeen, "at most 16"),
    ] {
        let refused = labelled(&gateway, "x", labels).await;
        refused.refused(400, "INVALID_REQUEST");
        let message = refused.json()["message"].to_string();
        assert!(message.contains("X-Tollgate-Labels") && message.contains(why), "{labels}: {message}");
    }
    let contradicts =
        gateway.creating(with_metadata("x", json!({"project": "x"}))).header(LABELS, "project=y");
    Answer::to(contradicts).await.refused(400, "INVALID_REQUEST");
    let twice = gateway.creating(body("x").to_string()).header(LABELS, "a=b").header(LABELS, "c=d");
    Answer::to(twice).await.refused(400, "INVALID_REQUEST");
    assert_eq!(gateway.holds().await.len(), 0);
    assert_eq!(gateway.upstream_creates().await, (0, 0));
}

#[tokio::test]
async fn a_repetition_has_the_labels_of_the_first() {
    let gateway = TestGateway::start().await;
    let keyed = async |labels: &str| {
        let call = gateway.creating(body("x").to_string()).header("idempotency-key", "k");
        Answer::to(call.header(LABELS, labels)).await
    };
    let first = keyed("project=x").await.task_id();
    for labels in ["project=y", "no label"] {
        let again = keyed(labels).await;
        assert_eq!((again.task_id(), again.header("idempotent-replayed")), (first.clone(), "true"));
    }
    assert_eq!(shown(&gateway, &first).await, json!({"project": "x"}));
    assert_eq!(gateway.upstream_creates().await, (1, 1));
}

async fn listed(gateway: &TestGateway, caller: &Caller, query: &str) -> Vec<String> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = get(gateway, caller, &format!("/api/tasks?limit=2&{query}{cursor}")).await.data();
        let rows = page["tasks"].as_array().unwrap();
        assert!(rows.len() <= 2);
        found.extend(rows.iter().map(|row| row["task_id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { return found };
        cursor = format!("&cursor={next}");
    }
}

#[tokio::test]
async fn lists_by_a_label_have_all_tasks_with_it_and_none_of_another_organisation() {
    let gateway = TestGateway::start().await;
    let other = gateway.another_org("other", 100_000).await;
    let mut tasks = Vec::new();
    for n in 0..5 {
        tasks.push(labelled(&gateway, &format!("x{n}"), &format!("project=x, shot={n}")).await.task_id());
    }
    labelled(&gateway, "y", "project=y").await.task_id();
    let foreign = gateway.request(Method::POST, "/api/generate").bearer_auth(&other.text);
    let foreign = foreign.body(body("z").to_string()).header(LABELS, "project=x");
    let foreign = Answer::to(foreign).await.task_id();
    gateway.finished(&tasks[0]).await;
    tasks.reverse();

    assert_eq!(listed(&gateway, &gateway.caller, "label=project%3Dx").await, tasks);
    assert_eq!(listed(&gateway, &gateway.caller, "label=project=x").await, tasks);
    assert_eq!(listed(&gateway, &other, "label=project=x").await, [foreign]);
    assert_eq!(listed(&gateway, &gateway.caller, "label=shot=3").await, tasks[1..2]);
    for status in ["SUCCESS", "SETTLED"] {
        let ended = listed(&gateway, &gateway.caller, &format!("label=project=x&status={status}")).await;
        assert_eq!(ended.last(), tasks.last(), "the others may have ended too");
    }
    let user = gateway.caller.user;
    assert_eq!(listed(&gateway, &gateway.caller, &format!("label=project=x&user={user}")).await, tasks);
    for none in ["label=project=X", "label=Project=x", "label=shot=x", "label=project=x&status=FAILED"] {
        assert_eq!(listed(&gateway, &gateway.caller, none).await, [""; 0], "{none}");
    }
    for bad in ["label=project", "label==x", "label=", "label=a=b&label=a=c"] {
        get(&gateway, &gateway.caller, &format!("/api/tasks?{bad}")).await.refused(400, "INVALID_REQUEST");
    }
}

#[tokio::test]
async fn labels_are_only_added() {
    let gateway = TestGateway::start().await;
    let task = labelled(&gateway, "x", "project=x").await.task_id();
    for refused in ["update label set value = 'y'", "delete from label", "truncate label"] {
        let done = sqlx::raw_sql(AssertSqlSafe(refused)).execute(gateway.db.pool()).await;
        assert!(done.is_err(), "{refused}");
    }
    let rights: Vec<String> = sqlx::query_scalar(
        "select right_ from unnest(array['DELETE', 'INSERT', 'SELECT', 'TRUNCATE', 'UPDATE']) right_ \
         where has_table_privilege('tollgate_app', 'label', right_)",
    )
    .fetch_all(gateway.db.pool())
    .await
    .unwrap();
    assert_eq!(rights, ["INSERT", "SELECT"]);
    assert_eq!(shown(&gateway, &task).await, json!({"project": "x"}));
}
