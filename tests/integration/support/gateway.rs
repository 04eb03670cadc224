//! A whole gateway for one test: a database, the simulated vendor, the application, one organisation with a key.
//!
//! It runs on threads of its own. Dropping it stops it as SIGTERM would, compares the vendor's books with ours, task by
//! task, and audits the ledger.

mod answer;
mod books;
mod builder;
mod raw;

use std::net::SocketAddr;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio_util::sync::CancellationToken;
use tollgate::credits::Credits;
use tollgate::ids::{KeyId, OrgId, UserId};
use tollgate::store::{KeySpec, OperatorRole};

pub use self::answer::Answer;
pub use self::books::Hold;
use self::books::{Closing, account};
use self::builder::{Addresses, Builder};
pub use self::raw::{RawClient, closed_port, stub_upstream};
use super::database::TestDatabase;
use super::leaks::{self, PROMPT};
use super::process::{Said, run};
use crate::support::seed::{TOP_UP, admin_named, org_named, user_named};

pub const MASTER_KEY: &str = "sim-master-key";

/// Longer than any test takes.
pub const ENDLESS: Duration = Duration::from_secs(86_400);

/// A caller: a key and whose it is.
#[derive(Debug, Clone)]
pub struct Caller {
    pub org: OrgId,
    pub user: UserId,
    pub key: KeyId,
    pub text: String,
}

pub struct TestGateway {
    thread: Option<JoinHandle<Closing>>,
    stop: CancellationToken,
    addresses: Addresses,
    expected_difference: i64,
    pub client: Client,
    pub caller: Caller,
    // Audits its ledger when it is dropped, which must come last.
    pub db: TestDatabase,
}

async fn caller(db: &TestDatabase, credits: i64) -> Caller {
    let org = db.database().add_org(&org_named("a customer")).await.unwrap();
    if credits > 0 {
        db.database().grant(org, Credits::new(credits), None, TOP_UP, None).await.unwrap();
    }
    let user = db.database().add_user(org, &user_named("a user")).await.unwrap();
    key_of(db, org, user, KeySpec::default()).await
}

async fn key_of(db: &TestDatabase, org: OrgId, user: UserId, spec: KeySpec) -> Caller {
    let spec = KeySpec { name: "a key".into(), env: "test".into(), ..spec };
    let (key, text) = db.database().create_key(org, user, &spec).await.unwrap();
    Caller { org, user, key, text: text.expose().to_owned() }
}

/// A valid create of 400 credits.
pub fn body(prompt: &str) -> Value {
    json!({"type": "pro-text-to-video", "prompt": format!("{prompt} {PROMPT}"), "duration": 5})
}

/// Calls until the answer is another than that there is no time for it now, which has changed nothing.
pub async fn judged(mut call: impl AsyncFnMut() -> Answer) -> Answer {
    let mut last = None;
    super::database::until("the call is judged", async || {
        let answer = call().await;
        let judged = answer.status != 503;
        last = Some(answer);
        judged
    })
    .await;
    last.unwrap()
}

impl TestGateway {
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// A gateway with a million credits whose tasks take 50 ms.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// The simulated vendor was told to lie: its books say so many credits more than ours.
    pub fn expect_difference(&mut self, difference: i64) {
        self.expected_difference = difference;
    }

    pub fn address(&self) -> SocketAddr {
        self.addresses.data
    }

