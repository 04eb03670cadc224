//! `serve`, `demo`, `audit`, `admin`, `config`: as operators and scripts meet them.

use futures_util::future::join_all;
use reqwest::Client;
use serde_json::{Value, json};
use sqlx::Connection;
use tokio::net::TcpListener;

use crate::support::database::{TestDatabase, until};
use crate::support::gateway::{Answer, MASTER_KEY, RawClient, TestGateway, body};
use crate::support::http;
use crate::support::process::{Process, Scratch, run, run_unread};
use crate::support::seed::{TOP_UP, org_named};

/// A configuration file for one more gateway beside the test's own.
fn config(gateway: &TestGateway, more: &str) -> String {
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[database]\nurl = \"{}\"\n\
         [upstream.kling_3]\nbase_url = \"http://{}\"\nmaster_key = \"{MASTER_KEY}\"\n{more}",
        gateway.db.url(),
        gateway.simulator()
    )
}

async fn create(client: &Client, base: &str, key: &str, prompt: &str) -> Answer {
    let call = client.post(format!("{base}/api/generate")).bearer_auth(key);
    Answer::to(call.body(body(prompt).to_string())).await
}

async fn status(client: &Client, base: &str, key: &str, task: &str) -> Answer {
    Answer::to(client.get(format!("{base}/api/status?task_id={task}")).bearer_auth(key)).await
}

#[tokio::test]
async fn a_hanging_vendor_does_not_hold_up_a_termination() {
    let gateway = TestGateway::start().await;
    let scratch = Scratch::new();
    let config = config(&gateway, "").replace("[admin]", "shutdown_grace_ms = 6000\n[admin]");
    let mut process = Process::start(&["serve", "--config", &scratch.file("gateway.toml", &config)]);
    let base = process.next_event("serving").await["data"].as_str().unwrap().to_owned();
    let log = process.rest_of_log();
    gateway.fault_on_create(json!({"kind": "hang", "accept": true})).await;
    let (client, key) = (gateway.client.clone(), gateway.caller.text.clone());
    let hanging = tokio::spawn(async move { create(&client, &base, &key, "hanging").await });
    until("it is with the vendor", async || gateway.upstream_creates().await.0 == 1).await;
    process.terminate();
    let reference = hanging.await.unwrap().reference();
    assert_eq!(process.ended().await, 0);
    assert!(!log.await.unwrap().contains("panicked"), "the wait ends in order");
    let hold = gateway.last_hold().await;
    assert_eq!((hold.state.as_str(), hold.reference()), ("IN_DOUBT", reference));
}

#[tokio::test]
async fn the_log_has_one_event_a_request_and_no_secret() {
    let gateway = TestGateway::start().await;
    let scratch = Scratch::new();
    let config = config(&gateway, "[log]\nlevel = \"trace\"\n")
        .replace("[admin]", "shutdown_grace_ms = 1000\n[admin]");
    let mut process = Process::start(&["serve", "--config", &scratch.file("gateway.toml", &config)]);
    let serving = process.next_event("serving").await;
    let (base, operations) =
        (serving["data"].as_str().unwrap().to_owned(), serving["operations"].as_str().unwrap());
    let log = process.rest_of_log();
    let (client, key) = (gateway.client.clone(), gateway.caller.text.clone());
    let task = create(&client, &base, &key, "canary of a prompt").await.task_id();
    status(&client, &base, &key, &task).await.expect(200);
    create(&client, &base, "tg_live_canaryofakey", "x").await.refused(401, "INVALID_API_KEY");
    gateway.fault_on_create(json!({"kind": "hang"})).await;
    let mut leaving = RawClient::connect(base.strip_prefix("http://").unwrap().parse().unwrap()).await;
    let text = body("leaving").to_string();
    let length = text.len();
    let request = format!(
        "POST /api/generate HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {length}\r\n\r\n{text}"
    );
    leaving.write(request.as_bytes()).await;
    until("it is with the vendor", async || gateway.upstream_creates().await.0 == 2).await;
    leaving.reset();
    until("its departure is noticed", async || {
        let metrics = client.get(format!("{operations}/metrics")).send().await.unwrap().text().await.unwrap();
        metrics.contains("{route=\"generate\",status=\"499\",code=\"CLIENT_GONE\"} 1")
    })
    .await;
    process.terminate();
    assert_eq!(process.ended().await, 0);
    let log = log.await.unwrap();

    let events: Vec<serde_json::Value> =
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let requests: Vec<_> = events.iter().filter(|event| event["message"] == "request").collect();
    let told: Vec<_> = requests
        .iter()
        .map(|event| (event["route"].as_str().unwrap(), event["code"].as_str().unwrap()))
        .collect();
    let expected =
        [("generate", "OK"), ("status", "OK"), ("generate", "INVALID_API_KEY"), ("generate", "CLIENT_GONE")];
    assert_eq!(told, expected);
    assert!(requests[3]["hold"].as_str().unwrap().starts_with("hold_"), "also for a client that left");
    for secret in [&key, "canaryofakey", "canary of a prompt", MASTER_KEY] {
        assert!(!log.contains(secret), "the log tells {secret}");
    }
}

