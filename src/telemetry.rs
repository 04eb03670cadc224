//! Tracing and logging. Spans and log events of one request carry the same ids.
//!
//! All work for a request runs within the request's [`TraceContext`], also in tasks of its own ([`carry`]); spans and log
//! events find the ids there. A request that is not sampled has a context too, for its log events, but no spans.
//! Spans never hold credentials, prompts, media URLs or query strings.

mod context;
mod events;
mod export;
mod otlp;
mod span;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use opentelemetry_sdk::trace::SpanExporter as _;

pub use self::context::{TraceContext, carry};
pub use self::events::{Logging, events, log_to_stderr};
pub use self::export::BadTelemetry;
pub use self::span::Span;

use self::context::Remote;
use self::export::Exporter;
use self::otlp::Otlp;
use crate::config::Telemetry;
use crate::https::Authorities;
use crate::ids::GatewayId;

/// The id of the request that the current task works on.
pub fn request_id() -> Option<String> {
    TraceContext::look(|context| context.request_id().map(str::to_owned)).flatten()
}

/// Decides which requests are traced and where their spans go. One per gateway; the default traces nothing.
#[derive(Debug, Clone, Default)]
pub struct Tracing {
    exporter: Option<Arc<Exporter>>,
    ratio: f64,
    trust_parent: bool,
    propagate: bool,
}

impl Tracing {
    /// Does not connect yet: a collector that is down must not keep a gateway from starting. `authorities` are trusted besides
    /// those of the machine.
    pub fn new(
        config: &Telemetry,
        authorities: Option<Authorities>,
        gateway: GatewayId,
    ) -> Result<Self, BadTelemetry> {
        let exporter = match &config.otlp_endpoint {
            Some(endpoint) => Some(Arc::new(Exporter::new(endpoint, config, authorities, gateway)?)),
            None => None,
        };
        let &Telemetry { sample_ratio: ratio, trust_parent, propagate, .. } = config;
        Ok(Self { exporter, ratio, trust_parent, propagate })
    }

    /// Whether the configured collector takes spans: it is sent none at all. `None`: none is configured.
    pub async fn look(config: &Telemetry, authorities: Option<Authorities>) -> Option<Result<(), String>> {
        let endpoint = config.otlp_endpoint.as_ref()?;
        let sends = match Otlp::new(endpoint, config, authorities) {
            Ok(sends) => sends,
            Err(error) => return Some(Err(error.to_string())),
        };
        Some(sends.export(Vec::new()).await.map_err(|error| error.to_string()))
    }

    /// The context of a request with these headers. It continues the caller's trace.
    pub fn request(&self, headers: &HeaderMap, request_id: Option<&str>) -> TraceContext {
        let remote = Remote::of(headers);
        let sampled = match &remote {
            Some(remote) if self.trust_parent => remote.sampled,
            // By chance, not by the trace id: a caller chooses its trace id, and could so choose to be sampled.
            _ => self.chance(),
        };
        self.context(request_id, remote, sampled)
    }

    /// The context of background work.
    pub fn own_work(&self) -> TraceContext {
        self.context(None, None, self.chance())
    }

    fn context(&self, request_id: Option<&str>, remote: Option<Remote>, sampled: bool) -> TraceContext {
        let exporter = self.exporter.clone().filter(|_| sampled);
        TraceContext::new(request_id, remote, exporter, self.propagate.then_some(sampled))
    }

    fn chance(&self) -> bool {
        self.exporter.is_some() && (self.ratio >= 1.0 || rand::random_bool(self.ratio))
    }

    /// Sends the remaining spans within `limit`; what cannot be sent by then is lost.
    pub async fn shut_down(&self, limit: Duration) {
        if let Some(exporter) = self.exporter.clone() {
            // It blocks. On a thread of the runtime it would block the very tasks that it waits for.
            let _ = tokio::task::spawn_blocking(move || exporter.shut_down(limit)).await;
        }
    }
}
