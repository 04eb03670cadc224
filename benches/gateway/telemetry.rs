//! What logs, metrics and traces cost: three gateways on one database, in front of one simulator, take turns under the
//! same load. The collector and the scraper run on this machine too; the gateway's own part is its CPU time.

use std::fs::File;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use axum::routing::post;
use tokio::net::TcpListener;

use super::support::{Scratch, TOLLGATE, percentile};
use super::{Process, Stage, config, create, free_port, measure};

const TURN: Duration = Duration::from_secs(4);
const ROUNDS: usize = 9;

struct Gateway {
    name: &'static str,
    data: SocketAddr,
    /// To be scraped, if its metrics are of interest.
    scrape: Option<SocketAddr>,
    pid: u32,
    turns: Vec<[f64; 4]>,
    _process: Process,
}

impl Gateway {
    fn start(name: &'static str, stage: &Stage, scratch: &Scratch, url: &str, on: bool, more: &str) -> Self {
        let [data, admin] = [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let file = config(scratch, url, stage.simulator, data, admin, more);
        let log = File::create(scratch.path().join(format!("{}.log", data.port()))).unwrap();
        let mut command = Command::new(TOLLGATE);
        command.arg("serve").arg("--config").arg(file).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap();
        let begun = Instant::now();
        while std::net::TcpStream::connect(data).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10), "{name} does not listen");
            std::thread::yield_now();
        }
        let (pid, scrape) = (child.id(), on.then_some(admin));
        Self { name, data, scrape, pid, turns: Vec::new(), _process: Process(child) }
    }

    async fn turn(&mut self, key: &str) {
        let scraping = self.scrape.map(|admin| {
            tokio::spawn(async move {
                let client = reqwest::Client::new();
                loop {
                    let answer = client.get(format!("http://{admin}/metrics")).send().await.unwrap();
                    assert!(answer.text().await.unwrap().len() > 1000);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            })
        });
        let before = self.cpu_ms();
        let (rate, latencies) = measure(self.data, vec![create(key)], TURN).await;
        let cpu_us = (self.cpu_ms() - before) * 1e3 / latencies.len() as f64;
        if let Some(scraping) = scraping {
            scraping.abort();
        }
        self.turns.push([rate, percentile(&latencies, 0.5), percentile(&latencies, 0.99), cpu_us]);
    }

    /// User and system time so far; the kernel counts in hundredths of a second.
    fn cpu_ms(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap() * 10.0).sum()
    }

    /// Rate, p50, p99 and CPU time a create: the medians of all turns.
    fn medians(&self) -> [f64; 4] {
        std::array::from_fn(|column| {
            let mut values: Vec<f64> = self.turns.iter().map(|turn| turn[column]).collect();
            values.sort_by(f64::total_cmp);
            percentile(&values, 0.5)
        })
    }
}

pub(super) async fn run(stage: &Stage, scratch: &Scratch, url: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let collector = listener.local_addr().unwrap();
    let router = axum::Router::new().route("/v1/traces", post(async |_: bytes::Bytes| ()));
    tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
    let traces = format!("telemetry.otlp_endpoint = \"http://{collector}\"\ntelemetry.protocol = \"http\"\n");
    let all = format!("{traces}telemetry.sample_ratio = 1.0\n");
    let off = "log.level = \"error\"\n";
    let mut gateways = [
        Gateway::start("off", stage, scratch, url, false, off),
        Gateway::start("on, traces as by default", stage, scratch, url, true, &traces),
        Gateway::start("on, every trace", stage, scratch, url, true, &all),
    ];
    for gateway in &mut gateways {
        gateway.turn(&stage.key).await;
        gateway.turns.clear();
    }
    for round in 0..ROUNDS {
        for turn in 0..gateways.len() {
            gateways[(round + turn) % 3].turn(&stage.key).await;
        }
    }
    println!(
        "{:<28} {:>10} {:>8} {:>8} {:>14}",
        "creates, 64 connections", "per s", "p50 ms", "p99 ms", "CPU us/create"
    );
    let base = gateways[0].medians();
    for gateway in &gateways {
        let figures = gateway.medians();
        let [rate, p50, p99, cpu] = figures;
        let [rate_of, _, p99_of, cpu_of] = std::array::from_fn(|n| (figures[n] / base[n] - 1.0) * 100.0);
        println!(
            "{:<28} {rate:>10.0} {p50:>8.2} {p99:>8.2} {cpu:>14.0}   rate {rate_of:+.1} %, p99 {p99_of:+.1} %, CPU {cpu_of:+.1} %",
            gateway.name
        );
    }
}
