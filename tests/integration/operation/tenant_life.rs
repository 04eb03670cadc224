//! The whole life of a tenant, by the command line alone.

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::support::database::until;
use crate::support::gateway::{Answer, TestGateway, body};

/// A create with this key.
async fn create(gateway: &TestGateway, key: &str, prompt: &str) -> Answer {
    let call = gateway.request(reqwest::Method::POST, "/api/generate").bearer_auth(key);
    Answer::to(call.body(body(prompt).to_string())).await
}

/// How this key is answered when it asks for its balance.
async fn answered(gateway: &TestGateway, key: &str) -> u16 {
    let call = gateway.request(reqwest::Method::GET, "/api/credits").bearer_auth(key);
    Answer::to(call).await.status
}

#[tokio::test]
async fn a_tenant_is_made_funded_capped_raised_revoked_billed_and_suspended() {
    let gateway =
        TestGateway::builder().credits(0).task_time(std::time::Duration::from_millis(50)).start().await;
    let token = gateway.operator_token().await;
    let admin = async |args: &[&str]| gateway.admin_says_as(&token, &[&["--json"], args].concat()).await;
    let done = async |args: &[&str]| {
        let said = admin(args).await;
        assert_eq!(said.code, 0, "{args:?}: {said:?}");
        said.json()
    };
    let text = |value: &Value, field: &str| value[field].as_str().unwrap().to_owned();
    let settled = async |org: &str, consumed: i64| {
        until("it is settled", async || done(&["org", "show", org]).await["consumed"] == consumed).await;
    };

    // Made: an organisation, a team, a user, a key.
    let org = text(&done(&["org", "create", "studio", "--time-zone", "Europe/Berlin"]).await, "org_id");
    let team = text(&done(&["team", "create", "--org", &org, "--name", "film"]).await, "team_id");
    let renamed = done(&["team", "update", &team, "--name", "film crew"]).await;
    assert_eq!(text(&renamed, "name"), "film crew");
    let user = ["user", "create", "--org", &org, "--name", "ada", "--team", &team];
    let user = text(&done(&user).await, "user_id");
    let made = done(&["key", "create", "--org", &org, "--user", &user, "--name", "laptop"]).await;
    let (key, first) = (text(&made, "key_id"), text(&made, "api_key"));
    create(&gateway, &first, "too early").await.refused(402, "INSUFFICIENT_CREDITS");

    // Funded, once, however often it is said.
    let grant = ["credit", "grant", "--org", &org, "--credits", "3000", "--reason", "invoice 7"];
    let grant = [&grant[..], &["--reference", "2026-7", "--idempotency-key", "i7"]].concat();
    done(&grant).await;
    done(&grant).await;
    assert_eq!(done(&["org", "show", &org]).await["available"], 3000);

    // Spent.
    create(&gateway, &first, "one").await.expect(200);
    settled(&org, 400).await;

    // Rotated: the same key, another text.
    let rotated = done(&["key", "rotate", &key, "--overlap", "0"]).await;
    assert_eq!(text(&rotated, "key_id"), key);
    let second = text(&rotated, "api_key");
    until("the former text is refused", async || answered(&gateway, &first).await == 401).await;

    // Capped: what the key spent before counts.
    let budget =
        ["budget", "create", "--org", &org, "--key", &key, "--period", "monthly", "--credits", "800"];
    let budget = text(&done(&budget).await, "budget_id");
    create(&gateway, &second, "three").await.expect(200);
    settled(&org, 800).await;
    let refused = create(&gateway, &second, "four").await;
    refused.refused(402, "BUDGET_EXCEEDED");
    let over = refused.json()["data"].clone();
    assert_eq!(
        (&over["level"], &over["limit"], &over["used"]),
        (&json!("key"), &json!(800), &json!(800)),
        "{over}"
    );
    assert!(over["resets_at"].is_string(), "{over}");
    let events = done(&["budget", "events", "--org", &org]).await;
    assert!(events.as_array().unwrap().iter().any(|event| event["threshold"] == 100), "{events}");

    // Raised, for a time.
    let hour = (OffsetDateTime::now_utc() + time::Duration::HOUR).format(&Rfc3339).unwrap();
    done(&["budget", "raise", &budget, "--credits", "1200", "--until", &hour]).await;
    create(&gateway, &second, "four").await.expect(200);
    settled(&org, 1200).await;
    create(&gateway, &second, "five").await.refused(402, "BUDGET_EXCEEDED");

    // Revoked.
    done(&["key", "revoke", &key]).await;
    until("it is refused", async || answered(&gateway, &second).await == 401).await;
    assert_eq!(done(&["key", "list", "--org", &org]).await[0]["status"], "revoked");

    // Billed: every line an entry, and the sum of them the balance.
    let usage = done(&["usage", "--org", &org, "--by", "team"]).await;
    assert_eq!((&usage[0]["team_id"], &usage[0]["tasks"]), (&json!(team), &json!(3)), "{usage}");
    let month = done(&["org", "show", &org]).await;
    let zone = text(&month, "time_zone");
    let month: String = sqlx::query_scalar("select to_char(now() at time zone $1, 'YYYY-MM')")
        .bind(&zone)
        .fetch_one(gateway.db.pool())
        .await
        .unwrap();
    let statement = done(&["statement", "--org", &org, "--month", &month]).await;
    let lines = statement["items"].as_array().unwrap_or_else(|| panic!("{statement}"));
    let amounts: Vec<i64> = lines.iter().map(|line| line["credits"].as_i64().unwrap()).collect();
    assert_eq!(amounts, [3000, -400, -400, -400], "{statement}");
    assert_eq!((&statement["opening"], &statement["closing"]), (&json!(0), &json!(1800)));

    // Suspended: nothing new, and what there was can be read.
    let made = done(&["key", "create", "--org", &org, "--user", &user, "--name", "third"]).await;
    let third = text(&made, "api_key");
    let task = create(&gateway, &third, "seven").await.task_id();
    done(&["org", "suspend", &org]).await;
    // Not valid either: nothing is made while it is not refused yet.
    until("it is refused", async || create(&gateway, &third, "").await.status == 403).await;
    create(&gateway, &third, "eight").await.refused(403, "SUSPENDED");
    let status = gateway.request(reqwest::Method::GET, &format!("/api/status?task_id={task}"));
    Answer::to(status.bearer_auth(&third)).await.expect(200);
    settled(&org, 1600).await;

    // Who did all that.
    let log = done(&["audit-log", "--org", &org]).await;
    let actions: Vec<&str> =
        log.as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    for action in ["create_org", "create_team", "create_user", "create_key", "rotate_key", "revoke_key"] {
        assert!(actions.contains(&action), "{action}: {actions:?}");
    }
    let is_operator = |actor: &Value| {
        let actor = actor.as_str().unwrap();
        actor.starts_with("operator:opt_") && actor.ends_with(" (a test)")
    };
    assert!(log.as_array().unwrap().iter().all(|entry| is_operator(&entry["actor"])), "{log}");
}
