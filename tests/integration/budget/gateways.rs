//! Budgets as callers and those who manage them meet them: through gateways.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tollgate::ids::UserId;
use tollgate::store::{BudgetLevel, KeySpec, NewBudget, OperatorRole, Period, UserChange};

use crate::support::admin_client::AdminClient;
use crate::support::database::until;
use crate::support::fixture::credits;
use crate::support::gateway::{Answer, Caller, ENDLESS, TestGateway, body, judged};
use crate::support::process::{Scratch, run};
use crate::support::replica::another_with;
use crate::support::tenant::make;

#[tokio::test]
async fn a_refusal_for_a_budget_leads_to_the_page_where_more_is_asked_for() {
    let public = "https://videos.example.com/a/";
    let gateway = TestGateway::builder()
        .task_time(ENDLESS)
        .config(|config| config.console.public_url = Some(public.parse().unwrap()))
        .start()
        .await;
    let (org, user) = (gateway.caller.org, gateway.caller.user);
    let of = async |level, subject, amount| {
        make(&gateway.db, Some(org), level, subject, Period::Monthly, Some(amount)).await.unwrap();
        let refused = gateway.create(&body("above it")).await;
        refused.refused(402, "BUDGET_EXCEEDED");
        refused.json()["data"]["ask"].clone()
    };
    // Half as much again is not enough for the task.
    let link = of(BudgetLevel::User, Some(user.to_string()), 100).await;
    assert_eq!(link, format!("{public}console/budgets?ask=user%3A{user}&period=monthly&credits=400"));
    let link = of(BudgetLevel::Key, Some(gateway.caller.key.to_string()), 300).await;
    let key = gateway.caller.key;
    assert_eq!(link, format!("{public}console/budgets?ask=key%3A{key}&period=monthly&credits=450"));
}

#[tokio::test]
async fn a_caller_over_budget_is_told_which_and_until_when() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    let (org, user) = (gateway.caller.org, gateway.caller.user);
    make(&gateway.db, Some(org), BudgetLevel::User, Some(user.to_string()), Period::Total, Some(1000))
        .await
        .unwrap();
    gateway.task("within it").await;
    gateway.task("within it too").await;
    let refused = gateway.creating(body("above it").to_string()).header("idempotency-key", "k");
    let refused = Answer::to(refused).await;
    refused.refused(402, "BUDGET_EXCEEDED");
    assert_eq!(refused.header("retry-after"), "3600");
    let expected = json!({
        "level": "user", "period": "total", "limit": 1000, "used": 800, "required": 400, "resets_at": null,
    });
    assert_eq!(refused.json()["data"], expected);
    let said = refused.json()["message"].as_str().unwrap().to_owned();
    assert!(said.contains("total budget of this user") && said.contains("800 of 1000"), "{said}");
    assert_eq!(gateway.upstream_creates().await, (2, 2));

    make(&gateway.db, Some(org), BudgetLevel::Organisation, None, Period::Monthly, Some(900)).await.unwrap();
    let other = gateway.another_user("grace", "member").await;
    let refused = Answer::to(
        gateway
            .request(Method::POST, "/api/generate")
            .bearer_auth(&other.text)
            .body(body("of another").to_string()),
    )
    .await;
    refused.refused(402, "BUDGET_EXCEEDED");
    let data = &refused.json()["data"];
    assert_eq!((&data["level"], &data["used"]), (&json!("organisation"), &json!(800)));
    let resets_at = OffsetDateTime::parse(data["resets_at"].as_str().unwrap(), &Rfc3339).unwrap();
    let left = (resets_at - OffsetDateTime::now_utc()).whole_seconds();
    let after: i64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=3600).contains(&after) && after <= left.max(0) + 2, "{after} {left}");

    let credits = gateway.get("/api/credits").await.data();
    let budgets: Vec<_> = credits["budgets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| {
            (
                b["level"].as_str().unwrap(),
                b["period"].as_str().unwrap(),
                b["limit"].as_i64(),
                b["held"].as_i64(),
            )
        })
        .collect();
    assert_eq!(
        budgets,
        [("user", "total", Some(1000), Some(800)), ("organisation", "monthly", Some(900), Some(800))]
    );
    // The key is free: nothing was stored for it.
    sqlx::query("update budget set credits = null").execute(gateway.db.pool()).await.unwrap();
    let again = gateway.creating(body("above it").to_string()).header("idempotency-key", "k");
    Answer::to(again).await.expect(200);
}

