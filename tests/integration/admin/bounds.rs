//! What one organisation, or one operator, may take of the management API.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tollgate::store::OperatorRole;
use url::Url;

use crate::support::admin_client::AdminClient;
use crate::support::browser::Browser;
use crate::support::database::{lock, until};
use crate::support::gateway::{Caller, TestGateway};
use crate::support::tenant::{Tenant, history, history_of_types};

#[tokio::test]
async fn calls_are_limited_by_organisation_and_by_operator() {
    let gateway = TestGateway::builder()
        .config(|config| {
            config.limits.org_management_per_minute = 3;
            config.limits.operator_management_per_minute = 5;
        })
        .start()
        .await;
    let other = gateway.another_org("another customer", 0).await;
    let admin = AdminClient::org_admin(&gateway, &gateway.caller).await;
    let second = AdminClient::new(&gateway, gateway.another_user("second", "admin").await.text);
    let theirs = AdminClient::org_admin(&gateway, &other).await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    // Whoever of the organisation calls, and whatever becomes of it.
    admin.get("/admin/v1/me").await.expect(200);
    second.get("/admin/v1/operator-tokens").await.expect(403);
    admin.get("/admin/v1/me").await.expect(200);
    let refused = second.get("/admin/v1/me").await;
    let seconds: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=21).contains(&seconds), "{seconds}");
    assert_eq!(refused.headers["ratelimit-policy"], r#""organisation";q=3;w=60"#);
    let problem = refused.expect(429);
    assert_eq!(problem["code"], "rate_limited");
    let detail = problem["detail"].as_str().unwrap();
    assert_eq!(detail, "too many calls of the management API in a minute: at most 3 of one organisation");
    theirs.get("/admin/v1/me").await.expect(200);
    // The data plane has limits of its own.
    gateway.get("/api/credits").await.expect(200);
    for _ in 0..5 {
        operator.get("/admin/v1/orgs").await.expect(200);
    }
    operator.get("/admin/v1/orgs").await.expect(429);
    let colleague = AdminClient::operator(&gateway, OperatorRole::OperatorRead).await;
    colleague.get("/admin/v1/orgs").await.expect(200);
}

#[tokio::test]
async fn what_hangs_for_one_organisation_leaves_turns_for_others() {
    let gateway = TestGateway::start().await;
    let other = gateway.another_org("another customer", 1_000).await;
    let admin = AdminClient::org_admin(&gateway, &gateway.caller).await;
    let theirs = AdminClient::org_admin(&gateway, &other).await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    // Their keys are looked up before: a look-up reads teams.
    for warm in [&admin, &theirs] {
        warm.get("/admin/v1/me").await.expect(200);
    }
    gateway.get("/api/credits").await.expect(200);
    let mut holder = PgConnection::connect(gateway.db.url()).await.unwrap();
    lock(&mut holder, "team in access exclusive mode").await;
    let hanging = async || {
        let waiting = "select count(*) from pg_stat_activity where datname = current_database() \
                       and wait_event_type = 'Lock' and query like '%from team%'";
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(gateway.db.pool()).await.unwrap()
    };
    let path = format!("/admin/v1/orgs/{}/teams", gateway.caller.org);
    let busy = join_all((0..12).map(|_| admin.get(&path)));
    let innocent = async {
        until("as many hang as may", async || hanging().await >= 3).await;
        for _ in 0..5 {
            theirs.get(&format!("/admin/v1/orgs/{}/budgets", other.org)).await.expect(200);
            assert!(hanging().await <= 3, "half of the pool is the most for one organisation");
            operator.get("/admin/v1/price-books").await.expect(200);
            gateway.get("/api/credits").await.expect(200);
            gateway.create(&crate::support::gateway::body("beside a busy admin")).await.expect(200);
        }
        holder.execute("rollback").await.unwrap();
    };
    tokio::join!(busy, innocent);
}

