//! The layers of the data plane, one file each. Their order is in [`crate::stack::data_plane`], and nowhere else.

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
use std::pin::Pin;

use crate::error::{Answer, GatewayError};
use crate::telemetry::Span;

/// What a layer's service returns.
pub type LayerFuture = Pin<Box<dyn Future<Output = Result<Answer, GatewayError>> + Send>>;

/// Does a part of a call, in a span of its own.
pub(crate) async fn part<T>(
    name: &'static str,
    work: impl Future<Output = Result<T, GatewayError>>,
) -> Result<T, GatewayError> {
    let mut span = Span::of_part(name);
    let result = span.around(work).await;
    tell(&mut span, &result);
    result
}

/// Says in a span how its part ended. What the caller is refused for is no failure of the part.
pub(crate) fn tell<T>(span: &mut Span, result: &Result<T, GatewayError>) {
    let Err(error) = result else { return };
    let code = error.code().map_or("vendor", crate::wire::Code::as_str);
    span.set_word("tollgate.code", code);
    if error.status().is_server_error() {
        span.fail(code);
    }
}

/// The service a layer of the data plane wraps.
pub trait Stage<S>:
    tower::Service<crate::call::Call<S>, Response = Answer, Error = GatewayError, Future: Send>
    + Clone
    + Send
    + 'static
{
}

impl<S, T> Stage<S> for T where
    T: tower::Service<crate::call::Call<S>, Response = Answer, Error = GatewayError, Future: Send>
        + Clone
        + Send
        + 'static
{
}
