//! Traces as a collector gets them, what callers can and cannot do to them, and that a collector which is of no use
//! costs nothing but them.
//!
//! Two threads each: a gateway that is dropped says its last words to the collector of the test that waits for it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tollgate::config::{Config, OtlpProtocol};
use tollgate::secret::Secret;

use crate::support::database::until;
use crate::support::gateway::{Answer, ENDLESS, MASTER_KEY, RawClient, TestGateway, body, closed_port};
use crate::support::leaks::{self, COLLECTOR_TOKEN};
use crate::support::otlp::{Collector, Seen, black_hole};
use crate::support::process::{Process, Scratch};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn sent_to(config: &mut Config, collector: &Collector) {
    config.telemetry.otlp_endpoint = Some(format!("http://{}", collector.address).parse().unwrap());
    config.telemetry.protocol =
        if collector.protocol == "grpc" { OtlpProtocol::Grpc } else { OtlpProtocol::Http };
}

/// As a caller would that has a trace of its own.
fn traced(call: RequestBuilder, sampled: bool) -> RequestBuilder {
    let flags = if sampled { "01" } else { "00" };
    call.header("traceparent", format!("00-{TRACE}-{PARENT}-{flags}")).header("tracestate", "theirs=1")
}

#[track_caller]
fn one<'a>(spans: &'a [Seen], name: &str) -> &'a Seen {
    let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "{name}: {spans:#?}");
    found[0]
}

fn header(request: &Value, name: &str) -> Option<String> {
    let headers = request["headers"].as_array().unwrap();
    let found = headers.iter().find(|header| header[0] == name);
    found.map(|header| header[1].as_str().unwrap().to_owned())
}

