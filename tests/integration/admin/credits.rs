//! The management API of credits, usage and statements.

use reqwest::{Method, Response};
use serde_json::{Value, json};
use tollgate::store::{OperatorRole, Slice};

use crate::support::admin_client::AdminClient;
use crate::support::database::until;
use crate::support::gateway::{Answer, TestGateway, body};

async fn raw(gateway: &TestGateway, token: &str, path: &str, accept: &str) -> Response {
    let request = gateway.client.get(gateway.admin_url(path)).bearer_auth(token).header("accept", accept);
    request.send().await.unwrap()
}

#[tokio::test]
async fn operators_move_credits_once_a_key_and_admins_only_look() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let admin = AdminClient::org_admin(&gateway, &gateway.caller).await;
    let other = operator.post("/admin/v1/orgs", json!({"name": "other"})).await.expect(201);
    let org = format!("/admin/v1/orgs/{}", gateway.caller.org);
    let other = format!("/admin/v1/orgs/{}", other["org_id"].as_str().unwrap());
    let (grants, credits) = (format!("{other}/credits/grants"), format!("{other}/credits"));

    let body = json!({"credits": 500, "reason": "invoice paid", "external_ref": "inv-1", "expires_at": "2999-01-01T00:00:00Z"});
    let keyed = [("idempotency-key", "k1")];
    let first = operator.call_with(Method::POST, &grants, Some(body.clone()), &keyed).await;
    assert!(!first.headers.contains_key("idempotent-replayed"));
    let first = first.expect(201);
    assert_eq!(first["available"], 500);
    let again = operator.call_with(Method::POST, &grants, Some(body), &keyed).await;
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_eq!(again.expect(201), first);
    let changed = json!({"credits": 501, "reason": "invoice paid"});
    let reused = operator.call_with(Method::POST, &grants, Some(changed.clone()), &keyed).await.expect(422);
    assert_eq!(reused["code"], "idempotency_key_reused");
    let bad = [("idempotency-key", "has space")];
    operator.call_with(Method::POST, &grants, Some(changed), &bad).await.expect(400);

    let adjustments = format!("{other}/credits/adjustments");
    let down = operator.post(&adjustments, json!({"credits": -20, "reason": "typo"})).await.expect(201);
    assert_eq!(down["available"], 480);
    operator.post(&adjustments, json!({"credits": -481, "reason": "typo"})).await.expect(409);
    operator.post(&adjustments, json!({"credits": 0, "reason": "typo"})).await.expect(400);
    operator.post(&adjustments, json!({"credits": 1})).await.expect(400);
    operator.post(&adjustments, json!({"credits": 1.5, "reason": "half"})).await.expect(400);
    operator
        .post(&adjustments, json!({"credits": 9_223_372_036_854_775_807i64, "reason": "much"}))
        .await
        .expect(409);
    operator
        .post(&grants, json!({"credits": 5, "reason": "r", "expires_at": "2020-01-01T00:00:00Z"}))
        .await
        .expect(400);

    let id = |path: &str| path.rsplit('/').next().unwrap().to_owned();
    let transfer =
        json!({"from_org": id(&other), "to_org": id(&org), "credits": 80, "reason": "project moved"});
    let moved = operator.post("/admin/v1/transfers", transfer.clone()).await.expect(201);
    assert_eq!(moved["from_available"], 400);
    for path in [&grants, &adjustments, &"/admin/v1/transfers".to_owned()] {
        admin.post(path, transfer.clone()).await.expect(403);
    }

    let entries = operator.get(&format!("{other}/entries")).await.expect(200);
    let found: Vec<_> =
        entries["items"].as_array().unwrap().iter().map(|e| (&e["kind"], &e["credits"])).collect();
    assert_eq!(
        found,
        [(&json!("transfer"), &json!(-80)), (&json!("adjust"), &json!(-20)), (&json!("grant"), &json!(500))]
    );
    assert_eq!(entries["items"][0]["related_entry"], moved["to_entry"]);
    let page = operator.get(&format!("{other}/entries?limit=2")).await.expect(200);
    let rest = format!("{other}/entries?limit=2&cursor={}", page["next_cursor"].as_str().unwrap());
    let rest = operator.get(&rest).await.expect(200);
    assert_eq!((&rest["items"][0], &rest["next_cursor"]), (&entries["items"][2], &Value::Null));
    let filtered = operator.get(&format!("{other}/entries?external_ref=inv-1&kind=grant")).await.expect(200);
    assert_eq!(filtered["items"].as_array().unwrap().len(), 1);
    operator.get(&format!("{other}/entries?kind=loss")).await.expect(400);
    operator.get(&format!("{other}/entries?cursor=1.2")).await.expect(400);

    let path = format!("{org}/credits");
    let seen = admin.get(&path).await;
    let tag = seen.etag.clone().unwrap();
    assert_eq!(seen.expect(200)["low"], false);
    let low = admin.patch(&path, json!({"low_threshold": 1_000_000_000})).await.expect(200);
    assert_eq!((&low["low"], &low["low_threshold"]), (&json!(true), &json!(1_000_000_000)));
    let told = async || {
        let rows =
            sqlx::query_scalar::<_, i64>("select count(*) from low_balance").fetch_one(gateway.db.pool());
        rows.await.unwrap()
    };
    until("the sweep has told of it", async || told().await == 1).await;
    let stale = [("if-match", tag.as_str())];
    admin.call_with(Method::PATCH, &path, Some(json!({"low_threshold": null})), &stale).await.expect(412);
    admin.patch(&path, json!({"low_threshold": -1})).await.expect(400);
    assert_eq!(admin.patch(&path, json!({"low_threshold": null})).await.expect(200)["low"], false);
    until("it is low no more", async || told().await == 0).await;
    admin.get(&credits).await.expect(404);
    let other = operator.get(&credits).await.expect(200);
    // The job that attributes charges runs by itself.
    until("what was taken is attributed to the grant", async || {
        let credits = operator.get(&credits).await.expect(200);
        credits["expiring"]
            == json!([{"entry_id": first["entry_id"], "left": 400, "expires_at": "2999-01-01T00:00:00Z"}])
    })
    .await;
    assert_eq!((&other["available"], &other["runway"]["until"]), (&json!(400), &Value::Null));
}

