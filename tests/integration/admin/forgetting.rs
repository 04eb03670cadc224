//! Forgetting a user: its name is nowhere any more, and nothing of the books has changed.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tollgate::ids::UserId;
use tollgate::store::OperatorRole;

use crate::support::admin_client::AdminClient;
use crate::support::database::until;
use crate::support::gateway::{Answer, TestGateway};

/// A part of all that names the user.
const NAME: &str = "zebedee";

/// Every row of every table that has the name in it, as `table: row`.
async fn named(gateway: &TestGateway) -> Vec<String> {
    let tables: Vec<String> = sqlx::query_scalar(
        "select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace \
         where c.relkind in ('r', 'p', 'm') and n.nspname in ('public', 'reporting') and not c.relispartition",
    )
    .fetch_all(gateway.db.pool())
    .await
    .unwrap();
    assert!(tables.len() > 25, "these are not all tables: {tables:?}");
    let mut found = Vec::new();
    for table in tables {
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!(
            "select row_text::text from {table} as row_text where row_text::text ilike '%{NAME}%'"
        )))
        .fetch_all(gateway.db.pool())
        .await
        .unwrap();
        found.extend(rows.into_iter().map(|row| format!("{table}: {row}")));
    }
    found
}

/// What the books say: balances, holds and entries, row by row.
async fn books(gateway: &TestGateway) -> Vec<String> {
    let mut rows = Vec::new();
    for table in ["org_balance", "hold", "entry", "usage_day", "platform_loss"] {
        let all: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(format!("select b::text from {table} b order by 1")))
                .fetch_all(gateway.db.pool())
                .await
                .unwrap();
        rows.extend(all);
    }
    rows
}

struct Known {
    user: UserId,
    key: String,
    task: String,
}

/// A user that is named wherever a user can be named.
async fn known(gateway: &TestGateway, operator: &AdminClient<'_>) -> Known {
    let org = format!("/admin/v1/orgs/{}", gateway.caller.org);
    let user =
        operator.post(&format!("{org}/users"), json!({"name": format!("{NAME} before")})).await.expect(201);
    let id = user["user_id"].as_str().unwrap().to_owned();
    let path = format!("/admin/v1/users/{id}");
    operator.patch(&path, json!({"name": format!("{NAME}@example.org")})).await.expect(200);
    let key = json!({"user_id": id, "name": format!("the key of {NAME}")});
    let key = operator.post(&format!("{org}/keys"), key).await.expect(201);
    let key_path = format!("/admin/v1/keys/{}", key["key_id"].as_str().unwrap());
    operator.patch(&key_path, json!({"name": format!("the laptop of {NAME}")})).await.expect(200);
    let provider = json!({
        "name": "theirs", "issuer": "https://issuer.example", "audiences": ["tollgate"], "org_id": gateway.caller.org,
        "jwks_url": "https://issuer.example/keys",
    });
    let provider = operator.post("/admin/v1/identity-providers", provider).await.expect(201);
    for subject in ["first", "second"] {
        let link = json!({"provider_id": provider["provider_id"], "user_id": id, "subject": format!("{NAME}-{subject}")});
        let made = operator.post(&format!("{org}/identities"), link).await.expect(201);
        if subject == "first" {
            // One that it has no more is still in the audit log.
            let gone = format!("{org}/identities/{}", made["identity_id"].as_str().unwrap());
            operator.delete(&gone).await.expect(204);
        }
    }
    let secret = key["api_key"].as_str().unwrap().to_owned();
    let body = json!({"type": "pro-text-to-video", "prompt": format!("a portrait of {NAME}"), "duration": 5});
    let call = gateway.request(Method::POST, "/api/generate").bearer_auth(&secret).body(body.to_string());
    let task = Answer::to(call).await.task_id();
    until("the task has ended", async || {
        let call = gateway.request(Method::GET, &format!("/api/status?task_id={task}")).bearer_auth(&secret);
        Answer::to(call).await.data()["status"] == "SUCCESS"
    })
    .await;
    // As if the vendor had repeated the prompt.
    sqlx::query("update content set last = $1 where last is not null")
        .bind(
            json!({"task_id": task, "status": "SUCCESS", "prompt": format!("a portrait of {NAME}")})
                .to_string(),
        )
        .execute(gateway.db.pool())
        .await
        .unwrap();
    Known { user: id.parse().unwrap(), key: secret, task }
}

async fn forget(client: &AdminClient<'_>, user: UserId, body: Value) -> Value {
    client.post(&format!("/admin/v1/users/{user}/forget"), body).await.expect(200)
}