#[tokio::test]
async fn an_organisation_has_no_more_than_its_quotas() {
    let gateway = TestGateway::start().await;
    let org = gateway.caller.org;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let admin = AdminClient::org_admin(&gateway, &gateway.caller).await;
    let path = format!("/admin/v1/orgs/{org}/quotas");
    let quota = |shown: &Value, kind: &str| {
        let items = shown["items"].as_array().unwrap();
        items.iter().find(|quota| quota["kind"] == kind).unwrap().clone()
    };
    let shown = admin.get(&path).await.expect(200);
    assert_eq!(
        (&quota(&shown, "teams")["most"], &quota(&shown, "teams")["own"]),
        (&json!(1000), &json!(false))
    );
    let [users, keys] = ["users", "keys"].map(|kind| quota(&shown, kind)["used"].as_i64().unwrap());
    admin.patch(&path, json!({"users": 9})).await.expect(403);
    operator.patch(&path, json!({"users": -1})).await.expect(400);
    let patch = json!({"users": users + 1, "keys": keys + 1, "teams": 0, "budgets": 1});
    operator.patch(&path, patch).await.expect(200);

    let make =
        async |what: &str, body: Value| admin.post(&format!("/admin/v1/orgs/{org}/{what}"), body).await;
    let user = make("users", json!({"name": "the last"})).await.expect(201);
    let refused = make("users", json!({"name": "one too many"})).await.expect(409);
    let most = users + 1;
    let detail = format!("this organisation may have {most} users: an operator can allow more");
    assert_eq!(refused["detail"], detail);
    make("teams", json!({"name": "any"})).await.expect(409);
    let of_user = json!({"user_id": user["user_id"], "name": "key"});
    let key = make("keys", of_user.clone()).await.expect(201);
    make("keys", of_user.clone()).await.expect(409);
    let of_key = |period: &str| json!({"level": "key", "period": period, "credits": 5});
    make("budgets", of_key("daily")).await.expect(201);
    make("budgets", of_key("weekly")).await.expect(409);
    let used = admin.get(&path).await.expect(200);
    assert_eq!(quota(&used, "users"), json!({"kind": "users", "used": most, "most": most, "own": true}));

    // What is revoked or deleted makes room, and so does an operator.
    admin
        .post(&format!("/admin/v1/keys/{}/revoke", key["key_id"].as_str().unwrap()), json!({}))
        .await
        .expect(200);
    make("keys", of_user).await.expect(201);
    let id = user["user_id"].as_str().unwrap();
    admin.call(Method::DELETE, &format!("/admin/v1/users/{id}"), None).await.expect(204);
    make("users", json!({"name": "another"})).await.expect(201);
    let said = gateway.admin_says(&["org", "quotas", &org.to_string(), "--teams", "default"]).await;
    let line = said.out.lines().find(|line| line.starts_with("teams")).unwrap();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["teams", "0", "1000", "false"]);
    make("teams", json!({"name": "any"})).await.expect(201);
    let log = operator.get(&format!("/admin/v1/orgs/{org}/audit-log?action=update_quotas")).await.expect(200);
    assert!(log["items"].as_array().unwrap().len() >= 4, "{log}");
}

#[tokio::test]
async fn an_organisation_asks_for_no_more_changes_a_day_than_its_quota() {
    let gateway = TestGateway::start().await;
    let org = gateway.caller.org;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let admin = AdminClient::org_admin(&gateway, &gateway.caller).await;
    let of_org = |what: &str| format!("/admin/v1/orgs/{org}/{what}");
    let changes = async || {
        let shown = admin.get(&of_org("quotas")).await.expect(200);
        shown["items"].as_array().unwrap().iter().find(|quota| quota["kind"] == "changes").unwrap().clone()
    };
    assert_eq!(changes().await, json!({"kind": "changes", "used": 0, "most": 20_000, "own": false}));
    operator.patch(&of_org("quotas"), json!({"changes": 2})).await.expect(200);
    let make = async |name: &str| admin.post(&of_org("teams"), json!({"name": name})).await;
    let team = make("first").await.expect(201);
    // What is refused was asked for too.
    make("first").await.expect(409);
    let refused = make("third").await;
    assert!(refused.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() <= 86_400);
    let refused = refused.expect(429);
    assert_eq!(refused["code"], "rate_limited");
    assert!(refused["detail"].as_str().unwrap().contains("2 changes a day"), "{refused}");
    assert_eq!(changes().await, json!({"kind": "changes", "used": 2, "most": 2, "own": true}));
    // Reading goes on, and taking away, and what operators do; and other organisations have counts of their own.
    let id = team["team_id"].as_str().unwrap();
    admin.call(Method::DELETE, &format!("/admin/v1/teams/{id}"), None).await.expect(204);
    operator.post(&of_org("teams"), json!({"name": "an operator's"})).await.expect(201);
    let other = gateway.another_org("another customer", 0).await;
    let theirs = AdminClient::org_admin(&gateway, &other).await;
    theirs.post(&format!("/admin/v1/orgs/{}/teams", other.org), json!({"name": "x"})).await.expect(201);
    // Tomorrow it is another day.
    sqlx::query("update change_count set day = day - 1 where org_id = $1")
        .bind(org.as_uuid())
        .execute(gateway.db.pool())
        .await
        .unwrap();
    make("of the next day").await.expect(201);
    assert_eq!(changes().await["used"], 1);
}