#[tokio::test]
async fn an_overdraft_is_set_once_a_key() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let admin = AdminClient::org_admin(&gateway, &gateway.caller).await;
    let org = format!("/admin/v1/orgs/{}", gateway.caller.org);
    let path = format!("{org}/credits/overdraft");
    let set = async |credits: i64, key: &str| {
        let body = Some(json!({"overdraft": credits}));
        operator.call_with(Method::PUT, &path, body, &[("idempotency-key", key)]).await
    };
    let seen = operator.get(&org).await.etag;
    let first = set(50, "k").await.expect(200);
    assert_eq!(first["overdraft"], 50);
    assert_ne!(operator.get(&org).await.etag, seen, "who edits the organisation must see it");
    set(0, "l").await.expect(200);
    let again = set(50, "k").await;
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_eq!(again.expect(200), first);
    assert_eq!(operator.get(&org).await.expect(200)["overdraft"], 0);
    assert_eq!(set(51, "k").await.expect(422)["code"], "idempotency_key_reused");
    set(-1, "m").await.expect(400);
    let log = operator.get("/admin/v1/audit-log?limit=200").await.expect(200);
    let logged = log["items"].as_array().unwrap().iter();
    assert!(
        logged.clone().any(|e| e["action"] == "set_overdraft" && e["after"] == json!({"overdraft": 50})),
        "{log:#}"
    );
    admin.call(Method::PUT, &path, Some(json!({"overdraft": 1}))).await.expect(403);
    let nobody = format!("/admin/v1/orgs/{}/credits/overdraft", tollgate::ids::OrgId::generate());
    operator.call(Method::PUT, &nobody, Some(json!({"overdraft": 1}))).await.expect(404);
    operator.delete(&format!("{org}?forfeit_credits=true")).await.expect(204);
    set(1, "n").await.expect(409);
}

#[tokio::test]
async fn a_key_that_is_being_worked_on_is_a_conflict_and_not_an_outage() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let mut other = gateway.db.pool().begin().await.unwrap();
    sqlx::query(
        "insert into idempotency (org_id, endpoint, key, fingerprint, hold_id, created_at) \
         select '00000000-0000-0000-0000-000000000000', 'credits.grant', 'k', '', gen_random_uuid(), now()",
    )
    .execute(&mut *other)
    .await
    .unwrap();
    let grants = format!("/admin/v1/orgs/{}/credits/grants", gateway.caller.org);
    let grant = async || {
        let body = Some(json!({"credits": 5, "reason": "r"}));
        operator.call_with(Method::POST, &grants, body, &[("idempotency-key", "k")]).await
    };
    let refused = grant().await;
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(refused.expect(409)["code"], "request_in_progress");
    other.rollback().await.unwrap();
    grant().await.expect(201);
}

