//! TLS by the gateway itself, and certificates that change while it runs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{CertificateParams, KeyPair};
use reqwest::Method;
use rustls::SupportedProtocolVersion;
use rustls::pki_types::CertificateDer;
use serde_json::json;
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::connection::{Connection, Http, Trust};
use crate::support::database::{PATIENCE, until};
use crate::support::gateway::{MASTER_KEY, TestGateway, body};
use crate::support::process::{Process, Scratch, run};

/// A certificate for `localhost`, signed by its own key.
struct Pair {
    certificate: CertificateDer<'static>,
    pem: String,
    key: String,
    ends: OffsetDateTime,
}

impl Pair {
    fn new(days: i64) -> Self {
        let ends = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap() + Duration::days(days);
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.not_after = ends;
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), certificate: certificate.into(), key: key.serialize_pem(), ends }
    }
}

/// The two files, and what a gateway is told of them.
struct Files {
    scratch: Scratch,
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn new(pair: &Pair) -> Self {
        let scratch = Scratch::new();
        let (certificate, key) = (scratch.0.join("tls.crt"), scratch.0.join("tls.key"));
        let files = Self { scratch, certificate, key };
        files.write(&pair.pem, &pair.key);
        files
    }

    /// Each file is replaced at once, as whoever renews certificates does it.
    fn write(&self, certificate: &str, key: &str) {
        for (path, text) in [(&self.certificate, certificate), (&self.key, key)] {
            let new = self.scratch.0.join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, path).unwrap();
        }
    }

    /// The configuration of a gateway beside the test's own, with TLS on both listeners.
    fn config(&self, gateway: &TestGateway, server: &str) -> String {
        let tls = format!("tls = {{ certificate_file = {:?}, key_file = {:?} }}", self.certificate, self.key);
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n{tls}\n{server}\n[admin]\nlisten = \"127.0.0.1:0\"\n{tls}\n\
             [database]\nurl = \"{}\"\n\
             [upstream.kling_3]\nbase_url = \"http://{}\"\nmaster_key = \"{MASTER_KEY}\"\n\
             [limits]\norg_create_per_minute = 0\norg_status_per_minute = 0\nmax_open_tasks = 0\nmax_exposure_per_day = 0\n\
             [log]\nlevel = \"warn,tollgate::cli=info\"\n",
            gateway.db.url(),
            gateway.simulator()
        );
        self.scratch.file("gateway.toml", &text)
    }
}

/// A gateway as a process of its own: its metrics are nobody else's.
struct Served {
    process: Process,
    data: SocketAddr,
    operations: SocketAddr,
}

impl Served {
    async fn start(config: &str) -> Self {
        let mut process = Process::start(&["serve", "--config", config]);
        let serving = process.next_event("serving").await;
        let address = |name: &str| serving[name].as_str().unwrap().strip_prefix("https://").unwrap().parse();
        Self { process, data: address("data").unwrap(), operations: address("operations").unwrap() }
    }

