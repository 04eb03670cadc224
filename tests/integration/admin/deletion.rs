//! An organisation is deleted without leaving a credit or an unfinished task behind, and comes back as it was.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tollgate::ids::OrgId;
use tollgate::store::OperatorRole;

use crate::support::admin_client::{AdminAnswer, AdminClient};
use crate::support::database::until;
use crate::support::gateway::{Answer, ENDLESS, TestGateway, body};

async fn delete(operator: &AdminClient<'_>, org: OrgId, query: &str, key: Option<&str>) -> AdminAnswer {
    let key = key.map(|key| ("idempotency-key", key));
    operator.call_with(Method::DELETE, &format!("/admin/v1/orgs/{org}{query}"), None, key.as_slice()).await
}

async fn restore(operator: &AdminClient<'_>, org: OrgId, body: Value) -> AdminAnswer {
    operator.post(&format!("/admin/v1/orgs/{org}/restore"), body).await
}

async fn shown(operator: &AdminClient<'_>, org: OrgId) -> Value {
    operator.get(&format!("/admin/v1/orgs/{org}")).await.expect(200)
}

#[track_caller]
fn in_the_way(answer: AdminAnswer, what: &str) {
    let told = answer.expect(409);
    assert!(told["detail"].as_str().unwrap().contains(what), "{told}");
}

#[tokio::test]
async fn credits_stand_in_the_way_until_they_are_moved_or_forfeited_by_word() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let [first, second] = [gateway.another_org("first", 700).await, gateway.another_org("second", 50).await];
    let heir = gateway.caller.org;

    in_the_way(delete(&operator, first.org, "", None).await, "has 700 credits");
    assert_eq!(shown(&operator, first.org).await["deleted_at"], Value::Null);
    let both = format!("?move_credits_to={heir}&forfeit_credits=true");
    delete(&operator, first.org, &both, None).await.expect(400);
    delete(&operator, first.org, &format!("?move_credits_to={}", first.org), None).await.expect(400);
    let nobody = format!("?move_credits_to={}", OrgId::generate());
    delete(&operator, first.org, &nobody, None).await.expect(404);
    let stale = [("if-match", "\"99\"")];
    let path = format!("/admin/v1/orgs/{}?forfeit_credits=true", first.org);
    operator.call_with(Method::DELETE, &path, None, &stale).await.expect(412);
    assert_eq!(shown(&operator, first.org).await["available"], 700, "what is refused moves nothing");

    let moved = format!("?move_credits_to={heir}");
    let done = delete(&operator, first.org, &moved, Some("k")).await;
    assert!(!done.headers.contains_key("idempotent-replayed"));
    done.expect(204);
    let again = delete(&operator, first.org, &moved, Some("k")).await;
    assert_eq!(again.headers["idempotent-replayed"], "true");
    again.expect(204);
    delete(&operator, first.org, "?forfeit_credits=true", Some("k")).await.expect(422);
    delete(&operator, first.org, &moved, None).await.expect(404);
    assert_eq!(shown(&operator, heir).await["available"], 1_000_700, "moved once");
    let gone = shown(&operator, first.org).await;
    assert_eq!((&gone["available"], gone["deleted_at"] != Value::Null), (&json!(0), true));
    in_the_way(
        delete(&operator, second.org, &format!("?move_credits_to={}", first.org), None).await,
        "has been deleted",
    );

    delete(&operator, second.org, "?forfeit_credits=true", None).await.expect(204);
    let entries = operator.get(&format!("/admin/v1/orgs/{}/entries", second.org)).await.expect(200);
    let newest = &entries["items"][0];
    assert_eq!((&newest["kind"], &newest["credits"]), (&json!("adjust"), &json!(-50)), "{entries}");
    assert!(newest["reason"].as_str().unwrap().starts_with("forfeited"), "{newest}");
    let log = operator.get(&format!("/admin/v1/orgs/{}/audit-log", second.org)).await.expect(200);
    let of_deletion: Vec<&Value> =
        log["items"].as_array().unwrap().iter().filter(|change| change["action"] == "delete_org").collect();
    let kinds: Vec<&str> = of_deletion.iter().map(|change| change["target_kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["org", "entry"], "{log:#}");
}

#[tokio::test]
async fn unfinished_tasks_and_debts_stand_in_the_way_whatever_is_said() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let org = gateway.caller.org;
    let heir = gateway.another_org("heir", 0).await;
    gateway.create(&body("x")).await.expect(200);
    for query in ["".into(), "?forfeit_credits=true".into(), format!("?move_credits_to={}", heir.org)] {
        in_the_way(delete(&operator, org, &query, None).await, "1 unfinished tasks");
    }
    assert_eq!(gateway.balance().await, [999_600, 400, 0]);

    // A task in doubt is no open one by the count of the cap, but it may cost credits all the same.
    let doubtful = gateway.another_org("doubtful", 400).await;
    gateway.fault_on_create(json!({"kind": "cut_after"})).await;
    let call = gateway.request(Method::POST, "/api/generate").bearer_auth(&doubtful.text);
    Answer::to(call.body(body("y").to_string())).await.refused(504, "OUTCOME_UNKNOWN");
    in_the_way(delete(&operator, doubtful.org, "?forfeit_credits=true", None).await, "1 unfinished tasks");

    let owing = gateway.another_org("owing", 0).await.org;
    let credits = format!("/admin/v1/orgs/{owing}/credits");
    operator
        .call(Method::PUT, &format!("{credits}/overdraft"), Some(json!({"overdraft": 5})))
        .await
        .expect(200);
    let correct = async |credits_: i64| {
        let correction = json!({"credits": credits_, "reason": "a test"});
        operator.post(&format!("{credits}/adjustments"), correction).await.expect(201);
    };
    correct(-5).await;
    in_the_way(delete(&operator, owing, "?forfeit_credits=true", None).await, "owes 5 credits");
    correct(5).await;
    // The key of a deletion that moved no credit points to no entry: the audit at the end of the test knows that.
    delete(&operator, owing, "", Some("empty")).await.expect(204);
    let again = delete(&operator, owing, "", Some("empty")).await;
    assert_eq!(again.headers["idempotent-replayed"], "true");
}

#[tokio::test]
async fn a_task_that_came_to_light_after_its_end_stands_in_the_way() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let late = gateway.another_org("late", 1000).await;
    gateway.fault_on_create(json!({"kind": "outcome", "status": "FAILED", "consumed": 0})).await;
    let call = gateway.request(Method::POST, "/api/generate").bearer_auth(&late.text);
    Answer::to(call.body(body("z").to_string())).await.expect(200);
    until("it has failed", async || shown(&operator, late.org).await["available"] == 1000).await;
    let reopen = async |state: Option<&str>| {
        let tomorrow = "with gone as (delete from open_task where org_id = $1 and $2::text is null), \
             late as (update hold set late = $2 where org_id = $1 returning org_id, hold_id, backend, account, owner, upstream_task) \
             insert into open_task (org_id, hold_id, state, reopened, backend, account, owner, upstream_task, due_at) \
             select org_id, hold_id, 'RUNNING', true, backend, account, owner, upstream_task, now() + interval '1 day' \
             from late where $2::text is not null";
        let reopen = sqlx::query(tomorrow).bind(late.org.as_uuid()).bind(state);
        reopen.execute(gateway.db.pool()).await.unwrap();
    };
    reopen(Some("open")).await;
    in_the_way(delete(&operator, late.org, "?forfeit_credits=true", None).await, "1 unfinished tasks");
    reopen(None).await;
    delete(&operator, late.org, "?forfeit_credits=true", None).await.expect(204);
}