    pub fn simulator(&self) -> SocketAddr {
        self.addresses.simulator
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses.data)
    }

    pub fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses.admin)
    }

    /// The token of a new operator.
    pub async fn operator_token(&self) -> String {
        let made = self.db.database().create_operator_token("a test", OperatorRole::Operator, None);
        made.await.unwrap().1.expose().to_owned()
    }

    /// What `tollgate admin` says to an operator.
    pub async fn admin_says(&self, args: &[&str]) -> Said {
        self.admin_says_as(&self.operator_token().await, args).await
    }

    /// What `tollgate admin` says to whoever has this token.
    pub async fn admin_says_as(&self, token: &str, args: &[&str]) -> Said {
        let url = self.admin_url("");
        run(&[&["admin", "--url", &url, "--token", token], args].concat()).await
    }

    /// Another key of the caller's user.
    pub async fn another_key(&self, spec: KeySpec) -> Caller {
        key_of(&self.db, self.caller.org, self.caller.user, spec).await
    }

    /// A key of another user of the caller's organisation.
    pub async fn another_user(&self, name: &str, role: &str) -> Caller {
        let user = self
            .db
            .database()
            .add_user(self.caller.org, &if role == "admin" { admin_named(name) } else { user_named(name) })
            .await
            .unwrap();
        key_of(&self.db, self.caller.org, user, KeySpec::default()).await
    }

    /// A key of another organisation with as many credits.
    pub async fn another_org(&self, name: &str, credits: i64) -> Caller {
        let org = self.db.database().add_org(&org_named(name)).await.unwrap();
        if credits > 0 {
            self.db.database().grant(org, Credits::new(credits), None, TOP_UP, None).await.unwrap();
        }
        let user = self.db.database().add_user(org, &user_named("a user")).await.unwrap();
        key_of(&self.db, org, user, KeySpec::default()).await
    }

    /// Lets nobody into the database, and ends all its connections; or lets them in again.
    pub async fn let_in(&self, allowed: bool) {
        let url = url::Url::parse(self.db.url()).unwrap();
        let name = url.path().trim_start_matches('/').to_owned();
        let mut server = url.clone();
        server.set_path("postgres");
        let mut admin = PgConnection::connect(server.as_str()).await.unwrap();
        let allow = format!("alter database {name} with allow_connections {allowed}");
        sqlx::query(AssertSqlSafe(allow)).execute(&mut admin).await.unwrap();
        if !allowed {
            sqlx::query("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1")
                .bind(&name)
                .execute(&mut admin)
                .await
                .unwrap();
        }
    }

    /// A request without credentials.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.addresses.data))
    }

    /// A request of the caller.
    pub fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path).bearer_auth(&self.caller.text)
    }

    /// A create of the caller, to be sent.
    pub fn creating(&self, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.call(Method::POST, "/api/generate").body(body)
    }

    pub async fn create(&self, body: &Value) -> Answer {
        Answer::to(self.creating(body.to_string())).await
    }

    /// A create that the gateway has judged: on a busy machine it may have no time for one of many at first.
    pub async fn judged(&self, body: &Value) -> Answer {
        judged(async || self.create(body).await).await
    }

    /// The id of a task that must be accepted.
    pub async fn task(&self, prompt: &str) -> String {
        self.create(&body(prompt)).await.task_id()
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::to(self.call(Method::GET, path)).await
    }

    pub async fn status(&self, task: &str) -> Answer {
        self.get(&format!("/api/status?task_id={task}")).await
    }

    /// Waits until the task shows as finished.
    pub async fn finished(&self, task: &str) -> Answer {
        let mut last = None;
        super::database::until("the task has finished", async || {
            let answer = self.status(task).await;
            let finished = answer.expect(200)["data"]["status"] != "IN_PROGRESS";
            last = Some(answer);
            finished
        })
        .await;
        last.unwrap()
    }

    /// Tells the simulated vendor how to misbehave.
    pub async fn script(&self, script: Value) {
        let url = format!("http://{}/_sim/script", self.addresses.simulator);
        let answer = self.client.post(url).json(&script).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{}", answer.text().await.unwrap());
    }

    /// Every create meets this fault.
    pub async fn fault_on_create(&self, fault: Value) {
        self.script(json!({"rules": [{"on": "create", "fault": fault}]})).await;
    }

    /// Every status call meets this fault.
    pub async fn fault_on_status(&self, fault: Value) {
        self.script(json!({"rules": [{"on": "status", "fault": fault}]})).await;
    }

    /// What the simulated vendor recorded, newest last.
    pub async fn upstream_requests(&self) -> Vec<Value> {
        let url = format!("http://{}/_sim/requests", self.addresses.simulator);
        let answer: Value = self.client.get(url).send().await.unwrap().json().await.unwrap();
        answer["requests"].as_array().unwrap().clone()
    }

    /// The usual account in the simulated vendor's books.
    pub async fn books(&self) -> Value {
        self.books_of(MASTER_KEY).await
    }

    /// Another account in the simulated vendor's books.
    pub async fn books_of(&self, key: &str) -> Value {
        account(&self.client, self.addresses.simulator, key).await
    }

    /// How many creates reached the simulated vendor, and how many tasks it made of them.
    pub async fn upstream_creates(&self) -> (u64, usize) {
        let books = self.books().await;
        (books["creates_received"].as_u64().unwrap(), books["tasks"].as_array().unwrap().len())
    }

    /// How often the simulated vendor was asked for this task.
    pub async fn upstream_polls(&self, task: &str) -> u64 {
        self.upstream_polls_on(MASTER_KEY, task).await
    }

    /// How often it was asked for this task of another account.
    pub async fn upstream_polls_on(&self, key: &str, task: &str) -> u64 {
        let books = self.books_of(key).await;
        let found = books["tasks"].as_array().unwrap().iter().find(|row| row["task_id"] == task).cloned();
        found.unwrap()["polls"].as_u64().unwrap()
    }

    /// `[available, held, consumed]` of the caller's organisation.
    pub async fn balance(&self) -> [i64; 3] {
        let balance = self.db.database().balance(self.caller.org).await.unwrap().unwrap();
        [balance.available, balance.held, balance.consumed].map(Credits::get)
    }

    /// Every hold, oldest first.
    pub async fn holds(&self) -> Vec<Hold> {
        Hold::all(self.db.pool()).await
    }

    pub async fn last_hold(&self) -> Hold {
        self.holds().await.pop().unwrap()
    }
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        self.stop.cancel();
        let Some(ended) = self.thread.take().map(JoinHandle::join) else { return };
        if thread::panicking() {
            return;
        }
        let closing = ended.unwrap();
        assert!(closing.finished, "the gateway was not done within its grace period");
        closing.compare(self.expected_difference);
        leaks::assert_none();
    }
}
