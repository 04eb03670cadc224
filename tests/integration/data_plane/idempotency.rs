//! The same request twice is one task.

use std::collections::BTreeMap;

use reqwest::header::HeaderValue;
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use tollgate::clock::Clock;
use tollgate::credits::Credits;
use tollgate::ids::GatewayId;
use tollgate::pricing::Tariff;
use tollgate::store::{Applied, KeySpec, Ledger, OrgChange, Step};

use crate::support::database::until;
use crate::support::fixture::lanes;
use crate::support::gateway::{Answer, Caller, ENDLESS, TestGateway, body};

fn creating(gateway: &TestGateway, caller: &Caller, prompt: &str) -> RequestBuilder {
    let call = gateway.request(Method::POST, "/api/generate").bearer_auth(&caller.text);
    call.body(body(prompt).to_string())
}

async fn keyed(gateway: &TestGateway, prompt: &str, key: &str) -> Answer {
    Answer::to(creating(gateway, &gateway.caller, prompt).header("idempotency-key", key)).await
}

#[track_caller]
fn assert_replay(answer: &Answer, first: &Answer) {
    assert_eq!((answer.status, &answer.text), (200, &first.text));
    assert_eq!(answer.header("idempotent-replayed"), "true");
}

#[tokio::test]
async fn a_replay_needs_no_credits_no_price_and_no_room() {
    let gateway = TestGateway::builder().credits(400).task_time(ENDLESS).start().await;
    let db = gateway.db.database();
    let one = OrgChange { max_open_tasks: Some(Some(1)), ..OrgChange::default() };
    db.update_org(gateway.caller.org, one, None).await.unwrap();
    let first = keyed(&gateway, "x", "k").await;
    assert_eq!(first.header("idempotent-replayed"), "");
    first.expect(200);
    assert_eq!(gateway.balance().await, [0, 400, 0]);
    keyed(&gateway, "another", "k2").await.refused(402, "INSUFFICIENT_CREDITS");
    assert_replay(&keyed(&gateway, "x", "k").await, &first);

    // A book that does not even know the type.
    let prices = BTreeMap::from([("new-type".to_owned(), Tariff::Fixed { credits: Credits::new(1) })]);
    let version = db.create_book("other", None, &prices).await.unwrap();
    db.put_in_force(version, None, None).await.unwrap();
    until("the book is in force", async || gateway.create(&body("x")).await.status == 400).await;
    assert_replay(&keyed(&gateway, "x", "k").await, &first);
    assert_eq!(gateway.upstream_creates().await, (1, 1));
    assert_eq!(gateway.balance().await, [0, 400, 0]);
}

#[tokio::test]
async fn a_replay_answers_as_the_create_did_after_the_task_has_ended() {
    let gateway = TestGateway::start().await;
    for fault in [json!({"kind": "delay", "ms": 0}), json!({"kind": "outcome", "status": "FAILED"})] {
        let key = fault.to_string().replace(' ', "");
        gateway.fault_on_create(fault).await;
        let first = keyed(&gateway, "x", &key).await;
        gateway.finished(&first.task_id()).await;
        assert_replay(&keyed(&gateway, "x", &key).await, &first);
    }
    assert_eq!(gateway.upstream_creates().await, (2, 2));
}

#[tokio::test]
async fn another_body_is_refused_and_another_organisation_has_its_own_keys() {
    let gateway = TestGateway::start().await;
    let first = keyed(&gateway, "x", "k").await;
    keyed(&gateway, "y", "k").await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    // The raw body counts: the same JSON with a space more is another request.
    let spaced = gateway.creating(format!("{} ", body("x"))).header("idempotency-key", "k");
    Answer::to(spaced).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    let invalid = gateway.creating("{}").header("idempotency-key", "k");
    Answer::to(invalid).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    let colleague = gateway.another_user("a colleague", "member").await;
    assert_replay(
        &Answer::to(creating(&gateway, &colleague, "x").header("idempotency-key", "k")).await,
        &first,
    );
    let stranger = gateway.another_org("another customer", 400).await;
    let theirs = Answer::to(creating(&gateway, &stranger, "x").header("idempotency-key", "k")).await;
    assert_ne!(theirs.task_id(), first.task_id());
    assert_eq!(gateway.upstream_creates().await, (2, 2));
}

#[tokio::test]
async fn while_the_first_runs_the_second_is_told_to_wait() {
    let gateway = TestGateway::start().await;
    gateway.fault_on_create(json!({"kind": "delay", "ms": 2000})).await;
    let (first, second) = tokio::join!(keyed(&gateway, "x", "k"), async {
        until("the first is under way", async || gateway.upstream_creates().await.0 == 1).await;
        keyed(&gateway, "x", "k").await
    });
    second.refused(409, "REQUEST_IN_PROGRESS");
    assert!(second.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0), "{second:?}");
    first.expect(200);
    assert_replay(&keyed(&gateway, "x", "k").await, &first);
}

