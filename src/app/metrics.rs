//! The recorder of this process's metrics.

use std::sync::{Mutex, PoisonError};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use super::StartError;
use crate::metrics as m;

/// The recorder of this process. Gateways in one process (in tests) share it; the lock keeps two of them from
/// installing one each.
pub(super) fn recorder() -> Result<PrometheusHandle, StartError> {
    static RECORDER: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    let mut recorder = RECORDER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*recorder {
        return Ok(handle.clone());
    }
    let handle = install().map_err(|error| StartError::Metrics(error.to_string()))?;
    m::describe();
    metrics::gauge!(m::BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1);
    Ok(recorder.insert(handle).clone())
}

fn install() -> Result<PrometheusHandle, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), m::SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_items".into()), m::BATCH_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(m::HOLD_SECONDS.into()), m::AGE_BUCKETS)?
        .install_recorder()
}
