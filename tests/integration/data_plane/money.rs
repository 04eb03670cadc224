//! Not one credit is spent twice or forgotten, whoever calls at once and whoever leaves.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tollgate::credits::Credits;
use tollgate::store::OrgChange;

use crate::support::database::until;
use crate::support::gateway::{ENDLESS, TestGateway, body};

#[tokio::test]
async fn a_balance_for_137_admits_exactly_137_of_a_thousand() {
    let gateway = TestGateway::builder().credits(137 * 400 + 399).task_time(ENDLESS).start().await;
    let prompts: Vec<_> = (0..1000).map(|n| body(&format!("parallel {n}"))).collect();
    let answers = join_all(prompts.iter().map(|body| gateway.judged(body))).await;
    let granted = answers.iter().filter(|answer| answer.status == 200).count();
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        answer.refused(402, "INSUFFICIENT_CREDITS");
    }
    assert_eq!(granted, 137);
    assert_eq!(gateway.upstream_creates().await, (137, 137));
    assert_eq!(gateway.balance().await, [399, 137 * 400, 0]);
}

/// Sends a create and hangs up somewhere on the way: in the head, in the body, while waiting (for at most so long), or never.
async fn restless(gateway: &TestGateway, number: usize, most: Duration) {
    let body = body(&format!("restless {number}")).to_string();
    let request = format!(
        "POST /api/generate HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
        gateway.caller.text,
        body.len()
    );
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    let (whole, cut) = (request.len(), rand::random_range(0..2 * request.len()));
    stream.write_all(&request.as_bytes()[..cut.min(whole)]).await.unwrap();
    if cut >= whole {
        let patience = most.mul_f64(rand::random_range(0.0..1.0));
        drop(tokio::time::timeout(patience, stream.read_u8()).await);
    }
}

#[tokio::test]
async fn an_overdraft_lets_a_balance_go_so_far_below_zero_and_no_further() {
    let gateway = TestGateway::builder().credits(100).start().await;
    let limits = OrgChange { overdraft: Some(Credits::new(700)), ..OrgChange::default() };
    gateway.db.database().update_org(gateway.caller.org, limits, None).await.unwrap();
    for left in [-300, -700] {
        gateway.task("on credit").await;
        assert_eq!(gateway.balance().await[0], left);
    }
    gateway.create(&body("too much")).await.refused(402, "INSUFFICIENT_CREDITS");
}

#[tokio::test]
async fn a_reservation_that_comes_too_late_is_given_back_unsent() {
    let gateway =
        TestGateway::builder().config(|config| config.ledger.reserve_timeout_ms = 200).start().await;
    let mut hot_row = gateway.db.pool().begin().await.unwrap();
    sqlx::query("select from org_balance for update").execute(&mut *hot_row).await.unwrap();
    for _ in 0..3 {
        gateway.create(&body("late")).await.refused(503, "UNAVAILABLE");
    }
    hot_row.rollback().await.unwrap();
    let task = gateway.judged(&body("in time")).await.task_id();
    gateway.finished(&task).await;
    until("late grants are given back", async || gateway.balance().await == [999_600, 0, 400]).await;
    assert_eq!(gateway.upstream_creates().await, (1, 1));
}

/// The comparison of both books at the end of every test is no formality.
#[tokio::test]
#[should_panic(expected = "nobody here knows")]
async fn a_task_that_only_the_vendor_knows_fails_its_test() {
    let gateway = TestGateway::start().await;
    gateway.fault_on_create(json!({"kind": "http_error", "status": 400, "accept": true})).await;
    gateway.create(&body("refused, and made all the same")).await.expect(400);
}

#[tokio::test]
async fn clients_that_leave_at_any_instant_leave_nothing_behind() {
    let gateway = TestGateway::start().await;
    const WAVE: usize = 100;
    let (mut sent, mut made) = (0, 0);
    let mut most = Duration::from_millis(200);
    // A busy machine needs more of the clients' patience for any request to come through.
    while sent < 20 * WAVE || made < 20 {
        assert!(sent < 200 * WAVE, "{made} of {sent} requests came through");
        join_all((0..WAVE).map(|number| restless(&gateway, sent + number, most))).await;
        sent += WAVE;
        (_, made) = gateway.upstream_creates().await;
        if made * 100 < sent {
            most = (most * 2).min(Duration::from_secs(10));
        }
    }
    // A request may still be on its way in: its hold, if any, is looked at when the gateway has stopped.
    until("every task has ended", async || {
        let balance = gateway.db.database().balance(gateway.caller.org).await.unwrap().unwrap();
        balance.open_tasks == 0 && balance.in_doubt == 0
    })
    .await;
    let (_, made) = gateway.upstream_creates().await;
    assert!(made < sent - WAVE, "{made} of {sent} requests came through: hardly anybody left");
}
