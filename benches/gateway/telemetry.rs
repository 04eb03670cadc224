//! What logs, metrics and traces cost, each alone and all of them: of two gateways on one database, in front of one
//! simulator, one says nothing; they take turns under the same load, and turns that follow each other are compared. The
//! collector and the scraper run on this machine too; the gateway's own part is its CPU time.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use axum::routing::post;
use tokio::net::TcpListener;

use super::support::{Scratch, TOLLGATE, percentile};
use super::{Process, Stage, config, create, free_port, measure};

const TURN: Duration = Duration::from_secs(1);
const ROUNDS: usize = 49;

struct Gateway {
    data: SocketAddr,
    /// To be scraped, if its metrics are of interest.
    scrape: Option<SocketAddr>,
    pid: u32,
    turns: Vec<[f64; 4]>,
    _process: Process,
}

impl Gateway {
    fn start(stage: &Stage, scratch: &Scratch, url: &str, scraped: bool, more: &str) -> Self {
        let [data, admin] = [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let file = config(scratch, url, stage.simulator, data, admin, more);
        let mut command = Command::new(TOLLGATE);
        command.arg("serve").arg("--config").arg(file).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // As a container's runtime does, but for keeping what it reads: a file would share the database's disk.
        let mut log = child.stderr.take().unwrap();
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let begun = Instant::now();
        while std::net::TcpStream::connect(data).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10), "the gateway does not listen");
            std::thread::yield_now();
        }
        let (pid, scrape) = (child.id(), scraped.then_some(admin));
        Self { data, scrape, pid, turns: Vec::new(), _process: Process(child) }
    }

    async fn turn(&mut self, key: &str) {
        let scraping = self.scrape.map(|admin| {
            tokio::spawn(async move {
                // Once a turn, which is fifteen times as often as the Prometheus of `deploy` does.
                let answer = reqwest::get(format!("http://{admin}/metrics")).await.unwrap();
                assert!(answer.text().await.unwrap().len() > 1000);
            })
        });
        let before = self.cpu_ms();
        let (rate, latencies) = measure(self.data, vec![create(key)], TURN).await;
        let cpu_us = (self.cpu_ms() - before) * 1e3 / latencies.len() as f64;
        if let Some(scraping) = scraping {
            scraping.await.unwrap();
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
        std::array::from_fn(|column| median(self.turns.iter().map(|turn| turn[column])))
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    percentile(&values, 0.5)
}

pub(super) async fn run(stage: &Stage, scratch: &Scratch, url: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let collector = listener.local_addr().unwrap();
    let router = axum::Router::new().route("/v1/traces", post(async |_: bytes::Bytes| ()));
    tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
    let traces = format!("telemetry.otlp_endpoint = \"http://{collector}\"\ntelemetry.protocol = \"http\"\n");
    let every = format!("{traces}telemetry.sample_ratio = 1.0\n");
    let silent = "log.level = \"error\"\n";
    println!(
        "{:<28} {:>10} {:>8} {:>8} {:>14}",
        "creates, 64 connections", "per s", "p50 ms", "p99 ms", "CPU us/create"
    );
    for (name, scraped, more) in [
        ("all of them", true, traces.as_str()),
        ("logs alone", false, ""),
        ("scrapes alone", true, silent),
        ("traces as by default alone", false, &format!("{silent}{traces}")),
        ("all, and every trace", true, &every),
    ] {
        let start = |scraped, more| Gateway::start(stage, scratch, url, scraped, more);
        let mut pair = [start(false, silent), start(scraped, more)];
        for gateway in &mut pair {
            gateway.turn(&stage.key).await;
            gateway.turns.clear();
        }
        for round in 0..ROUNDS {
            for turn in 0..2 {
                pair[(round + turn) % 2].turn(&stage.key).await;
            }
        }
        let [off, on] = &pair;
        for (name, gateway) in [("off", off), (name, on)] {
            let [rate, p50, p99, cpu] = gateway.medians();
            println!("{name:<28} {rate:>10.0} {p50:>8.2} {p99:>8.2} {cpu:>14.1}");
        }
        print!("{:<28}", "difference, %");
        for column in 0..4 {
            let rounds = on.turns.iter().zip(&off.turns);
            let mut by: Vec<f64> = rounds.map(|(on, off)| (on[column] / off[column] - 1.0) * 100.0).collect();
            by.sort_by(f64::total_cmp);
            // The standard error of the median, from the middle half: how far turns differ, not how far starts do.
            let spread = percentile(&by, 0.75) - percentile(&by, 0.25);
            let error = 0.93 * spread / (by.len() as f64).sqrt();
            print!(" {:>+7.1} ±{error:.1}", percentile(&by, 0.5));
        }
        println!();
    }
}
