//! Nothing that a gateway emits may hold a credential, a prompt, a media URL or a query. Everything that the gateways of
//! the whole suite emit is looked at: the events of those in this process, what processes write to standard error, the
//! bytes of every exported span, every gateway's metrics at its end. What is found fails the next test to end, and names
//! the line. What a command prints once on standard output on purpose (a new key) is no leak.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{LazyLock, Mutex, Once};
use std::thread;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use tollgate::api_key::{NewKey, PresentedKey};
use tollgate::config::{Log, LogFormat};
use tonic::transport::server::TcpIncoming;
use tracing_subscriber::util::SubscriberInitExt;

use super::gateway::MASTER_KEY;

/// In the prompt of every create that tests make in the usual way.
pub const PROMPT: &str = "pr0mpt-canary";
/// In the headers for a test's collector.
pub const COLLECTOR_TOKEN: &str = "c0llector-canary";

static FOUND: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What else must not be seen, and what it is.
const WORDS: &[(&str, &str)] = &[
    (MASTER_KEY, "a master key"),
    (COLLECTOR_TOKEN, "the collector's token"),
    (PROMPT, "a prompt"),
    ("canary of a prompt", "a prompt"),
    ("canaryofakey", "a key"),
    ("mountains at sunrise", "a prompt"),
    ("/videos/", "a media URL"),
    (".mp4", "a media URL"),
    (".jpg", "a media URL"),
    (".png", "a media URL"),
    ("data:image", "a media URL"),
    ("data:video", "a media URL"),
    ("task_id=", "a query"),
    ("valid_for=", "a query"),
    ("bearer ", "a credential"),
    ("s3cret", "a proxy's password"),
    ("z2f0zxdhetpzm2nyzxq", "a proxy's password"),
    ("0idc-canary", "a client secret, or a code of a sign-in"),
];

/// What is in `text` that should not be.
fn secret_in(text: &str) -> Option<&'static str> {
    let lower = text.to_ascii_lowercase();
    if let Some((_, what)) = WORDS.iter().find(|(word, _)| lower.contains(word)) {
        return Some(what);
    }
    let word = |from: usize, more: &str| {
        let rest = &text[from..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !more.contains(c));
        &rest[..end.unwrap_or(rest.len())]
    };
    if text.match_indices("tg_").any(|(at, _)| PresentedKey::parse(word(at, "_")).is_some()) {
        return Some("an API key or an operator's token");
    }
    // Three parts, the first a JSON object in Base64.
    let is_jwt = |text: &str| text.len() > 60 && text.split('.').count() == 3;
    if text.match_indices("eyJ").any(|(at, _)| is_jwt(word(at, "._-"))) {
        return Some("a token of an identity provider");
    }
    let has_password = |authority: &str| {
        authority
            .split_once('@')
            .is_some_and(|(user, _)| user.split_once(':').is_some_and(|(_, p)| !p.is_empty()))
    };
    let authority = |at: usize| {
        let rest = &text[at + 3..];
        &rest[..rest.find(['/', ' ', '"', '\'', '\n']).unwrap_or(rest.len())]
    };
    if text.match_indices("://").any(|(at, _)| has_password(authority(at))) {
        return Some("a password in a URL");
    }
    None
}

/// Looks at something that was emitted.
pub fn look_at(source: &str, text: &str) {
    for line in text.lines() {
        if let Some(what) = secret_in(line) {
            FOUND.lock().unwrap().push(format!("{source} shows {what}: {line}"));
        }
    }
}

/// Fails if anything was found so far.
pub fn assert_none() {
    if thread::panicking() {
        return;
    }
    let found = std::mem::take(&mut *FOUND.lock().unwrap());
    assert!(found.is_empty(), "secrets were emitted:\n{}", found.join("\n"));
}

/// Looks at every event in this process, from now on.
pub fn watch() {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        // TOLLGATE_TEST_LOG=trace looks at what libraries say too, which takes its time.
        let level = std::env::var("TOLLGATE_TEST_LOG").unwrap_or_else(|_| "info,tollgate=trace".into());
        let log = Log { format: LogFormat::Json, level };
        tollgate::telemetry::events(&log, || Scan, false).try_init().unwrap();
    });
}

#[derive(Clone, Copy)]
struct Scan;

#[tonic::async_trait]
impl TraceService for Scan {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let mut request = request.into_inner();
        let resources = &mut request.resource_spans;
        let scopes = resources.iter_mut().flat_map(|resource| &mut resource.scope_spans);
        for span in scopes.flat_map(|scope| &mut scope.spans) {
            // Random ids and times hold every short word sooner or later.
            [&mut span.trace_id, &mut span.span_id, &mut span.parent_span_id]
                .into_iter()
                .for_each(Vec::clear);
            (span.start_time_unix_nano, span.end_time_unix_nano) = (0, 0);
            span.events.iter_mut().for_each(|event| event.time_unix_nano = 0);
            for link in &mut span.links {
                [&mut link.trace_id, &mut link.span_id].into_iter().for_each(Vec::clear);
            }
        }
        // Texts stand in Protobuf as they are.
        look_at("a span", &String::from_utf8_lossy(&request.encode_to_vec()));
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Write for Scan {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        look_at("an event", &String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A collector that looks at every span of every gateway of this process, and of the processes it starts.
pub fn collector() -> SocketAddr {
    static COLLECTOR: LazyLock<SocketAddr> = LazyLock::new(|| {
        let (ready, address) = std::sync::mpsc::channel();
        // Else it had the name of the test that is the first, and seemed to be a test that does not end.
        let named = thread::Builder::new().name("collector".into());
        let collecting = named.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
                ready.send(incoming.local_addr().unwrap()).unwrap();
                let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(Scan));
                server.serve_with_incoming(incoming).await.unwrap();
            });
        });
        collecting.unwrap();
        address.recv().unwrap()
    });
    *COLLECTOR
}

/// What makes a gateway send every span there, if it is not told otherwise.
pub fn environment() -> [(&'static str, String); 3] {
    [
        ("TOLLGATE_TELEMETRY__OTLP_ENDPOINT", format!("http://{}", collector())),
        ("TOLLGATE_TELEMETRY__PROTOCOL", "grpc".into()),
        ("TOLLGATE_TELEMETRY__SAMPLE_RATIO", "1".into()),
    ]
}

#[test]
fn secrets_are_recognised_where_they_stand() {
    let key = NewKey::generate("live").unwrap().text;
    let token = NewKey::generate_operator().text;
    let jwt = format!("eyJ{}.eyJ{}.{}", "a".repeat(20), "b".repeat(20), "c".repeat(40));
    for leak in [
        format!("{{\"message\":\"{}\"}}", key.expose()),
        format!("x={},", token.expose()),
        format!("token {jwt} refused"),
        "cannot reach postgres://tollgate:hunter2@db/x".into(),
        "authorization: Bearer abc".into(),
        format!("key \"{MASTER_KEY}\""),
        format!("prompt was {PROMPT}"),
        "GET http://vendor/videos/n75.mp4".into(),
        "GET /api/status?task_id=n75".into(),
    ] {
        assert!(secret_in(&leak).is_some(), "{leak}");
        assert!(secret_in(&format!("\u{fffd}\u{1}{leak}")).is_some(), "{leak}, among bytes");
    }
    for fine in [
        "postgres://tollgate@db/x at http://127.0.0.1:8080",
        "{\"task\":\"n75\",\"key\":\"key_0192\",\"org\":\"org_0192\"}",
        "tg_live_abc is no key",
        "eyJ alone",
    ] {
        assert_eq!(secret_in(fine), None, "{fine}");
    }
}
