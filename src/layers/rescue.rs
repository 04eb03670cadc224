//! Errors become answers here, in one place; detail goes to the log once.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tower::{Layer, Service};

use super::Stage;
use crate::call::{Arrived, Call, Endpoint};
use crate::error::{Answer, GatewayError};
use crate::metrics as m;
use crate::wire::Code;

/// See the module.
#[derive(Debug, Clone)]
pub struct RescueLayer(());

/// The codes in metrics that are none of ours.
const OK: &str = "OK";
const VENDORS_OWN: &str = "vendor";
pub(super) const CLIENT_GONE: &str = "CLIENT_GONE";

/// Counts a request that has ended.
pub(super) fn count_request(route: &'static str, status: u16, code: &'static str) {
    metrics::counter!(m::REQUESTS, "route" => route, "status" => status.to_string(), "code" => code)
        .increment(1);
}

impl RescueLayer {
    /// Each way in which a request may end is counted from 0: an alarm must see the first.
    pub fn new() -> Self {
        let codes = Code::ALL.iter().map(|code| (code.status().as_u16(), code.as_str()));
        let others = [(200, OK), (400, VENDORS_OWN), (499, CLIENT_GONE)];
        for route in Endpoint::ALL.iter().map(|endpoint| endpoint.as_str()).chain(["none"]) {
            for (status, code) in codes.clone().chain(others) {
                metrics::counter!(m::REQUESTS, "route" => route, "status" => status.to_string(), "code" => code)
                    .increment(0);
            }
            drop(metrics::histogram!(m::REQUEST_SECONDS, "route" => route));
            drop(metrics::histogram!(m::OVERHEAD_SECONDS, "route" => route));
        }
        metrics::counter!(m::REPLAYS).increment(0);
        metrics::gauge!(m::IN_FLIGHT).increment(0);
        Self(())
    }
}

impl Default for RescueLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for RescueLayer {
    type Service = Rescue<S>;

    fn layer(&self, inner: S) -> Rescue<S> {
        Rescue { inner }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Rescue<S> {
    inner: S,
}

impl<S: Stage<Arrived>> Service<Call<Arrived>> for Rescue<S> {
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The stages below are always ready; what limits them answers as an error, not as back-pressure.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call<Arrived>) -> Self::Future {
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let notes = call.context.notes.clone();
        Box::pin(async move {
            let result = inner.call(call).await;
            let code =
                result.as_ref().err().map_or(OK, |error| error.code().map_or(VENDORS_OWN, Code::as_str));
            let mut answer = result.unwrap_or_else(|error| {
                log(&error);
                error.into_answer()
            });
            notes.add(|notes| {
                let route = notes.endpoint.map_or("none", Endpoint::as_str);
                count_request(route, answer.status().as_u16(), code);
                if code != OK {
                    notes.code = Some(code);
                }
                answer.headers_mut().extend(notes.headers.drain(..));
            });
            Ok(answer)
        })
    }
}

fn log(error: &GatewayError) {
    if let GatewayError::Unavailable(source) = error {
        tracing::warn!(error = %source, "the ledger is unavailable");
    }
    if let GatewayError::Internal(what) = error {
        tracing::error!(error = %what, "internal error");
    }
}
