//! The stack of the data plane: one function, which is also the only place where the order of its stages is told.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, COOKIE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::Full;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceBuilder};
use tower_http::ServiceBuilderExt;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::request_id::{MakeRequestId, RequestId};

use crate::access::callers::Authenticator;
use crate::access::proxies::TrustedProxies;
use crate::clock::Clock;
use crate::error::GatewayError;
use crate::handlers::{Dispatch, Handlers};
use crate::layers::auth::Auth;
use crate::layers::beside::BesideLayer;
use crate::layers::context::ContextLayer;
use crate::layers::forward::Forward;
use crate::layers::price::Pricing;
use crate::layers::rate_limit::RateLimit;
use crate::layers::replay::Replay;
use crate::layers::rescue::RescueLayer;
use crate::layers::reserve::Reserve;
use crate::layers::route::Route;
use crate::layers::stage;
use crate::layers::trace::TraceLayer;
use crate::rate_limits::RateLimits;
use crate::telemetry::Tracing;

/// The parts the stack is made of; [`crate::app`] builds them.
#[derive(Debug, Clone)]
pub struct Parts {
    pub clock: Clock,
    /// Decides which requests are traced.
    pub tracing: Tracing,
    /// Runs the tasks that read refused bodies to their end; nothing waits for them.
    pub draining: TaskTracker,
    /// Proxies that are trusted to set the client-address header.
    pub proxies: TrustedProxies,
    pub keys: Arc<Authenticator>,
    /// The origins of pages whose scripts may call; none: no page may.
    pub origins: Vec<HeaderValue>,
    /// The organisations' part of the management API; none: it is served on the operations listener alone.
    pub management: Option<axum::Router>,
    /// The data plane's OpenAPI document.
    pub document: Bytes,
    /// Rate limits of each key, user and organisation.
    pub limits: Arc<RateLimits>,
    /// Validates creates and prices them.
    pub price: Pricing,
    /// Replays the stored answer for a known `Idempotency-Key`.
    pub replay: Replay,
    /// Holds the credits of creates.
    pub reserve: Reserve,
    /// Sends creates to the vendor.
    pub forward: Arc<Forward>,
    /// Answers the calls that are not creates.
    pub handlers: Handlers,
}

/// The body of an answer, as the outermost layers hand it out.
pub type AnswerBody = tower_http::body::UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// The data plane. A request passes the first line first, and its answer passes that line last.
pub fn data_plane(
    parts: Parts,
) -> impl Service<Request<Body>, Response = Response<AnswerBody>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    let paid = ServiceBuilder::new()
        // a replay must work with an empty balance and after a price change: before anything can refuse
        .layer(stage(parts.replay))
        // no credits are held for an invalid request
        .layer(stage(parts.price))
        // nothing is sent without a hold
        .layer(stage(parts.reserve))
        // sends the create in a task of its own, which a client that leaves does not cancel
        .service(parts.forward);
    ServiceBuilder::new()
        // the management API has layers of its own, and its errors another form
        .option_layer(parts.management.map(BesideLayer))
        // the layer below would keep an id that the caller sent
        .map_request(without_id)
        // every answer carries an id of ours, even the answer to a panic
        .layer(tower_http::request_id::SetRequestIdLayer::new(REQUEST_ID, FreshId))
        .propagate_request_id(REQUEST_ID)
        // events that are logged from here on, even of a panic, carry the request's id and trace
        .layer(ContextLayer { tracing: parts.tracing })
        // marks credential headers, so that `Debug` output below redacts them
        .sensitive_request_headers(Arc::from([AUTHORIZATION, COOKIE, API_KEY]))
        // a defect costs one request, not the process
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(panicked))
        // a browser asks before it sends a credential, so the answer comes before authentication
        .option_layer(cors(parts.origins))
        // logs one event a request, and makes it a typed call; the stages are shared by all requests, never copied
        .layer(TraceLayer { clock: parts.clock, draining: parts.draining, proxies: parts.proxies })
        // errors become answers here and nowhere else
        .layer(RescueLayer::new(parts.handlers.refusals.clone()))
        // unknown routes get 404 before authentication
        .layer(stage(Route { document: parts.document }))
        // before a body is read
        .layer(stage(Auth { keys: parts.keys }))
        // needs to know the caller, and comes before anything expensive
        .layer(stage(RateLimit { limits: parts.limits }))
        .service(Dispatch { create: paid, handlers: parts.handlers })
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Not looked at, but it holds a key if a client sends it.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Lets scripts of pages from these origins call, and read the headers of the answers. Never with cookies: a page must know
/// the key. None: browsers let no page call.
fn cors(origins: Vec<HeaderValue>) -> Option<CorsLayer> {
    const SENT: [&str; 6] = [
        "idempotency-key",
        "x-tollgate-quote",
        "x-tollgate-resend",
        "x-tollgate-store",
        "x-tollgate-labels",
        "traceparent",
    ];
    const READ: [&str; 6] = [
        "x-request-id",
        "ratelimit",
        "ratelimit-policy",
        "idempotent-replayed",
        "x-tollgate-stale-seconds",
        "x-tollgate-labels",
    ];
    if origins.is_empty() {
        return None;
    }
    let sent = [AUTHORIZATION, CONTENT_TYPE, CONTENT_ENCODING];
    let layer = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::DELETE])
        .allow_headers(sent.into_iter().chain(SENT.map(HeaderName::from_static)).collect::<Vec<_>>())
        .expose_headers(
            [RETRY_AFTER].into_iter().chain(READ.map(HeaderName::from_static)).collect::<Vec<_>>(),
        )
        .max_age(Duration::from_secs(600));
    Some(layer)
}

