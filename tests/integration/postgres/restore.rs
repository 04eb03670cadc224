//! The drill of docs/operating.md: a dump, a restore into another server, and a gateway that serves there.

use std::process::Command;
use std::time::Duration;

use tollgate::credits::Credits;
use tollgate::secret::Secret;
use tollgate::store::{Database, Purpose};

use crate::support::cluster::TestCluster;
use crate::support::gateway::closed_port;
use crate::support::process::{Process, Scratch, run};
use crate::support::seed::{TOP_UP, acting, org_named};

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
    let ledger = acting(&Database::connect(&Secret::new(&url), 2, Duration::from_secs(30)).unwrap());
    let org = ledger.add_org(&org_named("a customer")).await.unwrap();
    ledger.grant(org, Credits::new(100), None, TOP_UP, None).await.unwrap();

    let mut command = Command::new(old.program("pg_dump"));
    command.arg("--format=custom").arg("--file").arg(&dump).arg("--dbname").arg(&url);
    done(command).await;
    prepare(&new).await;
    let mut command = Command::new(new.program("pg_restore"));
    command.args(["--exit-on-error", "--single-transaction"]);
    command.arg("--dbname").arg(new.url_of(NAME)).arg(&dump);
    done(command).await;

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