#[tokio::test]
async fn what_was_deleted_or_revoked_is_bounded_by_the_quotas_too() {
    let gateway = TestGateway::start().await;
    let org = gateway.caller.org;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let admin = AdminClient::org_admin(&gateway, &gateway.caller).await;
    let of_org = |what: &str| format!("/admin/v1/orgs/{org}/{what}");
    operator.patch(&of_org("quotas"), json!({"users": 3, "teams": 1, "keys": 3})).await.expect(200);
    for turn in 0..31 {
        let user = admin.post(&of_org("users"), json!({"name": format!("user {turn}")})).await.expect(201);
        let path = format!("/admin/v1/users/{}", user["user_id"].as_str().unwrap());
        admin.call(Method::DELETE, &path, None).await.expect(204);
    }
    let refused = admin.post(&of_org("users"), json!({"name": "one too many"})).await.expect(409);
    assert!(
        refused["detail"].as_str().unwrap().contains("more than 30 deleted or revoked users"),
        "{refused}"
    );
    for turn in 0..11 {
        let team = admin.post(&of_org("teams"), json!({"name": format!("team {turn}")})).await.expect(201);
        let path = format!("/admin/v1/teams/{}", team["team_id"].as_str().unwrap());
        admin.call(Method::DELETE, &path, None).await.expect(204);
    }
    admin.post(&of_org("teams"), json!({"name": "one too many"})).await.expect(409);
    let key = json!({"user_id": gateway.caller.user, "name": "key"});
    for _ in 0..31 {
        let made = admin.post(&of_org("keys"), key.clone()).await.expect(201);
        let path = format!("/admin/v1/keys/{}/revoke", made["key_id"].as_str().unwrap());
        admin.post(&path, json!({})).await.expect(200);
    }
    admin.post(&of_org("keys"), key.clone()).await.expect(409);
    operator.patch(&of_org("quotas"), json!({"users": 4, "teams": 2, "keys": 4})).await.expect(200);
    admin.post(&of_org("users"), json!({"name": "one more"})).await.expect(201);
    admin.post(&of_org("teams"), json!({"name": "one more"})).await.expect(201);
    admin.post(&of_org("keys"), key).await.expect(201);
}

