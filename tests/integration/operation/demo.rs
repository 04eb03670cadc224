//! `tollgate demo` in shells that are set up for something else, and the databases it takes and leaves alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Client;
use serde_json::Value;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{AssertSqlSafe, Connection, Executor};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use url::Url;
use uuid::Uuid;

use crate::support::browser::Browser;
use crate::support::database::{TestDatabase, until};
use crate::support::gateway::{Answer, body};
use crate::support::http;
use crate::support::process::{Process, Scratch, run, run_with_env};

/// What must not be shown of an environment.
const SECRET: &str = "hunter2";

/// Somebody whom nobody may call.
struct Bystander {
    address: String,
    calls: Arc<AtomicUsize>,
    listening: JoinHandle<()>,
}

impl Bystander {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let listening = tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { address, calls, listening }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// A fingerprint of every relation's rows; also of what is no table of ours.
async fn contents(pool: &PgPool) -> BTreeMap<String, Option<String>> {
    let tables: Vec<String> = sqlx::query_scalar(
        "select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace \
         where c.relkind in ('r', 'p') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let mut contents = BTreeMap::new();
    for table in tables {
        let rows = format!("select md5(string_agg(t::text, '|' order by t::text)) from {table} t");
        let rows = sqlx::query_scalar(AssertSqlSafe(rows)).fetch_one(pool).await.unwrap();
        contents.insert(table, rows);
    }
    contents
}

/// An empty database on the server of a test's own.
struct EmptyDatabase {
    server: String,
    name: String,
    url: String,
}

impl EmptyDatabase {
    async fn beside(other: &TestDatabase) -> Self {
        let name = format!("tollgate_empty_{}", Uuid::now_v7().simple());
        let mut url = Url::parse(other.url()).unwrap();
        url.set_path(&name);
        let database = Self { server: other.url().to_owned(), name, url: url.into() };
        database.on_server("create database").await;
        database
    }

    async fn on_server(&self, statement: &str) {
        let mut server = PgConnection::connect(&self.server).await.unwrap();
        let force = if statement.starts_with("drop") { " with (force)" } else { "" };
        server.execute(AssertSqlSafe(format!("{statement} {}{force}", self.name))).await.unwrap();
        server.close().await.unwrap();
    }

    /// The same database by a URL with a password, which nothing asks for.
    fn url_with_password(&self) -> String {
        let mut url = Url::parse(&self.url).unwrap();
        url.set_password(Some(SECRET)).unwrap();
        url.into()
    }
}

async fn create(client: &Client, ready: &Value) -> Answer {
    let url = format!("{}/api/generate", ready["base_url"].as_str().unwrap());
    let call = client.post(url).bearer_auth(ready["api_key"].as_str().unwrap());
    Answer::to(call.body(body("x").to_string())).await
}

async fn status(client: &Client, ready: &Value, task: &str) -> Value {
    let url = format!("{}/api/status?task_id={task}", ready["base_url"].as_str().unwrap());
    let call = client.get(url).bearer_auth(ready["api_key"].as_str().unwrap());
    Answer::to(call).await.data()["status"].clone()
}

fn arguments<'a>(scratch: &'a Scratch, more: &[&'a str]) -> Vec<&'a str> {
    let directory = scratch.0.to_str().unwrap();
    let own = ["demo", "--json", "--listen", "127.0.0.1:0", "--task-ms", "50", "--data-dir", directory];
    [&own, more].concat()
}

#[tokio::test]
async fn a_demo_in_a_shell_for_production_reaches_nothing_of_it() {
    let production = TestDatabase::new().await;
    let before = contents(production.pool()).await;
    let (vendor, collector, taken) =
        (Bystander::start().await, Bystander::start().await, Bystander::start().await);
    let vendor_url = format!("http://{}", vendor.address);
    let collector_url = format!("http://{}", collector.address);
    let ca = "/nowhere/ca.pem";
    let env = [
        ("DATABASE_URL", production.url()),
        ("TOLLGATE_DATABASE__URL", production.url()),
        ("TOLLGATE_SERVER__LISTEN", &taken.address),
        ("TOLLGATE_ADMIN__LISTEN", &taken.address),
        ("TOLLGATE_ADMIN__BOOTSTRAP_TOKEN", SECRET),
        ("TOLLGATE_UPSTREAM__KLING_3__BASE_URL", &vendor_url),
        ("TOLLGATE_UPSTREAM__KLING_3__MASTER_KEY", SECRET),
        ("TOLLGATE_UPSTREAM__KLING_O3__BASE_URL", &vendor_url),
        ("TOLLGATE_UPSTREAM__KLING_O3__MASTER_KEY", SECRET),
        ("TOLLGATE_TELEMETRY__OTLP_ENDPOINT", &collector_url),
        ("TOLLGATE_LEDGER__LANES", "0"),
        ("TOLLGATE_ADMIN_URL", &vendor_url),
        ("TOLLGATE_ADMIN_TOKEN", SECRET),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector_url),
        ("OTEL_TRACES_EXPORTER", "otlp"),
        ("HTTP_PROXY", &vendor_url),
        ("HTTPS_PROXY", &vendor_url),
        ("PGHOST", "127.0.0.1"),
        ("PGHOSTADDR", "127.0.0.1"),
        ("PGPORT", "1"),
        ("PGUSER", "nobody"),
        ("PGPASSWORD", SECRET),
        ("PGDATABASE", "production"),
        ("PGOPTIONS", "-c default_transaction_read_only=on -c search_path=nowhere"),
        ("PGSSLMODE", "verify-full"),
        ("PGSSLROOTCERT", ca),
        ("PGSSLCERT", ca),
        ("PGPASSFILE", ca),
    ];
    let scratch = Scratch::new();
    let mut process = Process::with_env(&arguments(&scratch, &[]), &env);
    let ready = process.ready().await;
    let log = process.rest_of_log();
    for address in ["base_url", "admin_url"] {
        assert!(!ready[address].as_str().unwrap().contains(&taken.address), "{ready}");
    }
    let client = http::builder().no_proxy().build().unwrap();
    let task = create(&client, &ready).await.task_id();
    until("it finishes", async || status(&client, &ready, &task).await == "SUCCESS").await;
    process.terminate();
    assert_eq!(process.ended().await, 0);

    assert_eq!((vendor.calls(), collector.calls(), taken.calls()), (0, 0, 0));
    assert_eq!(contents(production.pool()).await, before);
    let log = log.await.unwrap();
    assert!(!log.contains(SECRET), "{log}");
    for name in ["DATABASE_URL", "TOLLGATE_UPSTREAM__KLING_3__MASTER_KEY", "PGOPTIONS"] {
        assert!(log.contains(name), "it says what it ignores: {log}");
    }
    let socket = format!("the demo works in database tollgate at the socket in {}", scratch.0.display());
    assert!(log.contains(&socket), "{log}");
}

#[tokio::test]
async fn the_console_of_a_new_demo_opens_on_a_finished_clip() {
    let scratch = Scratch::new();
    let client = http::client();
    for _ in 0..2 {
        let mut process = Process::start(&arguments(&scratch, &[]));
        let ready = process.ready().await;
        let log = process.rest_of_log();
        let text = |field: &str| ready[field].as_str().unwrap().to_owned();
        let mut browser = Browser::at(text("base_url"));
        let link = text("console_url");
        let page = browser.post(link.strip_prefix(&text("base_url")).unwrap(), &[]).await;
        assert_eq!((page.status, page.place()), (303, "/console"), "{}", page.text);
        until("its first clip is finished", async || {
            browser.get("/console").await.shown().text.contains("Your newest clip")
        })
        .await;
        let page = browser.get("/console").await.shown();
        let at = page.text.find("<video").unwrap();
        let place = page.text[at..].split_once(" src=\"").unwrap().1.split_once('"').unwrap().0.to_owned();
        let video = browser.get(&place).await;
        assert_eq!(video.status, 303, "{}", video.text);
        let video = client.get(video.place()).send().await.unwrap();
        assert!(video.status().is_success() && video.headers()["content-type"] == "video/mp4", "{video:?}");
        let call =
            |path: &str| client.get(format!("{}{path}", text("base_url"))).bearer_auth(text("api_key"));
        // As many credits are left as a demo says, and there is one clip, also after another start.
        let credits = Answer::to(call("/api/credits")).await.data();
        assert_eq!((&credits["available"], &credits["held"]), (&Value::from(100_000), &Value::from(0)));
        let tasks = Answer::to(call("/api/tasks")).await.data();
        assert_eq!(tasks["tasks"].as_array().unwrap().len(), 1, "{tasks}");
        process.terminate();
        assert_eq!(process.ended().await, 0);
        log.await.unwrap();
    }
}

#[tokio::test]
async fn a_demo_takes_an_empty_database_and_its_own_and_no_other() {
    let somebodys = TestDatabase::new().await;
    let before = contents(somebodys.pool()).await;
    let scratch = Scratch::new();
    let refused = run(&arguments(&scratch, &["--database-url", somebodys.url()])).await;
    assert_eq!(refused.code, 2, "{refused:?}");
    for part in ["neither empty nor a demo's", "Nothing in it was changed", "--database-url"] {
        assert!(refused.err.contains(part), "{refused:?}");
    }
    assert_eq!(contents(somebodys.pool()).await, before);

    let database = EmptyDatabase::beside(&somebodys).await;
    let client = http::client();
    let mut keys = Vec::new();
    for _ in 0..2 {
        let mut process =
            Process::start(&arguments(&scratch, &["--database-url", &database.url_with_password()]));
        let ready = process.ready().await;
        let log = process.rest_of_log();
        let task = create(&client, &ready).await.task_id();
        until("it finishes", async || status(&client, &ready, &task).await == "SUCCESS").await;
        keys.push(ready["api_key"].clone());
        process.terminate();
        assert_eq!(process.ended().await, 0);
        let log = log.await.unwrap();
        assert!(log.contains(&format!("the demo works in database {} at ", database.name)), "{log}");
        assert!(!log.contains(SECRET), "{log}");
    }
    assert_eq!(keys[0], keys[1], "it is found again");
    assert!(scratch.processes().is_empty(), "no server was started");
    let audit = run(&["audit", "--database-url", &database.url]).await;
    assert_eq!(audit.code, 0, "{audit:?}");

    // What a demo has furnished does not become somebody's ledger by mistake.
    let pool = PgPool::connect(&database.url).await.unwrap();
    let before = contents(&pool).await;
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[database]\nurl = \"{}\"\n\
         [upstream.kling_3]\nbase_url = \"http://127.0.0.1:1\"\nmaster_key = \"k\"\n",
        database.url_with_password()
    );
    let serve = ["serve", "--config", &scratch.file("gateway.toml", &config)];
    let refused = run(&serve).await;
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.err.contains("is a demo's") && refused.err.contains("--beside-demo"), "{refused:?}");
    assert_eq!(contents(&pool).await, before);
    let mut process = Process::start(&[&serve[..], &["--beside-demo"]].concat());
    let serving = process.event("serving").await;
    assert!(serving["database"].as_str().unwrap().starts_with(&database.name), "{serving}");
    process.terminate();
    assert_eq!(process.ended().await, 0);