    /// The value of a metric, read through TLS.
    async fn metric(&self, trust: &Trust, series: &str) -> f64 {
        let mut line = Connection::open(self.operations, Some(trust), Http::One).await.unwrap();
        let text = line.get_text("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.unwrap_or_else(|| panic!("{series} is missing: {text}")).trim().parse().unwrap()
    }

    async fn stop(self) {
        self.process.terminate();
        assert_eq!(self.process.ended().await, 0);
    }
}

/// For what takes a second.
const FAILURES: &str = "tollgate_tls_handshake_failures_total{listener=\"data\"}";
const EXPIRY: &str = "tollgate_tls_certificate_expiry_timestamp_seconds{listener=\"data\"}";
const TAKEN: &str = "tollgate_tls_reloads_total{listener=\"data\",outcome=\"ok\"}";
const REFUSED: &str = "tollgate_tls_reloads_total{listener=\"data\",outcome=\"failed\"}";

const VERSIONS: [&[&SupportedProtocolVersion]; 2] = [&[&rustls::version::TLS13], &[&rustls::version::TLS12]];

/// A close_notify after the request says that no more is written, and not that nobody reads.
#[tokio::test]
async fn a_client_that_closes_its_side_of_a_tls_connection_gets_its_answer() {
    let gateway = TestGateway::start().await;
    gateway.fault_on_create(json!({"kind": "delay", "ms": 1500, "accept": true})).await;
    let pair = Pair::new(30);
    let files = Files::new(&pair);
    let served = Served::start(&files.config(&gateway, "")).await;
    let mut trust = Trust::of(std::slice::from_ref(&pair.certificate));
    for versions in VERSIONS {
        trust.versions = versions;
        let mut stream = trust.connect(served.data).await;
        let (key, body) = (&gateway.caller.text, body(&format!("{versions:?}")).to_string());
        let request = format!(
            "POST /api/generate HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("task_id"), "{answer}");
    }
    assert_eq!(gateway.upstream_creates().await, (2, 2));
    served.stop().await;
}

#[tokio::test]
async fn creates_and_the_management_go_over_tls() {
    let gateway = TestGateway::start().await;
    let pair = Pair::new(30);
    let files = Files::new(&pair);
    let served = Served::start(&files.config(&gateway, "")).await;
    let mut trust = Trust::of(std::slice::from_ref(&pair.certificate));
    let key = &gateway.caller.text;
    for versions in VERSIONS {
        trust.versions = versions;
        for http in [Http::One, Http::Two] {
            let mut line = Connection::open(served.data, Some(&trust), http).await.unwrap();
            let prompt = body(&format!("{versions:?} {http:?}")).to_string();
            let task = line.send(Method::POST, "/api/generate", key, &prompt).await.unwrap().task_id();
            let status = line.get(&format!("/api/status?task_id={task}"), key).await.unwrap();
            assert_eq!(status.data()["task_id"], task.as_str());
        }
    }
    assert_eq!(served.metric(&trust, EXPIRY).await, pair.ends.unix_timestamp() as f64);
    assert_eq!(served.metric(&trust, FAILURES).await, 0.0);

    // The certificate need not name the address that a health check asks.
    let at = format!("[admin]\nlisten = \"{}\"", served.operations);
    let here = std::fs::read_to_string(files.config(&gateway, "")).unwrap();
    let here = here.replace("[admin]\nlisten = \"127.0.0.1:0\"", &at);
    let here = files.scratch.file("health.toml", &here);
    let said = run(&["healthcheck", "--ready", "--config", &here]).await;
    assert_eq!(said.code, 0, "{said:?}");

    // Whoever only looks whether somebody listens is no failure, whoever speaks plain HTTP is one.
    drop(TcpStream::connect(served.data).await.unwrap());
    let mut plain = TcpStream::connect(served.data).await.unwrap();
    plain.write_all(b"GET /api/credits HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    // Closed, after an alert at most.
    drop(plain.read_to_end(&mut said).await);
    assert!(said.len() < 10 && !said.starts_with(b"HTTP"), "{said:?}");
    until("it is counted", async || served.metric(&trust, FAILURES).await == 1.0).await;

    let (url, token) = (format!("https://{}", served.operations), gateway.operator_token().await);
    let me = ["admin", "--url", &url, "--token", &token, "--json", "me"];
    let trusting = [&me[..], &["--ca-file", files.certificate.to_str().unwrap()]].concat();
    assert_eq!(run(&trusting).await.json()["role"], "operator");
    let said = run(&me).await;
    assert!(said.code == 3 && said.err.contains("certificate"), "a stranger's certificate: {said:?}");
    let said = run(&[&me[..], &["--ca-file", files.key.to_str().unwrap()]].concat()).await;
    assert!(said.code == 2 && said.err.contains("--ca-file"), "{said:?}");
    served.stop().await;
}

#[tokio::test]
async fn a_new_certificate_is_taken_while_requests_run() {
    let gateway = TestGateway::start().await;
    let (first, second) = (Pair::new(30), Pair::new(60));
    let files = Files::new(&first);
    let mut served = Served::start(&files.config(&gateway, "")).await;
    let trust = Arc::new(Trust::of(&[first.certificate.clone(), second.certificate.clone()]));
    let (data, key) = (served.data, gateway.caller.text.clone());
    let shown = async || Connection::open(data, Some(&trust), Http::One).await.unwrap().certificate.unwrap();
    assert_eq!(shown().await, first.certificate);

    // Callers that stay on their connection, and callers that make a new one for each request.
    let (enough, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers = [(Http::One, true), (Http::Two, true), (Http::One, false), (Http::Two, false)];
    let callers = callers.map(|(http, stays)| {
        let (trust, key, enough, answered) = (trust.clone(), key.clone(), enough.clone(), answered.clone());
        tokio::spawn(async move {
            let mut line = Connection::open(data, Some(&trust), http).await.unwrap();
            while !enough.load(Ordering::Relaxed) {
                if !stays {
                    line = Connection::open(data, Some(&trust), http).await.unwrap();
                }
                line.get("/api/credits", &key).await.unwrap().expect(200);
                answered.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    files.write(&second.pem, &second.key);
    until("the new one is shown", async || shown().await == second.certificate).await;
    let ends = second.ends.unix_timestamp() as f64;
    assert_eq!(served.metric(&trust, EXPIRY).await, ends);
    let so_far = answered.load(Ordering::Relaxed);
    until("all go on", async || answered.load(Ordering::Relaxed) > so_far + 100).await;
    // Between the two files a look may have found a pair that was none.
    let refused = served.metric(&trust, REFUSED).await;
    assert_eq!(served.metric(&trust, TAKEN).await, 1.0);

    // A key that is not this certificate's; told at once by a signal, which ends nothing.
    files.write(&first.pem, &second.key);
    kill(Pid::from_raw(served.process.id().cast_signed()), Signal::SIGHUP).unwrap();
    until("it is noticed", async || served.metric(&trust, REFUSED).await > refused).await;
    let warning = served.process.next_event_of(|event| event["level"] == "WARN").await;
    let told = warning["error"].as_str().unwrap();
    assert!(told.contains("tls.key is not the key of") && !told.contains("PRIVATE"), "{warning}");
    assert_eq!(shown().await, second.certificate);
    assert_eq!(served.metric(&trust, EXPIRY).await, ends);

    files.write(&first.pem, &first.key);
    until("the first one is shown again", async || shown().await == first.certificate).await;
    enough.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(served.metric(&trust, FAILURES).await, 0.0);
    served.stop().await;
}

#[tokio::test]
async fn a_slow_handshake_holds_up_nobody_and_ends() {
    let gateway = TestGateway::start().await;
    let pair = Pair::new(30);
    let files = Files::new(&pair);
    let trust = Trust::of(&[pair.certificate]);
    // A machine may be so busy that the slow ones have been ended before anybody else was served: then they get longer.
    let mut patience = 1000;
    while !slow_handshakes_hold_up_nobody(&gateway, &files, &trust, patience).await {
        patience *= 4;
    }
}

/// False: the slow ones were not there any more while the others were served.
async fn slow_handshakes_hold_up_nobody(
    gateway: &TestGateway,
    files: &Files,
    trust: &Trust,
    patience_ms: u32,
) -> bool {
    let served = Served::start(&files.config(gateway, &format!("header_timeout_ms = {patience_ms}"))).await;
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(served.data).await.unwrap();
        // The beginning of a greeting that would be 512 bytes long.
        stream.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
        slow.push(stream);
    }
    // And one that greets, agrees on HTTP/2, and says nothing.
    let silent = Connection::open(served.data, Some(trust), Http::Two).await.unwrap();
    // One that says something and then no more, and one that says nothing at all.
    let mut idle = Connection::open(served.data, Some(trust), Http::Two).await.unwrap();
    idle.send(Method::GET, "/api/credits", &gateway.caller.text, "").await.unwrap().expect(200);
    let mut early = TcpStream::connect(served.data).await.unwrap();
    let mut line = Connection::open(served.data, Some(trust), Http::One).await.unwrap();
    let prompt = body("quick").to_string();
    line.send(Method::POST, "/api/generate", &gateway.caller.text, &prompt).await.unwrap().expect(200);
    if served.metric(trust, FAILURES).await > 0.0 {
        served.stop().await;
        return false;
    }
    let ended = tokio::time::timeout(PATIENCE, early.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "it is still waited for");
    idle.closed().await;
    for mut stream in slow {
        let mut said = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await;
        assert!(ended.is_ok(), "it is still listened to");
    }
    silent.closed().await;
    assert_eq!(served.metric(trust, FAILURES).await, 50.0);
    served.stop().await;
    true
}

#[tokio::test]
async fn a_pair_that_is_none_is_refused_at_the_start() {
    let gateway = TestGateway::start().await;
    let (pair, other) = (Pair::new(30), Pair::new(30));
    let files = Files::new(&pair);
    let config = files.config(&gateway, "");
    for (certificate, key, expected) in [
        (&pair.pem, &other.key, "tls.key is not the key of"),
        (&pair.key, &pair.key, "tls.crt: there is no certificate in it (PEM)"),
        (&pair.pem, &pair.pem, "tls.key: there is no private key in it (PEM)"),
        (&String::new(), &pair.key, "tls.crt: there is no certificate in it (PEM)"),
        (&pair.pem.replace('M', "N"), &pair.key, "tls.crt"),
    ] {
        files.write(certificate, key);
        for command in [&["serve"][..], &["config", "check"]] {
            let said = run(&[command, &["--config", &config]].concat()).await;
            assert_eq!(said.code, 2, "{said:?}");
            assert!(said.err.contains("server.tls: ") && said.err.contains(expected), "{said:?}");
            assert!(!said.err.contains("-----BEGIN"), "{said:?}");
        }
    }
    std::fs::remove_file(&files.key).unwrap();
    let said = run(&["config", "check", "--config", &config]).await;
    assert!(said.code == 2 && said.err.contains("tls.key: cannot be read"), "{said:?}");
    files.write(&pair.pem, &pair.key);
    assert_eq!(run(&["config", "check", "--config", &config]).await.code, 0);
}
