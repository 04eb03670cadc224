//! Traces and log events of one request belong together: both carry its ids.
//!
//! What runs for a request runs [`TraceContext::around`] its context, also in tasks of its own ([`carry`]); spans and log
//! events find it there. A request that is not sampled has a context as well, for its log events, and no spans.
//! What a span may say is decided where it is said; never credentials, prompts, media URLs or queries.

mod context;
mod events;
mod export;
mod span;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

pub use self::context::{TraceContext, carry};
pub use self::events::{Logging, events, log_to_stderr};
pub use self::export::BadTelemetry;
pub use self::span::Span;

use self::context::Remote;
use self::export::Exporter;
use crate::config::Telemetry;
use crate::ids::GatewayId;

/// The id of the request that the current task works on.
pub fn request_id() -> Option<String> {
    TraceContext::look(|context| context.request_id().map(str::to_owned)).flatten()
}

/// Which requests are traced, and where their spans go. One for a gateway; by default none are.
#[derive(Debug, Clone, Default)]
pub struct Tracing {
    exporter: Option<Arc<Exporter>>,
    ratio: f64,
    trust_parent: bool,
    propagate: bool,
}

impl Tracing {
    /// Connects to nothing yet, so that a collector that is away keeps no gateway from starting.
    pub fn new(config: &Telemetry, gateway: GatewayId) -> Result<Self, BadTelemetry> {
        let exporter = match &config.otlp_endpoint {
            Some(endpoint) => Some(Arc::new(Exporter::new(endpoint, config, gateway)?)),
            None => None,
        };
        let &Telemetry { sample_ratio: ratio, trust_parent, propagate, .. } = config;
        Ok(Self { exporter, ratio, trust_parent, propagate })
    }

    /// The context of a request with these headers. Its caller's trace goes on in it.
    pub fn request(&self, headers: &HeaderMap, request_id: Option<&str>) -> TraceContext {
        let remote = Remote::of(headers);
        let sampled = match &remote {
            Some(remote) if self.trust_parent => remote.sampled,
            // By chance, not by the trace's id: whoever may choose that could choose to be sampled.
            _ => self.chance(),
        };
        self.context(request_id, remote, sampled)
    }

    /// The context of work that nobody has asked for.
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

    /// Sends what is left, for as long as `limit`; whoever cannot be reached by then does not get it.
    pub async fn shut_down(&self, limit: Duration) {
        if let Some(exporter) = self.exporter.clone() {
            // It blocks; on a thread of the runtime it would keep from running what it waits for.
            let _ = tokio::task::spawn_blocking(move || exporter.shut_down(limit)).await;
        }
    }
}
