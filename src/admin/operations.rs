//! Health checks and metrics: `/healthz`, `/readyz`, `/metrics`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

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
    /// The last answer to whether the gateway is ready, and when it was found.
    pub readiness: Arc<Mutex<Option<(Instant, Readiness)>>>,
}

/// Whether the gateway is ready, and what was found.
pub type Readiness = (bool, Value);

/// For how long an answer is given to others too. They wait for one another, so that they take at most one connection of
/// the jobs' pool, however many ask.
const READINESS_KEPT: Duration = Duration::from_millis(250);

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
    let mut last = operations.readiness.lock().await;
    let (ready, body) = match &*last {
        Some((at, found)) if Clock.since(*at) < READINESS_KEPT => found.clone(),
        _ => {
            let found = look(&operations).await;
            *last = Some((Clock.now(), found.clone()));
            found
        }
    };
    drop(last);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut answer = (status, Json(body)).into_response();
    if !ready {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
    }
    answer
}

/// Asks the database and the parts.
async fn look(operations: &Operations) -> Readiness {
    let told = |result: Result<(), String>| result.err().unwrap_or_else(|| "ok".into());
    let database = operations.database.ping().await.map_err(|error| error.to_string());
    let schema = match &database {
        Ok(()) => operations.database.check_schema().await.map_err(|error| error.to_string()),
        Err(_) => Err("unknown: the database cannot be reached".into()),
    };
    let prices = operations.prices.current().map(|_| ()).map_err(|error| error.to_string());
    let lease = if operations.lease.holds() { Ok(()) } else { Err("not renewed".to_owned()) };
    let ready = database.is_ok() && schema.is_ok() && prices.is_ok() && lease.is_ok();
    let body = json!({
        "ready": ready,
        "database": told(database),
        "schema": told(schema),
        "price_book": told(prices),
        "lease": told(lease),
    });
    (ready, body)
}

async fn metrics(State(operations): State<Operations>) -> Response {
    operations.gauges.show();
    let text = operations.metrics.render();
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
