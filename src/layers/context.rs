//! Puts a request into its trace: everything below, and every event it logs, knows its ids.

use std::task::{Context as TaskContext, Poll};

use http::Request;
use tokio::task::futures::TaskLocalFuture;
use tower::{Layer, Service};

use crate::telemetry::{TraceContext, Tracing};

/// Runs what is below in the trace of its request.
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

/// A service that runs in the trace of its request.
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
        let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok());
        let context = self.tracing.request(request.headers(), id);
        let answer = context.within(|| self.inner.call(request));
        context.around(answer)
    }
}
