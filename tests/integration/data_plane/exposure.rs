//! An organisation whose tasks cost the platform too much in a day creates no more of them until an operator looks.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tollgate::store::OperatorRole;

use crate::support::admin_client::AdminClient;
use crate::support::gateway::{Answer, Caller, TestGateway, body};

async fn limited(limit: u32) -> TestGateway {
    let gateway = TestGateway::builder().config(move |config| config.limits.max_exposure_per_day = limit);
    gateway.start().await
}

/// The vendor takes 400 credits for each task, and fails it.
async fn bills_and_fails(gateway: &TestGateway) {
    gateway.fault_on_create(json!({"kind": "outcome", "status": "FAILED", "consumed": 400})).await;
}

async fn create_as(gateway: &TestGateway, caller: &Caller, prompt: &str, key: &str) -> Answer {
    let request = gateway.request(Method::POST, "/api/generate").bearer_auth(&caller.text);
    Answer::to(request.header("Idempotency-Key", key).body(body(prompt).to_string())).await
}

async fn lost(gateway: &TestGateway) -> i64 {
    gateway.holds().await.iter().map(|hold| hold.loss).sum()
}

#[tokio::test]
async fn fifty_at_once_lose_no_more_than_the_limit_and_what_was_under_way() {
    const AT_ONCE: usize = 50;
    const LIMIT: i64 = 4000;
    let gateway = limited(4000).await;
    bills_and_fails(&gateway).await;
    let other = gateway.another_org("another", 10_000).await;
    let restless = async |number: usize| {
        for turn in 0..4 {
            let created = gateway.judged(&body(&format!("{number} {turn}"))).await;
            if created.status == 200 {
                gateway.finished(&created.task_id()).await;
            } else {
                created.refused(403, "SUSPENDED");
            }
        }
    };
    join_all((0..AT_ONCE).map(restless)).await;
    let lost = lost(&gateway).await;
    assert!(
        (LIMIT..=LIMIT + 400 * i64::try_from(AT_ONCE).unwrap()).contains(&lost),
        "{lost} of the 80000 credits that two hundred tasks would have lost"
    );
    let sent = gateway.upstream_creates().await;
    let refused = gateway.create(&body("one more")).await.refused(403, "SUSPENDED");
    let said = refused["message"].as_str().unwrap();
    assert!(said.contains("stopped") && said.contains("operator"), "{said}");
    assert_eq!(gateway.upstream_creates().await, sent, "nothing is sent");
    assert_eq!(gateway.balance().await, [1_000_000, 0, 0]);
    create_as(&gateway, &other, "of somebody else", "k").await.task_id();
}

#[tokio::test]
async fn a_stopped_organisation_reads_and_repeats_and_an_operator_lets_it_go_on() {
    let gateway = limited(400).await;
    let key = async |prompt: &str, key: &str| create_as(&gateway, &gateway.caller, prompt, key).await;
    let first = key("the first", "k1").await;
    let task = first.task_id();
    gateway.finished(&task).await;
    bills_and_fails(&gateway).await;
    let doomed = gateway.task("doomed").await;
    assert_eq!(gateway.finished(&doomed).await.data()["status"], "FAILED");
    key("the second", "k2").await.refused(403, "SUSPENDED");
    let again = key("the first", "k1").await;
    assert_eq!((again.header("idempotent-replayed"), &again.text), ("true", &first.text));
    assert_eq!(gateway.status(&task).await.data()["status"], "SUCCESS");
    gateway.get("/api/tasks").await.expect(200);

    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let reader = AdminClient::operator(&gateway, OperatorRole::OperatorRead).await;
    let admin = AdminClient::org_admin(&gateway, &gateway.caller).await;
    let credits = format!("/admin/v1/orgs/{}/credits", gateway.caller.org);
    for client in [&operator, &reader, &admin] {
        let shown = client.get(&credits).await.expect(200)["exposure"].clone();
        let figures = ["lost", "in_doubt", "overrun", "limit"].map(|figure| shown[figure].clone());
        assert_eq!(figures, [json!(400), json!(0), json!(0), json!(400)]);
        assert!(shown["stopped_at"].is_string() && shown["since"].is_string(), "{shown}");
    }
    let stopped = operator.get("/admin/v1/orgs?stopped=true").await.expect(200)["items"].clone();
    assert_eq!(stopped.as_array().unwrap().len(), 1);
    assert_eq!(stopped[0]["org_id"], json!(gateway.caller.org));
    assert!(stopped[0]["stopped_at"].is_string(), "{stopped}");

    let resume = format!("{credits}/resume");
    let why = json!({"reason": "refunded by the vendor"});
    for client in [&reader, &admin] {
        client.post(&resume, why.clone()).await.expect(403);
    }
    operator.post(&resume, json!({})).await.expect(400);
    operator.post(&resume, json!({"reason": " "})).await.expect(400);
    let nobody = format!("/admin/v1/orgs/{}/credits/resume", tollgate::ids::OrgId::generate());
    operator.post(&nobody, why.clone()).await.expect(404);
    key("the second", "k2").await.refused(403, "SUSPENDED");
    let shown = operator.post(&resume, why).await.expect(200)["exposure"].clone();
    assert_eq!((&shown["lost"], &shown["stopped_at"]), (&json!(0), &Value::Null));
    let log = operator.get("/admin/v1/audit-log?action=resume_creates").await.expect(200)["items"].clone();
    assert_eq!(log.as_array().unwrap().len(), 1, "{log}");
    assert_eq!(log[0]["after"]["reason"], "refunded by the vendor");
    assert_eq!(
        (&log[0]["target_id"], &log[0]["before"]["exposure_lost"]),
        (&json!(gateway.caller.org), &json!(400))
    );
    assert!(log[0]["actor"].as_str().unwrap().starts_with("operator"), "{log}");

    // The same once more, by the command line.
    let doomed = key("the second", "k2").await.task_id();
    gateway.finished(&doomed).await;
    gateway.create(&body("x")).await.refused(403, "SUSPENDED");
    let org = gateway.caller.org.to_string();
    let said = gateway.admin_says(&["credit", "show", "--org", &org]).await;
    assert!(said.code == 0 && said.out.contains("STOPPED AT"), "{said:?}");
    let said = gateway.admin_says(&["org", "list", "--stopped"]).await;
    assert!(said.code == 0 && said.out.contains(&org), "{said:?}");
    let said = gateway.admin_says(&["credit", "resume", "--org", &org, "--reason", "seen"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    gateway.task("it goes on").await;
}
