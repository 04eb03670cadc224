//! A gateway that is a process of its own: nobody else moves its metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tollgate::ids::{OrgId, UserId};
use tollgate::simulator::{Simulator, SimulatorConfig};
use tollgate::store::{KeySpec, OperatorRole};

use crate::support::database::TestDatabase;
use crate::support::fixture::credits;
use crate::support::gateway::{Answer, MASTER_KEY};
use crate::support::http;
use crate::support::process::{Process, Scratch};
use crate::support::seed::{TOP_UP, org_named, user_named};

/// What a scrape said: each series with its value.
#[derive(Debug)]
pub struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(
            lines
                .map(|line| {
                    let (series, value) = line.rsplit_once(' ').unwrap();
                    (series.to_owned(), value.parse().unwrap())
                })
                .collect(),
        )
    }

    /// The value of a series, which must be there.
    #[track_caller]
    pub fn value(&self, series: &str) -> f64 {
        *self.0.get(series).unwrap_or_else(|| panic!("{series} is not among {:#?}", self.0.keys()))
    }

    /// The value of a series that a job may not have shown yet.
    pub fn shown(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }

    /// All of them.
    pub fn series(&self) -> BTreeSet<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// The names of all metrics, each with its labels; a histogram is one.
    pub fn labels(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut all = BTreeMap::<&str, BTreeSet<&str>>::new();
        for series in self.0.keys() {
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let parts = ["_bucket", "_sum", "_count"];
            let name = parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
            // No value of ours has such a thing in it.
            let names = labels.split("\",").filter_map(|label| label.split_once("=\"")).map(|(name, _)| name);
            all.entry(name).or_default().extend(names.filter(|name| *name != "le"));
        }
        all
    }
}

pub struct Watched {
    process: Process,
    /// Read to its end: a gateway would wait for whoever does not read.
    log: JoinHandle<String>,
    pub data: String,
    pub operations: String,
    pub client: Client,
    _scratch: Scratch,
}

impl Watched {
    /// One on this database, in front of this vendor, with quick rounds of what is done by the way.
    pub async fn start(db: &TestDatabase, vendor: SocketAddr, more: &str) -> Self {
        let quick = "[reconciler]\ninterval_ms = 50\ntick_ms = 100\n";
        Self::configured(db, vendor, &format!("{quick}{more}")).await
    }

    /// One that does little beside what it is asked.
    pub async fn configured(db: &TestDatabase, vendor: SocketAddr, more: &str) -> Self {
        let config = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[database]\nurl = \"{}\"\n\
             [upstream.kling_3]\nbase_url = \"http://{vendor}\"\nmaster_key = \"{MASTER_KEY}\"\n{more}",
            db.url(),
        );
        let scratch = Scratch::new();
        let mut process = Process::start(&["serve", "--config", &scratch.file("gateway.toml", &config)]);
        let serving = process.next_event("serving").await;
        let [data, operations] =
            ["data", "operations"].map(|name| serving[name].as_str().unwrap().to_owned());
        let log = process.rest_of_log();
        Self { process, log, data, operations, client: http::client(), _scratch: scratch }
    }

    pub async fn scrape(&self) -> Scrape {
        let answer = self.client.get(format!("{}/metrics", self.operations)).send().await.unwrap();
        Scrape::parse(&answer.text().await.unwrap())
    }

    pub fn call(&self, method: Method, path: &str, key: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.data)).bearer_auth(key)
    }

    pub async fn create(&self, key: &str, body: &Value) -> Answer {
        Answer::to(self.call(Method::POST, "/api/generate", key).body(body.to_string())).await
    }

    pub async fn status(&self, key: &str, task: &str) -> Answer {
        Answer::to(self.call(Method::GET, &format!("/api/status?task_id={task}"), key)).await
    }

    /// A call of a new operator.
    pub async fn manage(&self, db: &TestDatabase, method: Method, path: &str, body: Value) -> Value {
        let answer = self.managed(db, method, path, body).await;
        assert!(answer.status().is_success(), "{answer:?}");
        answer.json().await.unwrap()
    }

    /// What an operator is answered.
    pub async fn managed(&self, db: &TestDatabase, method: Method, path: &str, body: Value) -> Response {
        let token = db.database().create_operator_token("a test", OperatorRole::Operator, None);
        let token = token.await.unwrap().1;
        let call = self.client.request(method, format!("{}{path}", self.operations));
        call.bearer_auth(token.expose()).json(&body).send().await.unwrap()
    }

    /// Stops it; it must have finished everything. What it logged.
    pub async fn stop(self) -> String {
        self.process.terminate();
        assert_eq!(self.process.ended().await, 0);
        self.log.await.unwrap()
    }
}

/// The simulated vendor.
pub struct Vendor {
    pub address: SocketAddr,
    stop: CancellationToken,
}

impl Vendor {
    pub async fn start(task_ms: u64) -> Self {
        let settings = SimulatorConfig {
            master_keys: vec![MASTER_KEY.to_owned()],
            task_time: Duration::from_millis(task_ms),
            task_jitter: Duration::ZERO,
            ..SimulatorConfig::default()
        };
        let simulator = Simulator::bind(SocketAddr::from(([127, 0, 0, 1], 0)), settings).await.unwrap();
        let (address, stop) = (simulator.local_addr(), CancellationToken::new());
        TaskTracker::new().spawn(simulator.run(stop.clone().cancelled_owned()));
        Self { address, stop }
    }

    pub async fn script(&self, script: Value) {
        let url = format!("http://{}/_sim/script", self.address);
        let answer = http::client().post(url).json(&script).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{}", answer.text().await.unwrap());
    }
}

impl Drop for Vendor {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A key of a new organisation with so many credits.
pub async fn key(db: &TestDatabase, name: &str, amount: i64) -> (OrgId, UserId, String) {
    let database = db.database();
    let org = database.add_org(&org_named(name)).await.unwrap();
    if amount > 0 {
        database.grant(org, credits(amount), None, TOP_UP, None).await.unwrap();
    }
    let user = database.add_user(org, &user_named("a user")).await.unwrap();
    let spec = KeySpec { name: "a key".into(), env: "test".into(), ..KeySpec::default() };
    let (_, text) = database.create_key(org, user, &spec).await.unwrap();
    (org, user, text.expose().to_owned())
}
