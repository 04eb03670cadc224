//! Two gateways on one database, in front of one simulator, take turns under the same load, and turns that follow each
//! other are compared: what else the machine does happens to both. A gateway's own part is its CPU time.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::support::{Scratch, percentile};
use super::{Process, Stage, config, create, free_port, measure};

const TURN: Duration = Duration::from_secs(1);
const ROUNDS: usize = 49;

/// How a gateway of the comparison is started.
pub(super) struct Setup<'a> {
    pub(super) name: &'a str,
    pub(super) binary: &'a str,
    /// Whether its metrics are scraped once a turn.
    pub(super) scraped: bool,
    /// More lines of its configuration.
    pub(super) more: &'a str,
}

struct Gateway<'a> {
    setup: Setup<'a>,
    data: SocketAddr,
    admin: SocketAddr,
    pid: u32,
    turns: Vec<[f64; 4]>,
    _process: Process,
}

impl<'a> Gateway<'a> {
    fn start(stage: &Stage, scratch: &Scratch, url: &str, setup: Setup<'a>) -> Self {
        let [data, admin] = [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let file = config(scratch, url, stage.simulator, data, admin, setup.more);
        let mut command = Command::new(setup.binary);
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
        let pid = child.id();
        Self { setup, data, admin, pid, turns: Vec::new(), _process: Process(child) }
    }

    async fn turn(&mut self, key: &str) {
        let admin = self.admin;
        let scraping = self.setup.scraped.then(|| {
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

pub(super) fn print_head() {
    println!(
        "{:<28} {:>10} {:>8} {:>8} {:>14}",
        "creates, 64 connections", "per s", "p50 ms", "p99 ms", "CPU us/create"
    );
}

/// Compares two builds, given by the paths of their binaries.
pub(super) async fn builds(stage: &Stage, scratch: &Scratch, url: &str, binaries: [&str; 2]) {
    print_head();
    let silent = "log.level = \"error\"\n";
    let setup = |name, binary| Setup { name, binary, scraped: false, more: silent };
    let [first, second] = binaries;
    compare(stage, scratch, url, [setup("the first build", first), setup("the second build", second)]).await;
}

/// Prints the figures of both gateways, and by how much those of the second differ.
pub(super) async fn compare(stage: &Stage, scratch: &Scratch, url: &str, setups: [Setup<'_>; 2]) {
    let mut pair = setups.map(|setup| Gateway::start(stage, scratch, url, setup));
    for gateway in &mut pair {
        gateway.turn(&stage.key).await;
        gateway.turns.clear();
    }
    for round in 0..ROUNDS {
        for turn in 0..2 {
            pair[(round + turn) % 2].turn(&stage.key).await;
        }
    }
    for gateway in &pair {
        let ([rate, p50, p99, cpu], name) = (gateway.medians(), gateway.setup.name);
        println!("{name:<28} {rate:>10.0} {p50:>8.2} {p99:>8.2} {cpu:>14.1}");
    }
    print!("{:<28}", "difference, %");
    let [first, second] = &pair;
    for column in 0..4 {
        let rounds = second.turns.iter().zip(&first.turns);
        let mut by: Vec<f64> =
            rounds.map(|(second, first)| (second[column] / first[column] - 1.0) * 100.0).collect();
        by.sort_by(f64::total_cmp);
        // The standard error of the median, from the middle half: how far turns differ, not how far starts do.
        let spread = percentile(&by, 0.75) - percentile(&by, 0.25);
        let error = 0.93 * spread / (by.len() as f64).sqrt();
        print!(" {:>+7.1} ±{error:.1}", percentile(&by, 0.5));
    }
    println!();
}
