//! Sends spans to a collector, in batches, from a thread of its own. Whatever becomes of the collector, requests wait for
//! nothing, memory stays bounded, and a counter tells.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::KeyValue;
use opentelemetry_otlp::tonic_types::metadata::MetadataMap;
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{
    ExporterBuildError, RetryPolicy, SpanExporter as Otlp, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanExporter, SpanProcessor,
};
use url::Url;

use crate::config::{OtlpProtocol, Telemetry};
use crate::ids::GatewayId;
use crate::metrics as m;

/// Spans that wait for the collector, at most; about a kilobyte each.
const QUEUE: usize = 8192;
/// Spans in one export.
const BATCH: usize = 512;
/// How long a span waits for others to be sent with it.
const DELAY: Duration = Duration::from_secs(1);
/// How long a collector may take over a batch, attempts after the first included.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Traces that cannot be sent as configured.
#[derive(Debug, thiserror::Error)]
#[error("telemetry.otlp_endpoint cannot be used: {0}")]
pub struct BadTelemetry(String);

impl From<ExporterBuildError> for BadTelemetry {
    fn from(error: ExporterBuildError) -> Self {
        Self(error.to_string())
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Exporter {
    processor: BatchSpanProcessor,
    /// Spans that are neither sent nor given up. The processor bounds its queue too, but tells nobody what it drops.
    waiting: Arc<AtomicUsize>,
}

impl Exporter {
    pub(super) fn new(endpoint: &Url, config: &Telemetry, gateway: GatewayId) -> Result<Self, BadTelemetry> {
        for outcome in ["exported", "dropped", "failed"] {
            metrics::counter!(m::TRACE_SPANS, "outcome" => outcome).increment(0);
        }
        let waiting = Arc::new(AtomicUsize::new(0));
        let sends = otlp(endpoint, config)?;
        let counted = Counted { sends, waiting: waiting.clone(), failing: AtomicBool::new(false) };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(DELAY)
            .build();
        let mut processor = BatchSpanProcessor::new(counted, batches);
        processor.set_resource(&resource(config, gateway));
        Ok(Self { processor, waiting })
    }

    /// Takes a span that has ended; never waits.
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

fn otlp(endpoint: &Url, config: &Telemetry) -> Result<Otlp, BadTelemetry> {
    match config.protocol {
        OtlpProtocol::Grpc => {
            let mut metadata = HeaderMap::new();
            for (name, value) in &config.headers {
                if let (Ok(name), Ok(mut value)) =
                    (HeaderName::try_from(name), HeaderValue::try_from(value.expose()))
                {
                    value.set_sensitive(true);
                    metadata.append(name, value);
                }
            }
            let mut builder = Otlp::builder()
                .with_tonic()
                .with_endpoint(endpoint.as_str().trim_end_matches('/'))
                .with_timeout(TIMEOUT)
                .with_retry_policy(retries())
                .with_metadata(MetadataMap::from_headers(metadata));
            if endpoint.scheme() == "https" {
                builder = builder.with_tls_config(ClientTlsConfig::new().with_enabled_roots());
            }
            Ok(builder.build()?)
        }
        OtlpProtocol::Http => {
            let headers =
                config.headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned()));
            let base = endpoint.as_str().trim_end_matches('/');
            let full = if base.ends_with("/v1/traces") { base.into() } else { format!("{base}/v1/traces") };
            Ok(Otlp::builder()
                .with_http()
                .with_endpoint(full)
                .with_timeout(TIMEOUT)
                .with_retry_policy(retries())
                .with_headers(headers.collect())
                .build()?)
        }
    }
}

/// One more attempt: the queue is short, and what waits in it is worth as much as what failed.
fn retries() -> RetryPolicy {
    RetryPolicy::recommended().with_max_retries(1)
}

fn resource(config: &Telemetry, gateway: GatewayId) -> Resource {
    let own = [
        KeyValue::new("service.name", "tollgate"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", gateway.to_string()),
    ];
    let configured = config.resource.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    // Of two with one name the later one counts.
    Resource::builder_empty().with_attributes(own.into_iter().chain(configured)).build()
}

/// Counts what becomes of spans.
#[derive(Debug)]
struct Counted {
    sends: Otlp,
    waiting: Arc<AtomicUsize>,
    failing: AtomicBool,
}

impl SpanExporter for Counted {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.sends.export(batch).await;
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        let outcome = if result.is_ok() { "exported" } else { "failed" };
        metrics::counter!(m::TRACE_SPANS, "outcome" => outcome).increment(spans as u64);
        // Once for each time it goes away: one that is away for a day is no reason for a day's log. Not in its own
        // words: they may repeat what was sent to it.
        if self.failing.swap(result.is_err(), Ordering::Relaxed) != result.is_err() {
            match &result {
                Ok(()) => tracing::info!("the trace collector takes spans again"),
                Err(_) => tracing::warn!("the trace collector takes no spans: they are lost until it does"),
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
