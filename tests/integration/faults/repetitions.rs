//! Gateways that die while a repetition waits for their answer, with their callers, or before they have stored what they sent.

use std::time::Instant;

use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};
use tollgate::secret::Secret;
use tollgate::store::Database;

use crate::support::database::{PATIENCE, TestDatabase, lock, until};
use crate::support::faults::fleet::{Fleet, Spec};
use crate::support::faults::load::{Create, Reply};
use crate::support::faults::scaled;
use crate::support::faults::table::{Row, report};
use crate::support::seed::acting;

/// Sends a create to the first gateway; ends when the vendor has it.
async fn with_the_vendor(fleet: &Fleet, create: &Create) -> tokio::task::JoinHandle<Create> {
    fleet.vendor.script(json!([{"on": "create", "fault": {"kind": "hang", "accept": true}}])).await;
    let (mut sent, customers) = (create.clone(), fleet.customers.clone());
    let sending = tokio::spawn(async move {
        customers.send(&mut sent, 0).await;
        sent
    });
    until("the vendor has it", async || fleet.vendor.task_of(&create.prompt).await.is_some()).await;
    sending
}

async fn counts(fleet: &Fleet, rows: &'static str) -> bool {
    sqlx::query_scalar(rows).fetch_one(&fleet.pool).await.unwrap()
}

/// The caller has left, its repetition waits at another gateway, and then the first gateway dies: nobody can know any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repetition_is_told_the_doubt_when_the_first_gateway_dies() {
    let db = TestDatabase::new().await;
    let mut fleet = Fleet::start(Spec { gateways: 2, ..Spec::on(db.url()) }).await;
    let rounds = scaled(1, 10);
    let mut last = Instant::now();
    for round in 0..rounds {
        let create = fleet.customers.draft(5);
        let first = with_the_vendor(&fleet, &create).await;
        first.abort();
        until("that its caller has gone is noted", async || {
            counts(&fleet, "select count(*) > 0 from gone_caller join open_task using (org_id, hold_id) where state = 'HELD'").await
        })
        .await;
        let repeating = {
            let (mut create, customers) = (create.clone(), fleet.customers.clone());
            tokio::spawn(async move {
                customers.send(&mut create, 1).await;
                create
            })
        };
        let metrics = format!("{}/metrics", fleet.admin_url(1));
        until("the repetition is attached", async || {
            let text = text_of(&metrics).await;
            text.lines().any(|line| line.ends_with(&format!("{{reason=\"attached\"}} {}", round + 1)))
        })
        .await;
        last = Instant::now();
        fleet.kill(0).await;
        let mut create = repeating.await.unwrap();
        let told = create.attempts[0].reply.clone();
        assert!(matches!(told, Reply::Unknown(_)), "{told:?}");
        fleet.vendor.behave().await;
        assert_eq!(fleet.customers.send(&mut create, 1).await, told, "the same doubt");
        let holds = fleet.holds_of(&create).await;
        assert_eq!((holds.len(), holds[0].state.as_str()), (1, "IN_DOUBT"));
        fleet.customers.note(create);
        fleet.launch_again(0).await;
    }
    let verdict = fleet.conclude(last).await;
    let fault = "gateway killed while a repetition waits for its answer".into();
    report(&Row { fault, tried: rounds, verdict: verdict.clone(), served: None });
    verdict.must_be_clean();
}

/// A gateway dies with its callers, and leaves no note that they have gone. Their repetitions come at once to a gateway that cannot
/// know yet that the first is dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_cut_off_by_the_death_of_a_gateway_buys_nothing_twice() {
    let db = TestDatabase::new().await;
    let mut fleet = Fleet::start(Spec { gateways: 2, ..Spec::on(db.url()) }).await;
    let rounds = scaled(1, 10);
    let mut last = Instant::now();
    for _ in 0..rounds {
        let create = fleet.customers.draft(5);
        let first = with_the_vendor(&fleet, &create).await;
        last = Instant::now();
        fleet.kill(0).await;
        let mut create = first.await.unwrap();
        assert_eq!(create.attempts[0].reply, Reply::NoAnswer);
        fleet.vendor.behave().await;
        let told = fleet.customers.send(&mut create, 1).await;
        assert!(matches!(told, Reply::Unknown(_)), "{told:?}");
        let holds = fleet.holds_of(&create).await;
        assert_eq!((holds.len(), holds[0].state.as_str()), (1, "IN_DOUBT"));
        fleet.customers.note(create);
        fleet.launch_again(0).await;
    }
    let verdict = fleet.conclude(last).await;
    let fault = "gateway killed, its customers try the next one at once".into();
    report(&Row { fault, tried: rounds, verdict: verdict.clone(), served: None });
    verdict.must_be_clean();
}

async fn text_of(url: &str) -> String {
    crate::support::http::client().get(url).send().await.unwrap().text().await.unwrap()
}

/// The excerpt of a request is stored while the vendor works on it. A gateway that dies between the two leaves a doubt without an
/// excerpt, and nothing worse.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_killed_between_the_send_and_the_excerpt_leaves_a_doubt_without_one() {
    let db = TestDatabase::new().await;
    let mut fleet = Fleet::start(Spec { gateways: 2, ..Spec::on(db.url()) }).await;
    let mut keeper = PgConnection::connect(db.url()).await.unwrap();
    lock(&mut keeper, "content in access exclusive mode").await;
    let create = fleet.customers.draft(5);
    let first = with_the_vendor(&fleet, &create).await;
    let last = Instant::now();
    fleet.kill(0).await;
    let mut create = first.await.unwrap();
    assert_eq!(create.attempts[0].reply, Reply::NoAnswer);
    // What waits for the table would be done by the server although its gateway is dead.
    let waiting = "select count(pg_terminate_backend(pid)) >= 0 from pg_stat_activity \
                   where datname = current_database() and wait_event_type = 'Lock'";
    assert!(counts(&fleet, waiting).await);
    keeper.execute("rollback").await.unwrap();
    drop(keeper);

    fleet.vendor.behave().await;
    fleet.until_state(&create, "IN_DOUBT").await;
    assert!(counts(&fleet, "select not exists (select from content where excerpt is not null)").await);
    let hold = fleet.holds_of(&create).await.remove(0);
    let database = acting(&Database::connect(&Secret::new(db.url()), 1, PATIENCE).unwrap());
    assert!(database.read_request(hold.id()).await.unwrap().is_none(), "there is nothing to read");
    assert!(matches!(fleet.customers.send(&mut create, 1).await, Reply::Unknown(_)));
    fleet.customers.note(create);
    fleet.launch_again(0).await;
    let verdict = fleet.conclude(last).await;
    let fault = "gateway killed between the send and the excerpt".into();
    report(&Row { fault, tried: 1, verdict: verdict.clone(), served: None });
    verdict.must_be_clean();
}
