//! A vendor that fails, hangs or refuses some of its accounts: who else is hurt by it, and for how long.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tollgate::clock::Clock;
use tollgate::config::{AccountConfig, Config, UpstreamConfig};
use tollgate::ids::GatewayId;
use tollgate::secret::Secret;
use tollgate::store::Lease;

use crate::support::database::{TestDatabase, until};
use crate::support::gateway::{Answer, Caller, ENDLESS, MASTER_KEY, TestGateway, body};
use crate::support::process::{Process, Scratch};

/// Longer than a test looks at an open breaker.
const MINUTE_MS: u64 = 60_000;

fn failing() -> Value {
    json!({"kind": "http_error", "status": 500})
}

fn o3(prompt: &str) -> Value {
    json!({"type": "o3-std-text-to-video", "prompt": prompt})
}

async fn create(gateway: &TestGateway, caller: &Caller, body: &Value) -> Answer {
    let call = gateway.request(Method::POST, "/api/generate").bearer_auth(&caller.text);
    Answer::to(call.body(body.to_string())).await
}

async fn keyed(gateway: &TestGateway, key: &str) -> Answer {
    Answer::to(gateway.creating(body("the same each time").to_string()).header("idempotency-key", key)).await
}

fn breaker(failures: u32, open_ms: u64) -> impl FnOnce(&mut Config) + Send + 'static {
    move |config| {
        config.upstream.kling_3.breaker_failures = failures;
        config.upstream.kling_3.breaker_open_ms = open_ms;
    }
}

#[tokio::test]
async fn an_open_breaker_sends_and_holds_nothing_and_answers_what_it_can() {
    let gateway = TestGateway::builder().config(breaker(3, MINUTE_MS)).start().await;
    let first = keyed(&gateway, "k").await;
    gateway.fault_on_create(json!({"kind": "cut_before"})).await;
    let reference = gateway.create(&body("doubtful")).await.reference();
    gateway.fault_on_create(failing()).await;
    for _ in 0..2 {
        gateway.create(&body("x")).await.refused(502, "UPSTREAM_ERROR");
    }
    gateway.script(json!({})).await;
    for _ in 0..5 {
        let answer = gateway.create(&body("x")).await;
        answer.refused(503, "UPSTREAM_UNAVAILABLE");
        assert!((50..=78).contains(&answer.header("retry-after").parse::<u64>().unwrap()), "{answer:?}");
    }
    assert_eq!(gateway.upstream_creates().await, (4, 1));
    assert_eq!(gateway.holds().await.len(), 4, "nothing was even reserved");

    // What is known is answered, and status calls have a breaker of their own.
    let replayed = keyed(&gateway, "k").await;
    assert_eq!((replayed.text.as_str(), replayed.header("idempotent-replayed")), (&*first.text, "true"));
    assert_eq!(gateway.create(&body("doubtful")).await.reference(), reference);
    assert_eq!(gateway.finished(&first.task_id()).await.data()["status"], "SUCCESS");
    // So has the other backend.
    gateway.create(&o3("x")).await.expect(200);
}

#[tokio::test]
async fn a_breaker_closes_once_the_vendor_is_back() {
    let gateway = TestGateway::builder().config(breaker(3, 200)).start().await;
    gateway.fault_on_create(failing()).await;
    until("it is open", async || gateway.create(&body("x")).await.status == 503).await;
    let (sent, _) = gateway.upstream_creates().await;
    assert_eq!(sent, 3);
    gateway.script(json!({})).await;
    until("a probe has closed it", async || gateway.create(&body("x")).await.status == 200).await;
    for _ in 0..5 {
        gateway.task("x").await;
    }
    assert_eq!(gateway.upstream_creates().await, (3 + 6, 6));
}

#[tokio::test]
async fn creates_that_hang_open_it_at_the_clients_deadline() {
    let gateway = TestGateway::builder()
        .config(|config| {
            breaker(2, MINUTE_MS)(config);
            config.server.create_deadline_ms = 200;
            config.upstream.kling_3.connect_timeout_ms = 100;
            config.upstream.kling_3.create_timeout_ms = 5_000;
        })
        .start()
        .await;
    gateway.fault_on_create(json!({"kind": "hang"})).await;
    for n in 0..2 {
        gateway.create(&body(&format!("{n}"))).await.reference();
    }
    gateway.create(&body("y")).await.refused(503, "UPSTREAM_UNAVAILABLE");
    assert_eq!(gateway.upstream_creates().await, (2, 0));
}

