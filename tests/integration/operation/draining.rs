//! What a load balancer and its clients see of a gateway that was told to stop.

use std::net::SocketAddr;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::connection::{Connection, Http};
use crate::support::database::until;
use crate::support::gateway::{MASTER_KEY, TestGateway, body};
use crate::support::process::{Process, Scratch};

/// A gateway beside the test's own.
struct Served {
    process: Process,
    data: SocketAddr,
    operations: String,
    _scratch: Scratch,
}

impl Served {
    async fn start(gateway: &TestGateway, server: &str) -> Self {
        let scratch = Scratch::new();
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n{server}\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [database]\nurl = \"{}\"\n\
             [upstream.kling_3]\nbase_url = \"http://{}\"\nmaster_key = \"{MASTER_KEY}\"\n",
            gateway.db.url(),
            gateway.simulator()
        );
        let mut process = Process::start(&["serve", "--config", &scratch.file("gateway.toml", &text)]);
        let serving = process.event("serving").await;
        let data = serving["data"].as_str().unwrap().strip_prefix("http://").unwrap().parse().unwrap();
        let operations = serving["operations"].as_str().unwrap().to_owned();
        Self { process, data, operations, _scratch: scratch }
    }

    async fn open(&self, http: Http) -> Connection {
        Connection::open(self.data, None, http).await.unwrap()
    }

    async fn readiness(&self, gateway: &TestGateway) -> (u16, Value) {
        let answer = gateway.client.get(format!("{}/readyz", self.operations)).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Tells it to stop, and waits until it says so.
    async fn drain(&self, gateway: &TestGateway) {
        assert_eq!(self.readiness(gateway).await.0, 200);
        self.process.terminate();
        let draining = (503, json!({"ready": false, "draining": true}));
        until("it says that it drains", async || self.readiness(gateway).await == draining).await;
    }
}

#[tokio::test]
async fn while_it_drains_everybody_is_served_and_sent_elsewhere() {
    let gateway = TestGateway::start().await;
    let key = gateway.caller.text.clone();
    let served = Served::start(&gateway, "drain_ms = 3600000").await;
    let (mut one, mut two) = (served.open(Http::One).await, served.open(Http::Two).await);
    for line in [&mut one, &mut two] {
        let answer = line.get("/api/credits", &key).await.unwrap();
        answer.expect(200);
        assert_eq!(answer.header("connection"), "");
    }
    gateway.fault_on_create(json!({"kind": "delay", "ms": 1000, "accept": true})).await;
    // A create under way on a connection of HTTP/2 that is told to go.
    let mut busy = served.open(Http::Two).await;
    let create = {
        let key = key.clone();
        tokio::spawn(async move {
            let answer = busy.send(Method::POST, "/api/generate", &key, &body("busy").to_string()).await;
            (answer.unwrap().task_id(), busy)
        })
    };
    until("it is with the vendor", async || gateway.upstream_creates().await.0 == 1).await;
    served.drain(&gateway).await;

    two.closed().await;
    two.ended().await;
    let (_, busy) = create.await.unwrap();
    busy.ended().await;
    let create =
        one.send(Method::POST, "/api/generate", &key, &body("on an old one").to_string()).await.unwrap();
    create.task_id();
    assert_eq!(create.header("connection"), "close");
    one.ended().await;
    for http in [Http::One, Http::Two] {
        let mut late = served.open(http).await;
        late.get("/api/credits", &key).await.unwrap().expect(200);
        late.ended().await;
    }
    // The second signal ends it although the hour is not over.
    served.process.terminate();
    assert_eq!(served.process.ended().await, 1);
}

#[tokio::test]
async fn creates_that_wait_have_the_whole_grace_period_after_it() {
    let gateway = TestGateway::start().await;
    let key = gateway.caller.text.clone();
    let served = Served::start(&gateway, "drain_ms = 1500\nshutdown_grace_ms = 3000").await;
    let waiting = |prompt: &str, mut line: Connection| {
        let (key, body) = (key.clone(), body(prompt).to_string());
        tokio::spawn(async move { line.send(Method::POST, "/api/generate", &key, &body).await.unwrap() })
    };
    // One that takes longer than a create may wait in the grace period alone, and one that the vendor never answers.
    gateway.fault_on_create(json!({"kind": "delay", "ms": 2900, "accept": true})).await;
    let slow = waiting("slow", served.open(Http::One).await);
    until("it is with the vendor", async || gateway.upstream_creates().await.0 == 1).await;
    gateway.fault_on_create(json!({"kind": "hang", "accept": true})).await;
    let hanging = waiting("hanging", served.open(Http::Two).await);
    until("so is the other", async || gateway.upstream_creates().await.0 == 2).await;
    served.drain(&gateway).await;
    slow.await.unwrap().task_id();
    let reference = hanging.await.unwrap().reference();
    assert_eq!(served.process.ended().await, 0);
    let hold = gateway.last_hold().await;
    assert_eq!((hold.state.as_str(), hold.reference()), ("IN_DOUBT", reference));
}