#[tokio::test]
async fn a_terminated_gateway_answers_and_records_what_is_in_flight() {
    const IN_FLIGHT: u64 = 100;
    let gateway = TestGateway::start().await;
    let scratch = Scratch::new();
    let mut process =
        Process::start(&["serve", "--config", &scratch.file("gateway.toml", &config(&gateway, ""))]);
    let base = process.event("serving").await["data"].as_str().unwrap().to_owned();
    gateway.fault_on_create(json!({"kind": "delay", "ms": 2000, "accept": true})).await;
    let creates = (0..IN_FLIGHT).map(|number| {
        let (client, base, key) = (gateway.client.clone(), base.clone(), gateway.caller.text.clone());
        tokio::spawn(async move { create(&client, &base, &key, &format!("{number}")).await })
    });
    let creates: Vec<_> = creates.collect();
    until("all are with the vendor", async || gateway.upstream_creates().await.0 == IN_FLIGHT).await;
    process.terminate();
    let mut tasks: Vec<String> =
        join_all(creates).await.into_iter().map(|answer| answer.unwrap().task_id()).collect();
    assert_eq!(process.ended().await, 0);
    tasks.sort_unstable();
    tasks.dedup();
    assert_eq!(tasks.len(), 100);
    // The gateway that is left finishes them.
    until("all are settled", async || gateway.balance().await == [960_000, 0, 40_000]).await;
}

#[tokio::test]
async fn a_health_check_asks_the_operations_listener_of_the_same_configuration() {
    let gateway = TestGateway::start().await;
    let scratch = Scratch::new();
    let at = |listen: &str| {
        let config = config(&gateway, "")
            .replace("[admin]\nlisten = \"127.0.0.1:0", &format!("[admin]\nlisten = \"{listen}"));
        scratch.file("health.toml", &config)
    };
    let mut process = Process::start(&["serve", "--config", &at("127.0.0.1:0")]);
    let operations = process.event("serving").await["operations"].as_str().unwrap().to_owned();
    let file = at(operations.strip_prefix("http://").unwrap());
    assert_eq!(run(&["healthcheck", "--config", &file]).await.code, 0);
    assert_eq!(run(&["healthcheck", "--config", &file, "--ready"]).await.code, 0);
    process.terminate();
    assert_eq!(process.ended().await, 0);
    let said = run(&["healthcheck", "--config", &file]).await;
    assert_eq!(said.code, 1, "{said:?}");

    let unready = axum::Router::new().route("/healthz", axum::routing::get(async || "ok")).route(
        "/readyz",
        axum::routing::get(async || (axum::http::StatusCode::SERVICE_UNAVAILABLE, "the lease is over")),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let file = at(&listener.local_addr().unwrap().to_string());
    tokio::spawn(axum::serve(listener, unready).into_future());
    assert_eq!(run(&["healthcheck", "--config", &file]).await.code, 0);
    let said = run(&["healthcheck", "--config", &file, "--ready"]).await;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("503") && said.err.contains("the lease is over"), "{said:?}");
}

