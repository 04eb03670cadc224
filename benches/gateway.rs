//! The whole path: creates and statuses through a gateway, and nginx as a plain proxy to the same simulator in the same
//! run; the latency a gateway adds; its memory; the time to a ready demo.
//!
//! `cargo bench --bench gateway`. Everything runs on this machine: load generator, gateway, Postgres, simulator, nginx
//! (if there is one on PATH or in /usr/sbin).
//!
//! `cargo bench --bench gateway -- --telemetry` measures instead what logs, metrics and traces cost;
//! `cargo bench --bench gateway -- --compare <binary> <binary>` compares two builds, which must have the same schema.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark may stop with a panic")]
#![expect(clippy::disallowed_methods, reason = "a benchmark measures on a clock of its own")]

#[path = "support.rs"]
mod support;
#[path = "gateway/telemetry.rs"]
mod telemetry;
#[path = "gateway/turns.rs"]
mod turns;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::{Scratch, TOLLGATE, percentile};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const RUN: Duration = Duration::from_secs(6);
const CONNECTIONS: usize = 64;
const BODY: &str = r#"{"type":"pro-text-to-video","prompt":"A cinematic shot of mountains at sunrise","duration":5,"aspect_ratio":"16:9"}"#;

fn main() {
    let scratch = Scratch::new("gateway");
    let args: Vec<String> = std::env::args().collect();
    let only_telemetry = args.iter().any(|arg| arg == "--telemetry");
    let builds: Vec<&String> = args.iter().skip_while(|arg| *arg != "--compare").skip(1).take(2).collect();
    let whole = !only_telemetry && builds.is_empty();
    let demo_ms = if whole { demo_ready_ms(&scratch) } else { [f64::NAN; 2] };
    let (_cluster, url) = support::postgres(&scratch);
    let stage = Stage::start(&scratch, &url);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if only_telemetry {
        runtime.block_on(telemetry::run(&stage, &scratch, &url));
    } else if let [first, second] = *builds {
        runtime.block_on(turns::builds(&stage, &scratch, &url, [first, second]));
    } else {
        runtime.block_on(run(&stage, demo_ms));
    }
    let audit = Command::new(TOLLGATE).arg("audit").env("DATABASE_URL", &url).output().unwrap();
    println!("{}", String::from_utf8_lossy(&audit.stdout).lines().last().unwrap_or("audit failed"));
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stderr));
}

/// A process that is stopped at the end.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Everything that runs beside the load generator.
struct Stage {
    gateway: SocketAddr,
    simulator: SocketAddr,
    nginx: Option<SocketAddr>,
    key: String,
    gateway_pid: u32,
    _processes: Vec<Process>,
}

impl Stage {
    fn start(scratch: &Scratch, url: &str) -> Self {
        let (simulator_port, gateway_port, admin_port, nginx_port) =
            (free_port(), free_port(), free_port(), free_port());
        let simulator: SocketAddr = ([127, 0, 0, 1], simulator_port).into();
        let gateway: SocketAddr = ([127, 0, 0, 1], gateway_port).into();
        let mut processes = Vec::new();
        let mut start = |command: &mut Command| {
            let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a process");
            let pid = child.id();
            processes.push(Process(child));
            pid
        };
        start(Command::new(TOLLGATE).args([
            "simulate",
            "--task-ms",
            "600000",
            "--listen",
            &simulator.to_string(),
        ]));
        let token = Command::new(TOLLGATE).arg("operator-token").output().unwrap().stdout;
        let token = String::from_utf8(token).unwrap().trim().to_owned();
        let admin: SocketAddr = ([127, 0, 0, 1], admin_port).into();
        let config = config(
            scratch,
            url,
            simulator,
            gateway,
            admin,
            &format!("admin.bootstrap_token = \"{token}\"\n"),
        );
        let gateway_pid = start(Command::new(TOLLGATE).arg("serve").arg("--config").arg(&config));
        let nginx = nginx(scratch, nginx_port, simulator).map(|mut command| {
            start(&mut command);
            SocketAddr::from(([127, 0, 0, 1], nginx_port))
        });
        for address in [simulator, gateway, ([127, 0, 0, 1], admin_port).into()].into_iter().chain(nginx) {
            let begun = Instant::now();
            while std::net::TcpStream::connect(address).is_err() {
                assert!(begun.elapsed() < Duration::from_secs(10), "nobody listens on {address}");
                std::thread::yield_now();
            }
        }
        let admin = |args: &[&str]| {
            let out = Command::new(TOLLGATE)
                .arg("admin")
                .arg("--json")
                .args(args)
                .env("DATABASE_URL", url)
                .env("TOLLGATE_ADMIN_URL", format!("http://127.0.0.1:{admin_port}"))
                .env("TOLLGATE_ADMIN_TOKEN", &token)
                .output()
                .unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            serde_json::from_slice::<serde_json::Value>(&out.stdout).unwrap()
        };
        let text = |value: &serde_json::Value, field: &str| value[field].as_str().unwrap().to_owned();
        let org = text(&admin(&["org", "create", "bench"]), "org_id");
        let limits = ["--create-per-minute", "--status-per-minute", "--max-open-tasks"];
        let mut args = vec!["org", "limits", &org];
        limits.iter().for_each(|limit| args.extend([*limit, "unlimited"]));
        admin(&args);
        admin(&["credit", "grant", "--org", &org, "--credits", "1000000000000", "--reason", "benchmark"]);
        let user = text(&admin(&["user", "create", "--org", &org, "--name", "bench"]), "user_id");
        let key = text(&admin(&["key", "create", "--org", &org, "--user", &user]), "api_key");
        Self { gateway, simulator, nginx, key, gateway_pid, _processes: processes }
    }
}