/// All lines of usage, in order and each once, although they are read from the database in parts while earlier ones are sent.
#[tokio::test]
async fn a_table_of_usage_is_made_while_it_is_read() {
    const LINES: i32 = 4_500;
    let gateway = TestGateway::start().await;
    let Caller { org, user, key, .. } = gateway.caller;
    let team = gateway.db.database().create_team(org, "film").await.unwrap();
    history_of_types(&gateway.db, &Tenant { org, team, user, key }, LINES, LINES - 1).await;
    let admin = AdminClient::org_admin(&gateway, &gateway.caller).await;
    for group_by in [
        "task_type",
        "day,user,task_type,team,key",
        "task_type,label&label=x",
        "user,label,task_type&label=x",
    ] {
        let path = format!("/admin/v1/orgs/{org}/usage?group_by={group_by}");
        let url = gateway.admin_url(&format!("{path}&format=csv"));
        let answer = gateway.client.get(url).bearer_auth(&admin.token).send().await.unwrap();
        assert_eq!(answer.headers().get("content-length"), None, "its length is not known when it begins");
        let table = answer.text().await.unwrap();
        let names = group_by.split_once('&').map_or(group_by, |(names, _)| names);
        let at = names.split(',').position(|name| name == "task_type").unwrap();
        let mut types: Vec<&str> =
            table.lines().skip(1).map(|line| line.split(',').nth(at).unwrap()).collect();
        if names.contains("day") {
            // It may be midnight just now.
            types.sort_unstable();
            types.dedup();
        }
        let mut expected: Vec<String> = (0..LINES - 1).map(|number| format!("t{number}")).collect();
        expected.sort();
        assert!(types == expected, "{group_by}: {} lines", types.len());
        let tasks =
            |line: &str| line.split(',').nth(names.split(',').count()).unwrap().parse::<i32>().unwrap();
        assert_eq!(table.lines().skip(1).map(tasks).sum::<i32>(), LINES);
    }
    let mut browser = Browser::of_members(&gateway).signed_in(&admin.token).await;
    let table = browser.get("/console/usage.csv?by=task_type").await.shown();
    assert_eq!((table.header("content-length"), table.text.lines().count()), ("", 4_500));
}

/// A client that asks for a statement in CSV and does not read it has no turn at the database meanwhile.
#[tokio::test]
async fn whoever_does_not_read_a_statement_keeps_no_turn() {
    const LINES: i32 = 30_000;
    let gateway = TestGateway::start().await;
    let Caller { org, user, key, .. } = gateway.caller;
    let team = gateway.db.database().create_team(org, "film").await.unwrap();
    history(&gateway.db, &Tenant { org, team, user, key }, LINES).await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let today = OffsetDateTime::now_utc();
    let path =
        format!("/admin/v1/orgs/{org}/statements/{}-{:02}?format=csv", today.year(), u8::from(today.month()));
    let url = Url::parse(&gateway.admin_url(&path)).unwrap();
    let address = url.socket_addrs(|| None).unwrap()[0];
    let head =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n", operator.token);
    let mut unread = Vec::new();
    // More than there are turns.
    for _ in 0..8 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4 << 10).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        // It has begun.
        stream.peek(&mut [0]).await.unwrap();
        unread.push(stream);
    }
    operator.get(&format!("/admin/v1/orgs/{org}/teams")).await.expect(200);
    // Whoever reads gets all of it.
    let (mut table, mut reading) = (Vec::new(), unread.pop().unwrap());
    let is_whole = |table: &[u8]| {
        let end = &table[table.len().saturating_sub(300)..];
        String::from_utf8_lossy(end).contains(",closing,")
    };
    while !is_whole(&table) {
        let read = reading.read_buf(&mut table).await.unwrap();
        assert!(read > 0, "cut off after {} bytes", table.len());
    }
    assert!(table.iter().filter(|byte| **byte == b'\n').count() > LINES as usize);
}

#[tokio::test]
async fn a_key_names_no_more_networks_and_types_than_are_kept_in_memory() {
    let gateway = TestGateway::start().await;
    let admin = AdminClient::org_admin(&gateway, &gateway.caller).await;
    let networks = |count: usize| -> Vec<String> { (0..count).map(|n| format!("10.0.{n}.0/24")).collect() };
    let path = format!("/admin/v1/orgs/{}/keys", gateway.caller.org);
    let user = gateway.caller.user;
    let made = |count| json!({"user_id": user, "name": "many", "allowed_networks": networks(count)});
    let refused = admin.post(&path, made(101)).await.expect(400);
    assert!(refused["detail"].as_str().unwrap().contains("at most 100"), "{refused}");
    let key = admin.post(&path, made(100)).await.expect(201);
    let path = format!("/admin/v1/keys/{}", key["key_id"].as_str().unwrap());
    admin.patch(&path, json!({"allowed_networks": networks(101)})).await.expect(400);
}