#[tokio::test]
async fn a_bad_configuration_is_refused_before_anything_is_bound() {
    let gateway = TestGateway::start().await;
    let scratch = Scratch::new();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let good = config(&gateway, "").replacen("127.0.0.1:0", &listen, 1);
    for (name, bad, expected) in [
        ("lanes", format!("{good}[ledger]\nlanes = 0\n"), ["ledger.lanes", "0", "from 1 to 64"]),
        ("unknown", format!("{good}[ledger]\nlane = 1\n"), ["ledger", "lane", "lanes"]),
        (
            "type",
            format!("{good}[status]\nmin_interval_ms = \"soon\"\n"),
            ["status.min_interval_ms", "soon", "a whole number"],
        ),
        ("key", good.replace(MASTER_KEY, ""), ["master_key", "missing", "by a file"]),
        ("url", good.replace("http://", "ftp://"), ["base_url", "not usable", "http or https"]),
        ("toml", "[server\n".into(), ["", "", ""]),
    ] {
        let file = scratch.file(&format!("{name}.toml"), &bad);
        for command in [&["serve"][..], &["config", "check"]] {
            let said = run(&[command, &["--config", &file]].concat()).await;
            assert_eq!(said.code, 2, "{said:?}");
            assert_eq!(said.out, "");
            assert!(said.err.contains(&file), "{said:?}");
            for part in expected {
                assert!(said.err.contains(part), "{part}: {said:?}");
            }
            assert!(!said.err.contains("in use"), "{said:?}");
        }
    }
    let said = run(&["serve", "--config", "/nowhere/gateway.toml"]).await;
    assert!(said.code == 2 && said.err.contains("/nowhere/gateway.toml"), "{said:?}");

    // The same without the mistake gets as far as the port.
    let file = scratch.file("good.toml", &good);
    assert_eq!(run(&["config", "check", "--config", &file]).await.code, 0);
    let said = run(&["serve", "--config", &file]).await;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.err.contains(&listen) && said.err.contains("in use") && said.err.contains("server.listen"),
        "{said:?}"
    );
}

#[tokio::test]
async fn an_audit_says_yes_or_shows_what_is_broken() {
    let mut db = TestDatabase::new().await;
    let org = db.database().add_org(&org_named("a customer")).await.unwrap();
    let url = db.url().to_owned();
    let audit = ["audit", "--database-url", &url];
    let clean = run(&audit).await;
    assert_eq!(clean.code, 0, "{clean:?}");
    assert!(
        clean.out.starts_with("audit clean: 1 organisations") && clean.out.lines().count() == 1,
        "{clean:?}"
    );

    db.expect_broken();
    db.database().grant(org, tollgate::credits::Credits::new(100), None, TOP_UP, None).await.unwrap();
    let hold = "insert into hold (org_id, hold_id, user_id, amount, list_price, factor_bp, price_book, balance_after, \
                overdraft, task_type, backend, account, owner, fingerprint, created_at) \
                select org_id, gen_random_uuid(), org_id, 7, 7, 10000, 1, 0, 0, 'x', 'x', 'x', org_id, '\\x00', now() from org";
    for (breaking, mending) in [
        (
            "update org_balance set available = available + 1",
            "update org_balance set available = available - 1",
        ),
        ("update entry set amount = amount + 1", "update entry set amount = amount - 1"),
        (hold, "delete from hold"),
    ] {
        let by_hand = async |statement: &'static str| {
            // Entries are append-only for everybody who does not switch their guard off.
            let mut connection = db.pool().acquire().await.unwrap();
            sqlx::query("set session_replication_role = replica").execute(&mut *connection).await.unwrap();
            sqlx::query(statement).execute(&mut *connection).await.unwrap();
            sqlx::query("reset session_replication_role").execute(&mut *connection).await.unwrap();
        };
        by_hand(breaking).await;
        let broken = run(&audit).await;
        assert_eq!(broken.code, 1, "{breaking}: {broken:?}");
        let row = broken.out.lines().find(|line| line.starts_with("BREACH")).unwrap();
        assert!(row.contains(&org.as_uuid().to_string()), "{breaking}: {broken:?}");
        by_hand(mending).await;
        assert_eq!(run(&audit).await.code, 0, "{mending}");
    }

    assert_eq!(run(&["audit"]).await.code, 2);
    assert_eq!(run(&["audit", "--database-url", "postgres://gw@127.0.0.1:1/x"]).await.code, 3);
}

