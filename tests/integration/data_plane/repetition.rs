//! A create without an idempotency key whose caller leaves before the answer, and what becomes of the same create sent again: to
//! the same gateway or, as most here, to another one.

use std::collections::BTreeSet;

use reqwest::RequestBuilder;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use tollgate::ids::GatewayId;
use tollgate::store::{KeySpec, Sign};

use crate::holds::lanes::{lock, unlock};
use crate::support::database::{TestDatabase, until};
use crate::support::gateway::{Answer, Caller, ENDLESS, RawClient, TestGateway, body};
use crate::support::http;
use crate::support::process::{Process, Scratch};
use crate::support::replica::another_with_operations;

/// A gateway, and another one on the same database.
struct Two {
    first: TestGateway,
    second: Process,
    there: String,
    operations: String,
    _scratch: Scratch,
}

impl Two {
    async fn with(first: TestGateway) -> Self {
        let scratch = Scratch::new();
        let (second, there, operations) = another_with_operations(&first, &scratch, 30_000).await;
        Self { first, second, there, operations, _scratch: scratch }
    }

    /// Two gateways whose vendor takes a create at once, and answers it so many milliseconds later.
    async fn answered_after(ms: u64) -> Self {
        let two = Self::with(TestGateway::builder().task_time(ENDLESS).start().await).await;
        two.first.fault_on_create(slow(ms)).await;
        two
    }

    /// A create to be sent to the second gateway.
    fn there(&self, caller: &Caller, body: &Value) -> RequestBuilder {
        let call = self.first.client.post(format!("{}/api/generate", self.there));
        call.bearer_auth(&caller.text).body(body.to_string())
    }

    /// The same create, by another client that gives up as soon as the vendor has it.
    async fn abandoned(&self, body: &Value) {
        let client = begun(&self.first, body).await;
        drop(client);
    }

    /// What the second gateway tells of itself.
    async fn metrics(&self) -> String {
        let metrics = self.first.client.get(format!("{}/metrics", self.operations)).send().await.unwrap();
        metrics.text().await.unwrap()
    }

    /// Whether the second gateway has attached so many repetitions.
    async fn has_attached(&self, repetitions: u32) -> bool {
        let series = format!("{{reason=\"attached\"}} {repetitions}");
        self.metrics().await.lines().any(|line| line.ends_with(&series))
    }

    /// Whether the second gateway is reading a body.
    async fn is_reading(&self) -> bool {
        let metrics = self.metrics().await;
        let bytes = metrics.lines().find_map(|line| line.strip_prefix("tollgate_bytes_under_way "));
        bytes.is_some_and(|bytes| bytes != "0")
    }

    async fn ends(self) {
        self.first.script(json!({})).await;
        self.second.terminate();
        assert_eq!(self.second.ended().await, 0);
    }
}

fn slow(ms: u64) -> Value {
    json!({"kind": "delay", "ms": ms, "accept": true})
}

