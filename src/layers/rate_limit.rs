//! Refuses calls above a rate limit, and tells every caller how much of its limits is left.

use std::sync::Arc;

use super::{Below, Failure, Outcome, Stage, tell_error};
use crate::call::{Admitted, Authenticated, Call};
use crate::error::GatewayError;
use crate::rate_limits::{Limited, RateHeaders, RateLimits};
use crate::telemetry::Span;

/// Counts a call against the rate limits of its key, user and organisation.
#[derive(Debug, Clone)]
pub struct RateLimit {
    /// What each key, user and organisation has used of its limits.
    pub limits: Arc<RateLimits>,
}

impl Stage for RateLimit {
    type In = Authenticated;
    type Out = Admitted;

    async fn run(&self, call: Call<Authenticated>, below: &impl Below<Admitted>) -> Outcome {
        let (refused, rate) = self.count(&call.stage);
        let outcome = match refused {
            Some(error) => Err(Failure::from(error)),
            None => {
                let admitted = |caller: Authenticated| Admitted {
                    endpoint: caller.endpoint,
                    principal: caller.principal,
                };
                below.take(call.advance(admitted)).await
            }
        };
        match outcome {
            Ok(mut answer) => {
                if let Some(rate) = rate {
                    rate.add_to(answer.headers_mut());
                }
                Ok(answer)
            }
            Err(Failure { error, .. }) => Err(Failure { error, rate }),
        }
    }
}

impl RateLimit {
    /// Counts the call. Returns the error if it is refused, and the headers for its answer if any limit applies.
    fn count(&self, caller: &Authenticated) -> (Option<GatewayError>, Option<RateHeaders>) {
        let mut span = Span::of_part("rate_limit");
        match self.limits.admit(&caller.principal, caller.endpoint) {
            Ok(rate) => (None, rate),
            Err(Limited { level, retry_after, headers }) => {
                let error = GatewayError::RateLimited { level, retry_after };
                tell_error(&mut span, &error);
                (Some(error), Some(headers))
            }
        }
    }
}
