//! A task whose month has left the database for files: who asks for it is told what is known of it.

use serde_json::{Value, json};
use tollgate::store::Month;

use crate::support::aged::{aged, by_hand};
use crate::support::gateway::TestGateway;
use crate::support::process::Scratch;

#[tokio::test]
async fn a_task_in_an_archive_is_shown_as_what_it_came_to() {
    let gateway = TestGateway::start().await;
    let tasks = [gateway.task("the first").await, gateway.task("the last").await];
    for task in &tasks {
        gateway.finished(task).await;
    }
    let money = gateway.balance().await;
    aged(&gateway.db, 100).await;
    // This gateway remembers the task under its own name.
    let named = |from: &str, to: &str| {
        format!(
            "update hold set upstream_task = '{to}' where upstream_task = '{from}'; \
                 update vendor_task set upstream_task = '{to}' where upstream_task = '{from}'; delete from content; delete from idempotency"
        )
    };
    let old = "an-old-task";
    by_hand(&gateway.db, &named(&tasks[0], old)).await;
    let database = gateway.db.database();
    database.seal_months(std::time::Duration::from_secs(60)).await.unwrap();
    let month: String = sqlx::query_scalar("select left(min(month)::text, 7) from month_seal")
        .fetch_one(gateway.db.pool())
        .await
        .unwrap();
    let month: Month = month.parse().unwrap();
    let scratch = Scratch::new();
    let archive = scratch.0.join("archive");
    database.archive_month(month, &archive).await.unwrap();
    assert_eq!(database.detach_month(month, &archive, 1).await.unwrap().tasks, 1);

    let shown = gateway.status(old).await;
    assert_eq!(shown.status, 200);
    let data = shown.data();
    assert_eq!((&data["status"], &data["consumed_credits"]), (&json!("SUCCESS"), &json!(400)), "{data}");
    assert_eq!((&data["task_id"], &data["response"]), (&json!(old), &Value::Null), "{data}");
    gateway.get(&format!("/api/tasks/{old}")).await.refused(404, "TASK_NOT_FOUND");
    let stranger = gateway.another_org("another", 0).await;
    let path = format!("/api/status?task_id={old}");
    let foreign = gateway.request(reqwest::Method::GET, &path).bearer_auth(&stranger.text);
    crate::support::gateway::Answer::to(foreign).await.refused(404, "TASK_NOT_FOUND");
    let listed = gateway.get("/api/tasks").await.data();
    assert!(!listed.to_string().contains(old) && listed.to_string().contains(&tasks[1]), "{listed}");
    assert_eq!(gateway.balance().await, money);
    assert_eq!(database.audit().await.unwrap().breaches, []);

    database.restore_month(&archive).await.unwrap();
    by_hand(&gateway.db, &named(old, &tasks[0])).await;
}
