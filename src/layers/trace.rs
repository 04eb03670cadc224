//! Turns a request into a [`Call`] and logs one event for it: caller, endpoint, duration, status. The event never has
//! bodies, prompts, queries or credentials.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Instant;

use axum::body::Body;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT};
use http::{HeaderValue, Method, Request, Version};
use http_body::Body as _;
use http_body_util::Full;
use tokio_util::task::TaskTracker;
use tower::{Layer, Service};

use crate::access::proxies::TrustedProxies;
use crate::call::Peer;
use crate::call::{Arrived, Call, Context, Notes, RequestBody};
use crate::clock::Clock;
use crate::docs_page;
use crate::error::Answer;
use crate::layers::Below;
use crate::layers::rescue::{CLIENT_GONE, Rescue, count_request};
use crate::metrics as m;
use crate::strict;
use crate::telemetry::Span;
use crate::wire::Code;

/// Turns requests into calls, and logs one event for each.
#[derive(Debug, Clone)]
pub struct TraceLayer {
    pub clock: Clock,
    /// Runs the tasks that read refused bodies to their end.
    pub draining: TaskTracker,
    /// Proxies that are trusted to set the client-address header.
    pub proxies: TrustedProxies,
}

impl<B> Layer<Rescue<B>> for TraceLayer {
    type Service = Trace<B>;

    fn layer(&self, below: Rescue<B>) -> Trace<B> {
        Trace(Arc::new(TraceState { settings: self.clone(), below }))
    }
}

/// The service between HTTP and the typed stages. All requests share one, so that none copies the stages.
#[derive(Debug)]
pub struct Trace<B>(Arc<TraceState<B>>);

#[derive(Debug)]
struct TraceState<B> {
    settings: TraceLayer,
    below: Rescue<B>,
}

impl<B> Clone for Trace<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: Below<Arrived>> Service<Request<Body>> for Trace<B> {
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        // The stages below are always ready: their limits answer with errors, not with back-pressure.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let inner = self.0.clone();
        let multiplexed = request.version() == Version::HTTP_2;
        let (call, event) = inner.settings.arrive(request);
        Box::pin(async move {
            let (only_head, left) = (call.context.method == Method::HEAD, call.body.left());
            let in_flight = InFlight::new();
            let mut answer = inner.below.answer(call).await;
            drop(in_flight);
            event.answered(&answer);
            if left.much() && !multiplexed {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(if only_head { without_body(answer) } else { answer })
        })
    }
}

impl TraceLayer {
    fn arrive(&self, request: Request<Body>) -> (Call<Arrived>, Event) {
        let clock = self.clock;
        let (head, body) = request.into_parts();
        let connection = Peer::of(&head.extensions);
        let peer = self.proxies.client(connection.address, &head.headers);
        // A client that waits for `100 Continue` has not begun to send its body, so there is nothing to drain.
        let draining = (!head.headers.contains_key(EXPECT)).then(|| self.draining.clone());
        let notes = Notes::default();
        let event = Event {
            clock,
            arrived: clock.now(),
            span: span(&head),
            method: head.method.clone(),
            peer,
            notes: notes.clone(),
            status: None,
        };
        let context = Context {
            host: strict::check_host(&head),
            method: head.method,
            path: normal_path(head.uri.path()),
            query: head.uri.query().unwrap_or_default().to_owned(),
            headers: head.headers,
            extensions: head.extensions,
            connection,
            peer,
            arrived: event.arrived,
            notes,
        };
        let body = RequestBody::new(body, draining);
        (Call { context: Box::new(context), body, stage: Arrived }, event)
    }
}

/// The span of answering a request, with what its head tells; never the raw path or the query.
fn span(head: &http::request::Parts) -> Span {
    let mut span = Span::of_request();
    span.set_method(&head.method);
    let version = if head.version == Version::HTTP_2 { "2" } else { "1.1" };
    span.set_word("network.protocol.version", version);
    span
}

