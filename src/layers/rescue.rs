//! Turns errors into answers, in this one place, and logs their details once.

use std::sync::Arc;

use tower::Layer;

use super::refusals::Refusals;
use super::{Below, Failure};
use crate::call::{Arrived, Call, Endpoint, Notes};
use crate::error::{Answer, GatewayError};
use crate::metrics as m;
use crate::wire::Code;

/// Turns every error into an answer, so that the layers above see answers only.
#[derive(Debug, Clone)]
pub struct RescueLayer {
    /// Creates that were refused.
    refusals: Arc<Refusals>,
}

/// Values of the label `code` that are not codes of our answers.
const OK: &str = "OK";
const VENDORS_OWN: &str = "vendor";
pub(super) const CLIENT_GONE: &str = "CLIENT_GONE";

/// Counts an ended request in the metrics.
pub(super) fn count_request(route: &'static str, status: u16, code: &'static str) {
    metrics::counter!(m::REQUESTS, "route" => route, "status" => status.to_string(), "code" => code)
        .increment(1);
}

impl RescueLayer {
    /// Registers a series for each way in which a request may end, at 0: an alarm must see the first increment.
    pub fn new(refusals: Arc<Refusals>) -> Self {
        let codes = Code::ALL.iter().map(|code| (code.status().as_u16(), code.as_str()));
        let others =
            [(200, OK), (400, VENDORS_OWN), (415, Code::InvalidRequest.as_str()), (499, CLIENT_GONE)];
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
        Self { refusals }
    }
}

impl<B> Layer<B> for RescueLayer {
    type Service = Rescue<B>;

    fn layer(&self, below: B) -> Rescue<B> {
        Rescue { below, refusals: self.refusals.clone() }
    }
}

/// The stages below, whose errors become answers.
#[derive(Debug, Clone)]
pub struct Rescue<B> {
    below: B,
    refusals: Arc<Refusals>,
}

impl<B: Below<Arrived>> Rescue<B> {
    pub async fn answer(&self, call: Call<Arrived>) -> Answer {
        let notes = call.context.notes.clone();
        let outcome = self.below.take(call).await;
        let (answer, code) = match outcome {
            Ok(answer) => (answer, OK),
            Err(failure) => {
                self.note(&notes, &failure.error);
                answer_to(failure)
            }
        };
        notes.add(|notes| {
            let route = notes.endpoint.map_or("none", Endpoint::as_str);
            count_request(route, answer.status().as_u16(), code);
            if code != OK {
                notes.code = Some(code);
            }
        });
        answer
    }

    /// Keeps in mind that a create was refused, if it is known whose.
    fn note(&self, notes: &Notes, error: &GatewayError) {
        let mut creator = None;
        notes.add(|notes| {
            if notes.endpoint == Some(Endpoint::Generate) {
                creator = notes.principal.as_ref().map(|principal| (principal.org, principal.user));
            }
        });
        if let Some((org, user)) = creator {
            self.refusals.note(org, user, error);
        }
    }
}

/// The answer to a failed call, and the value of the label `code`.
fn answer_to(failure: Failure) -> (Answer, &'static str) {
    let Failure { error, rate } = failure;
    log(&error);
    let code = error.code().map_or(VENDORS_OWN, Code::as_str);
    let mut answer = error.into_answer();
    if let Some(rate) = rate {
        rate.add_to(answer.headers_mut());
    }
    (answer, code)
}

fn log(error: &GatewayError) {
    if let GatewayError::Unavailable(source) = error {
        tracing::warn!(error = %source, "the ledger is unavailable");
    }
    if let GatewayError::Internal(what) = error {
        tracing::error!(error = %what, "internal error");
    }
}