#[tokio::test]
async fn polls_that_fail_are_left_out_and_status_calls_are_answered_all_the_same() {
    let gateway = TestGateway::builder()
        .task_time(ENDLESS)
        .config(|config| {
            breaker(3, MINUTE_MS)(config);
            config.status.min_interval_ms = 0;
            config.reconciler.interval_ms = MINUTE_MS;
        })
        .start()
        .await;
    let task = gateway.task("x").await;
    gateway.fault_on_status(failing()).await;
    for _ in 0..5 {
        assert_eq!(gateway.status(&task).await.data()["status"], "IN_PROGRESS");
    }
    gateway.script(json!({})).await;
    let polls = gateway.upstream_polls(&task).await;
    for _ in 0..5 {
        assert_eq!(gateway.status(&task).await.data()["status"], "IN_PROGRESS");
    }
    assert_eq!(gateway.upstream_polls(&task).await, polls, "the vendor is left alone");
    gateway.task("creates have a breaker of their own").await;
}

#[tokio::test]
async fn one_organisation_whose_creates_hang_leaves_room_for_others() {
    let gateway = TestGateway::builder()
        .config(|config| {
            config.upstream.kling_3.max_creates = 4;
            config.upstream.kling_3.create_timeout_ms = 6_000;
        })
        .start()
        .await;
    let other = gateway.another_org("another customer", 1_000_000).await;
    let hang = json!({"on": "create", "match": {"prompt_contains": "stuck"}, "fault": {"kind": "hang"}});
    gateway.script(json!({"rules": [hang]})).await;
    let stuck: Vec<_> = (0..2)
        .map(|n| tokio::spawn(gateway.creating(body(&format!("stuck {n}")).to_string()).send()))
        .collect();
    until("both are with the vendor", async || gateway.upstream_creates().await.0 == 2).await;
    // Their places are theirs until the vendor answers, also without their clients.
    stuck.iter().for_each(tokio::task::JoinHandle::abort);
    for _ in 0..3 {
        let answer = gateway.create(&body("no room")).await;
        answer.refused(503, "UPSTREAM_UNAVAILABLE");
        assert_eq!(answer.header("retry-after"), "1");
        create(&gateway, &other, &body("fine")).await.expect(200);
    }
    assert_eq!(gateway.balance().await, [999_200, 800, 0], "nothing was held for those without room");
    assert_eq!(gateway.upstream_creates().await, (5, 3));
    until("their places are free again", async || gateway.create(&body("room")).await.status == 200).await;
}

#[tokio::test]
async fn one_organisation_whose_creates_hang_does_not_open_the_breaker_for_others() {
    let gateway = TestGateway::builder()
        .config(|config| {
            config.server.create_deadline_ms = 100;
            config.upstream.kling_3.breaker_failures = 5;
            config.upstream.kling_3.create_timeout_ms = 2_000;
        })
        .start()
        .await;
    let other = gateway.another_org("another customer", 1_000_000).await;
    let hang = json!({"on": "create", "match": {"prompt_contains": "stuck"}, "fault": {"kind": "hang"}});
    gateway.script(json!({"rules": [hang]})).await;
    for n in 0..5 {
        gateway.create(&body(&format!("stuck {n}"))).await.reference();
    }
    // From here on its own breaker is open, and nobody else's, whether they have called before or not.
    gateway.create(&body("stuck again")).await.refused(503, "UPSTREAM_UNAVAILABLE");
    create(&gateway, &other, &body("fine")).await.expect(200);
}

/// Longer than a test may take.
const NEVER_MS: u64 = 3_600_000;

fn second_backend(config: &mut Config, tune: impl FnOnce(&mut UpstreamConfig)) {
    let mut upstream = config.upstream.kling_3.clone();
    tune(&mut upstream);
    config.upstream.kling_o3 = Some(upstream);
}