#[tokio::test]
async fn a_doubt_is_ended_once_a_key() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let mut holds = Vec::new();
    let ledger = gateway.db.database();
    let whole = Slice { after: None, limit: 200 };
    for fault in ["cut_before", "cut_after"] {
        gateway.fault_on_create(json!({"kind": fault})).await;
        gateway.create(&body(fault)).await;
        until("it is in doubt, with its excerpt", async || {
            let doubts = ledger.doubts(None, whole).await.unwrap();
            doubts.len() == holds.len() + 1 && doubts.iter().all(|doubt| doubt.prompt_digest.is_some())
        })
        .await;
        holds = ledger.doubts(None, whole).await.unwrap().iter().map(|doubt| doubt.hold_id).collect();
    }
    let release = (format!("/admin/v1/holds/{}/release", holds[0]), json!({"reason": "not theirs"}));
    let settle = json!({"task_id": gateway.books().await["tasks"][0]["task_id"], "credits": 400, "reason": "their invoice"});
    let settle = (format!("/admin/v1/holds/{}/settle", holds[1]), settle);
    for ((path, body), state) in [(release, "RELEASED"), (settle, "POLLED")] {
        let keyed = [("idempotency-key", "k")];
        let first = operator.call_with(Method::POST, &path, Some(body.clone()), &keyed).await;
        assert!(!first.headers.contains_key("idempotent-replayed"));
        let first = first.expect(200);
        assert_eq!(first["state"], state);
        let again = operator.call_with(Method::POST, &path, Some(body.clone()), &keyed).await;
        assert_eq!(again.headers["idempotent-replayed"], "true");
        assert_eq!(again.expect(200), first);
        operator.post(&path, body.clone()).await.expect(409);
        let mut changed = body.clone();
        changed["reason"] = json!("another");
        operator.call_with(Method::POST, &path, Some(changed), &keyed).await.expect(422);
        let unkeyed = operator.call_with(Method::POST, &path, Some(body), &[("idempotency-key", "l")]).await;
        unkeyed.expect(409);
    }
    until("the task is charged", async || gateway.balance().await == [999_600, 0, 400]).await;
}

