//! Errors become answers here, in one place; detail goes to the log once.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tower::{Layer, Service};

use super::Stage;
use crate::call::{Arrived, Call};
use crate::error::{Answer, GatewayError};
use crate::metrics as m;
use crate::wire::Code;

/// See the module.
#[derive(Debug, Clone)]
pub struct RescueLayer;

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
                result.as_ref().err().map_or("OK", |error| error.code().map_or("vendor", Code::as_str));
            let mut answer = result.unwrap_or_else(|error| {
                log(&error);
                error.into_answer()
            });
            notes.add(|notes| {
                let route = notes.endpoint.map_or("none", crate::call::Endpoint::as_str);
                let status = answer.status().as_u16().to_string();
                metrics::counter!(m::REQUESTS, "route" => route, "status" => status, "code" => code)
                    .increment(1);
                if code != "OK" {
                    notes.code = Some(code);
                }
                answer.headers_mut().extend(notes.headers.drain(..));
            });
            Ok(answer)
        })
    }
}

fn log(error: &GatewayError) {
    match error {
        GatewayError::Unavailable(source) => tracing::warn!(error = %source, "the ledger is unavailable"),
        GatewayError::Internal(what) => tracing::error!(error = what, "internal error"),
        _ => {}
    }
}