/// A connection on which a create was sent that the vendor has got.
async fn begun(gateway: &TestGateway, body: &Value) -> RawClient {
    let (before, _) = gateway.upstream_creates().await;
    let (key, body) = (&gateway.caller.text, body.to_string());
    let mut client = RawClient::connect(gateway.address()).await;
    let head = "POST /api/generate HTTP/1.1\r\nhost: x\r\nauthorization: Bearer";
    client.write(format!("{head} {key}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await;
    until("the vendor has it", async || gateway.upstream_creates().await.0 == before + 1).await;
    client
}

async fn noted(gateway: &TestGateway) -> i64 {
    sqlx::query_scalar("select count(*) from gone_caller").fetch_one(gateway.db.pool()).await.unwrap()
}

#[track_caller]
fn assert_attached(answer: &Answer, task: &str) {
    assert_eq!((answer.status, answer.header("idempotent-replayed")), (200, "true"), "{answer:?}");
    assert_eq!(answer.task_id(), task);
}

#[tokio::test]
async fn a_repetition_gets_the_answer_to_the_first_on_any_gateway_with_any_key() {
    let two = Two::answered_after(3000).await;
    let gateway = &two.first;
    let second_key = gateway.another_key(KeySpec::default()).await;
    two.abandoned(&body("x")).await;
    // At once, as some clients do: perhaps before the note.
    let again = body("x");
    let (here, there) = tokio::join!(gateway.create(&again), Answer::to(two.there(&second_key, &body("x"))));
    let task = here.task_id();
    assert_attached(&here, &task);
    assert_attached(&there, &task);
    assert_eq!(here.text, there.text);
    assert_eq!(gateway.upstream_creates().await, (1, 1));
    assert_eq!(gateway.balance().await, [999_600, 400, 0]);
    assert_eq!(gateway.holds().await.len(), 1);

    // Now it is answered. The next one is another purchase.
    gateway.script(json!({})).await;
    assert_eq!(noted(gateway).await, 0);
    let next = Answer::to(two.there(&gateway.caller, &body("x"))).await;
    assert_eq!((next.status, next.header("idempotent-replayed")), (200, ""));
    assert_ne!(next.task_id(), task);
    two.ends().await;
}

/// Two were meant, both callers have left, and both try again: each is given one of the two, and whoever comes besides buys nothing.
#[tokio::test]
async fn repetitions_of_two_creates_get_two_answers() {
    let two = Two::answered_after(3000).await;
    let gateway = &two.first;
    let callers = [begun(gateway, &body("x")).await, begun(gateway, &body("x")).await];
    assert_eq!(gateway.upstream_creates().await, (2, 2), "the second is a purchase");
    drop(callers);
    until("that is noted", async || noted(gateway).await == 2).await;
    let again = body("x");
    let (here, there, besides) = tokio::join!(
        gateway.create(&again),
        Answer::to(two.there(&gateway.caller, &again)),
        Answer::to(two.there(&gateway.caller, &again)),
    );
    let answers = [&here, &there, &besides];
    for answer in answers {
        assert_attached(answer, &answer.task_id());
    }
    let tasks: BTreeSet<String> = answers.iter().map(|answer| answer.task_id()).collect();
    assert_eq!(tasks.len(), 2, "{tasks:?}");
    assert_eq!(gateway.upstream_creates().await, (2, 2));
    assert_eq!((noted(gateway).await, gateway.balance().await), (0, [999_200, 800, 0]));
    two.ends().await;
}

#[tokio::test]
async fn a_client_s_time_out_is_enough() {
    let two = Two::answered_after(4000).await;
    let gateway = &two.first;
    let impatient = http::builder().timeout(std::time::Duration::from_millis(1500)).build().unwrap();
    let url = format!("http://{}/api/generate", gateway.address());
    let sent = impatient.post(url).bearer_auth(&gateway.caller.text).body(body("x").to_string()).send().await;
    assert!(sent.is_err_and(|error| error.is_timeout()));
    let again = Answer::to(two.there(&gateway.caller, &body("x"))).await;
    // On a busy machine the create may not have come as far as a hold.
    if !gateway.holds().await.iter().any(|hold| hold.state == "RELEASED") {
        assert_attached(&again, &again.task_id());
        assert_eq!(gateway.upstream_creates().await, (1, 1));
    }
    two.ends().await;
}

#[tokio::test]
async fn others_and_those_who_insist_buy() {
    let two = Two::answered_after(3000).await;
    let gateway = &two.first;
    let colleague = gateway.another_user("a colleague", "member").await;
    let stranger = gateway.another_org("another customer", 400).await;
    two.abandoned(&body("x")).await;
    until("that is noted", async || noted(gateway).await == 1).await;
    let spaced = gateway.creating(format!("{} ", body("x")));
    let answers = futures_util::future::join_all([
        Answer::to(two.there(&colleague, &body("x"))),
        Answer::to(two.there(&stranger, &body("x"))),
        Answer::to(two.there(&gateway.caller, &body("y"))),
        Answer::to(two.there(&gateway.caller, &body("x")).header("x-tollgate-resend", "yes")),
        Answer::to(two.there(&gateway.caller, &body("x")).header("idempotency-key", "k")),
        Answer::to(spaced),
    ])
    .await;
    for answer in &answers {
        answer.expect(200);
        assert_eq!(answer.header("idempotent-replayed"), "");
    }
    assert_eq!(gateway.upstream_creates().await, (7, 7));
    two.ends().await;
}

#[tokio::test]
async fn while_the_first_caller_is_there_the_second_buys() {
    let two = Two::answered_after(2000).await;
    let gateway = &two.first;
    let mut client = begun(gateway, &body("x")).await;
    let again = body("x");
    let (there, here) = tokio::join!(Answer::to(two.there(&gateway.caller, &again)), gateway.create(&again));
    let first = client.read().await;
    let mut tasks = [first.task_id(), there.task_id(), here.task_id()];
    tasks.sort();
    assert!(tasks[0] != tasks[1] && tasks[1] != tasks[2], "{tasks:?}");
    for answer in [&first, &there, &here] {
        assert_eq!(answer.header("idempotent-replayed"), "");
    }
    assert_eq!(gateway.upstream_creates().await, (3, 3));
    assert_eq!(noted(gateway).await, 0);
    two.ends().await;
}

/// That a gateway renews its lease says only that it lives, not that it has seen who has left.
#[tokio::test]
async fn a_gateway_answers_for_its_life_or_its_lease_lapses() {
    let db = TestDatabase::new().await;
    let database = db.database();
    let [busy, free, dead] = [(); 3].map(|()| GatewayId::generate());
    let lease = std::time::Duration::from_secs(60);
    for gateway in [busy, free, dead] {
        database.renew_lease(gateway, lease).await.unwrap();
    }
    let questions = database.ask_for_life(&[busy, free, dead]).await.unwrap();
    assert_eq!(database.signs_of_life(&questions).await.unwrap(), []);
    database.renew_lease(busy, lease * 2).await.unwrap();
    database.end_lease(dead).await.unwrap();
    let asked = database.asked_for_life(free).await.unwrap().unwrap();
    let again = database.ask_for_life(&[free]).await.unwrap();
    database.show_life(free, asked).await.unwrap();
    let mut signs = database.signs_of_life(&questions).await.unwrap();
    signs.sort_by_key(|(gateway, _)| *gateway);
    let mut expected = [(free, Sign::Answered), (dead, Sign::Lapsed)];
    expected.sort_by_key(|(gateway, _)| *gateway);
    assert_eq!(signs, expected);
    assert_eq!(database.signs_of_life(&again).await.unwrap(), [], "the second question is another one");
    assert!(database.asked_for_life(free).await.unwrap() > Some(asked));
    assert_eq!(database.asked_for_life(GatewayId::generate()).await.unwrap(), None);
}

#[tokio::test]
async fn a_half_closed_caller_gets_its_answer_and_so_does_its_repetition() {
    let two = Two::answered_after(3000).await;
    let gateway = &two.first;
    let mut client = begun(gateway, &body("x")).await;
    client.half_close().await;
    let (first, again) = tokio::join!(client.read(), Answer::to(two.there(&gateway.caller, &body("x"))));
    assert_attached(&again, &first.task_id());
    assert_eq!((first.status, first.header("idempotent-replayed")), (200, ""));
    assert_eq!(first.text, again.text);
    assert_eq!(gateway.upstream_creates().await, (1, 1));
    two.ends().await;
}

/// A create that had to wait until its caller gave up and tried again elsewhere, so that its repetition has overtaken it.
#[tokio::test]
async fn a_create_that_its_repetition_has_overtaken_buys_nothing() {
    let two = Two::answered_after(3000).await;
    let gateway = &two.first;
    let (caller, x) = (&gateway.caller, body("x"));
    let overtaking = tokio::spawn(two.there(caller, &x).send());
    until("the vendor has it", async || gateway.upstream_creates().await.0 == 1).await;
    let mut overtaken = RawClient::connect(gateway.address()).await;
    let (key, text) = (&caller.text, x.to_string());
    let head = format!("POST /api/generate HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n");
    overtaken.write(format!("{head}content-length: {}\r\n\r\n{text}", text.len()).as_bytes()).await;
    overtaken.half_close().await;
    let answer = overtaken.read().await;
    let bought: Value = overtaking.await.unwrap().unwrap().json().await.unwrap();
    assert_attached(&answer, bought["data"]["task_id"].as_str().unwrap());
    assert_eq!(gateway.upstream_creates().await, (1, 1));
    two.ends().await;
}

/// The same, but by the time that it has its turn, its repetition has been answered.
#[tokio::test]
async fn a_create_whose_repetition_is_answered_before_it_has_its_turn_buys_nothing() {
    let two = Two::with(TestGateway::builder().task_time(ENDLESS).start().await).await;
    let gateway = &two.first;
    let (caller, x) = (&gateway.caller, body("x"));
    let there = two.there.strip_prefix("http://").unwrap();
    let mut overtaken = RawClient::connect(there.parse().unwrap()).await;
    let (key, text) = (&caller.text, x.to_string());
    let (begin, rest) = text.split_at(5);
    let head = format!("POST /api/generate HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n");
    overtaken.write(format!("{head}content-length: {}\r\n\r\n{begin}", text.len()).as_bytes()).await;
    until("it has arrived", async || two.is_reading().await).await;
    let bought = gateway.create(&x).await;
    assert_eq!((bought.status, bought.header("idempotent-replayed")), (200, ""));
    overtaken.write(rest.as_bytes()).await;
    overtaken.half_close().await;
    assert_attached(&overtaken.read().await, &bought.task_id());
    assert_eq!(gateway.upstream_creates().await, (1, 1));
    until("its hold is released", async || gateway.balance().await == [999_600, 400, 0]).await;

    // One that came after the answer is meant.
    let mut next = RawClient::connect(gateway.address()).await;
    next.write(format!("{head}content-length: {}\r\n\r\n{text}", text.len()).as_bytes()).await;
    next.half_close().await;
    assert_eq!(next.read().await.header("idempotent-replayed"), "");
    assert_eq!(gateway.upstream_creates().await, (2, 2));
    two.ends().await;
}

/// The same, but it waited before anything of it was read, as one does for which there is no place at first.
#[tokio::test]
async fn a_create_whose_connection_was_there_before_its_repetition_was_answered_buys_nothing() {
    let two = Two::with(TestGateway::builder().task_time(ENDLESS).start().await).await;
    let gateway = &two.first;
    let (key, text) = (&gateway.caller.text, body("x").to_string());
    let connections = "tollgate_connections{listener=\"data\",of=\"all\"} ";
    let open = async || {
        let metrics = two.metrics().await;
        let found = metrics.lines().find_map(|line| line.strip_prefix(connections)?.parse::<u32>().ok());
        found.unwrap_or_default()
    };
    let before = open().await;
    let there = two.there.strip_prefix("http://").unwrap();
    let mut overtaken = RawClient::connect(there.parse().unwrap()).await;
    until("it is accepted", async || open().await == before + 1).await;
    let bought = gateway.create(&body("x")).await;
    let head = format!("POST /api/generate HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n");
    overtaken.write(format!("{head}content-length: {}\r\n\r\n{text}", text.len()).as_bytes()).await;
    overtaken.half_close().await;
    assert_attached(&overtaken.read().await, &bought.task_id());
    assert_eq!(gateway.upstream_creates().await, (1, 1));
    two.ends().await;
}

/// A second attempt knows that the first has ended, and reserves without another look; before its turn its caller gives up, too, and
/// the third attempt is granted.
#[tokio::test]
async fn a_second_attempt_that_a_third_has_overtaken_buys_nothing() {
    let two = Two::with(TestGateway::builder().task_time(ENDLESS).start().await).await;
    let gateway = &two.first;
    let (db, caller, x) = (&gateway.db, &gateway.caller, body("x"));
    let error = json!({"kind": "http_error", "status": 400, "error": "BUSY_TODAY", "message": "not now"});
    let refused = json!({"on": "create", "times": 1, "fault": [{"kind": "delay", "ms": 2000}, error]});
    gateway.script(json!({"rules": [refused, {"on": "create", "fault": [slow(3000)]}]})).await;
    // No gateway gives a sign of life while somebody has this lock.
    let silence = "create function silence() returns trigger language plpgsql as $$ begin \
                     perform pg_advisory_xact_lock(1); return new; end $$; \
                   create trigger silence before update of heard on sign_of_life for each row execute function silence()";
    sqlx::raw_sql(silence).execute(db.pool()).await.unwrap();
    let mut silent = PgConnection::connect(db.url()).await.unwrap();
    silent.execute("select pg_advisory_lock(1)").await.unwrap();

    let first = tokio::spawn(two.there(caller, &x).send());
    until("the vendor has it", async || gateway.upstream_creates().await.0 == 1).await;
    let mut second = RawClient::connect(gateway.address()).await;
    let (key, text) = (&caller.text, x.to_string());
    let head = format!("POST /api/generate HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n");
    second.write(format!("{head}content-length: {}\r\n\r\n{text}", text.len()).as_bytes()).await;
    until("the second attempt has met the first", async || {
        let asked = sqlx::query_scalar("select count(*) from sign_of_life where asked > 0");
        asked.fetch_one(db.pool()).await.unwrap_or(0) == 1_i64
    })
    .await;
    assert_eq!(first.await.unwrap().unwrap().status(), 400);

    let waiting = async || -> i64 {
        let sql = "select count(*) from pg_stat_activity where datname = current_database() \
                   and wait_event_type = 'Lock' and query like '%reserve_batch%'";
        sqlx::query_scalar(sql).fetch_one(db.pool()).await.unwrap()
    };
    let somebody = lock(db, &[caller.org]).await;
    let third = tokio::spawn(two.there(caller, &x).send());
    until("the third attempt is first in line", async || waiting().await == 1).await;
    silent.execute("select pg_advisory_unlock(1)").await.unwrap();
    until("the second is behind it", async || waiting().await == 2).await;
    second.half_close().await;
    unlock(somebody).await;
    let bought: Value = third.await.unwrap().unwrap().json().await.unwrap();
    assert_attached(&second.read().await, bought["data"]["task_id"].as_str().unwrap());
    assert_eq!(gateway.upstream_creates().await, (2, 1));
    until("its hold is released", async || gateway.balance().await == [999_600, 400, 0]).await;
    two.ends().await;
}

/// Who was told that the outcome is unknown tries again, and meanwhile it has come to light.
#[tokio::test]
async fn a_repetition_after_a_504_gets_the_task_that_has_come_to_light() {
    let builder = TestGateway::builder().task_time(ENDLESS);
    let gateway = builder.config(|config| config.server.create_deadline_ms = 1000).start().await;
    let two = Two::with(gateway).await;
    let gateway = &two.first;
    gateway.fault_on_create(slow(2500)).await;
    let reference = gateway.create(&body("x")).await.reference();
    until("it has come to light", async || gateway.last_hold().await.state == "RUNNING").await;
    gateway.script(json!({})).await;
    let again = Answer::to(two.there(&gateway.caller, &body("x"))).await;
    assert_attached(&again, gateway.last_hold().await.upstream_task.as_deref().unwrap());
    assert_eq!(gateway.last_hold().await.reference(), reference);
    assert_eq!(gateway.upstream_creates().await, (1, 1));
    // It is read now.
    assert_eq!(gateway.create(&body("x")).await.header("idempotent-replayed"), "");
    two.ends().await;
}

// Two threads: an HTTP/2 client takes part in the gateway's orderly end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_stream_of_http_2_is_a_caller_that_has_gone() {
    let two = Two::answered_after(3000).await;
    let gateway = &two.first;
    let client = http::builder().http2_prior_knowledge().build().unwrap();
    let call = || {
        let call = client.post(format!("http://{}/api/generate", gateway.address()));
        call.bearer_auth(&gateway.caller.text).body(body("x").to_string())
    };
    let sending = tokio::spawn(call().send());
    until("the vendor has it", async || gateway.upstream_creates().await.0 == 1).await;
    sending.abort();
    // The connection stays.
    let again = Answer::to(call()).await;
    assert_attached(&again, &again.task_id());
    assert_eq!(gateway.upstream_creates().await, (1, 1));
    drop(client);
    two.ends().await;
}

#[tokio::test]
async fn an_answer_that_nobody_read_is_given_to_the_repetition() {
    for task_time in [ENDLESS, std::time::Duration::ZERO] {
        let gateway = TestGateway::builder().task_time(task_time).start().await;
        gateway.fault_on_create(slow(500)).await;
        let two = Two::with(gateway).await;
        let gateway = &two.first;
        two.abandoned(&body("x")).await;
        let state = if task_time == ENDLESS { "RUNNING" } else { "SETTLED" };
        until("the vendor has answered", async || gateway.last_hold().await.state == state).await;
        until("that its caller has gone is noted", async || noted(gateway).await == 1).await;
        gateway.script(json!({})).await;
        let again = Answer::to(two.there(&gateway.caller, &body("x"))).await;
        assert_attached(&again, gateway.last_hold().await.upstream_task.as_deref().unwrap());
        assert_eq!(again.data()["status"], "IN_PROGRESS", "as the create was answered");
        assert_eq!(gateway.upstream_creates().await, (1, 1));

        // It is read now.
        gateway.create(&body("x")).await.expect(200);
        assert_eq!(gateway.upstream_creates().await, (2, 2));
        two.ends().await;
    }
}

#[tokio::test]
async fn an_answer_that_nobody_read_counts_for_a_minute() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    gateway.fault_on_create(slow(500)).await;
    drop(begun(&gateway, &body("x")).await);
    until("the vendor has answered", async || gateway.last_hold().await.state == "RUNNING").await;
    until("that its caller has gone is noted", async || noted(&gateway).await == 1).await;
    gateway.script(json!({})).await;
    let earlier = "update open_task set recorded_at = recorded_at - interval '61 seconds'";
    sqlx::query(earlier).execute(gateway.db.pool()).await.unwrap();
    assert_eq!(gateway.create(&body("x")).await.header("idempotent-replayed"), "");
    assert_eq!(gateway.upstream_creates().await, (2, 2));

    sqlx::query("update gone_caller set noted_at = noted_at - interval '2 hours'")
        .execute(gateway.db.pool())
        .await
        .unwrap();
    gateway.db.database().forget_gone_callers().await.unwrap();
    assert_eq!(noted(&gateway).await, 0);
}