#[tokio::test]
async fn budgets_are_managed_over_the_api() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let admin = AdminClient::org_admin(&gateway, &gateway.caller).await;
    let path = format!("/admin/v1/orgs/{}/budgets", gateway.caller.org);
    let monthly = |credits: i64| json!({"level": "key", "subject_id": gateway.caller.key, "period": "monthly", "credits": credits});
    let made = admin.post(&path, monthly(900)).await;
    assert_eq!(made.etag.as_deref(), Some("\"1\""));
    let made = made.expect(201);
    assert_eq!((&made["limit"], &made["thresholds"]), (&json!(900), &json!([50, 80, 100])));
    admin.post(&path, monthly(900)).await.expect(409);
    for wrong in [
        json!({"level": "key", "period": "monthly"}),
        json!({"level": "planet", "period": "monthly", "credits": 1}),
        json!({"level": "key", "period": "monthly", "credits": -1}),
        json!({"level": "key", "period": "monthly", "credits": 1, "thresholds": [0]}),
        json!({"level": "user", "subject_id": gateway.caller.key, "period": "monthly", "credits": 1}),
    ] {
        admin.post(&path, wrong).await.expect(400);
    }
    admin.post(&path, json!({"level": "organisation", "period": "monthly", "credits": 1})).await.expect(403);
    let whole =
        operator.post(&path, json!({"level": "organisation", "period": "monthly", "credits": null})).await;
    let whole = whole.expect(201);
    let whole = format!("/admin/v1/budgets/{}", whole["budget_id"].as_str().unwrap());
    admin.get(&whole).await.expect(200);
    admin.patch(&whole, json!({"credits": 1})).await.expect(403);
    admin.delete(&whole).await.expect(403);

    let one = format!("/admin/v1/budgets/{}", made["budget_id"].as_str().unwrap());
    gateway.task("one").await;
    gateway.task("two").await;
    gateway.create(&body("three")).await.refused(402, "BUDGET_EXCEEDED");
    let shown = admin.get(&one).await.expect(200);
    assert_eq!((&shown["held"], &shown["used"]), (&json!(800), &json!(0)));
    let end = (OffsetDateTime::now_utc() + std::time::Duration::from_secs(3600)).format(&Rfc3339).unwrap();
    let raise = json!({"credits": 1200, "until": end});
    let stale = [("if-match", "\"7\"")];
    admin.call_with(Method::POST, &format!("{one}/raise"), Some(raise.clone()), &stale).await.expect(412);
    let raised = admin.post(&format!("{one}/raise"), raise).await.expect(200);
    assert_eq!((&raised["limit"], &raised["credits"]), (&json!(1200), &json!(900)));
    gateway.task("three").await;
    admin.delete(&format!("{one}/raise")).await.expect(204);
    gateway.create(&body("four")).await.refused(402, "BUDGET_EXCEEDED");
    admin.patch(&one, json!({"credits": 2000, "thresholds": [77]})).await.expect(200);
    gateway.task("four").await;

    let query = format!("{path}?level=key&subject_id={}&period=monthly", gateway.caller.key);
    let listed = admin.get(&query).await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed["items"][0]["held"], 1600);
    admin.get(&format!("{path}?subject_id={}", gateway.caller.key)).await.expect(400);
    let events = admin.get(&format!("/admin/v1/orgs/{}/budget-events", gateway.caller.org)).await.expect(200);
    let reached: Vec<_> = events["items"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|event| (event["threshold"].as_i64().unwrap(), event["limit"].as_i64().unwrap()))
        .collect();
    assert_eq!(reached, [(50, 900), (80, 900), (80, 1200), (100, 1200), (77, 2000)]);
    // Counters are the process's, which other tests share: no other has a threshold in the seventies.
    until("a gateway has told of them", async || {
        let metrics =
            gateway.client.get(gateway.admin_url("/metrics")).send().await.unwrap().text().await.unwrap();
        metrics.contains("tollgate_budget_events_total{threshold=\"70\"} 1")
    })
    .await;

    admin.get("/admin/v1/budgets").await.expect(403);
    let default = operator
        .post("/admin/v1/budgets", json!({"level": "user", "period": "total", "credits": 1600}))
        .await;
    let default = default.expect(201);
    gateway.create(&body("five")).await.refused(402, "BUDGET_EXCEEDED");
    admin.get(&format!("/admin/v1/budgets/{}", default["budget_id"].as_str().unwrap())).await.expect(404);
    admin.delete(&one).await.expect(204);
    admin.get(&one).await.expect(404);
    let log =
        operator.get(&format!("/admin/v1/audit-log?target_id={}", made["budget_id"].as_str().unwrap())).await;
    let actions: Vec<Value> = log.expect(200)["items"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|entry| entry["action"].clone())
        .collect();
    assert_eq!(
        actions,
        ["create_org_budget", "raise_budget", "end_budget_raise", "update_budget", "delete_budget"]
    );
}

/// So many creates of 400 credits at once, in turn by each caller and through each gateway; how many of each caller's
/// were granted.
async fn burst(gateway: &TestGateway, bases: &[String], callers: &[&Caller], creates: usize) -> Vec<i64> {
    let calls = (0..creates).map(|number| {
        let (base, caller) = (&bases[number % bases.len()], callers[number / bases.len() % callers.len()]);
        async move {
            let create = async || {
                let request = gateway.client.post(format!("{base}/api/generate")).bearer_auth(&caller.text);
                Answer::to(request.body(body(&format!("{number}")).to_string())).await
            };
            judged(create).await
        }
    });
    let mut granted = vec![0; callers.len()];
    for (number, answer) in join_all(calls).await.into_iter().enumerate() {
        match answer.status {
            200 => granted[number / bases.len() % callers.len()] += 1,
            _ => drop(answer.refused(402, "BUDGET_EXCEEDED")),
        }
    }
    granted
}