async fn every_stage_has_its_place(collector: Collector) {
    let to = collector.clone();
    let gateway = TestGateway::builder()
        .config(move |config| {
            sent_to(config, &to);
            config.telemetry.sample_ratio = 0.0;
            config.telemetry.trust_parent = true;
            config.telemetry.propagate = true;
            config.telemetry.resource.insert("deployment.environment.name".into(), "a test".into());
            config.telemetry.headers.push(("authorization".into(), Secret::new(COLLECTOR_TOKEN)));
            // Only the status call below looks for the end.
            config.reconciler.tick_ms = 86_400_000;
        })
        .start()
        .await;
    gateway.script(json!({"record": true})).await;
    let create = traced(gateway.creating(body("x").to_string()), true);
    let task = Answer::to(create.header("idempotency-key", "k")).await.task_id();
    let names = ["auth", "rate_limit", "replay", "price", "reserve", "forward", "record"];
    let spans = collector.trace(TRACE, &[&names[..], &["POST /api/generate"]].concat()).await;

    let server = spans.iter().find(|span| span.kind == SpanKind::Server).unwrap();
    assert_eq!((server.name.as_str(), server.parent.as_str()), ("POST /api/generate", PARENT));
    assert_eq!(server.state, "theirs=1");
    for (attribute, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/api/generate"),
        ("url.path", "/api/generate"),
        ("http.response.status_code", "200"),
        ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("tollgate.org", &gateway.caller.org.to_string()),
        ("tollgate.user", &gateway.caller.user.to_string()),
        ("tollgate.key", &gateway.caller.key.to_string()),
        ("tollgate.hold", &gateway.last_hold().await.reference()),
        ("tollgate.code", "OK"),
        ("error.type", ""),
    ] {
        assert_eq!(server.get(attribute), value, "{attribute}");
    }
    assert_eq!(server.resource["service.name"], "tollgate");
    assert_eq!(server.resource["service.version"], env!("CARGO_PKG_VERSION"));
    assert!(server.resource["service.instance.id"].starts_with("gw_"));
    assert_eq!(server.resource["deployment.environment.name"], "a test");

    let forward = one(&spans, "forward");
    let client = spans.iter().find(|span| span.kind == SpanKind::Client).unwrap();
    for name in &names[..6] {
        assert_eq!(one(&spans, name).parent, server.id, "{name}");
    }
    assert_eq!((&one(&spans, "record").parent, &client.parent), (&forward.id, &forward.id));
    assert_eq!(one(&spans, "reserve").get("tollgate.credits"), "400");
    assert_eq!(client.name, "POST /api/generate");
    let vendor = gateway.simulator();
    for (attribute, value) in [
        ("server.address", vendor.ip().to_string().as_str()),
        ("server.port", &vendor.port().to_string()),
        ("http.response.status_code", "200"),
        ("tollgate.backend", "kling-3.0"),
        ("tollgate.account", "main"),
    ] {
        assert_eq!(client.get(attribute), value, "{attribute}");
    }
    // The vendor's part would be a child of our call to it.
    let told = gateway.upstream_requests().await.pop().unwrap();
    assert_eq!(header(&told, "traceparent").unwrap(), format!("00-{TRACE}-{}-01", client.id));
    assert_eq!(header(&told, "tracestate").as_deref(), Some("theirs=1"));

    until("a status call has ended it", async || {
        let status = gateway.call(reqwest::Method::GET, &format!("/api/status?task_id={task}"));
        Answer::to(traced(status, true)).await.data()["status"] == "SUCCESS"
    })
    .await;
    let spans = collector.trace(TRACE, &["settle"]).await;
    let by_id = |id: &str| spans.iter().find(|span| span.id == id).unwrap();
    let settle = one(&spans, "settle");
    assert_eq!((settle.get("tollgate.step"), settle.get("tollgate.credits")), ("settle", "400"));
    let poll = by_id(&settle.parent);
    assert_eq!(poll.name, "poll");
    let asked = spans.iter().find(|span| span.kind == SpanKind::Client && span.parent == poll.id).unwrap();
    assert_eq!((asked.name.as_str(), asked.get("url.template")), ("GET /api/status", "/api/status"));
    assert_eq!(by_id(&poll.parent).kind, SpanKind::Server);
    assert!(collector.authorizations().iter().all(|header| header == COLLECTOR_TOKEN));
    assert!(spans.iter().all(|span| !span.failed), "{spans:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stage_has_its_place_in_the_callers_trace_over_grpc() {
    every_stage_has_its_place(Collector::grpc().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stage_has_its_place_in_the_callers_trace_over_http() {
    every_stage_has_its_place(Collector::http().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_nobody_asks_for_has_traces_of_its_own() {
    let collector = Collector::grpc().await;
    let to = collector.clone();
    let gateway = TestGateway::builder().config(move |config| sent_to(config, &to)).start().await;
    gateway.task("x").await;
    until("it has ended", async || gateway.balance().await == [999_600, 0, 400]).await;
    until("its end is traced", async || collector.spans().iter().any(|span| span.name == "settle")).await;
    let spans = collector.spans();
    let by_id = |id: &str| spans.iter().find(|span| span.id == id);
    until("the whole of it too", async || {
        let settle = collector.spans().into_iter().find(|span| span.name == "settle").unwrap();
        collector.spans().iter().any(|span| span.name == "reconcile" && span.trace == settle.trace)
    })
    .await;
    let settle = one(&spans, "settle");
    let poll = by_id(&settle.parent);
    let all = collector.spans();
    let poll = poll.cloned().or_else(|| all.iter().find(|span| span.id == settle.parent).cloned()).unwrap();
    let whole = all.iter().find(|span| span.id == poll.parent).unwrap();
    assert_eq!((whole.name.as_str(), whole.parent.as_str()), ("reconcile", ""));
    assert_eq!(whole.get("tollgate.hold"), gateway.last_hold().await.reference());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_do_not_decide_what_is_sampled() {
    let collector = Collector::http().await;
    for (ratio, says, spans) in [(0.0, true, false), (1.0, false, true)] {
        let to = collector.clone();
        let gateway = TestGateway::builder()
            .task_time(ENDLESS)
            .config(move |config| {
                sent_to(config, &to);
                config.telemetry.sample_ratio = ratio;
                config.telemetry.propagate = true;
            })
            .start()
            .await;
        gateway.script(json!({"record": true})).await;
        Answer::to(traced(gateway.creating(body("x").to_string()), says)).await.expect(200);
        let told = gateway.upstream_requests().await.pop().unwrap();
        let told = header(&told, "traceparent").unwrap();
        // The trace goes on either way; the vendor is told what we decided.
        assert!(told.starts_with(&format!("00-{TRACE}-")), "{told}");
        assert!(told.ends_with(if spans { "-01" } else { "-00" }), "{told}");
        assert!(!told.contains(PARENT), "{told}");
        drop(gateway);
        assert_eq!(!collector.spans().is_empty(), spans, "{:#?}", collector.spans());
    }
    let server = collector.spans().into_iter().find(|span| span.kind == SpanKind::Server).unwrap();
    assert_eq!((server.trace.as_str(), server.parent.as_str()), (TRACE, PARENT));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_vendor_learns_of_no_trace_unless_it_is_to() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    gateway.script(json!({"record": true})).await;
    Answer::to(traced(gateway.creating(body("x").to_string()), true)).await.expect(200);
    let told = gateway.upstream_requests().await.pop().unwrap();
    assert_eq!((header(&told, "traceparent"), header(&told, "tracestate")), (None, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_headers_are_as_good_as_none() {
    let collector = Collector::http().await;
    let to = collector.clone();
    let gateway = TestGateway::builder().config(move |config| sent_to(config, &to)).start().await;
    let call = gateway.call(reqwest::Method::GET, "/api/credits");
    Answer::to(call.header("traceparent", format!("00-{TRACE}-{}-01", "0".repeat(16)))).await.expect(200);
    // Who comes without a key is traced too, and an unknown path is not repeated.
    let lost = gateway.request(reqwest::Method::GET, "/secret/path?and=query");
    Answer::to(lost).await.expect(404);
    drop(gateway);
    let spans = collector.spans();
    let credits = one(&spans, "GET /api/credits");
    assert!(credits.trace != TRACE && credits.parent.is_empty(), "{credits:#?}");
    let lost = one(&spans, "GET");
    assert_eq!((lost.get("http.response.status_code"), lost.get("tollgate.code")), ("404", "NOT_FOUND"));
    assert!(!format!("{spans:?}").contains("secret"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_the_management_api_are_traced_and_probes_are_not() {
    let collector = Collector::http().await;
    let to = collector.clone();
    let gateway = TestGateway::builder()
        .config(move |config| {
            sent_to(config, &to);
            config.telemetry.sample_ratio = 1.0;
        })
        .start()
        .await;
    let (org, token) = (gateway.caller.org, gateway.operator_token().await);
    let call = |path: &str| traced(gateway.client.get(gateway.admin_url(path)).bearer_auth(&token), false);
    for path in ["/healthz", "/metrics", "/admin/v1/secret/path?and=query"] {
        call(path).send().await.unwrap();
    }
    assert_eq!(call(&format!("/admin/v1/orgs/{org}/credits")).send().await.unwrap().status(), 200);
    drop(gateway);
    let spans = collector.spans();
    let credits = one(&spans, "GET /admin/v1/orgs/{org_id}/credits");
    assert_eq!((credits.trace.as_str(), credits.parent.as_str()), (TRACE, PARENT));
    assert_eq!(credits.get("http.route"), "/admin/v1/orgs/{org_id}/credits");
    assert_eq!((credits.kind, credits.get("http.response.status_code")), (SpanKind::Server, "200"));
    assert_eq!(one(&spans, "GET").get("http.response.status_code"), "404");
    assert_eq!(spans.len(), 2, "{spans:#?}");
    assert!(!format!("{spans:?}").contains("secret"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_on_without_its_client_is_traced_to_its_end() {
    let collector = Collector::http().await;
    let to = collector.clone();
    let gateway = TestGateway::builder().config(move |config| sent_to(config, &to)).start().await;
    gateway.fault_on_create(json!({"kind": "delay", "ms": 3000, "accept": true})).await;
    let (mut client, text) = (RawClient::connect(gateway.address()).await, body("x").to_string());
    let (key, length) = (&gateway.caller.text, text.len());
    let head = format!(
        "POST /api/generate HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\
         traceparent: 00-{TRACE}-{PARENT}-01\r\ntracestate: theirs=1\r\ncontent-length: {length}\r\n\r\n"
    );
    client.write(format!("{head}{text}").as_bytes()).await;
    until("it is with the vendor", async || gateway.upstream_creates().await.0 == 1).await;
    client.reset();
    let spans = collector.trace(TRACE, &["record", "forward", "POST /api/generate"]).await;
    let server = spans.iter().find(|span| span.kind == SpanKind::Server).unwrap();
    assert_eq!((server.failed, server.get("error.type")), (true, "CLIENT_GONE"));
    let forward = one(&spans, "forward");
    assert_eq!((&forward.parent, forward.get("tollgate.outcome")), (&server.id, "accepted"));
    assert_eq!(one(&spans, "record").parent, forward.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_told_as_failed() {
    let collector = Collector::http().await;
    let to = collector.clone();
    let gateway = TestGateway::builder()
        .config(move |config| {
            sent_to(config, &to);
            config.upstream.kling_3.retry_429_ms = 2_000;
        })
        .start()
        .await;
    let fault = |kind: Value| json!({"on": "create", "times": 1, "fault": kind});
    let rules = [json!({"kind": "body_code", "code": 429}), json!({"kind": "html"})];
    gateway.script(json!({"rules": rules.map(fault)})).await;
    gateway.create(&body("x")).await.refused(504, "OUTCOME_UNKNOWN");
    drop(gateway);
    let spans = collector.spans();
    let server = spans.iter().find(|span| span.kind == SpanKind::Server).unwrap();
    assert_eq!((server.failed, server.get("error.type")), (true, "OUTCOME_UNKNOWN"));
    let mut calls: Vec<_> = spans.iter().filter(|span| span.kind == SpanKind::Client).collect();
    calls.sort_by_key(|span| span.get("http.request.resend_count"));
    let told: Vec<_> = calls
        .iter()
        .map(|span| (span.get("http.request.resend_count"), span.get("error.type"), span.failed))
        .collect();
    assert_eq!(told, [("", "busy", true), ("1", "unknown", true)]);
}

/// A gateway as a process, whose metrics are its own; and where its two listeners are.
async fn serve(gateway: &TestGateway, scratch: &Scratch, more: &str) -> (Process, String, String) {
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nshutdown_grace_ms = 5000\n[admin]\nlisten = \"127.0.0.1:0\"\n[database]\nurl = \"{}\"\n\
         [upstream.kling_3]\nbase_url = \"http://{}\"\nmaster_key = \"{MASTER_KEY}\"\n\
         [limits]\norg_create_per_minute = 0\norg_status_per_minute = 0\nmax_open_tasks = 0\nmax_exposure_per_day = 0\n",
        gateway.db.url(),
        gateway.simulator()
    );
    let file = scratch.file("gateway.toml", &config);
    let environment: Vec<(&str, &str)> =
        more.split_whitespace().map(|setting| setting.split_once('=').unwrap()).collect();
    let mut process = Process::with_env(&["serve", "--config", &file], &environment);
    let serving = process.next_event("serving").await;
    let text = |name: &str| serving[name].as_str().unwrap().to_owned();
    (process, text("data"), text("operations"))
}

async fn spans_by_outcome(gateway: &TestGateway, operations: &str) -> [u64; 3] {
    let series = |outcome| format!("tollgate_trace_spans_total{{outcome=\"{outcome}\"}}");
    counters(gateway, operations, ["exported", "dropped", "failed"].map(series)).await
}

async fn counters<const N: usize>(gateway: &TestGateway, operations: &str, series: [String; N]) -> [u64; N] {
    let text =
        gateway.client.get(format!("{operations}/metrics")).send().await.unwrap().text().await.unwrap();
    series.map(|series| {
        let value = text.lines().find_map(|line| line.strip_prefix(&series)?.strip_prefix(' '));
        value.unwrap().parse().unwrap()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_of_no_use_costs_nothing_but_spans() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    let refuses = axum::Router::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refusing = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, refuses).await.unwrap() });
    let (closed, silent) = (closed_port().await, black_hole().await);
    let cases = [
        (closed, "grpc", true),
        (closed, "http", true),
        (refusing, "grpc", true),
        (refusing, "http", true),
        (silent, "grpc", false),
        (silent, "http", false),
    ];
    join_all(cases.map(|(address, protocol, answers)| of_no_use(&gateway, address, protocol, answers))).await;
}

/// A gateway with such a collector serves, and stops in time; if that one answers at all, what it did is counted.
async fn of_no_use(gateway: &TestGateway, address: SocketAddr, protocol: &str, answers: bool) {
    // The last words are a second each; a collector's own limit is five. A machine that is busy may be late, but not each
    // time.
    let mut took = Vec::new();
    while took.len() < 3 {
        took.push(ends_in(gateway, address, protocol, answers).await);
        if took.last().is_some_and(|took| *took < Duration::from_secs(4)) {
            return;
        }
    }
    panic!("{protocol} at {address}: {took:?}");
}

/// Lets such a gateway serve; how long it takes to stop.
async fn ends_in(gateway: &TestGateway, address: SocketAddr, protocol: &str, answers: bool) -> Duration {
    let scratch = Scratch::new();
    let environment =
        format!("TOLLGATE_TELEMETRY__OTLP_ENDPOINT=http://{address} TOLLGATE_TELEMETRY__PROTOCOL={protocol}");
    let (process, data, operations) = serve(gateway, &scratch, &environment).await;
    let create = || {
        let call = gateway.client.post(format!("{data}/api/generate"));
        Answer::to(call.bearer_auth(&gateway.caller.text).body(body("x").to_string()))
    };
    create().await.expect(200);
    if answers {
        until("that it failed is counted", async || {
            let [exported, _, failed] = spans_by_outcome(gateway, &operations).await;
            assert_eq!(exported, 0);
            failed > 0
        })
        .await;
    }
    // Waiting for the collector would take five seconds each.
    let creates = async {
        for _ in 0..10 {
            create().await.expect(200);
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(40), creates).await;
    assert!(in_time.is_ok(), "{protocol} at {address}");
    let begun = Instant::now();
    process.terminate();
    assert_eq!(process.ended().await, 0);
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_silent_collector_is_bounded() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    let scratch = Scratch::new();
    let silent = black_hole().await;
    let environment =
        format!("TOLLGATE_TELEMETRY__OTLP_ENDPOINT=http://{silent} TOLLGATE_TELEMETRY__PROTOCOL=http");
    let (process, data, operations) = serve(&gateway, &scratch, &environment).await;
    // Four spans each: the answering, who, how often, what.
    let refused = || async {
        let call = gateway.client.post(format!("{data}/api/generate")).bearer_auth(&gateway.caller.text);
        Answer::to(call.body("{}")).await.refused(400, "INVALID_TYPE");
    };
    until("some are dropped", async || {
        join_all((0..50).map(|_| refused())).await;
        spans_by_outcome(&gateway, &operations).await[1] > 0
    })
    .await;
    process.terminate();
    assert_eq!(process.ended().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_of_a_request_carries_its_ids() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    let scratch = Scratch::new();
    let (mut process, data, operations) = serve(&gateway, &scratch, "").await;
    gateway.fault_on_create(json!({"kind": "html"})).await;
    let create = gateway.client.post(format!("{data}/api/generate")).bearer_auth(&gateway.caller.text);
    let answer = Answer::to(traced(create.body(body("x").to_string()), false)).await;
    answer.refused(504, "OUTCOME_UNKNOWN");
    let id = answer.headers["x-request-id"].to_str().unwrap().to_owned();
    // Written by the task of the create, and by the first layer.
    let unknown = process.next_event("the outcome of a create is unknown").await;
    let request = process.next_event("request").await;
    for event in [&unknown, &request] {
        assert_eq!((&event["trace_id"], &event["request_id"]), (&json!(TRACE), &json!(id)), "{event}");
    }
    let managed = gateway.client.get(format!("{operations}/admin/v1/me")).send().await.unwrap();
    let id = managed.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert_eq!(process.next_event("management call").await["request_id"], json!(id));
    process.terminate();
    assert_eq!(process.ended().await, 0);
    leaks::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_holds_nobody_up() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    let scratch = Scratch::new();
    let (mut process, data, operations) = serve(&gateway, &scratch, "").await;
    let dropped = || async {
        counters(&gateway, &operations, ["tollgate_log_lines_dropped_total".to_owned()]).await[0]
    };
    let flood = async || {
        let before = dropped().await;
        let refused = || async {
            Answer::to(gateway.client.get(format!("{data}/nowhere"))).await.refused(404, "NOT_FOUND");
        };
        until("lines are dropped", async || {
            join_all((0..200).map(|_| refused())).await;
            dropped().await > before
        })
        .await;
    };
    assert_eq!(dropped().await, 0);
    let unread = process.leave_log_unread().await;
    flood().await;
    drop(unread);
    // What waited is written; when there is room again, so is what comes.
    until("a line is written again", async || {
        let answer = Answer::to(gateway.client.get(format!("{data}/api/credits"))).await;
        answer.refused(401, "INVALID_API_KEY");
        let id = answer.headers["x-request-id"].to_str().unwrap();
        let written = process.next_event_of(|event| event["request_id"] == id);
        tokio::time::timeout(Duration::from_secs(2), written).await.is_ok()
    })
    .await;
    let _unread = process.leave_log_unread().await;
    flood().await;
    process.terminate();
    assert_eq!(process.ended().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_whose_reader_is_gone_holds_nobody_up() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    let scratch = Scratch::new();
    let (mut process, data, operations) = serve(&gateway, &scratch, "").await;
    process.close_log().await;
    until("lines are lost", async || {
        Answer::to(gateway.client.get(format!("{data}/nowhere"))).await.refused(404, "NOT_FOUND");
        counters(&gateway, &operations, ["tollgate_log_lines_dropped_total".to_owned()]).await[0] > 0
    })
    .await;
    process.terminate();
    assert_eq!(process.ended().await, 0);
}
