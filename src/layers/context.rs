//! Runs a request in its trace context, so that all spans and events below carry the ids of request and trace.

use std::task::{Context as TaskContext, Poll};

use http::Request;
use tokio::task::futures::TaskLocalFuture;
use tower::{Layer, Service};

use crate::telemetry::{TraceContext, Tracing};

/// Runs the layers below in the trace context of their request.
#[derive(Debug, Clone)]
pub struct ContextLayer {
    /// Decides which requests are traced.
    pub tracing: Tracing,
}

impl<S> Layer<S> for ContextLayer {
    type Service = InContext<S>;

    fn layer(&self, inner: S) -> InContext<S> {
        InContext { inner, tracing: self.tracing.clone() }
    }
}

/// A service that runs in the trace context of its request.
#[derive(Debug, Clone)]
pub struct InContext<S> {
    inner: S,
    tracing: Tracing,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for InContext<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = TaskLocalFuture<TraceContext, S::Future>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        #[expect(clippy::disallowed_methods, reason = "it is the gateway's own: a caller's was taken out")]
        let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok());
        let context = self.tracing.request(request.headers(), id);
        let answer = context.within(|| self.inner.call(request));
        context.around(answer)
    }
}