#[tokio::test]
async fn a_deletion_is_taken_back_with_its_keys_and_its_standing() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let tenant = gateway.another_org("a tenant", 10).await;
    let reads = async || {
        let call = gateway.request(Method::GET, "/api/credits").bearer_auth(&tenant.text);
        Answer::to(call).await.status
    };
    assert_eq!(reads().await, 200);
    delete(&operator, tenant.org, "?forfeit_credits=true", None).await.expect(204);
    until("its key is refused", async || reads().await == 401).await;

    let taken = gateway.another_org("a tenant", 0).await;
    in_the_way(restore(&operator, tenant.org, json!({})).await, "another organisation has this name");
    let back = restore(&operator, tenant.org, json!({"name": "the first tenant"})).await.expect(200);
    assert_eq!(
        (&back["name"], &back["status"], &back["deleted_at"], &back["available"]),
        (&json!("the first tenant"), &json!("active"), &Value::Null, &json!(0))
    );
    until("its key is accepted again", async || reads().await == 200).await;
    let again = restore(&operator, tenant.org, json!({"name": "another name"})).await.expect(200);
    assert_eq!(
        (&again["name"], &again["version"]),
        (&back["name"], &back["version"]),
        "nothing to take back"
    );
    restore(&operator, OrgId::generate(), json!({})).await.expect(404);
    let log = operator.get(&format!("/admin/v1/orgs/{}/audit-log", tenant.org)).await.expect(200);
    assert_eq!(log["items"][0]["action"], "restore_org", "{log:#}");

    // One that was suspended is suspended after it.
    let path = format!("/admin/v1/orgs/{}", taken.org);
    operator.patch(&path, json!({"status": "suspended"})).await.expect(200);
    operator.delete(&path).await.expect(204);
    assert_eq!(restore(&operator, taken.org, json!({})).await.expect(200)["status"], "suspended");
}

#[tokio::test]
async fn no_credit_is_lost_between_grants_and_a_deletion() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let (org, heir) =
        (gateway.another_org("short-lived", 1).await.org, gateway.another_org("heir", 0).await.org);
    let moved = format!("?move_credits_to={heir}");
    let grants = (0..20).map(|_| {
        let path = format!("/admin/v1/orgs/{org}/credits/grants");
        let operator = &operator;
        async move { operator.post(&path, json!({"credits": 10, "reason": "a test"})).await.status.as_u16() }
    });
    let deletions = (0..3).map(|_| async { delete(&operator, org, &moved, None).await.status.as_u16() });
    let (granted, deleted) = tokio::join!(join_all(grants), join_all(deletions));
    assert!(granted.iter().all(|status| [201, 409, 503].contains(status)), "{granted:?}");
    assert_eq!(deleted.iter().filter(|status| **status == 204).count(), 1, "{deleted:?}");
    let granted = granted.iter().filter(|status| **status == 201).count();
    assert_eq!(shown(&operator, heir).await["available"], 1 + 10 * i64::try_from(granted).unwrap());
    assert_eq!(shown(&operator, org).await["available"], 0);
}
