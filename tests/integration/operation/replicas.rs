//! Several gateways on one database, and one that dies.

use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::database::until;
use crate::support::gateway::{Answer, ENDLESS, MASTER_KEY, TestGateway, body, judged};
use crate::support::process::{Process, Scratch};
use crate::support::replica::another_with;

/// Short, so that the others soon see that it died; longer than a busy machine keeps a process from renewing it.
const LEASE_MS: u32 = 5000;

async fn create(gateway: &TestGateway, base: &str, prompt: &str) -> reqwest::Result<reqwest::Response> {
    let call = gateway.client.post(format!("{base}/api/generate")).bearer_auth(&gateway.caller.text);
    call.body(body(prompt).to_string()).send().await
}

#[tokio::test]
async fn two_gateways_grant_together_what_the_balance_allows() {
    let gateway = TestGateway::builder().credits(37 * 400).task_time(ENDLESS).start().await;
    let scratch = Scratch::new();
    let (process, there) = another_with(&gateway, &scratch, 30_000).await;
    let here = format!("http://{}", gateway.address());
    let creates = (0..300).map(|number| {
        let base = if number % 2 == 0 { &here } else { &there };
        let gateway = &gateway;
        async move {
            judged(async || Answer::of(create(gateway, base, &format!("{number}")).await.unwrap()).await)
                .await
        }
    });
    let answers = join_all(creates).await;
    let granted = answers.iter().filter(|answer| answer.status == 200).count();
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        answer.refused(402, "INSUFFICIENT_CREDITS");
    }
    assert_eq!(granted, 37);
    assert_eq!(gateway.balance().await, [0, 37 * 400, 0]);
    process.terminate();
    assert_eq!(process.ended().await, 0);
}

#[tokio::test]
async fn another_gateway_brings_the_holds_of_a_killed_one_to_an_honest_end() {
    let gateway = TestGateway::start().await;
    let scratch = Scratch::new();
    let (process, there) = another_with(&gateway, &scratch, LEASE_MS).await;
    gateway.script(json!({"rules": [{"on": "create", "match": {"prompt_contains": "recorded"}, "fault": {"kind": "task_ms", "ms": 1000}}]})).await;
    for number in 0..3 {
        let answer = create(&gateway, &there, &format!("recorded {number}")).await.unwrap();
        Answer::of(answer).await.expect(200);
    }
    // Of these the vendor took some; what it answers reaches nobody.
    gateway
        .script(json!({"rules": [
            {"on": "create", "match": {"prompt_contains": "accepted"}, "fault": {"kind": "hang", "accept": true}},
            {"on": "create", "fault": {"kind": "hang"}},
        ]}))
        .await;
    let prompts = ["accepted 1", "accepted 2", "unseen 1", "unseen 2"];
    let lost = join_all(prompts.iter().map(|prompt| create(&gateway, &there, prompt)));
    let killed = async {
        until("all are with the vendor", async || gateway.upstream_creates().await == (7, 5)).await;
        kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGKILL).unwrap();
    };
    let (answers, ()) = tokio::join!(lost, killed);
    assert!(answers.iter().all(Result::is_err), "nobody got an answer");
    const ENDS: [&str; 7] = ["SETTLED", "SETTLED", "SETTLED", "IN_DOUBT", "IN_DOUBT", "IN_DOUBT", "IN_DOUBT"];
    let states = async || gateway.holds().await.into_iter().map(|hold| hold.state).collect::<Vec<_>>();
    until("each hold has an end or is in doubt", async || states().await == ENDS).await;
    assert_eq!(gateway.balance().await, [997_200, 1600, 1200]);
    let doubtful = gateway.holds().await.into_iter().filter(|hold| hold.state == "IN_DOUBT");
    for hold in doubtful {
        assert_eq!(gateway.status(&hold.reference()).await.data()["status"], "IN_PROGRESS");
    }
}

#[tokio::test]
async fn a_price_that_disagrees_with_the_book_is_told_by_type_and_figures() {
    // Only the other one looks for the task's end: its log is read.
    let gateway =
        TestGateway::builder().config(|config| config.reconciler.tick_ms = 86_400_000).start().await;
    let scratch = Scratch::new();
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[database]\nurl = \"{}\"\n\
         [upstream.kling_3]\nbase_url = \"http://{}\"\nmaster_key = \"{MASTER_KEY}\"\n[reconciler]\ntick_ms = 50\n",
        gateway.db.url(),
        gateway.simulator()
    );
    let mut process = Process::start(&["serve", "--config", &scratch.file("gateway.toml", &config)]);
    gateway
        .script(json!({"rules": [{"on": "create", "fault": [{"kind": "consumed", "value": 460, "charge": 460}, {"kind": "task_ms", "ms": 1}]}]}))
        .await;
    gateway.task("dearer").await;
    let warning = process.event("a charge is unusual").await;
    assert_eq!(warning["level"], "WARN");
    assert_eq!(
        (&warning["task_type"], &warning["consumed"], &warning["price"]),
        (&json!("pro-text-to-video"), &json!("460"), &json!("400"))
    );
    until("it is charged", async || gateway.balance().await == [999_540, 0, 460]).await;
    let overrun: i64 = sqlx::query_scalar("select overrun from entry where kind = 'consume'")
        .fetch_one(gateway.db.pool())
        .await
        .unwrap();
    assert_eq!(overrun, 60);
    process.terminate();
    assert_eq!(process.ended().await, 0);
}