/// The log event of one request. It is written on drop, so also for a client that leaves.
struct Event {
    clock: Clock,
    arrived: Instant,
    /// The span of answering, in the request's trace.
    span: Span,
    method: Method,
    peer: IpAddr,
    notes: Notes,
    status: Option<u16>,
}

impl Event {
    fn answered(mut self, answer: &Answer) {
        self.status = Some(answer.status().as_u16());
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let took = self.clock.since(self.arrived);
        let noted = self.notes.take();
        let route = noted.endpoint.map_or("none", crate::call::Endpoint::as_str);
        metrics::histogram!(m::REQUEST_SECONDS, "route" => route).record(took);
        if self.status.is_some() {
            metrics::histogram!(m::OVERHEAD_SECONDS, "route" => route)
                .record(took.saturating_sub(noted.waited));
        }
        let (status, code) = match self.status {
            Some(status) => (status, noted.code.unwrap_or("OK")),
            None => {
                // A panic is answered by a layer above. 499 is nginx's status for a client that left; it is only logged.
                let panics = std::thread::panicking();
                let (status, code) =
                    if panics { (500, Code::InternalError.as_str()) } else { (499, CLIENT_GONE) };
                count_request(route, status, code);
                (status, code)
            }
        };
        let principal = noted.principal.as_deref();
        tracing::info!(
            route,
            method = %self.method,
            status,
            code,
            ms = (took.as_secs_f64() * 1e6).round() / 1e3,
            peer = %self.peer,
            org = principal.map(|p| tracing::field::display(p.org)),
            user = principal.map(|p| tracing::field::display(p.user)),
            key = principal.and_then(|p| p.key).map(tracing::field::display),
            hold = noted.hold.map(tracing::field::display),
            "request"
        );
        let span = &mut self.span;
        if let Some(endpoint) = noted.endpoint {
            // Unknown paths are not recorded, because they may contain anything.
            span.rename(endpoint.described());
            span.set_word("http.route", endpoint.path());
            span.set_word("url.path", endpoint.path());
        }
        if status != 499 {
            span.set_number("http.response.status_code", status);
        }
        span.set("client.address", self.peer);
        span.set_word("tollgate.code", code);
        if let Some(principal) = principal {
            span.set("tollgate.org", principal.org);
            span.set("tollgate.user", principal.user);
        }
        if let Some(key) = principal.and_then(|principal| principal.key) {
            span.set("tollgate.key", key);
        }
        if let Some(hold) = noted.hold {
            span.set("tollgate.hold", hold);
        }
        if status >= 499 {
            span.fail(code);
        }
    }
}

struct InFlight;

impl InFlight {
    fn new() -> Self {
        metrics::gauge!(m::IN_FLIGHT).increment(1);
        Self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        metrics::gauge!(m::IN_FLIGHT).decrement(1);
    }
}

/// The answer to a HEAD request: what GET would get, without its body.
fn without_body(mut answer: Answer) -> Answer {
    let length = answer.body().size_hint().exact().unwrap_or(0);
    answer.headers_mut().insert(CONTENT_LENGTH, length.into());
    *answer.body_mut() = Full::default();
    answer
}

/// Collapses repeated slashes, because clients send `//api/generate` today, and drops a slash at the end. The pages below
/// `/docs/` stay where they are, because their links are relative.
pub(super) fn normal_path(path: &str) -> String {
    let mut collapsed = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !collapsed.ends_with('/') {
            collapsed.push(c);
        }
    }
    if collapsed.len() > 1 && collapsed.ends_with('/') && !docs_page::is_below(&collapsed) {
        collapsed.pop();
    }
    collapsed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_collapse() {
        assert_eq!(normal_path("//api///generate"), "/api/generate");
        assert_eq!(normal_path("/api/status"), "/api/status");
        assert_eq!(normal_path("/api/quote//"), "/api/quote");
        assert_eq!(normal_path("/docs/"), "/docs/");
        assert_eq!(normal_path("//"), "/");
        assert_eq!(normal_path(""), "");
    }
}
