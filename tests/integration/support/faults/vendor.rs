//! The simulated vendor and its books.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tollgate::simulator::{Simulator, SimulatorConfig};

use crate::support::gateway::MASTER_KEY;
use crate::support::http;

/// Stops when it is dropped.
pub struct Vendor {
    address: SocketAddr,
    client: Client,
    stop: CancellationToken,
}

/// A task in the vendor's books.
#[derive(Debug, Clone, Deserialize)]
pub struct VendorTask {
    pub task_id: String,
    pub consumed_credits: i64,
    pub prompt: String,
}

impl Vendor {
    /// Its tasks take so long, and up to half as long again.
    pub async fn start(task_time: Duration) -> Self {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = SimulatorConfig { task_time, task_jitter: task_time / 2, ..SimulatorConfig::default() };
        let simulator = Simulator::bind(any_port, config).await.unwrap();
        let (address, stop) = (simulator.local_addr(), CancellationToken::new());
        tokio::spawn(simulator.run(stop.clone().cancelled_owned()));
        Self { address, client: http::client(), stop }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From here on it misbehaves like this.
    pub async fn script(&self, rules: Value) {
        let url = format!("{}/_sim/script", self.url());
        let answer = self.client.post(url).json(&json!({"rules": rules})).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{}", answer.text().await.unwrap());
    }

    /// From here on it behaves.
    pub async fn behave(&self) {
        self.script(json!([])).await;
    }

    async fn account(&self, more: &str) -> Value {
        let url = format!("{}/_sim/books?account={MASTER_KEY}{more}", self.url());
        let mut books: Value = self.client.get(url).send().await.unwrap().json().await.unwrap();
        books["accounts"][0].take()
    }

    /// How many creates have reached it.
    pub async fn creates_received(&self) -> u64 {
        self.account("&summary=true").await["creates_received"].as_u64().unwrap()
    }

    /// Every task it ever took.
    pub async fn tasks(&self) -> Vec<VendorTask> {
        serde_json::from_value(self.account("").await["tasks"].take()).unwrap()
    }

    /// The task made from this prompt.
    pub async fn task_of(&self, prompt: &str) -> Option<VendorTask> {
        self.tasks().await.into_iter().find(|task| task.prompt == prompt)
    }
}

impl Drop for Vendor {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
