//! Content: what the vendor said about a task. It is erased without a change to credits, and nothing of it is left.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tollgate::store::OperatorRole;

use crate::support::admin_client::AdminClient;
use crate::support::database::{lock, until};
use crate::support::gateway::{Answer, Caller, TestGateway, body};
use crate::support::leaks::PROMPT;
use crate::support::process::run;

/// The tables in which the prompt of a create stands.
async fn tables_with_the_prompt(gateway: &TestGateway) -> Vec<String> {
    let tables: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') \
         and not relispartition order by relname",
    )
    .fetch_all(gateway.db.pool())
    .await
    .unwrap();
    let mut found = Vec::new();
    for table in tables {
        let look = format!("select exists (select from \"{table}\" t where t::text like '%{PROMPT}%')");
        if sqlx::query_scalar(AssertSqlSafe(look)).fetch_one(gateway.db.pool()).await.unwrap() {
            found.push(table);
        }
    }
    found
}

async fn erase(gateway: &TestGateway, caller: &Caller, task: &str) -> Answer {
    let path = format!("/api/tasks/{task}/content");
    Answer::to(gateway.request(Method::DELETE, &path).bearer_auth(&caller.text)).await
}

async fn keyed(gateway: &TestGateway, key: &str, more: &[(&str, &str)]) -> Answer {
    let mut call = gateway.creating(body("kept or not").to_string()).header("idempotency-key", key);
    for (name, value) in more {
        call = call.header(*name, *value);
    }
    Answer::to(call).await
}

#[tokio::test]
async fn erased_content_is_nowhere_and_money_stays_as_it_is() {
    let gateway = TestGateway::start().await;
    let first = keyed(&gateway, "a-key", &[]).await;
    let task = first.task_id();
    let told = gateway.finished(&task).await.data();
    assert!(told.to_string().contains(PROMPT), "the vendor repeats the request: {told}");
    assert_eq!(tables_with_the_prompt(&gateway).await, ["content"]);
    let money = gateway.balance().await;

    let erased = erase(&gateway, &gateway.caller, &task).await.data();
    assert!(erased["reference"].as_str().unwrap().starts_with("hold_"), "{erased}");
    assert_eq!(tables_with_the_prompt(&gateway).await, [""; 0]);
    assert_eq!(gateway.balance().await, money);
    let left = gateway.status(&task).await.data();
    assert_eq!((&left["status"], &left["consumed_credits"]), (&json!("SUCCESS"), &json!(400)));
    assert_eq!((&left["task_id"], &left["response"]), (&json!(task), &Value::Null));
    // The key is bound as before.
    let again = keyed(&gateway, "a-key", &[]).await;
    assert_eq!((again.task_id(), again.header("idempotent-replayed")), (task.clone(), "true"));
    assert_eq!(gateway.upstream_creates().await, (1, 1));
    erase(&gateway, &gateway.caller, &task).await.expect(200);
}

#[tokio::test]
async fn a_member_erases_what_is_its_own_and_an_admin_all_of_the_organisation() {
    let gateway = TestGateway::start().await;
    let (member, admin) =
        (gateway.another_user("member", "member").await, gateway.another_user("admin", "admin").await);
    let stranger = gateway.another_org("another customer", 0).await;
    let task = gateway.task("mine").await;
    gateway.finished(&task).await;
    erase(&gateway, &member, &task).await.refused(403, "FORBIDDEN");
    erase(&gateway, &stranger, &task).await.refused(404, "TASK_NOT_FOUND");
    erase(&gateway, &admin, "no-such-task").await.refused(404, "TASK_NOT_FOUND");
    assert_eq!(tables_with_the_prompt(&gateway).await, ["content"]);
    erase(&gateway, &admin, &task).await.expect(200);
    assert_eq!(tables_with_the_prompt(&gateway).await, [""; 0]);
    let path = format!("/api/tasks/{task}/content");
    let wrong = Answer::to(gateway.request(Method::GET, &path).bearer_auth(&admin.text)).await;
    wrong.refused(405, "METHOD_NOT_ALLOWED");
}

