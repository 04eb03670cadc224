//! The request's way through the data plane: one function.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::Full;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceBuilder};
use tower_http::ServiceBuilderExt;
use tower_http::request_id::{MakeRequestId, RequestId};

use crate::access::callers::Authenticator;
use crate::access::proxies::TrustedProxies;
use crate::clock::Clock;
use crate::error::GatewayError;
use crate::handlers::{Dispatch, Handlers};
use crate::layers::auth::AuthLayer;
use crate::layers::context::ContextLayer;
use crate::layers::forward::Forward;
use crate::layers::price::PriceLayer;
use crate::layers::rate_limit::RateLimitLayer;
use crate::layers::replay::ReplayLayer;
use crate::layers::rescue::RescueLayer;
use crate::layers::reserve::ReserveLayer;
use crate::layers::route::RouteLayer;
use crate::layers::trace::TraceLayer;
use crate::price_cache::Prices;
use crate::rate_limits::RateLimits;
use crate::telemetry::Tracing;

/// The parts the stack is made of; [`crate::app`] builds them.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The time.
    pub clock: Clock,
    /// Which requests are traced.
    pub tracing: Tracing,
    /// Where the rest of refused bodies is read; nothing waits for it.
    pub draining: TaskTracker,
    /// Whose word on a client's address is taken.
    pub proxies: TrustedProxies,
    /// Who may call.
    pub keys: Arc<Authenticator>,
    /// What the data plane says of itself.
    pub document: Bytes,
    /// How often.
    pub limits: Arc<RateLimits>,
    /// What creates cost.
    pub prices: Arc<Prices>,
    /// What was asked before.
    pub replay: ReplayLayer,
    /// Who pays.
    pub reserve: ReserveLayer,
    /// Who does the work.
    pub forward: Forward,
    /// What we answer ourselves.
    pub handlers: Handlers,
}

/// The body of an answer, as the outermost layers hand it out.
pub type AnswerBody = tower_http::body::UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// The data plane. The first line is seen first by a request and last by its answer.
pub fn data_plane(
    parts: Parts,
) -> impl Service<Request<Body>, Response = Response<AnswerBody>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    let paid = ServiceBuilder::new()
        // a replay works with an empty balance and a bad price: before anything can refuse
        .layer(parts.replay)
        // nothing is held for a request that is not valid
        .layer(PriceLayer { prices: parts.prices })
        // nothing is sent that is not paid for
        .layer(parts.reserve)
        // from here on the work belongs to the gateway, not to the connection
        .service(parts.forward);
    ServiceBuilder::new()
        // the layer below would keep a caller's own
        .map_request(without_id)
        // every answer, even to a panic, carries an id of ours
        .layer(tower_http::request_id::SetRequestIdLayer::new(REQUEST_ID, FreshId))
        .propagate_request_id(REQUEST_ID)
        // whatever is logged from here on, a panic too, tells of which request; and its trace goes on
        .layer(ContextLayer { tracing: parts.tracing })
        // whoever prints a request below does not print its credentials
        .sensitive_request_headers(Arc::from([AUTHORIZATION, COOKIE]))
        // a defect costs one request, not the process
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(panicked))
        // the one event, and from here on a typed call
        .layer(TraceLayer { clock: parts.clock, draining: parts.draining, proxies: parts.proxies })
        // errors become answers here and nowhere else
        .layer(RescueLayer::new())
        // what is not on the list leads nowhere, whoever asks
        .layer(RouteLayer { document: parts.document })
        // before a body is read
        .layer(AuthLayer { keys: parts.keys })
        // after it is known who asks, before anything costs much
        .layer(RateLimitLayer { limits: parts.limits })
        .service(Dispatch { create: paid, handlers: parts.handlers })
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A caller's own id is not believed: it could forge log lines.
fn without_id(mut request: Request<Body>) -> Request<Body> {
    request.headers_mut().remove(REQUEST_ID);
    request
}

/// A fresh id for each request.
#[derive(Debug, Clone, Copy)]
struct FreshId;

impl MakeRequestId for FreshId {
    fn make_request_id<B>(&mut self, _: &Request<B>) -> Option<RequestId> {
        HeaderValue::try_from(format!("req_{}", uuid::Uuid::now_v7().simple())).ok().map(RequestId::new)
    }
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response<Full<Bytes>> {
    let text =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = text.unwrap_or("no message"), "a request panicked");
    GatewayError::Internal("a panic".into()).into_answer()
}