/// Removes the caller's own request id, with which it could forge log lines.
fn without_id(mut request: Request<Body>) -> Request<Body> {
    request.headers_mut().remove(REQUEST_ID);
    request
}

/// Makes a new id for each request.
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

#[cfg(test)]
mod tests {
    use std::marker::PhantomData;

    use super::*;
    use crate::call::{Arrived, Call};
    use crate::layers::{Below, Staged};

    /// Whether `T` takes calls that have just arrived. If it does, its inherent constant hides that of the trait.
    struct Takes<T>(PhantomData<T>);

    trait Otherwise {
        const CALLS: bool = false;
    }

    impl<T> Otherwise for Takes<T> {}

    impl<T: Below<Arrived>> Takes<T> {
        const CALLS: bool = true;
    }

    macro_rules! stack {
        ($last:ty) => { $last };
        ($first:ty, $($rest:ty),+) => { Staged<$first, stack!($($rest),+)> };
    }

    macro_rules! compiles {
        ($($stage:ty),+ => $($paid:ty),+) => {
            Takes::<stack!($($stage,)+ Dispatch<stack!($($paid),+)>)>::CALLS
        };
    }

    type Sending = Arc<Forward>;

    /// The size in bytes of the future that `take` returns.
    fn size<B: 'static, F: Future>(_take: impl Fn(&'static B, Call<Arrived>) -> F) -> usize {
        size_of::<F>()
    }

    /// The future of every request is moved to the heap. To keep it small, box the futures of rare paths.
    #[test]
    fn the_future_of_a_call_is_small() {
        type Whole = stack!(Route, Auth, RateLimit, Dispatch<stack!(Replay, Pricing, Reserve, Sending)>);
        let bytes = size(|stack: &'static Whole, call| stack.take(call));
        assert!(bytes <= 3072, "{bytes} bytes");
    }

    #[test]
    fn a_stage_that_is_left_out_or_swapped_does_not_compile() {
        let whole = [compiles!(Route, Auth, RateLimit => Replay, Pricing, Reserve, Sending)];
        assert_eq!(whole, [true], "the order of `data_plane`");
        let left_out = [
            compiles!(Auth, RateLimit => Replay, Pricing, Reserve, Sending),
            compiles!(Route, RateLimit => Replay, Pricing, Reserve, Sending),
            compiles!(Route, Auth => Replay, Pricing, Reserve, Sending),
            compiles!(Route, Auth, RateLimit => Pricing, Reserve, Sending),
            compiles!(Route, Auth, RateLimit => Replay, Reserve, Sending),
            compiles!(Route, Auth, RateLimit => Replay, Pricing, Sending),
            compiles!(Route, Auth, RateLimit => Sending),
        ];
        assert_eq!(left_out, [false; 7], "a stage is left out");
        let swapped = [
            compiles!(Auth, Route, RateLimit => Replay, Pricing, Reserve, Sending),
            compiles!(Route, RateLimit, Auth => Replay, Pricing, Reserve, Sending),
            compiles!(Route, Auth, RateLimit => Pricing, Replay, Reserve, Sending),
            compiles!(Route, Auth, RateLimit => Replay, Reserve, Pricing, Sending),
            compiles!(Route, Auth, Replay => RateLimit, Pricing, Reserve, Sending),
        ];
        assert_eq!(swapped, [false; 5], "two stages are swapped");
        let twice = [
            compiles!(Route, Auth, RateLimit, RateLimit => Replay, Pricing, Reserve, Sending),
            compiles!(Route, Auth, RateLimit => Replay, Pricing, Reserve, Reserve, Sending),
        ];
        assert_eq!(twice, [false; 2], "a stage stands twice");
    }
}
