//! Health checks and metrics: `/healthz`, `/readyz`, `/metrics`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::gauges::Gauges;
use crate::clock::Clock;
use crate::price_cache::Prices;
use crate::store::{Database, Lease};

/// What the operations listener reports on.
#[derive(Clone)]
pub struct Operations {
    pub database: Database,
    pub prices: Arc<Prices>,
    pub lease: Arc<Lease>,
    pub gauges: Arc<Gauges>,
    /// Cancelled when the gateway begins to shut down: from then on it reports that it is not ready.
    pub draining: CancellationToken,
    pub metrics: PrometheusHandle,
    pub readiness: Arc<Readiness>,
}

/// What the database said when it was last looked at. Looks run one at a time and by themselves: callers wait for a look, but
/// not for longer than [`ANSWER_TIME`], and a caller that leaves ends none. So a database that hangs delays no answer, and
/// however many ask, one connection of the jobs' pool is taken.
#[derive(Debug)]
pub struct Readiness {
    last: Mutex<Option<Look>>,
    turn: Arc<Semaphore>,
    /// Changes with the end of each look.
    ended: watch::Sender<()>,
    looks: TaskTracker,
}

/// The findings of one look, and when it ended.
#[derive(Debug, Clone)]
struct Look {
    at: Instant,
    database: Result<(), String>,
    schema: Result<(), String>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self {
            last: Mutex::default(),
            turn: Arc::new(Semaphore::new(1)),
            ended: watch::Sender::new(()),
            looks: TaskTracker::new(),
        }
    }
}

/// For how long a look answers others too.
const LOOK_KEPT: Duration = Duration::from_millis(250);

/// How long a caller waits for a look. Load balancers wait for as little as half a second.
const ANSWER_TIME: Duration = Duration::from_millis(400);

/// For how long a good look counts while the next one is not answered: a stall of a moment must not make all gateways of a
/// database unready at once.
const GOOD_LOOK_COUNTS: Duration = Duration::from_secs(2);

impl Readiness {
    fn last(&self) -> Option<Look> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn last_within(&self, time: Duration) -> Option<Look> {
        self.last().filter(|look| Clock.since(look.at) < time)
    }

    /// What is known of the database now, within [`ANSWER_TIME`].
    async fn look(self: &Arc<Self>, database: &Database) -> Look {
        if let Some(look) = self.last_within(LOOK_KEPT) {
            return look;
        }
        let mut ended = self.ended.subscribe();
        if let Ok(turn) = self.turn.clone().try_acquire_owned() {
            let (readiness, database) = (self.clone(), database.clone());
            self.looks.spawn(async move {
                let look = look_at(&database).await;
                *readiness.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(look);
                drop(turn);
                readiness.ended.send_replace(());
            });
        }
        let in_time = tokio::time::timeout(ANSWER_TIME, ended.changed()).await.is_ok();
        match self.last() {
            Some(look) if in_time || Clock.since(look.at) < LOOK_KEPT => look,
            Some(look)
                if look.database.is_ok()
                    && look.schema.is_ok()
                    && Clock.since(look.at) < GOOD_LOOK_COUNTS =>
            {
                look
            }
            _ => Look {
                at: Clock.now(),
                database: Err(format!("it has not answered within {} ms", ANSWER_TIME.as_millis())),
                schema: Err("unknown: the database has not answered".into()),
            },
        }
    }
}

async fn look_at(database: &Database) -> Look {
    let found = database.ping().await.map_err(|error| error.to_string());
    let schema = match &found {
        Ok(()) => database.check_schema().await.map_err(|error| error.to_string()),
        Err(_) => Err("unknown: the database cannot be reached".into()),
    };
    Look { at: Clock.now(), database: found, schema }
}

pub(super) fn router(operations: Operations) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(operations)
}

/// Liveness: answers as long as the process does.
async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(operations): State<Operations>) -> Response {
    if operations.draining.is_cancelled() {
        // Whatever the database says, load balancers must send no new requests here.
        let body = json!({ "ready": false, "draining": true });
        return (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response();
    }
    let look = operations.readiness.look(&operations.database).await;
    let prices = operations.prices.current().map(|_| ()).map_err(|error| error.to_string());
    let lease = if operations.lease.holds() { Ok(()) } else { Err("not renewed".to_owned()) };
    let ready = look.database.is_ok() && look.schema.is_ok() && prices.is_ok() && lease.is_ok();
    let told = |result: Result<(), String>| result.err().unwrap_or_else(|| "ok".into());
    let body = json!({
        "ready": ready,
        "database": told(look.database),
        "schema": told(look.schema),
        "price_book": told(prices),
        "lease": told(lease),
    });
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut answer = (status, Json(body)).into_response();
    if !ready {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
    }
    answer
}

async fn metrics(State(operations): State<Operations>) -> Response {
    operations.gauges.show();
    let text = operations.metrics.render();
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
