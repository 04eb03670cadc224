//! The simulator over real sockets.

mod api;
mod books;
mod faults;
mod lies;

use std::borrow::Borrow;
use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Simulator, SimulatorConfig, SimulatorError};

/// A running simulator and a client for it.
struct Rig {
    address: SocketAddr,
    client: reqwest::Client,
    stop: CancellationToken,
    run: JoinHandle<Result<(), SimulatorError>>,
}

const KEY: &str = "sim-master-key";

/// Tasks of this configuration end when they begin.
fn instant() -> SimulatorConfig {
    SimulatorConfig { task_time: Duration::ZERO, task_jitter: Duration::ZERO, ..SimulatorConfig::default() }
}

/// Tasks of this configuration never end.
fn endless() -> SimulatorConfig {
    SimulatorConfig { task_time: Duration::MAX, ..instant() }
}

fn body(prompt: &str) -> Value {
    json!({"type": "pro-text-to-video", "prompt": prompt, "duration": 5})
}

impl Rig {
    async fn start(config: SimulatorConfig) -> Rig {
        let simulator = Simulator::bind(SocketAddr::from(([127, 0, 0, 1], 0)), config).await.unwrap();
        let address = simulator.local_addr();
        let stop = CancellationToken::new();
        let run = TaskTracker::new().spawn(simulator.run(stop.clone().cancelled_owned()));
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Rig { address, client, stop, run }
    }

    /// A rig whose script has this one rule.
    async fn with_rule(config: SimulatorConfig, rule: Value) -> Rig {
        let rig = Rig::start(config).await;
        rig.script(json!({ "rules": [rule] })).await;
        rig
    }

    async fn stop(self) {
        self.stop.cancel();
        self.run.await.unwrap().unwrap();
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        self.client.get(self.url(path)).bearer_auth(KEY).send().await.unwrap()
    }

    async fn get_json(&self, path: &str) -> Value {
        self.get(path).await.json().await.unwrap()
    }

    async fn send_create(&self, body: impl Borrow<Value>) -> reqwest::Result<reqwest::Response> {
        self.client.post(self.url("/api/generate")).bearer_auth(KEY).json(body.borrow()).send().await
    }

    /// Status and body of a create.
    async fn create(&self, body: impl Borrow<Value>) -> (StatusCode, Value) {
        let response = self.send_create(body).await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    /// The id of a create that must succeed.
    async fn task(&self, prompt: &str) -> String {
        let (status, answer) = self.create(&body(prompt)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["data"]["task_id"].as_str().unwrap().to_owned()
    }

    async fn send_status(&self, task_id: &str) -> reqwest::Result<reqwest::Response> {
        let url = self.url(&format!("/api/status?task_id={task_id}"));
        self.client.get(url).bearer_auth(KEY).send().await
    }

    /// `data` of a status call that must succeed.
    async fn status(&self, task_id: &str) -> Value {
        let response = self.send_status(task_id).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.json::<Value>().await.unwrap()["data"].clone()
    }

    async fn script(&self, script: Value) -> Value {
        let response = self.client.post(self.url("/_sim/script")).json(&script).send().await.unwrap();
        let status = response.status();
        let answer: Value = response.json().await.unwrap();
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    /// The books of the usual key.
    async fn account(&self) -> Value {
        self.get_json(&format!("/_sim/books?account={KEY}")).await["accounts"][0].clone()
    }

    /// Consumed credits and number of tasks of the usual key.
    async fn totals(&self) -> (i64, usize) {
        let account = self.account().await;
        (account["consumed"].as_i64().unwrap(), account["tasks"].as_array().unwrap().len())
    }

    /// Everything that arrives for one raw create until the connection ends.
    async fn raw_create(&self, prompt: &str) -> String {
        let body = body(prompt).to_string();
        self.raw(&format!(
            "POST /api/generate HTTP/1.1\r\nhost: sim\r\nauthorization: Bearer {KEY}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await
    }

    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        within(stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8(answer).unwrap()
    }
}

/// Fails instead of hanging.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("still waiting after 20 s")
}

/// Asks again until the answer is yes.
async fn eventually(mut condition: impl AsyncFnMut() -> bool) {
    within(async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
