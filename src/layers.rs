//! The stages of the data plane, one file each. Their order is in [`crate::stack::data_plane`], and nowhere else.

pub mod auth;
pub mod body;
pub mod context;
pub mod forward;
pub mod price;
pub mod rate_limit;
pub mod replay;
pub mod rescue;
pub mod reserve;
pub mod route;
pub mod trace;

use std::future::Future;

use tower::Layer;

use crate::call::Call;
use crate::error::{Answer, GatewayError};
use crate::rate_limits::RateHeaders;
use crate::telemetry::Span;

/// How a call ends.
pub type Outcome = Result<Answer, Failure>;

/// An error on its way to [`rescue`], which makes the answer of it.
#[derive(Debug)]
pub struct Failure {
    pub error: GatewayError,
    /// The limit that the answer must name, if the call was counted against one.
    pub rate: Option<RateHeaders>,
}

impl From<GatewayError> for Failure {
    fn from(error: GatewayError) -> Self {
        Self { error, rate: None }
    }
}

/// One stage of the data plane. Each takes calls of one type and hands on calls of another one, so that a stage that is
/// left out or swapped does not compile.
pub trait Stage: Send + Sync + 'static {
    /// The calls that it takes.
    type In;
    /// The calls that it hands on.
    type Out;

    /// Takes a call to its end: refuses it, answers it, or hands it on to `below`.
    fn run(
        &self,
        call: Call<Self::In>,
        below: &impl Below<Self::Out>,
    ) -> impl Future<Output = Outcome> + Send;
}

/// All that stands below a stage.
#[diagnostic::on_unimplemented(
    message = "no stage here takes a call that is `{In}`",
    note = "a stage of `stack::data_plane` is missing or stands in the wrong place"
)]
pub trait Below<In>: Send + Sync + 'static {
    /// Takes a call to its end.
    fn take(&self, call: Call<In>) -> impl Future<Output = Outcome> + Send;
}

/// A stage with all that stands below it. One value serves all requests, by reference.
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

/// A line of a [`tower::ServiceBuilder`] that is a stage.
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

/// Does a part of a call, in a span of its own.
pub(crate) async fn part<T, F: Future<Output = Result<T, GatewayError>>>(
    name: &'static str,
    // Not the future itself: it would be in this one twice.
    work: impl FnOnce() -> F,
) -> Result<T, GatewayError> {
    let mut span = Span::of_part(name);
    let result = span.around(work()).await;
    tell(&mut span, &result);
    result
}

/// Says in a span how its part ended. What the caller is refused for is no failure of the part.
pub(crate) fn tell<T>(span: &mut Span, result: &Result<T, GatewayError>) {
    if let Err(error) = result {
        tell_error(span, error);
    }
}

/// The same for a part that has failed.
pub(crate) fn tell_error(span: &mut Span, error: &GatewayError) {
    let code = error.code().map_or("vendor", crate::wire::Code::as_str);
    span.set_word("tollgate.code", code);
    if error.status().is_server_error() {
        span.fail(code);
    }
}