#[tokio::test]
async fn an_operators_day() {
    let gateway = TestGateway::builder().credits(0).start().await;
    let scratch = Scratch::new();
    let admin = async |args: &[&str]| gateway.admin_says(&[&["--json"], args].concat()).await;
    let made = admin(&["org", "create", "studio"]).await.json();
    let org = made["org_id"].as_str().unwrap();
    assert_eq!(admin(&["org", "create", "studio"]).await.code, 1, "names are unique");
    let user = admin(&["user", "create", "--org", org, "--name", "ada", "--role", "admin"]).await.json();
    let user = user["user_id"].as_str().unwrap();
    let grant = [
        "credit",
        "grant",
        "--org",
        org,
        "--credits",
        "1000",
        "--reason",
        "invoice 7",
        "--idempotency-key",
        "i7",
    ];
    let first = admin(&grant).await.json();
    let again = admin(&grant).await.json();
    assert_eq!((&again, &first["available"]), (&first, &json!(1000)), "the first answer again");
    let mut other = grant;
    other[5] = "2000";
    assert_eq!(admin(&other).await.code, 1, "the same key, another amount");
    for bad in ["0", "-5", "1.5", "x"] {
        let mut bad_grant = grant;
        bad_grant[5] = bad;
        assert_eq!(admin(&bad_grant).await.code, 2, "{bad}");
    }
    assert_eq!(admin(&["org", "show", org]).await.json()["available"], 1000);

    let key = admin(&["key", "create", "--org", org, "--user", user, "--name", "laptop"]).await.json();
    let (key_id, secret) = (key["key_id"].as_str().unwrap(), key["api_key"].as_str().unwrap());
    let listed = admin(&["key", "list", "--org", org]).await;
    assert_eq!(listed.json()[0]["key_id"], key_id);
    assert!(!listed.out.contains(secret), "a key is shown once");
    let base = format!("http://{}", gateway.address());
    let task = create(&gateway.client, &base, secret, "x").await.task_id();

    // The printed book is what import reads.
    let shown = gateway.admin_says(&["price", "show"]).await;
    let book =
        scratch.file("book.toml", &shown.out.replace("credits_with_audio = 80", "credits_with_audio = 90"));
    let version = admin(&["price", "import", &book]).await.json()["version"].to_string();
    assert_eq!(admin(&["price", "list"]).await.json()[0]["active"], false);
    assert_eq!(admin(&["price", "activate", &version]).await.code, 0);
    let quote = async || {
        let call = gateway.client.post(format!("{base}/api/quote")).bearer_auth(secret);
        Answer::to(call.body(body("x").to_string())).await.data()["credits"].clone()
    };
    until("the new prices are in force", async || quote().await == 450).await;
    let copy = admin(&["price", "copy", &version, "--name", "next"]).await.json()["version"].to_string();
    let set = ["price", "set", &copy, "pro-text-to-video", "60", "--with-audio", "100"];
    assert_eq!(admin(&set).await.code, 0);
    assert_eq!(admin(&["price", "unset", &copy, "o3-pro-video-edit"]).await.code, 0);
    let diff = admin(&["price", "diff", &copy]).await.json();
    assert_eq!(diff["changes"].as_array().unwrap().len(), 2, "{diff}");
    assert_eq!(admin(&["price", "what-if", &copy]).await.json()["days"], 7);
    let table = gateway.admin_says(&["price", "what-if", &copy, "--days", "1"]).await;
    assert!(table.out.contains("DIFFERENCE"), "{}", table.out);
    let later = ["price", "activate", &copy, "--at", "2999-01-01T00:00:00Z"];
    assert_eq!(admin(&later).await.json()["state"], "scheduled");
    assert_eq!(admin(&set).await.code, 1, "it is no draft");
    assert_eq!(admin(&["price", "unschedule", &copy]).await.json()["state"], "draft");
    assert_eq!(admin(&["price", "delete", &copy]).await.code, 0);
    let give = ["price-factor", "create", "--org", org, "--factor", "5000", "--reason", "a promotion"];
    let factor = admin(&give).await.json();
    until("the factor is in force", async || quote().await == 225).await;
    let factor = factor["factor_id"].as_str().unwrap();
    assert_eq!(admin(&["price-factor", "end", factor, "--org", org]).await.code, 0);
    assert_eq!(admin(&["price-factor", "list", "--org", org]).await.json()[0]["active"], false);
    assert_eq!(admin(&["price", "rollback", "--from", &version]).await.json()["version"], 1);
    assert_eq!(admin(&["price", "history"]).await.json()[0]["version"], 1);
    assert_eq!(admin(&["price", "activate", &version]).await.code, 0);
    until("the new prices are back", async || quote().await == 450).await;
    let bad = scratch.file("bad.toml", "name = \"b\"\n[prices]\nx = { unit = \"minute\", credits = 5 }\n");
    assert_eq!(admin(&["price", "import", &bad]).await.code, 2);

    until("it is settled", async || admin(&["org", "show", org]).await.json()["consumed"] == 400).await;
    assert_eq!(admin(&["key", "revoke", key_id]).await.json()["revoked"], true);
    until("it is revoked", async || status(&gateway.client, &base, secret, &task).await.status == 401).await;
    assert_eq!(admin(&["key", "revoke", "key_00000000000000000000000000000000"]).await.code, 1);
    assert_eq!(admin(&["key", "revoke", "nonsense"]).await.code, 2);
}

