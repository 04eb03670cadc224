//! The drill of docs/operating.md: a dump, a restore into another server, and a gateway that serves there and ends what the dump knew.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use reqwest::Client;
use serde_json::{Value, json};
use tollgate::credits::Credits;
use tollgate::ids::{OrgId, UserId};
use tollgate::secret::Secret;
use tollgate::store::{Acting, Database, KeySpec, OperatorRole, Purpose};

use crate::support::cluster::TestCluster;
use crate::support::database::until;
use crate::support::fixture::money;
use crate::support::gateway::{MASTER_KEY, body, closed_port};
use crate::support::http;
use crate::support::process::{Process, Scratch, run};
use crate::support::seed::{TOP_UP, acting, org_named, user_named};
use crate::support::watched::Vendor;

const NAME: &str = "tollgate";

/// What an administrator runs before the first start, and before a restore.
async fn prepare(server: &TestCluster) {
    for statement in [
        "create role tollgate login",
        "create role tollgate_reader nologin",
        "create role tollgate_app nologin",
        "grant tollgate_app, pg_monitor to tollgate",
        "create database tollgate owner tollgate encoding 'UTF8' template template0",
    ] {
        server.run(statement).await;
    }
}

fn ledger_on(server: &TestCluster) -> Acting {
    let url = Secret::new(server.url_as("tollgate", NAME));
    acting(&Database::connect(&url, 2, Duration::from_secs(30)).unwrap())
}

/// What `docs/operating.md` says to run on a new server that is prepared.
async fn dump_and_restore(old: &TestCluster, dump: &Path, new: &TestCluster) {
    let mut command = Command::new(old.program("pg_dump"));
    command.arg("--format=custom").arg("--file").arg(dump).arg("--dbname").arg(old.url_as("tollgate", NAME));
    done(command).await;
    restore(dump, new).await;
}

async fn restore(dump: &Path, new: &TestCluster) {
    prepare(new).await;
    let mut command = Command::new(new.program("pg_restore"));
    command.args(["--exit-on-error", "--single-transaction"]);
    command.arg("--dbname").arg(new.url_of(NAME)).arg(dump);
    done(command).await;
}

async fn done(mut command: Command) {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_is_restored_into_another_server_and_serves() {
    let (old, new) = (TestCluster::empty().await, TestCluster::empty().await);
    let scratch = Scratch::new();
    let dump = scratch.0.join("tollgate.dump");
    prepare(&old).await;
    let url = old.url_as("tollgate", NAME);
    let said = run(&["migrate", "--database-url", &url]).await;
    assert!(
        said.code == 0 && !said.err.contains("note:"),
        "the documented steps leave nothing to be told: {said:?}"
    );
    let ledger = ledger_on(&old);
    let org = ledger.add_org(&org_named("a customer")).await.unwrap();
    ledger.grant(org, Credits::new(100), None, TOP_UP, None).await.unwrap();

    dump_and_restore(&old, &dump, &new).await;

    let url = new.url_as("tollgate", NAME);
    let restored = Database::connect(&Secret::new(&url), 2, Duration::from_secs(30)).unwrap();
    for purpose in [Purpose::Serve, Purpose::Migrate] {
        assert_eq!(restored.shortfalls(purpose).await.unwrap(), [], "owners and grants are those of before");
    }
    let said = run(&["audit", "--database-url", &url]).await;
    assert!(said.code == 0 && said.out.starts_with("audit clean: 1 organisations"), "{said:?}");
    assert_eq!(run(&["migrate", "--database-url", &url]).await.code, 0);
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[database]\nurl = \"{url}\"\n\
         [upstream.kling_3]\nbase_url = \"http://{}\"\nmaster_key = \"k\"\n",
        closed_port().await
    );
    let mut gateway = Process::start(&["serve", "--config", &scratch.file("gateway.toml", &config)]);
    gateway.event("serving").await;
    gateway.terminate();
    assert_eq!(gateway.ended().await, 0);
    // Without the roles a restore stops at once, and leaves nothing half done.
    let bare = TestCluster::empty().await;
    bare.run("create database tollgate encoding 'UTF8' template template0").await;
    let mut command = Command::new(bare.program("pg_restore"));
    command
        .args(["--exit-on-error", "--single-transaction"])
        .arg("--dbname")
        .arg(bare.url_of(NAME))
        .arg(&dump);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(!output.status.success());
}

/// A gateway on a server, as its role.
struct Served {
    gateway: Process,
    data: String,
    operations: String,
    config: String,
    client: Client,
}