#[tokio::test]
async fn usage_and_statements_come_as_pages_and_as_tables() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::OperatorRead).await;
    let admin = AdminClient::org_admin(&gateway, &gateway.caller).await;
    let org = gateway.caller.org;
    let labelled =
        gateway.creating(body("three").to_string()).header("x-tollgate-labels", "project=%3D1, shot=3");
    let labelled = Answer::to(labelled).await.task_id();
    let tasks = [gateway.task("one").await, gateway.task("two").await, labelled];
    for task in &tasks {
        gateway.finished(task).await;
    }
    until("all are charged", async || gateway.balance().await[2] == 1200).await;
    let why = tollgate::store::Why { reason: "=1+1, \"sorry\"", external_ref: None };
    gateway.db.database().adjust(org, tollgate::credits::Credits::new(-7), why, None).await.unwrap();

    let path = format!("/admin/v1/orgs/{org}/usage");
    let sum = admin.get(&path).await.expect(200);
    assert_eq!(sum["items"], json!([{"tasks": 3, "charged": 1200, "corrected": 0, "consumed": 1200}]));
    let split = admin.get(&format!("{path}?group_by=user,key,task_type")).await.expect(200);
    let expected = json!({"user_id": gateway.caller.user, "key_id": gateway.caller.key, "task_type": "pro-text-to-video",
                          "tasks": 3, "charged": 1200, "corrected": 0, "consumed": 1200});
    assert_eq!(split["items"], json!([expected]));
    let all = operator.get("/admin/v1/usage?group_by=org").await.expect(200);
    assert_eq!((&all["items"][0]["org_id"], &all["items"][0]["tasks"]), (&json!(org), &json!(3)));
    for query in [
        "?group_by=colour",
        "?group_by=day,day",
        "?from=2026-02-30",
        "?from=2999-01-01",
        "?to=x",
        "?cursor=x",
        "?format=xml",
        "?org_id=org_00000000000000000000000000000000",
        "?group_by=label",
        "?label=project",
        "?group_by=label&label=project&from=2026-10-01&to=2026-11-01",
        "?top=5",
        "?group_by=user,key&top=5",
        "?group_by=key&top=0",
        "?group_by=key&top=5&format=csv",
        "?group_by=label&label=project&top=5",
        "?group_by=key&clock=org",
        "?group_by=day&clock=org&task_type=x",
    ] {
        admin.get(&format!("{path}{query}")).await.expect(400);
    }
    admin.get("/admin/v1/usage").await.expect(403);
    operator.get("/admin/v1/usage?group_by=label&label=project").await.expect(400);

    let top = admin.get(&format!("{path}?group_by=task_type&top=5")).await.expect(200);
    let expected = json!({"task_type": "pro-text-to-video", "tasks": 3, "charged": 1200, "corrected": 0, "consumed": 1200});
    assert_eq!((&top["items"], &top["next_cursor"]), (&json!([expected]), &Value::Null));
    let top = admin.get(&format!("{path}?group_by=key&top=5")).await.expect(200);
    assert_eq!(top["items"][0]["key_id"], json!(gateway.caller.key));
    assert!(top["items"][0]["name"].is_string(), "{top}");
    let today = admin.get(&format!("{path}?group_by=day&clock=org")).await.expect(200);
    assert_eq!(today["items"][0]["consumed"], 1200, "{today}");
    let day = today["items"][0]["day"].as_str().unwrap();
    let table = raw(&gateway, &admin.token, &format!("{path}?group_by=day&clock=org"), "text/csv").await;
    let line = format!("day,tasks,charged,corrected,consumed\r\n{day},3,1200,0,1200\r\n");
    assert_eq!(table.text().await.unwrap(), line);

    let by_label = admin.get(&format!("{path}?group_by=label&label=project")).await.expect(200);
    let row = |label: Option<&str>, tasks: i64, credits: i64| json!({"label": label, "tasks": tasks, "charged": credits, "corrected": 0, "consumed": credits});
    assert_eq!(by_label["items"], json!([row(Some("=1"), 1, 400), row(None, 2, 800)]));
    let by_label = format!("{path}?group_by=task_type,label&label=project");
    let table = raw(&gateway, &admin.token, &by_label, "text/csv").await.text().await.unwrap();
    let lines = "pro-text-to-video,'=1,1,400,0,400\r\npro-text-to-video,,2,800,0,800\r\n";
    assert_eq!(table, format!("task_type,label,tasks,charged,corrected,consumed\r\n{lines}"));

    let answer = raw(&gateway, &admin.token, &format!("{path}?group_by=task_type"), "text/csv").await;
    assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/csv"));
    let table = answer.text().await.unwrap();
    assert_eq!(table, "task_type,tasks,charged,corrected,consumed\r\npro-text-to-video,3,1200,0,1200\r\n");

    let today = tollgate::clock::Clock.wall();
    let month = format!("{:04}-{:02}", today.year(), u8::from(today.month()));
    let path = format!("/admin/v1/orgs/{org}/statements/{month}");
    let whole = admin.get(&path).await.expect(200);
    assert_eq!(
        (&whole["lines"], &whole["next_cursor"], &whole["opening"]),
        (&json!(5), &Value::Null, &json!(0))
    );
    let balance = gateway.db.database().balance(org).await.unwrap().unwrap();
    assert_eq!(whole["closing"], json!(balance.available.get() + balance.held.get()));
    assert_eq!(whole["items"][4]["balance"], whole["closing"]);
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = admin.get(&format!("{path}?limit=2{cursor}")).await.expect(200);
        items.extend(page["items"].as_array().unwrap().clone());
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(json!(items), whole["items"]);

    let table = raw(&gateway, &admin.token, &format!("{path}?format=csv"), "*/*").await.text().await.unwrap();
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 8, "{table}");
    assert!(rows[0].starts_with("date,kind,credits,balance,"));
    let ends = |row: &str| row.split(',').map(str::to_owned).collect::<Vec<_>>();
    let (header, opening, closing) = (ends(rows[0]), ends(rows[1]), ends(rows[7]));
    assert_eq!((opening.len(), closing.len()), (header.len(), header.len()), "{table}");
    assert_eq!(opening[1..4], ["opening", "", "0"], "{table}");
    assert_eq!(closing[1..4], ["closing", "", &whole["closing"].to_string()], "{table}");
    assert!(rows[6].contains(r#","'=1+1, ""sorry""","#), "{table}");
    admin.get(&format!("/admin/v1/orgs/{org}/statements/2026-13")).await.expect(400);
    admin.get(&format!("/admin/v1/orgs/{org}/statements/2999-01")).await.expect(404);
}

#[tokio::test]
async fn the_command_line_moves_and_shows_credits() {
    let gateway = TestGateway::start().await;
    let admin = async |args: &[&str]| gateway.admin_says(&[&["--json"], args].concat()).await;
    gateway.finished(&gateway.task("a task").await).await;
    until("it is charged", async || gateway.balance().await[2] == 400).await;
    let org = gateway.caller.org.to_string();
    let other = admin(&["org", "create", "other"]).await.json();
    let other = other["org_id"].as_str().unwrap();
    let grant =
        ["credit", "grant", "--org", other, "--credits", "500", "--reason", "paid", "--reference", "inv-9"];
    let granted = admin(&[&grant[..], &["--expires", "2999-01-01T00:00:00Z"]].concat()).await.json();
    assert_eq!(granted["available"], 500);
    let adjust = ["credit", "adjust", "--org", other, "--credits", "-20", "--reason", "typo"];
    assert_eq!(admin(&adjust).await.json()["available"], 480);
    let transfer =
        ["credit", "transfer", "--from", other, "--to", &org, "--credits", "80", "--reason", "moved"];
    assert_eq!(admin(&transfer).await.json()["from_available"], 400);
    assert_eq!(admin(&[&transfer[..], &["--idempotency-key", "a b"]].concat()).await.code, 2);
    let overdraft = ["credit", "overdraft", "--org", other, "--credits", "30", "--idempotency-key", "o"];
    assert_eq!(admin(&overdraft).await.json()["overdraft"], 30);
    assert_eq!(admin(&["credit", "show", "--org", other]).await.json()["overdraft"], 30);
    assert_eq!(admin(&["credit", "low", "--org", other, "--below", "401"]).await.json()["low"], true);
    assert_eq!(admin(&["credit", "show", "--org", other]).await.json()["low_threshold"], 401);
    assert_eq!(admin(&["credit", "low", "--org", other]).await.json()["low"], false);
    let entries =
        admin(&["credit", "entries", "--org", other, "--kind", "grant", "--reference", "inv-9"]).await.json();
    assert_eq!((&entries[0]["entry_id"], &entries[1]), (&granted["entry_id"], &Value::Null));

    let usage = admin(&["usage", "--org", &org, "--by", "user,task_type"]).await.json();
    assert_eq!((&usage[0]["user_id"], &usage[0]["consumed"]), (&json!(gateway.caller.user), &json!(400)));
    assert_eq!(admin(&["usage", "--by", "colour"]).await.code, 2);
    let usage = admin(&["usage", "--org", &org, "--by", "label", "--label", "project"]).await.json();
    assert_eq!((&usage[0]["label"], &usage[0]["consumed"]), (&Value::Null, &json!(400)));
    let table = gateway.admin_says(&["usage", "--by", "task_type", "--csv"]).await;
    assert!(table.out.contains("pro-text-to-video,1,400,0,400"), "{table:?}");
    assert!(!table.out.starts_with('\u{feff}'), "{table:?}");
    let marked = gateway.admin_says(&["usage", "--by", "task_type", "--csv", "--bom"]).await;
    assert_eq!(marked.out, format!("\u{feff}{}", table.out));
    assert_eq!(admin(&["usage", "--bom"]).await.code, 2);

    let today = tollgate::clock::Clock.wall();
    let month = format!("{:04}-{:02}", today.year(), u8::from(today.month()));
    let statement = admin(&["statement", "--org", other, "--month", &month]).await.json();
    assert_eq!((&statement["closing"], &statement["items"][2]["balance"]), (&json!(400), &json!(400)));
    let shown = gateway.admin_says(&["statement", "--org", other, "--month", &month]).await;
    assert!(shown.out.contains("closing balance: 400"), "{shown:?}");
    let table = gateway.admin_says(&["statement", "--org", other, "--month", &month, "--csv"]).await;
    assert!(table.out.contains(",closing,,400,"), "{table:?}");
    let marked =
        gateway.admin_says(&["statement", "--org", other, "--month", &month, "--csv", "--bom"]).await;
    assert_eq!(marked.out, format!("\u{feff}{}", table.out));
    assert_eq!(admin(&["statement", "--org", other, "--month", "2026-13"]).await.code, 1);
}