#[tokio::test]
async fn after_a_refusal_the_repetition_creates() {
    let two = Two::with(TestGateway::builder().task_time(ENDLESS).start().await).await;
    let gateway = &two.first;
    let error = json!({"kind": "http_error", "status": 400, "error": "BUSY_TODAY", "message": "not now"});
    let refused = json!({"on": "create", "times": 1, "fault": [{"kind": "delay", "ms": 3000}, error]});
    gateway.script(json!({"rules": [refused]})).await;
    two.abandoned(&body("x")).await;
    until("that is noted", async || noted(gateway).await == 1).await;
    let again = Answer::to(two.there(&gateway.caller, &body("x"))).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, ""));
    let states: Vec<String> = gateway.holds().await.into_iter().map(|hold| hold.state).collect();
    assert_eq!(states, ["RELEASED", "RUNNING"]);
    assert_eq!(gateway.balance().await, [999_600, 400, 0]);
    two.ends().await;
}

#[tokio::test]
async fn after_a_doubt_the_repetition_gets_the_504() {
    let two = Two::with(TestGateway::builder().task_time(ENDLESS).start().await).await;
    let gateway = &two.first;
    let doubt = json!([{"kind": "delay", "ms": 3000}, {"kind": "cut_after"}]);
    gateway.fault_on_create(doubt).await;
    two.abandoned(&body("x")).await;
    until("that is noted", async || noted(gateway).await == 1).await;
    let again = Answer::to(two.there(&gateway.caller, &body("x"))).await;
    assert_eq!(again.reference(), gateway.last_hold().await.reference());
    assert_eq!(gateway.create(&body("x")).await.reference(), again.reference());
    gateway.script(json!({})).await;
    Answer::to(two.there(&gateway.caller, &body("x")).header("x-tollgate-resend", "yes")).await.expect(200);
    assert_eq!(gateway.upstream_creates().await, (2, 2));
    two.ends().await;
}