#[tokio::test]
async fn a_reader_that_leaves_ends_a_command_in_order_and_loses_no_secret() {
    let gateway = TestGateway::start().await;
    let said = run_unread(&["completions", "bash"]).await;
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    let said = run_unread(&["operator-token"]).await;
    assert!(said.code == 1 && !said.err.contains("panicked"), "{said:?}");
    // The first token counts only if somebody could see it.
    let scratch = Scratch::new();
    let file = scratch.file("gateway.toml", &config(&gateway, ""));
    let serve = ["serve", "--config", &file];
    let said = run_unread(&serve).await;
    assert!(said.code == 1 && said.err.contains("cannot be printed"), "{said:?}");
    let tokens = async || {
        let count = sqlx::query_scalar::<_, i64>("select count(*) from operator_token");
        count.fetch_one(gateway.db.pool()).await.unwrap()
    };
    assert_eq!(tokens().await, 0);
    let process = Process::start(&serve);
    until("there is one", async || tokens().await == 1).await;
    process.terminate();
    assert_eq!(process.ended().await, 0);
}

#[tokio::test]
async fn a_bootstrap_token_that_counts_no_more_is_warned_of() {
    let gateway = TestGateway::start().await;
    let scratch = Scratch::new();
    let token = run(&["operator-token"]).await.out;
    let more = format!("bootstrap_token = \"{}\"\n[database]", token.trim());
    let file = scratch.file("gateway.toml", &config(&gateway, "").replace("[database]", &more));
    let log_of = async || {
        let mut process = Process::start(&["serve", "--config", &file]);
        let warning = process.next_event_of(|event| {
            event["message"] == "serving" || event["message"].as_str().unwrap().contains("bootstrap_token")
        });
        let first = warning.await;
        process.terminate();
        drop(process.rest_of_log());
        assert_eq!(process.ended().await, 0);
        first["message"].as_str().unwrap().to_owned()
    };
    assert_eq!(log_of().await, "serving");
    assert_eq!(log_of().await, "serving", "it is known");
    sqlx::query("update operator_token set revoked_at = now()").execute(gateway.db.pool()).await.unwrap();
    let warning = log_of().await;
    assert!(warning.contains("can be removed") && !warning.contains(token.trim()), "{warning}");
}

async fn demo(scratch: &Scratch) -> (Process, Value) {
    let directory = scratch.0.to_str().unwrap();
    let args = ["demo", "--json", "--listen", "127.0.0.1:0", "--task-ms", "50", "--data-dir", directory];
    let mut process = Process::start(&args);
    let ready = process.ready().await;
    (process, ready)
}

#[tokio::test]
async fn a_demo_keeps_its_key_and_its_tasks_and_leaves_no_process_behind() {
    let scratch = Scratch::new();
    let client = http::client();
    let mut known: Vec<(String, String)> = Vec::new();
    for round in 0..2 {
        let (process, ready) = demo(&scratch).await;
        let text = |field: &str| ready[field].as_str().unwrap().to_owned();
        let (base, key) = (text("base_url"), text("api_key"));
        for (earlier, task) in &known {
            assert_eq!(earlier, &key);
            assert_eq!(status(&client, &base, &key, task).await.data()["status"], "SUCCESS");
        }
        let task = create(&client, &base, &key, &format!("round {round}")).await.task_id();
        until("it finishes", async || {
            status(&client, &base, &key, &task).await.data()["status"] == "SUCCESS"
        })
        .await;
        known.push((key, task));
        let audit = run(&["audit", "--database-url", &text("database_url")]).await;
        assert_eq!(audit.code, 0, "{audit:?}");
        assert!(!scratch.processes().is_empty(), "its database works in its directory");
        if round == 1 {
            let mut database = sqlx::PgConnection::connect(&text("database_url")).await.unwrap();
            sqlx::query("update org set name = 'renamed'").execute(&mut database).await.unwrap();
        }
        process.terminate();
        assert_eq!(process.ended().await, 0);
        assert_eq!(scratch.processes(), Vec::<std::path::PathBuf>::new());
    }
    // The demo's organisation is another one now: so is its key.
    let (process, ready) = demo(&scratch).await;
    assert_ne!(ready["api_key"], known[0].0);
    process.terminate();
    assert_eq!(process.ended().await, 0);
}

#[tokio::test]
async fn a_demo_whose_port_is_taken_says_so_in_one_sentence() {
    let scratch = Scratch::new();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let said = run(&["demo", "--json", "--listen", &listen, "--data-dir", scratch.0.to_str().unwrap()]).await;
    assert_eq!((said.code, said.out.as_str()), (1, ""), "{said:?}");
    assert_eq!(said.err.lines().count(), 1, "{said:?}");
    assert!(
        said.err.contains(&listen) && said.err.contains("in use") && said.err.contains("--listen"),
        "{said:?}"
    );
    assert!(scratch.processes().is_empty());
}