    // Without the mark it is somebody's, whatever is in it.
    pool.execute("drop table tollgate_demo").await.unwrap();
    let refused = run(&arguments(&scratch, &["--database-url", &database.url])).await;
    assert!(refused.code == 2 && refused.err.contains("neither empty nor a demo's"), "{refused:?}");
    pool.close().await;
    database.on_server("drop database").await;
}

#[tokio::test]
async fn every_command_says_which_database_and_a_flag_wins() {
    let own = TestDatabase::new().await;
    let (by_flag, by_file) = (EmptyDatabase::beside(&own).await, EmptyDatabase::beside(&own).await);
    let scratch = Scratch::new();
    let config = format!(
        "[database]\nurl = \"{}\"\n[upstream.kling_3]\nbase_url = \"http://127.0.0.1:1\"\nmaster_key = \"k\"\n",
        by_file.url_with_password()
    );
    let config = scratch.file("gateway.toml", &config);
    let (flag, nowhere) = (by_flag.url_with_password(), "postgres://gw@127.0.0.1:1/nowhere");
    let env = [
        ("DATABASE_URL", nowhere),
        ("PGHOST", "127.0.0.1"),
        ("PGPORT", "1"),
        ("PGDATABASE", "nowhere"),
        ("PGOPTIONS", "-c search_path=nowhere"),
        ("PGSSLMODE", "verify-full"),
    ];
    for (command, doing) in [
        (&["migrate"][..], "migrating"),
        (&["audit"], "auditing, without a change,"),
        (&["operator-token", "--enter"], "storing an operator token in"),
    ] {
        for (args, expected) in [
            (&["--database-url", &flag, "--config", &config][..], &by_flag),
            (&["--config", &config], &by_file),
        ] {
            let said = run_with_env(&[command, args].concat(), &env).await;
            assert_eq!(said.code, 0, "{command:?} {args:?}: {said:?}");
            let line = format!("tollgate: {doing} database {} at ", expected.name);
            assert!(said.err.contains(&line) && !said.err.contains(SECRET), "{command:?} {args:?}: {said:?}");
        }
        let said = run_with_env(command, &env).await;
        assert_eq!(said.code, 3, "{said:?}");
        assert!(said.err.contains("database nowhere at 127.0.0.1:1"), "{said:?}");
    }
    // The environment wins over the file.
    let said = run_with_env(&["audit", "--config", &config], &[("TOLLGATE_DATABASE__URL", &flag)]).await;
    assert!(said.code == 0 && said.err.contains(&by_flag.name), "{said:?}");
    // In another form, too.
    let url_file = scratch.file("database_url", &flag);
    let env = [("TOLLGATE_DATABASE__URL_FILE", url_file.as_str())];
    let said = run_with_env(&["audit", "--config", &config], &env).await;
    assert!(said.code == 0 && said.err.contains(&by_flag.name), "{said:?}");

    let url = ["--url", "http://127.0.0.1:1", "--token", "x"];
    let env = [("TOLLGATE_ADMIN_URL", "http://127.0.0.1:2"), ("TOLLGATE_ADMIN_TOKEN", "no\ntoken")];
    let said = run_with_env(&[&["admin"], &url[..], &["me"]].concat(), &env).await;
    assert!(said.code == 3 && said.err.contains("http://127.0.0.1:1 "), "{said:?}");
    let change = ["org", "create", "studio"];
    let said = run_with_env(&[&["admin"], &url[..], &change].concat(), &env).await;
    assert!(said.err.contains("a change at the management API http://127.0.0.1:1\n"), "{said:?}");
    let with_password = format!("http://u:{SECRET}@127.0.0.1:1");
    let said = run_with_env(&["admin", "--url", &with_password, "--token", "x", "me"], &env).await;
    assert!(said.code == 2 && !said.err.contains(SECRET) && !said.out.contains(SECRET), "{said:?}");
    for database in [by_flag, by_file] {
        database.on_server("drop database").await;
    }
}
