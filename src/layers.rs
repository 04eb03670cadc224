//! The layers of the data plane, one file each. Their order is in [`crate::stack::data_plane`], and nowhere else.

pub mod auth;
pub mod forward;
pub mod forwarded;
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

/// What a layer's service returns.
pub type LayerFuture = Pin<Box<dyn Future<Output = Result<Answer, GatewayError>> + Send>>;

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