#[tokio::test]
async fn a_backend_whose_creates_hang_does_not_slow_the_other() {
    // It listens, and never answers: it has no end of its own.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let gateway = TestGateway::builder()
        .config(move |config| {
            config.server.create_deadline_ms = NEVER_MS;
            config.upstream.kling_3.max_creates = 2;
            second_backend(config, |upstream| {
                upstream.base_url = format!("http://{address}").parse().unwrap();
                upstream.create_timeout_ms = NEVER_MS;
            });
        })
        .start()
        .await;
    let other = gateway.another_org("another customer", 1_000_000).await;
    let (one, two) = (o3("one"), o3("two"));
    let stuck = async { tokio::join!(gateway.create(&one), create(&gateway, &other, &two)) };
    let rest = async {
        until("both are held", async || gateway.holds().await.len() == 2).await;
        create(&gateway, &other, &o3("three")).await.refused(503, "UPSTREAM_UNAVAILABLE");
        for _ in 0..5 {
            gateway.task("fine").await;
        }
        // All that, while both hung.
        drop(silent);
    };
    let (answers, ()) = tokio::join!(stuck, rest);
    answers.0.reference();
    answers.1.reference();
}

#[tokio::test]
async fn a_backend_whose_polls_hang_does_not_keep_the_tasks_of_the_other_from_ending() {
    let way = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = way.local_addr().unwrap();
    let gateway = TestGateway::builder()
        .config(move |config| {
            config.reconciler.concurrency = 4;
            second_backend(config, |upstream| {
                upstream.base_url = format!("http://{address}").parse().unwrap();
                upstream.max_polls = 2;
                upstream.status_timeout_ms = NEVER_MS;
            });
        })
        .start()
        .await;
    let cut = CancellationToken::new();
    let way = tokio::spawn(lead(way, gateway.simulator(), cut.clone()));
    let hang = json!({"on": "status", "match": {"type": "o3-std-text-to-video"}, "fault": {"kind": "hang"}});
    gateway.script(json!({"rules": [hang]})).await;
    for n in 0..5 {
        let org = gateway.another_org(&format!("customer {n}"), 1_000_000).await;
        create(&gateway, &org, &o3("x")).await.expect(200);
    }
    let settled = async || gateway.holds().await.iter().filter(|hold| hold.state == "SETTLED").count();
    until("tasks have ended though nobody asks for them", async || {
        gateway.task("x").await;
        settled().await >= 3
    })
    .await;
    // A gateway that stops waits for its polls: these would never end.
    cut.cancel();
    way.await.unwrap();
}

#[tokio::test]
async fn organisations_whose_polls_hang_do_not_keep_the_tasks_of_another_from_ending() {
    let way = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = way.local_addr().unwrap();
    let gateway = TestGateway::builder()
        .config(move |config| {
            config.reconciler.concurrency = 4;
            second_backend(config, |upstream| {
                upstream.base_url = format!("http://{address}").parse().unwrap();
                upstream.status_timeout_ms = NEVER_MS;
            });
        })
        .start()
        .await;
    let cut = CancellationToken::new();
    let way = tokio::spawn(lead(way, gateway.simulator(), cut.clone()));
    let hang = json!({"on": "status", "match": {"prompt_contains": "loud"}, "fault": {"kind": "hang"}});
    gateway.script(json!({"rules": [hang]})).await;
    // The first gets two slots of the four, the second one of the two that are left.
    let second = gateway.another_org("second", 1_000_000).await;
    for (loud, polled) in [(&gateway.caller, 2), (&second, 3)] {
        for _ in 0..6 {
            create(&gateway, loud, &o3("loud")).await.expect(200);
        }
        let asked = "select count(*) from open_task where polls > 0";
        until("its polls hang", async || {
            sqlx::query_scalar::<_, i64>(asked).fetch_one(gateway.db.pool()).await.unwrap() >= polled
        })
        .await;
    }
    let quiet = gateway.another_org("quiet", 1_000_000).await;
    create(&gateway, &quiet, &o3("quiet")).await.expect(200);
    let ended = "select count(*) from hold where org_id = $1 and state = 'SETTLED'";
    until("a task of another has ended though nobody asks for it", async || {
        let ended = sqlx::query_scalar::<_, i64>(ended).bind(quiet.org.as_uuid());
        ended.fetch_one(gateway.db.pool()).await.unwrap() == 1
    })
    .await;
    // A gateway that stops waits for its polls: these would never end.
    cut.cancel();
    way.await.unwrap();
}

/// Leads every connection to `server`, until `cut` is cancelled: then every connection is closed.
async fn lead(way: tokio::net::TcpListener, server: SocketAddr, cut: CancellationToken) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = way.accept() => accepted,
            () = cut.cancelled() => return connections.shutdown().await,
        };
        let (mut client, _) = accepted.unwrap();
        connections.spawn(async move {
            let mut server = tokio::net::TcpStream::connect(server).await.unwrap();
            // An error is the end of the connection.
            drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
        });
    }
}

