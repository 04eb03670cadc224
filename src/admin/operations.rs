//! Health checks and metrics: `/healthz`, `/readyz`, `/metrics`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::gauges::Gauges;
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