#[tokio::test]
async fn whoever_wants_nothing_kept_reads_the_end_once() {
    let gateway = TestGateway::start().await;
    for word in ["nope", "", "no, yes"] {
        let refused = keyed(&gateway, "never", &[("x-tollgate-store", word)]).await;
        refused.refused(400, "INVALID_REQUEST");
    }
    assert_eq!(gateway.upstream_creates().await, (0, 0));
    let created = keyed(&gateway, "unkept", &[("x-tollgate-store", "no")]).await;
    let task = created.task_id();
    let told = gateway.finished(&task).await.data();
    assert!(told.to_string().contains(PROMPT) && told["response"] != Value::Null, "{told}");
    erased_soon(&gateway).await;
    let again = keyed(&gateway, "unkept", &[("x-tollgate-store", "no")]).await;
    assert_eq!(again.task_id(), task);
    // Erased while it runs is the same.
    let running = keyed(&gateway, "kept", &[("x-tollgate-store", "yes")]).await.task_id();
    erase(&gateway, &gateway.caller, &running).await.expect(200);
    let told = gateway.finished(&running).await.data();
    assert!(told.to_string().contains(PROMPT), "{told}");
    erased_soon(&gateway).await;
}

/// What was read is to be erased within two minutes; and it is.
async fn erased_soon(gateway: &TestGateway) {
    let soon = "select count(*) from content where erase_at between now() and now() + interval '2 minutes'";
    until("its end was read", async || {
        sqlx::query_scalar::<_, i64>(soon).fetch_one(gateway.db.pool()).await.unwrap() == 1
    })
    .await;
    let now = "update content set erase_at = now() where erase_at > now() and erase_at < 'infinity'";
    sqlx::query(now).execute(gateway.db.pool()).await.unwrap();
    gateway.db.database().erase_old_content(30).await.unwrap();
    assert_eq!(tables_with_the_prompt(gateway).await, [""; 0]);
}

/// The end is stored, and waits to be recorded: whoever erases then must not lose what is about to be paid.
#[tokio::test]
async fn an_end_that_is_about_to_be_charged_can_still_be_read() {
    let gateway = TestGateway::start().await;
    let task = gateway.task("about to end").await;
    let mut holder = PgConnection::connect(gateway.db.url()).await.unwrap();
    holder.execute("begin; select from org_balance for update").await.unwrap();
    let ended = "select exists (select from content where ended)";
    until("its end is stored", async || {
        sqlx::query_scalar::<_, bool>(ended).fetch_one(gateway.db.pool()).await.unwrap()
    })
    .await;
    assert_eq!(gateway.last_hold().await.state, "RUNNING");
    erase(&gateway, &gateway.caller, &task).await.expect(200);
    holder.execute("rollback").await.unwrap();
    assert_ne!(gateway.finished(&task).await.data()["response"], Value::Null);
    erased_soon(&gateway).await;
}

