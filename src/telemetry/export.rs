//! Sends spans to a collector in batches, from a thread of its own. When the collector is slow or down, requests do not
//! wait, memory stays bounded, and a metric counts the lost spans.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanExporter, SpanProcessor,
};
use url::Url;

use super::otlp::Otlp;
use crate::config::Telemetry;
use crate::https::Authorities;
use crate::ids::GatewayId;
use crate::metrics as m;

/// The most spans that wait for the collector; about a kilobyte each.
const QUEUE: usize = 8192;
/// The most spans in one export.
const BATCH: usize = 512;
/// The longest time a span waits for its batch to fill.
const DELAY: Duration = Duration::from_secs(1);

/// The configured exporter cannot be built.
#[derive(Debug, thiserror::Error)]
#[error("telemetry.otlp_endpoint cannot be used: {0}")]
pub struct BadTelemetry(String);

impl BadTelemetry {
    pub(super) fn new(why: String) -> Self {
        Self(why)
    }
}

/// The queue of spans and the thread that sends them.
#[derive(Debug)]
pub(super) struct Exporter {
    processor: BatchSpanProcessor,
    /// Spans that are neither sent nor lost yet. The processor bounds its queue too, but does not count what it drops.
    waiting: Arc<AtomicUsize>,
}

impl Exporter {
    pub(super) fn new(
        endpoint: &Url,
        config: &Telemetry,
        authorities: Option<Authorities>,
        gateway: GatewayId,
    ) -> Result<Self, BadTelemetry> {
        for outcome in ["exported", "dropped", "failed"] {
            metrics::counter!(m::TRACE_SPANS, "outcome" => outcome).increment(0);
        }
        let waiting = Arc::new(AtomicUsize::new(0));
        let sends = Otlp::new(endpoint, config, authorities)?;
        let counted = CountedExporter { sends, waiting: waiting.clone(), failing: AtomicBool::new(false) };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(DELAY)
            .build();
        let mut processor = BatchSpanProcessor::new(counted, batches);
        processor.set_resource(&resource(config, gateway));
        Ok(Self { processor, waiting })
    }

    /// Queues a span that has ended; never waits.
    pub(super) fn end(&self, span: SpanData) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= QUEUE {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            metrics::counter!(m::TRACE_SPANS, "outcome" => "dropped").increment(1);
            return;
        }
        self.processor.on_end(span);
    }

    pub(super) fn shut_down(&self, limit: Duration) {
        if self.processor.shutdown_with_timeout(limit).is_err() {
            let waiting = self.waiting.load(Ordering::Relaxed);
            tracing::warn!(spans = waiting, "the last spans were not sent in time");
        }
    }
}

fn resource(config: &Telemetry, gateway: GatewayId) -> Resource {
    let own = [
        KeyValue::new("service.name", "tollgate"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", gateway.to_string()),
    ];
    let configured = config.resource.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    // Of two attributes with one name the later one wins: configuration overrides our own.
    Resource::builder_empty().with_attributes(own.into_iter().chain(configured)).build()
}

/// Counts exported and failed spans.
#[derive(Debug)]
struct CountedExporter {
    sends: Otlp,
    waiting: Arc<AtomicUsize>,
    failing: AtomicBool,
}

impl SpanExporter for CountedExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.sends.export(batch).await;
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        let outcome = if result.is_ok() { "exported" } else { "failed" };
        metrics::counter!(m::TRACE_SPANS, "outcome" => outcome).increment(spans as u64);
        // Logged only when the state changes: a collector that is down for a day must not fill a day's log. The error's
        // own text is left out, because it may repeat what was sent.
        if self.failing.swap(result.is_err(), Ordering::Relaxed) != result.is_err() {
            match &result {
                Ok(()) => tracing::info!("the trace collector accepts spans again"),
                Err(_) => {
                    tracing::warn!("the trace collector does not accept spans: spans are lost until it does")
                }
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.sends.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.sends.set_resource(resource);
    }
}
