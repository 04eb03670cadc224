//! The stages of the data plane, one file each. Their order is in [`crate::stack::data_plane`], and nowhere else.

pub mod auth;
pub mod beside;
pub mod body;
pub mod context;
pub mod forward;
pub mod price;
pub mod rate_limit;
pub mod refusals;
pub mod replay;
pub mod rescue;
pub mod reserve;
pub mod route;
pub mod trace;
pub mod unanswered;

use std::future::Future;

use tower::Layer;

use crate::call::Call;
use crate::error::{Answer, GatewayError};
use crate::rate_limits::RateHeaders;
use crate::telemetry::Span;

/// How a call ends.
pub type Outcome = Result<Answer, Failure>;

/// An error on its way to [`rescue`], which turns it into an answer.
#[derive(Debug)]
pub struct Failure {
    pub error: GatewayError,
    /// The rate-limit headers for the answer, if the call was counted against a limit.
    pub rate: Option<RateHeaders>,
}

impl From<GatewayError> for Failure {
    fn from(error: GatewayError) -> Self {
        Self { error, rate: None }
    }
}

/// One stage of the data plane. A stage takes calls of one type and hands on calls of another type, so that a stack with a
/// stage missing or swapped does not compile.
pub trait Stage: Send + Sync + 'static {
    /// The type of the calls that the stage takes.
    type In;
    /// The type of the calls that the stage hands on.
    type Out;

    /// Processes a call: refuses it, answers it, or hands it on to `below`.
    fn run(
        &self,
        call: Call<Self::In>,
        below: &impl Below<Self::Out>,
    ) -> impl Future<Output = Outcome> + Send;
}

/// The rest of the stack below a stage.
#[diagnostic::on_unimplemented(
    message = "no stage here takes a call that is `{In}`",
    note = "a stage of `stack::data_plane` is missing or stands in the wrong place"
)]
pub trait Below<In>: Send + Sync + 'static {
    /// Processes a call to its answer or error.
    fn take(&self, call: Call<In>) -> impl Future<Output = Outcome> + Send;
}

/// A stage with the rest of the stack below it. One value serves all requests, by reference.
#[derive(Debug, Clone)]
pub struct Staged<S, B> {
    stage: S,
    below: B,
}

impl<S: Stage, B: Below<S::Out>> Below<S::In> for Staged<S, B> {
    fn take(&self, call: Call<S::In>) -> impl Future<Output = Outcome> + Send {
        self.stage.run(call, &self.below)
    }
}

/// Makes a layer of a stage, for a line of [`tower::ServiceBuilder`].
pub fn stage<S: Stage + Clone>(stage: S) -> StageLayer<S> {
    StageLayer(stage)
}

#[derive(Debug, Clone)]
pub struct StageLayer<S>(S);

impl<S: Stage + Clone, B> Layer<B> for StageLayer<S> {
    type Service = Staged<S, B>;

    fn layer(&self, below: B) -> Staged<S, B> {
        Staged { stage: self.0.clone(), below }
    }
}

/// Runs a part of a call in a span of its own, and records in the span how it ended.
pub(crate) async fn part<T, F: Future<Output = Result<T, GatewayError>>>(
    name: &'static str,
    // Not the future itself, which would take its size twice in this future.
    work: impl FnOnce() -> F,
) -> Result<T, GatewayError> {
    let mut span = Span::of_part(name);
    let result = span.around(work()).await;
    tell(&mut span, &result);
    result
}

/// Records in a span how its part ended. A refusal that is the caller's fault is not a failure of the span.
pub(crate) fn tell<T>(span: &mut Span, result: &Result<T, GatewayError>) {
    if let Err(error) = result {
        tell_error(span, error);
    }
}

/// Records in a span the error that its part ended with.
pub(crate) fn tell_error(span: &mut Span, error: &GatewayError) {
    let code = error.code().map_or("vendor", crate::wire::Code::as_str);
    span.set_word("tollgate.code", code);
    if error.status().is_server_error() {
        span.fail(code);
    }
}
