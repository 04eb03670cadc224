//! Refuses callers that call too often, and tells the others how much they have left.

use std::sync::Arc;
use std::task::{Context, Poll};

use tower::{Layer, Service};

use super::{LayerFuture, Stage, tell};
use crate::call::{Admitted, Authenticated, Call};
use crate::error::{Answer, GatewayError};
use crate::rate_limits::RateLimits;
use crate::telemetry::Span;

/// See the module.
#[derive(Debug, Clone)]
pub struct RateLimitLayer {
    /// The limiters.
    pub limits: Arc<RateLimits>,
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> RateLimit<S> {
        RateLimit { inner, limits: self.limits.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct RateLimit<S> {
    inner: S,
    limits: Arc<RateLimits>,
}

impl<S: Stage<Admitted>> Service<Call<Authenticated>> for RateLimit<S> {
    type Response = Answer;
    type Error = GatewayError;
    type Future = LayerFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), GatewayError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call<Authenticated>) -> LayerFuture {
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let mut span = Span::of_part("rate_limit");
        let (headers, refused) = match self.limits.admit(&call.stage.principal, call.stage.endpoint) {
            Ok(headers) => (headers, None),
            Err((error, headers)) => (Some(headers), Some(error)),
        };
        if let Some(headers) = headers {
            call.context.notes.add(|notes| notes.headers.extend(headers.to_headers()));
        }
        match refused {
            Some(error) => {
                let refused = Err(error);
                tell(&mut span, &refused);
                Box::pin(std::future::ready(refused))
            }
            None => {
                Box::pin(async move {
                    inner
                        .call(call.advance(|stage| Admitted {
                            endpoint: stage.endpoint,
                            principal: stage.principal,
                        }))
                        .await
                })
            }
        }
    }
}