/// What nobody reads is not kept either.
#[tokio::test]
async fn old_and_unread_content_is_erased_and_that_of_tasks_that_go_on_is_not() {
    let gateway = TestGateway::builder().config(|config| config.retention.content_days = 30).start().await;
    let database = gateway.db.database();
    let task = gateway.task("old").await;
    gateway.finished(&task).await;
    assert_eq!(database.old_content(30).await.unwrap(), (0, 0));
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let admin = AdminClient::org_admin(&gateway, &gateway.caller).await;
    let path = format!("/admin/v1/orgs/{}/retention", gateway.caller.org);
    assert_eq!(admin.get(&path).await.expect(200), json!({"content_days": null}));
    admin.patch(&path, json!({"content_days": 0})).await.expect(403);
    for wrong in [json!({"content_days": -1}), json!({"content_days": 3651}), json!({})] {
        operator.patch(&path, wrong).await.expect(400);
    }
    operator.patch(&path, json!({"content_days": 0})).await.expect(200);
    assert_eq!(database.erase_old_content(30).await.unwrap(), 0, "it is not an hour old");
    let older = "update content set updated_at = now() - interval '2 hours'";
    sqlx::query(older).execute(gateway.db.pool()).await.unwrap();
    operator.patch(&path, json!({"content_days": 1})).await.expect(200);
    assert_eq!(database.erase_old_content(0).await.unwrap(), 0, "its own time counts");
    operator.patch(&path, json!({"content_days": 0})).await.expect(200);
    let command = ["retention", "run", "--dry-run", "--database-url", gateway.db.url()];
    assert_eq!(run(&command).await.code, 2, "nobody guesses how long content is kept");
    for attempt in 1.. {
        let found = database.old_content(30).await.unwrap();
        let said = run(&[&command[..], &["--content-days", "30"]].concat()).await;
        let shown = said.out.contains("1 tasks is older") && said.out.contains("0 tasks is not");
        let there = tables_with_the_prompt(&gateway).await;
        let erased = database.erase_old_content(30).await.unwrap();
        assert_eq!(tables_with_the_prompt(&gateway).await, [""; 0]);
        if (found, shown, there.as_slice(), erased) == ((1, 0), true, &["content".to_owned()][..], 1) {
            break;
        }
        // The gateway erases too, once a minute, and may have been the first.
        assert!(attempt < 3, "{found:?} {said:?} {there:?} {erased}");
        gateway.finished(&gateway.task("old").await).await;
        sqlx::query(older).execute(gateway.db.pool()).await.unwrap();
    }

    operator.patch(&path, json!({"content_days": null})).await.expect(200);
    let unread = keyed(&gateway, "unread", &[("x-tollgate-store", "no")]).await.task_id();
    until("it has ended", async || gateway.balance().await[1] == 0).await;
    assert_eq!(tables_with_the_prompt(&gateway).await, ["content"], "{unread} has an hour to be read");
    sqlx::query("update content set erase_at = now()").execute(gateway.db.pool()).await.unwrap();
    assert_eq!(database.erase_old_content(30).await.unwrap(), 1);
    assert_eq!(tables_with_the_prompt(&gateway).await, [""; 0]);
}

/// The result is stored before the task is settled: else its owner would have paid for what nobody can read.
#[tokio::test]
async fn a_task_whose_result_cannot_be_stored_is_settled_once_it_can_be() {
    let gateway = TestGateway::start().await;
    let task = gateway.task("its result waits").await;
    let mut holder = PgConnection::connect(gateway.db.url()).await.unwrap();
    lock(&mut holder, "content in exclusive mode").await;
    until("the end is asked for", async || gateway.upstream_polls(&task).await > 2).await;
    assert_eq!(gateway.last_hold().await.state, "RUNNING");
    holder.execute("rollback").await.unwrap();
    let told = gateway.finished(&task).await.data();
    assert_ne!(told["response"], Value::Null);
}

/// What the database does with megabytes is felt by everybody: one text after the other, by the compression that costs least.
#[tokio::test]
async fn large_texts_are_stored_one_at_a_time() {
    const MEGABYTE: usize = 1 << 20;
    let gateway = TestGateway::start().await;
    gateway.fault_on_status(json!({"kind": "huge", "bytes": MEGABYTE})).await;
    let mut tasks = Vec::new();
    for name in ["one", "two", "three"] {
        tasks.push(gateway.task(name).await);
    }
    let mut holder = PgConnection::connect(gateway.db.url()).await.unwrap();
    lock(&mut holder, "content in exclusive mode").await;
    let storing = async || {
        let waiting = "select count(*) from pg_stat_activity where datname = current_database() \
                       and wait_event_type = 'Lock' and query like 'insert into content%'";
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(gateway.db.pool()).await.unwrap()
    };
    until("all ends are asked for", async || {
        assert!(storing().await <= 1);
        let mut asked = 0;
        for task in &tasks {
            asked += usize::from(gateway.upstream_polls(task).await > 0);
        }
        asked == tasks.len() && storing().await == 1
    })
    .await;
    for _ in 0..20 {
        assert!(storing().await <= 1);
    }
    holder.execute("rollback").await.unwrap();
    for task in &tasks {
        gateway.finished(task).await;
    }
    let quickest = "select count(*) filter (where pg_column_compression(last) = case \
                    when 'lz4' = any (enumvals) then 'lz4' else 'pglz' end) from content, pg_settings \
                    where name = 'default_toast_compression'";
    assert_eq!(sqlx::query_scalar::<_, i64>(quickest).fetch_one(gateway.db.pool()).await.unwrap(), 3);
}