#[tokio::test]
async fn an_answer_must_begin_in_time_and_may_then_take_its_time() {
    let gateway = TestGateway::builder()
        .config(|config| config.upstream.kling_3.first_byte_timeout_ms = Some(300))
        .start()
        .await;
    gateway.fault_on_create(json!({"kind": "hang"})).await;
    gateway.create(&body("x")).await.reference();
    let hold = gateway.last_hold().await;
    assert_eq!(hold.state, "IN_DOUBT");
    assert_eq!(hold.reason.as_deref(), Some("the upstream did not begin to answer in time"));
    gateway.fault_on_create(json!({"kind": "slow_drip", "ms_per_byte": 8})).await;
    gateway.task("slow").await;
}

/// Two accounts, of which `a` gets three quarters of the tasks.
fn pool(config: &mut Config) {
    config.upstream.kling_3.accounts = [("a", "key-a", 3), ("b", "key-b", 1)]
        .map(|(name, key, weight)| AccountConfig {
            name: name.into(),
            master_key: Some(Secret::new(key)),
            master_key_file: None,
            weight,
        })
        .into();
}

async fn received(gateway: &TestGateway) -> [u64; 2] {
    let count = async |key| gateway.books_of(key).await["creates_received"].as_u64().unwrap();
    [count("key-a").await, count("key-b").await]
}

#[tokio::test]
async fn tasks_are_shared_out_by_weight_and_stay_with_their_account() {
    let gateway = TestGateway::builder().accounts(&["key-a", "key-b"]).config(pool).start().await;
    gateway.script(json!({"record": true})).await;
    let tasks = join_all((0..8).map(|n| {
        let gateway = &gateway;
        async move { gateway.task(&format!("task {n}")).await }
    }));
    for task in tasks.await {
        gateway.finished(&task).await;
    }
    assert_eq!(received(&gateway).await, [6, 2]);
    let holds = gateway.holds().await;
    assert_eq!(holds.iter().filter(|hold| hold.account == "b").count(), 2);
    // Each is only ever asked for with the key of its account.
    for request in gateway.upstream_requests().await.iter().filter(|request| request["method"] == "GET") {
        let path = request["path"].as_str().unwrap();
        let hold = holds.iter().find(|hold| path.ends_with(hold.upstream_task.as_deref().unwrap())).unwrap();
        let key = json!(["authorization", format!("Bearer key-{}", hold.account)]);
        assert!(request["headers"].as_array().unwrap().contains(&key), "{request} of {hold:?}");
    }
    assert_eq!(gateway.balance().await, [1_000_000 - 8 * 400, 0, 8 * 400]);
}

#[tokio::test]
async fn an_account_that_cannot_be_used_gets_no_new_tasks_for_a_while() {
    for script in [json!({"exhausted_accounts": ["key-a"]}), json!({"rejected_keys": ["key-a"]})] {
        let gateway = TestGateway::builder().accounts(&["key-a", "key-b"]).config(pool).start().await;
        gateway.script(script).await;
        gateway.create(&body("x")).await.refused(503, "UPSTREAM_UNAVAILABLE");
        let before = received(&gateway).await;
        for _ in 0..6 {
            gateway.task("x").await;
        }
        let after = received(&gateway).await;
        assert_eq!((after[0] - before[0], after[1] - before[1]), (0, 6));
        // The vendor has the last word: if all are out, it is asked.
        gateway.script(json!({"exhausted_accounts": ["key-a", "key-b"]})).await;
        let refused = join_all((0..4).map(|_| async { gateway.create(&body("x")).await.status })).await;
        assert_eq!(refused, [503; 4]);
        gateway.script(json!({})).await;
        gateway.task("x").await;
    }
}

#[tokio::test]
async fn a_task_whose_account_is_not_configured_stays_as_it_is() {
    let gateway = TestGateway::builder()
        .accounts(&["key-a", "key-b", MASTER_KEY])
        .config(|config| {
            pool(config);
            config.reconciler.interval_ms = 500;
        })
        .start()
        .await;
    let task = gateway.task("x").await;
    sqlx::query("update hold set account = 'gone'").execute(gateway.db.pool()).await.unwrap();
    let polls = gateway.upstream_polls_on("key-a", &task).await;
    for _ in 0..3 {
        assert_eq!(gateway.status(&task).await.data()["status"], "IN_PROGRESS");
    }
    until("the reconciler has tried", async || {
        let tried = "select polls from task where state = 'RUNNING'";
        sqlx::query_scalar::<_, i32>(tried).fetch_one(gateway.db.pool()).await.unwrap() > 1
    })
    .await;
    assert_eq!(gateway.upstream_polls_on("key-a", &task).await, polls);
    assert_eq!(gateway.last_hold().await.state, "RUNNING");
    // Configured again, it ends.
    sqlx::query("update hold set account = 'a'").execute(gateway.db.pool()).await.unwrap();
    gateway.finished(&task).await;
}