/// The only task.
async fn erased_hold(gateway: &TestGateway) -> String {
    sqlx::query_scalar("select 'hold_' || replace(hold_id::text, '-', '') from hold")
        .fetch_one(gateway.db.pool())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_forgotten_user_is_named_nowhere_and_the_books_are_as_they_were() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let Known { user, key, task } = known(&gateway, &operator).await;
    let before = named(&gateway).await;
    for table in ["app_user", "api_key", "user_identity", "audit_log", "content"] {
        let place = format!("public.{table}: ");
        assert!(before.iter().any(|row| row.starts_with(&place)), "{table} does not name it: {before:#?}");
    }
    let of_books = books(&gateway).await;
    let entries: i64 =
        sqlx::query_scalar("select count(*) from audit_log").fetch_one(gateway.db.pool()).await.unwrap();

    let kept = forget(&operator, user, json!({})).await;
    let rest = named(&gateway).await;
    assert!(!rest.is_empty() && rest.iter().all(|row| row.starts_with("public.content: ")), "{rest:#?}");
    let erased = forget(&operator, user, json!({"erase_content": true})).await;
    assert_eq!(named(&gateway).await, [""; 0]);
    let pseudonym = erased["pseudonym"].as_str().unwrap();
    assert_eq!((&kept["pseudonym"], &kept["erased_tasks"]), (&json!(pseudonym), &json!(0)));
    assert_eq!((&erased["erased_tasks"], &erased["next"]), (&json!(1), &json!(erased_hold(&gateway).await)));
    // There the next call goes on, and finds nothing.
    let rest = forget(&operator, user, json!({"erase_content": true, "after": erased["next"]})).await;
    assert_eq!((&rest["erased_tasks"], &rest["next"]), (&json!(0), &Value::Null));
    assert_eq!(books(&gateway).await, of_books);

    // The audit log has the same changes as before, and this one, by its actor and under its own name.
    let log = operator.get(&format!("/admin/v1/audit-log?target_id={user}&limit=200")).await.expect(200);
    let newest = &log["items"][0];
    assert_eq!(
        (&newest["action"], &newest["after"]["name"]),
        (&json!("forget_user"), &json!(pseudonym)),
        "{log:#}"
    );
    assert!(newest["actor"].as_str().unwrap().starts_with("operator:"), "{newest}");
    let now: i64 =
        sqlx::query_scalar("select count(*) from audit_log").fetch_one(gateway.db.pool()).await.unwrap();
    // The user, its key, the identity that was left.
    assert_eq!(now, entries + 3);

    until("its key is refused", async || {
        let call = gateway.request(Method::GET, "/api/credits").bearer_auth(&key);
        Answer::to(call).await.status == 401
    })
    .await;
    operator.get(&format!("/admin/v1/users/{user}")).await.expect(404);
    // The task is the organisation's, and can still be read.
    let state = gateway.call(Method::GET, &format!("/api/status?task_id={task}"));
    Answer::to(state).await.expect(200);
    // The name is free again.
    let again = json!({"name": format!("{NAME}@example.org")});
    operator.post(&format!("/admin/v1/orgs/{}/users", gateway.caller.org), again).await.expect(201);
}

#[tokio::test]
async fn who_may_forget_whom() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let admin = AdminClient::org_admin(&gateway, &gateway.caller).await;
    let stranger = gateway.another_org("a stranger", 0).await;
    let path = |user: UserId| format!("/admin/v1/users/{user}/forget");
    admin.post(&path(stranger.user), json!({})).await.expect(404);
    operator.post(&path(UserId::generate()), json!({})).await.expect(404);
    // Also one that was deleted before.
    operator.delete(&format!("/admin/v1/users/{}", gateway.caller.user)).await.expect(204);
    let first = forget(&admin, gateway.caller.user, json!({})).await;
    assert_eq!(forget(&admin, gateway.caller.user, json!({})).await, first, "twice changes nothing more");
}

#[tokio::test]
async fn the_audit_log_changes_by_nothing_but_pseudonyms() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    operator.post("/admin/v1/orgs", json!({"name": NAME})).await.expect(201);
    for change in [
        "update audit_log set actor = 'somebody'",
        "update audit_log set after = null",
        "update audit_log set after = '{\"name\": \"x\", \"status\": \"x\"}' where after ? 'name'",
        "delete from audit_log",
    ] {
        for setting in ["", "x"] {
            let mut transaction = gateway.db.pool().begin().await.unwrap();
            sqlx::query("select set_config('tollgate.pseudonym', $1, true)")
                .bind(setting)
                .execute(&mut *transaction)
                .await
                .unwrap();
            let refused = sqlx::raw_sql(AssertSqlSafe(change.to_owned())).execute(&mut *transaction).await;
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains("append-only"), "{change}: {refused}");
        }
    }
}