/// Four budgets at once, each in turn the tightest: it is spent to exactly its end, and no other is exceeded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_creates_on_three_gateways_get_what_every_budget_allows_and_no_more() {
    let gateway = TestGateway::builder().credits(10_000_000).task_time(ENDLESS).start().await;
    let db = gateway.db.database();
    let scratch = [Scratch::new(), Scratch::new()];
    let (second, there) = another_with(&gateway, &scratch[0], 30_000).await;
    let (third, elsewhere) = another_with(&gateway, &scratch[1], 30_000).await;
    let bases = [format!("http://{}", gateway.address()), there, elsewhere];
    let org = gateway.caller.org;
    let team = db.create_team(org, "film").await.unwrap();
    // Ada has two keys, Bob is in her team, Eve in none.
    let (first, bob, eve) = (
        &gateway.caller,
        gateway.another_user("bob", "member").await,
        gateway.another_user("eve", "member").await,
    );
    let second_key = gateway.another_key(KeySpec::default()).await;
    for user in [first.user, bob.user] {
        let change = UserChange { team: Some(Some(team)), ..UserChange::default() };
        db.update_user(UserId::clone(&user), change, None).await.unwrap();
    }
    let mut budgets = Vec::new();
    for (level, subject, creates) in [
        (BudgetLevel::Organisation, None, 31),
        (BudgetLevel::Team, Some(team.to_string()), 60),
        (BudgetLevel::User, Some(first.user.to_string()), 40),
        (BudgetLevel::Key, Some(first.key.to_string()), 35),
    ] {
        // What is over is not enough for one more.
        let credits = Some(credits(creates * 400 + 399));
        let new =
            NewBudget { org: Some(org), level, subject, period: Period::Monthly, credits, thresholds: None };
        budgets.push(db.make_budget(&new).await.unwrap());
    }
    let callers = [first, &second_key, &bob, &eve];
    let mut total = [0; 4];
    for (round, creates) in [1000, 400, 300, 300].into_iter().enumerate() {
        for (sum, granted) in total.iter_mut().zip(burst(&gateway, &bases, &callers, creates).await) {
            *sum += granted;
        }
        let (key, user) = (total[0], total[0] + total[1]);
        let (team, org) = (user + total[2], total.iter().sum::<i64>());
        let tightest = [(org, 31), (team, 60), (user, 40), (key, 35)][round];
        assert_eq!(tightest.0, tightest.1, "round {round}: {total:?}");
        assert!(
            key <= 35 && (round > 2 || user <= 40) && (round > 1 || team <= 60),
            "round {round}: {total:?}"
        );
        assert_eq!(gateway.balance().await[1], org * 400);
        sqlx::query("update budget set credits = null where budget_id = $1")
            .bind(budgets[round].as_uuid())
            .execute(gateway.db.pool())
            .await
            .unwrap();
    }
    for process in [second, third] {
        process.terminate();
        assert_eq!(process.ended().await, 0);
    }
}

#[tokio::test]
async fn the_command_line_manages_budgets() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let (url, org, key) =
        (gateway.admin_url(""), gateway.caller.org.to_string(), gateway.caller.key.to_string());
    let budget = async |arguments: &[&str]| {
        let whole = ["admin", "--url", &url, "--token", &operator.token, "--json", "budget"];
        let said = run(&[&whole, arguments].concat()).await;
        assert_eq!(said.code, 0, "{arguments:?}: {}", said.err);
        serde_json::from_str::<Value>(&said.out).unwrap()
    };
    let made =
        budget(&["create", "--org", &org, "--key", &key, "--period", "monthly", "--credits", "400"]).await;
    let id = made["budget_id"].as_str().unwrap().to_owned();
    gateway.task("one").await;
    gateway.create(&body("two")).await.refused(402, "BUDGET_EXCEEDED");
    let raised = budget(&["raise", &id, "--credits", "800", "--until", "2999-01-01T00:00:00Z"]).await;
    assert_eq!(raised["limit"], 800);
    budget(&["end-raise", &id]).await;
    let changed = budget(&["update", &id, "--credits", "unlimited", "--thresholds", "10,90"]).await;
    assert_eq!((&changed["limit"], &changed["thresholds"]), (&Value::Null, &json!([10, 90])));
    assert_eq!(budget(&["show", &id]).await["version"], 4);
    assert_eq!(budget(&["list", "--org", &org, "--key", &key]).await.as_array().unwrap().len(), 1);
    assert_eq!(budget(&["events", "--org", &org]).await.as_array().unwrap().len(), 3);
    budget(&["create", "--each", "user", "--period", "total", "--credits", "400"]).await;
    assert_eq!(budget(&["list"]).await[0]["level"], "user");
    gateway.create(&body("two")).await.refused(402, "BUDGET_EXCEEDED");
    budget(&["delete", &id]).await;
    assert_eq!(budget(&["list", "--org", &org]).await, json!([]));
}