impl Served {
    async fn start(server: &TestCluster, scratch: &Scratch, name: &str, vendor: &Vendor) -> Self {
        let config = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[database]\nurl = \"{}\"\n\
             [upstream.kling_3]\nbase_url = \"http://{}\"\nmaster_key = \"{MASTER_KEY}\"\n",
            server.url_as("tollgate", NAME),
            vendor.address
        );
        let config = scratch.file(name, &config);
        let mut gateway = Process::start(&["serve", "--config", &config]);
        let serving = gateway.event("serving").await;
        let address = |what: &str| serving[what].as_str().unwrap().to_owned();
        let (data, operations) = (address("data"), address("operations"));
        Self { gateway, data, operations, config, client: http::client() }
    }

    /// The vendor's id of a new task.
    async fn create(&self, key: &str, prompt: &str) -> String {
        let call = self.client.post(format!("{}/api/generate", self.data)).bearer_auth(key);
        let answer: Value = call.body(body(prompt).to_string()).send().await.unwrap().json().await.unwrap();
        answer["data"]["task_id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// The code of an answer to a question about a task, and its state.
    async fn status(&self, key: &str, task: &str) -> (Value, Value) {
        let call = self.client.get(format!("{}/api/status?task_id={task}", self.data)).bearer_auth(key);
        let answer: Value = call.send().await.unwrap().json().await.unwrap();
        (answer["code"].clone(), answer["data"]["status"].clone())
    }

    async fn ends(&self, key: &str, task: &str) {
        until("a task that the dump knew ends", async || {
            self.status(key, task).await == (json!(200), json!("SUCCESS"))
        })
        .await;
    }
}

/// What a customer has: an organisation with 10,000 credits, one of its people, and that person's key.
async fn customer(server: &TestCluster) -> (OrgId, UserId, String) {
    let ledger = ledger_on(server);
    let org = ledger.add_org(&org_named("a customer")).await.unwrap();
    ledger.grant(org, Credits::new(10_000), None, TOP_UP, None).await.unwrap();
    let user = ledger.add_user(org, &user_named("somebody")).await.unwrap();
    let spec = KeySpec { name: "a key".into(), env: "test".into(), ..KeySpec::default() };
    let key = ledger.create_key(org, user, &spec).await.unwrap().1;
    (org, user, key.expose().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_ends_the_tasks_that_it_knows_and_adopts_those_that_it_does_not() {
    let (old, new) = (TestCluster::empty().await, TestCluster::empty().await);
    let scratch = Scratch::new();
    prepare(&old).await;
    assert_eq!(run(&["migrate", "--database-url", &old.url_as("tollgate", NAME)]).await.code, 0);
    let (customer, user, key) = customer(&old).await;
    let vendor = Vendor::start(100).await;
    let silent = json!({"rules": [{"on": "status", "fault": {"kind": "http_error", "status": 500}}]});
    vendor.script(silent).await;
    let lost = Served::start(&old, &scratch, "old.toml", &vendor).await;
    let known = [lost.create(&key, "the first").await, lost.create(&key, "the second").await];
    // The dump is of a gateway that serves.
    let dump = scratch.0.join("tollgate.dump");
    dump_and_restore(&old, &dump, &new).await;
    let unknown = lost.create(&key, "after the dump").await;
    lost.gateway.terminate();
    assert_eq!(lost.gateway.ended().await, 0);
    drop(old);
    vendor.script(json!({"rules": []})).await;

    let here = Served::start(&new, &scratch, "new.toml", &vendor).await;
    for task in &known {
        here.ends(&key, task).await;
    }
    assert_eq!(here.status(&key, &unknown).await.0, 404);
    let ledger = ledger_on(&new);
    let token =
        ledger.create_operator_token("whoever restores", OperatorRole::Operator, None).await.unwrap().1;
    let (org, user) = (customer.to_string(), user.to_string());
    let said = run(&[
        "admin",
        "--url",
        &here.operations,
        "--token",
        token.expose(),
        "holds",
        "adopt",
        "--org",
        &org,
        "--user",
        &user,
        "--backend",
        "kling-3.0",
        "--task-id",
        &unknown,
        "--reason",
        "lost by the restore",
    ])
    .await;
    assert_eq!(said.code, 0, "{said:?}");
    here.ends(&key, &unknown).await;
    assert_eq!(money(&ledger, customer).await, [8_800, 0, 1_200]);
    let said = run(&["audit", "--config", &here.config]).await;
    assert!(said.code == 0 && said.out.starts_with("audit clean: 1 organisations, 3 holds"), "{said:?}");
    here.gateway.terminate();
    assert_eq!(here.gateway.ended().await, 0);
}