/// One more gateway, with a short lease; it is killed or stopped where `fail_point` says.
async fn another(gateway: &TestGateway, scratch: &Scratch, fail_point: &str) -> (Process, String) {
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[database]\nurl = \"{}\"\n\
         [upstream.kling_3]\nbase_url = \"http://{}\"\nmaster_key = \"{MASTER_KEY}\"\n\
         [ledger]\nlease_ms = 1000\n",
        gateway.db.url(),
        gateway.simulator()
    );
    let config = scratch.file("gateway.toml", &config);
    let env = [("TOLLGATE_FAIL_POINT", fail_point)];
    let mut process = Process::with_env(&["serve", "--config", &config], &env);
    let base = process.event("serving").await["data"].as_str().unwrap().to_owned();
    (process, base)
}

async fn create_at(gateway: &TestGateway, base: &str) -> reqwest::Result<reqwest::Response> {
    let call = gateway.client.post(format!("{base}/api/generate")).bearer_auth(&gateway.caller.text);
    call.body(body("x").to_string()).send().await
}

async fn until_taken_over(gateway: &TestGateway) {
    until("another gateway has put its hold in doubt", async || {
        gateway.holds().await.last().is_some_and(|hold| hold.state == "IN_DOUBT")
    })
    .await;
}

#[tokio::test]
async fn a_lease_that_is_renewed_too_late_has_not_held_since() {
    let db = TestDatabase::new().await;
    let length = Duration::from_millis(500);
    let lease = Lease::new((**db.database()).clone(), GatewayId::generate(), length, Clock);
    assert!(!lease.has_held_since(Clock.now()), "it was never taken");
    until("it is taken, and renewed in time", async || {
        lease.renew().await.unwrap();
        let taken = Clock.now();
        lease.renew().await.unwrap();
        lease.has_held_since(taken)
    })
    .await;
    let arrived = Clock.now();
    until("it has lapsed", async || !lease.holds()).await;
    until("it is renewed", async || {
        lease.renew().await.unwrap();
        lease.holds()
    })
    .await;
    assert!(!lease.has_held_since(arrived));
}

#[tokio::test]
async fn a_gateway_that_was_taken_for_dead_sends_nothing_when_it_wakes() {
    for step in ["create.held", "create.before_send"] {
        let gateway = TestGateway::start().await;
        let scratch = Scratch::new();
        let (process, base) = another(&gateway, &scratch, &format!("{step}=stop")).await;
        let create = async { Answer::of(create_at(&gateway, &base).await.unwrap()).await };
        let wake = async {
            until_taken_over(&gateway).await;
            kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGCONT).unwrap();
        };
        let (answer, ()) = tokio::join!(create, wake);
        answer.refused(503, "UPSTREAM_UNAVAILABLE");
        assert_eq!(gateway.upstream_creates().await, (0, 0), "{step}");
        let hold = gateway.last_hold().await;
        assert_eq!(hold.state, "RELEASED");
        assert_eq!(hold.reason.as_deref(), Some("never sent: the gateway had lost its lease"));
        assert_eq!(gateway.balance().await, [1_000_000, 0, 0]);
        process.terminate();
        assert_eq!(process.ended().await, 0);
    }
}

#[tokio::test]
async fn a_gateway_killed_once_its_request_was_written_leaves_a_doubt() {
    for step in ["create.sent", "create.head"] {
        let gateway = TestGateway::start().await;
        let scratch = Scratch::new();
        let (_process, base) = another(&gateway, &scratch, &format!("{step}=kill")).await;
        assert!(create_at(&gateway, &base).await.is_err());
        until("the vendor has taken it", async || gateway.upstream_creates().await == (1, 1)).await;
        until_taken_over(&gateway).await;
        assert_eq!(gateway.balance().await, [999_600, 400, 0]);
    }
}