#[tokio::test]
async fn a_repetition_needs_no_credits_no_room_and_no_place_at_the_vendor() {
    let builder = TestGateway::builder().credits(400).task_time(ENDLESS);
    let gateway = builder.config(|config| config.upstream.kling_3.max_creates = 1).start().await;
    gateway.fault_on_create(slow(3000)).await;
    let two = Two::with(gateway).await;
    let gateway = &two.first;
    two.abandoned(&body("x")).await;
    until("that is noted", async || noted(gateway).await == 1).await;
    let again = body("x");
    let (here, there) =
        tokio::join!(gateway.create(&again), Answer::to(two.there(&gateway.caller, &body("x"))));
    assert_attached(&here, &here.task_id());
    assert_attached(&there, &here.task_id());
    assert_eq!(gateway.balance().await, [0, 400, 0]);
    gateway.create(&body("y")).await.refused(402, "INSUFFICIENT_CREDITS");
    two.ends().await;
}

#[tokio::test]
async fn a_repetition_that_leaves_too_changes_nothing() {
    let two = Two::answered_after(4000).await;
    let gateway = &two.first;
    two.abandoned(&body("x")).await;
    until("that is noted", async || noted(gateway).await == 1).await;
    let second = tokio::spawn(two.there(&gateway.caller, &body("x")).send());
    until("it is attached", async || two.has_attached(1).await).await;
    second.abort();
    let third = gateway.create(&body("x")).await;
    assert_attached(&third, &third.task_id());
    assert_eq!(gateway.upstream_creates().await, (1, 1));
    two.ends().await;
}