#[tokio::test]
async fn fifty_at_once_are_one_task() {
    let gateway = TestGateway::start().await;
    gateway.fault_on_create(json!({"kind": "delay", "ms": 100})).await;
    let answers = futures_util::future::join_all((0..50).map(|_| keyed(&gateway, "x", "k"))).await;
    let mut tasks: Vec<String> = Vec::new();
    for answer in &answers {
        match answer.status {
            200 => tasks.push(answer.task_id()),
            _ => drop(answer.refused(409, "REQUEST_IN_PROGRESS")),
        }
    }
    tasks.dedup();
    assert_eq!(tasks.len(), 1);
    assert_eq!(gateway.upstream_creates().await, (1, 1));
    gateway.finished(&tasks[0]).await;
    assert_eq!(gateway.balance().await, [999_600, 0, 400]);
}

#[tokio::test]
async fn keys_are_1_to_255_visible_ascii_characters() {
    let gateway = TestGateway::start().await;
    let value = |bytes: &[u8]| HeaderValue::from_bytes(bytes).unwrap();
    let long = [b'k'; 256];
    for bad in [&b""[..], b"a b", b"\xc3\xa9", b"a\tb", &long] {
        let call = gateway.creating(body("x").to_string()).header("idempotency-key", value(bad));
        Answer::to(call).await.refused(400, "INVALID_REQUEST");
    }
    let twice =
        gateway.creating(body("x").to_string()).header("idempotency-key", "a").header("idempotency-key", "b");
    Answer::to(twice).await.refused(400, "INVALID_REQUEST");
    assert_eq!(gateway.holds().await.len(), 0);
    assert_eq!(gateway.balance().await, [1_000_000, 0, 0]);
    for good in [&b"k"[..], b"!~\"'%", &long[..255]] {
        let call = gateway.creating(body("x").to_string()).header("idempotency-key", value(good));
        Answer::to(call).await.expect(200);
    }
}

#[tokio::test]
async fn a_written_off_task_keeps_its_key_and_shows_as_failed() {
    let gateway = TestGateway::start().await;
    gateway.fault_on_create(json!({"kind": "cut_after"})).await;
    let reference = keyed(&gateway, "x", "k").await.reference();
    // As the age limit of doubts does.
    let db = (**gateway.db.database()).clone();
    let ledger = Ledger::start(db, GatewayId::generate(), &lanes(), crate::support::gateway::ENDLESS, Clock);
    let step = Step::WriteOff { possible_loss: Credits::new(400) };
    let applied = ledger.step(gateway.caller.org, reference.parse().unwrap(), step).await.unwrap();
    assert_eq!(applied, Applied::Yes);
    ledger.shut_down().await;

    assert_eq!(gateway.balance().await, [1_000_000, 0, 0]);
    gateway.script(json!({})).await;
    let again = keyed(&gateway, "x", "k").await;
    let json = again.refused(504, "OUTCOME_UNKNOWN");
    let message = json["message"].as_str().unwrap();
    assert!(message.contains("not charged") && message.contains("new Idempotency-Key"), "{message}");
    let shown = gateway.finished(&reference).await.data();
    assert_eq!((&shown["status"], &shown["consumed_credits"]), (&json!("FAILED"), &json!(0)));
    assert!(shown["error_message"].as_str().unwrap().contains("not charged"), "{shown}");
    assert_eq!(gateway.upstream_creates().await.0, 1);
}

#[tokio::test]
async fn a_resent_body_in_doubt_gets_the_same_504_unless_the_caller_insists() {
    let gateway = TestGateway::start().await;
    gateway.fault_on_create(json!({"kind": "cut_after"})).await;
    let reference = gateway.create(&body("x")).await.reference();
    gateway.script(json!({})).await;
    for _ in 0..3 {
        assert_eq!(gateway.create(&body("x")).await.reference(), reference);
    }
    let no = gateway.creating(body("x").to_string()).header("x-tollgate-resend", "no");
    assert_eq!(Answer::to(no).await.reference(), reference);
    assert_eq!(gateway.upstream_creates().await, (1, 1));
    assert_eq!(gateway.balance().await, [999_600, 400, 0]);

    // Others, other bodies, and those who say how to tell a repetition are not held up.
    let colleague = gateway.another_user("a colleague", "member").await;
    // Another key of the same user is no other caller.
    let second_key = gateway.another_key(KeySpec::default()).await;
    assert_eq!(Answer::to(creating(&gateway, &second_key, "x")).await.reference(), reference);
    for request in [
        gateway.creating(body("x").to_string()).header("x-tollgate-resend", "yes"),
        gateway.creating(body("y").to_string()),
        gateway.creating(body("x").to_string()).header("idempotency-key", "k"),
        creating(&gateway, &colleague, "x"),
    ] {
        Answer::to(request).await.expect(200);
    }
    assert_eq!(gateway.upstream_creates().await, (5, 5));
}
