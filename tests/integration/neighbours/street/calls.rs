//! The neighbours' calls: what they ask for, what they were answered and when.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use reqwest::RequestBuilder;
use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{NEIGHBOURS, Street};
use crate::support::database::until;
use crate::support::faults::load::Reply;
use crate::support::faults::long;

/// What the neighbours met.
#[derive(Debug, Default)]
pub(super) struct Met {
    calls: Mutex<Vec<Duration>>,
    refused: Mutex<Vec<String>>,
}

impl Met {
    async fn call(&self, what: &str, request: RequestBuilder) {
        self.call_for(what, request, |status, _| status == 200).await;
    }

    /// A call whose answer is judged by its status and its text.
    async fn call_for(&self, what: &str, request: RequestBuilder, well: impl Fn(u16, &str) -> bool) {
        let begun = Instant::now();
        let (status, text) = match request.send().await {
            Ok(answer) => (answer.status().as_u16(), answer.text().await.unwrap_or_default()),
            Err(error) => (0, format!("{error:?}")),
        };
        self.note(what, begun, well(status, &text), || format!("{status} {text}"));
    }

    fn note(&self, what: &str, begun: Instant, went_well: bool, answer: impl FnOnce() -> String) {
        self.calls.lock().unwrap().push(begun.elapsed());
        if !went_well {
            self.refused.lock().unwrap().push(format!("{what}: {}", answer()));
        }
    }

    /// The time within which 99 of 100 calls were answered.
    pub(super) fn p99(&self) -> Duration {
        let mut calls = self.calls.lock().unwrap().clone();
        calls.sort();
        calls[calls.len() * 99 / 100]
    }

    pub(super) fn count(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    /// No call may have been refused.
    #[track_caller]
    pub(super) fn must_be_served(&self, name: &str) {
        let (refused, count) = (self.refused.lock().unwrap(), self.count());
        let some = &refused[..refused.len().min(10)];
        assert!(
            refused.is_empty(),
            "{name}: of {count} calls of neighbours {} were refused: {some:#?}",
            refused.len()
        );
    }
}

impl Street {
    /// One round of a neighbour: it creates a task, and looks at it, at its list, its price and its balance; and it is asked
    /// whether the gateway is ready, and manages something. The last three come by connections that are new.
    async fn round(&self, neighbour: usize, gateway: usize, met: &Met) {
        let (base, key) = (self.base(gateway), &self.fleet.customers.tenants[neighbour].key);
        let get = |path: String| self.client.get(format!("{base}{path}")).bearer_auth(key);
        let begun = Instant::now();
        let reply = self.fleet.customers.create(neighbour, gateway).await;
        met.note("create", begun, matches!(reply, Reply::Accepted(_)), || format!("{reply:?}"));
        if let Reply::Accepted(task) = &reply {
            met.call("status", get(format!("/api/status?task_id={task}"))).await;
        }
        met.call("tasks", get("/api/tasks?limit=10".into())).await;
        let body = json!({"type": "pro-text-to-video", "prompt": "an eagle"}).to_string();
        let quote = self.client.post(format!("{base}/api/quote")).bearer_auth(key).body(body);
        met.call("quote", quote).await;
        let operations = &self.operations[gateway];
        met.call("credits", self.newcomer.get(format!("{base}/api/credits")).bearer_auth(key)).await;
        // On a busy machine the database may take longer than a load balancer waits: it is an answer all the same.
        let answers = |status, text: &str| {
            status == 200 || !long() && status == 503 && text.contains("has not answered within")
        };
        met.call_for("readyz", self.newcomer.get(format!("{operations}/readyz")), answers).await;
        let admin = &self.admins[neighbour].1;
        met.call("management", self.newcomer.get(format!("{operations}/admin/v1/me")).bearer_auth(admin))
            .await;
    }

    /// The neighbours' calls: so many rounds, and until that instant.
    pub(super) async fn lives(&self, rounds: usize, end: Instant, met: &Met) {
        let gateways = self.fleet.customers.gateways.len();
        let live = async |neighbour| {
            let mut round = 0;
            while round < rounds || Instant::now() < end {
                self.round(neighbour, round % gateways, met).await;
                round += 1;
            }
        };
        let [one, other] = NEIGHBOURS;
        tokio::join!(live(one), live(other));
    }

    fn neighbours(&self) -> [Uuid; 2] {
        NEIGHBOURS.map(|neighbour| self.fleet.customers.tenants[neighbour].org.as_uuid())
    }

    /// What time it is at the database.
    pub(super) async fn now(&self) -> OffsetDateTime {
        sqlx::query_scalar("select clock_timestamp()").fetch_one(&self.fleet.pool).await.unwrap()
    }

    /// Waits until the neighbours' tasks have ended, of which none may be in doubt; within what time 99 of 100 of those did that
    /// were made since then.
    pub(super) async fn tasks_end(&self, since: OffsetDateTime) -> Duration {
        let count = "select count(*) from task where org_id = any($1) and state = any($2)";
        let in_states = async |states: &[&str]| {
            let count = sqlx::query_scalar::<_, i64>(count).bind(self.neighbours()).bind(states);
            count.fetch_one(&self.fleet.pool).await.unwrap()
        };
        until("the neighbours' tasks end", async || in_states(&["HELD", "RUNNING"]).await == 0).await;
        assert_eq!(in_states(&["IN_DOUBT", "WRITTEN_OFF"]).await, 0, "tasks of neighbours are in doubt");
        let seconds: f64 = sqlx::query_scalar(
            "select coalesce(extract(epoch from percentile_disc(0.99) within group (order by ended_at - created_at)), 0)::float8 \
             from task where org_id = any($1) and created_at > $2",
        )
        .bind(self.neighbours())
        .bind(since)
        .fetch_one(&self.fleet.pool)
        .await
        .unwrap();
        Duration::from_secs_f64(seconds)
    }
}