/// Writes a configuration, with more lines.
fn config(
    scratch: &Scratch,
    url: &str,
    simulator: SocketAddr,
    gateway: SocketAddr,
    admin: SocketAddr,
    more: &str,
) -> std::path::PathBuf {
    let file = scratch.path().join(format!("{}.toml", gateway.port()));
    let text = format!(
        "server.listen = \"{gateway}\"\nadmin.listen = \"{admin}\"\ndatabase.url = \"{url}\"\n\
         upstream.kling_3.base_url = \"http://{simulator}\"\nupstream.kling_3.master_key = \"sim-master-key\"\n{more}"
    );
    std::fs::write(&file, text).unwrap();
    file
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn nginx(scratch: &Scratch, port: u16, simulator: SocketAddr) -> Option<Command> {
    let binary =
        ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().find(|path| std::path::Path::new(path).exists())?;
    let dir = scratch.path().join("nginx");
    std::fs::create_dir_all(&dir).unwrap();
    let at = dir.display();
    let config = format!(
        "daemon off; master_process off; worker_processes 1; pid {at}/pid; error_log {at}/error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f; \
         uwsgi_temp_path {at}/u; scgi_temp_path {at}/s; keepalive_requests 100000000;\n\
         upstream sim {{ server {simulator}; keepalive 128; keepalive_requests 100000000; }}\n\
         server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://sim; proxy_http_version 1.1; \
         proxy_set_header Connection \"\"; }} }} }}\n"
    );
    let file = dir.join("nginx.conf");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(binary);
    command.arg("-p").arg(&dir).arg("-c").arg(&file);
    Some(command)
}

/// From a built binary to the line that says ready, on an empty data directory and again on the same.
fn demo_ready_ms(scratch: &Scratch) -> [f64; 2] {
    [0, 1].map(|_| {
        let begun = Instant::now();
        let mut child = Command::new(TOLLGATE)
            .args(["demo", "--json", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(scratch.path().join("demo"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("base_url"), "the demo did not start: {line}");
        let ready = begun.elapsed().as_secs_f64() * 1e3;
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(child.wait().unwrap().success());
        ready
    })
}

fn create(key: &str) -> Vec<u8> {
    format!(
        "POST /api/generate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{BODY}",
        BODY.len()
    )
    .into_bytes()
}

fn status(key: &str, task: &str) -> Vec<u8> {
    format!("GET /api/status?task_id={task} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n")
        .into_bytes()
}

async fn run(stage: &Stage, demo_ms: [f64; 2]) {
    let sim_key = "sim-master-key";
    println!("{:<40} {:>10} {:>9} {:>9}", "64 connections", "per s", "p50 ms", "p99 ms");
    let through_gateway = closed_loop("creates, gateway", stage.gateway, vec![create(&stage.key)]).await;
    let through_nginx = match stage.nginx {
        Some(nginx) => closed_loop("creates, nginx", nginx, vec![create(sim_key)]).await,
        None => f64::NAN,
    };
    let gateway_tasks = some_tasks(stage.gateway, &stage.key).await;
    let statuses = gateway_tasks.iter().map(|task| status(&stage.key, task)).collect();
    let status_gateway = closed_loop("statuses of running tasks, gateway", stage.gateway, statuses).await;
    let simulator_tasks = some_tasks(stage.simulator, sim_key).await;
    let statuses: Vec<Vec<u8>> = simulator_tasks.iter().map(|task| status(sim_key, task)).collect();
    let status_nginx = match stage.nginx {
        Some(nginx) => closed_loop("statuses of running tasks, nginx", nginx, statuses).await,
        None => f64::NAN,
    };
    println!(
        "of nginx: creates {:.2} (aim 0.15), statuses {:.2} (aim 0.6)",
        through_gateway / through_nginx,
        status_gateway / status_nginx
    );
    println!("{:<40} {:>10} {:>9} {:>9}", "100 creates a second, 10 s", "", "p50 ms", "p99 ms");
    let direct = open_loop("straight to the simulator", stage.simulator, create(sim_key)).await;
    let gated = open_loop("through the gateway", stage.gateway, create(&stage.key)).await;
    println!("added: p50 {:.2} ms (aim 2), p99 {:.2} ms (aim 10)", gated.0 - direct.0, gated.1 - direct.1);
    println!("resident memory of the gateway: {:.1} MiB", resident_mib(stage.gateway_pid));
    println!("demo ready after {:.0} ms cold, {:.0} ms warm (aims 10,000 and 3,000)", demo_ms[0], demo_ms[1]);
}

fn resident_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// As many tasks as there are connections.
async fn some_tasks(address: SocketAddr, key: &str) -> Vec<String> {
    let mut connection = Connection::open(address).await;
    let request = create(key);
    let mut tasks = Vec::new();
    for _ in 0..CONNECTIONS {
        let body = connection.exchange(&request).await.to_vec();
        let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
        tasks.push(answer["data"]["task_id"].as_str().unwrap().to_owned());
    }
    tasks
}

/// As fast as the answers come; each connection sends one of the requests over and over.
async fn closed_loop(name: &str, address: SocketAddr, requests: Vec<Vec<u8>>) -> f64 {
    let (rate, latencies) = measure(address, requests, RUN).await;
    println!(
        "{name:<40} {rate:>10.0} {:>9.2} {:>9.2}",
        percentile(&latencies, 0.5),
        percentile(&latencies, 0.99)
    );
    rate
}

/// Answers a second, and their latencies, sorted.
async fn measure(address: SocketAddr, requests: Vec<Vec<u8>>, run: Duration) -> (f64, Vec<f64>) {
    let begun = Instant::now();
    let mut connections = JoinSet::new();
    let requests = Arc::new(requests);
    for index in 0..CONNECTIONS {
        let requests = requests.clone();
        connections.spawn(async move {
            let request = &requests[index % requests.len()];
            let mut connection = Connection::open(address).await;
            let mut latencies = Vec::new();
            while begun.elapsed() < run {
                let sent = Instant::now();
                connection.exchange(request).await;
                latencies.push(sent.elapsed().as_secs_f64() * 1e3);
            }
            latencies
        });
    }
    let mut latencies = connections.join_all().await.concat();
    let rate = latencies.len() as f64 / begun.elapsed().as_secs_f64();
    latencies.sort_by(f64::total_cmp);
    (rate, latencies)
}

/// One every 10 ms, whether or not the last one is answered; latency counts from when it was due.
async fn open_loop(name: &str, address: SocketAddr, request: Vec<u8>) -> (f64, f64) {
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    let mut idle = Vec::new();
    let mut exchanges = JoinSet::new();
    let mut latencies = Vec::new();
    for _ in 0..1000 {
        let due = ticks.tick().await;
        while let Some(done) = exchanges.try_join_next() {
            let (connection, latency) = done.unwrap();
            idle.push(connection);
            latencies.push(latency);
        }
        let connection = idle.pop();
        let request = request.clone();
        exchanges.spawn(async move {
            let mut connection = match connection {
                Some(connection) => connection,
                None => Connection::open(address).await,
            };
            connection.exchange(&request).await;
            (connection, due.elapsed().as_secs_f64() * 1e3)
        });
    }
    latencies.extend(exchanges.join_all().await.into_iter().map(|(_, latency)| latency));
    latencies.sort_by(f64::total_cmp);
    let (p50, p99) = (percentile(&latencies, 0.5), percentile(&latencies, 0.99));
    println!("{name:<40} {:>10} {p50:>9.2} {p99:>9.2}", "");
    (p50, p99)
}

/// A keep-alive connection: the least a client can do, so that the generator is not what is measured.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    head: usize,
    length: usize,
}

impl Connection {
    async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::with_capacity(4096), head: 0, length: 0 }
    }

    /// Sends a request; the answer's body. Anything but a 200 stops the benchmark.
    async fn exchange(&mut self, request: &[u8]) -> &[u8] {
        self.buffer.clear();
        self.stream.write_all(request).await.unwrap();
        loop {
            let read = self.stream.read_buf(&mut self.buffer).await.unwrap();
            assert!(read > 0, "the connection was closed: {}", String::from_utf8_lossy(&self.buffer));
            let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let head = std::str::from_utf8(&self.buffer[..end]).unwrap();
            assert!(head.starts_with("HTTP/1.1 200"), "{}", String::from_utf8_lossy(&self.buffer));
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
            });
            (self.head, self.length) = (end + 4, length.expect("a content-length"));
            if self.buffer.len() >= self.head + self.length {
                return &self.buffer[self.head..self.head + self.length];
            }
        }
    }
}
