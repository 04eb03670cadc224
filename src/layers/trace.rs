//! Turns a request into a [`Call`] and writes one event for it: who, what, how long, how it ended. Never bodies,
//! prompts, queries or credentials.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::header::EXPECT;
use http::{Method, Request, Version};
use http_body::Body;
use http_body_util::BodyExt;
use tokio_util::task::TaskTracker;
use tower::{Layer, Service};

use crate::access::peer::Peer;
use crate::access::proxies::TrustedProxies;
use crate::call::{Arrived, Call, Context, Notes};
use crate::clock::Clock;
use crate::error::Answer;
use crate::layers::body::Lingering;
use crate::layers::rescue::{CLIENT_GONE, count_request};
use crate::metrics as m;
use crate::telemetry::Span;
use crate::wire::Code;

/// See the module.
#[derive(Debug, Clone)]
pub struct TraceLayer {
    /// The time.
    pub clock: Clock,
    /// Where the rest of refused bodies is read.
    pub draining: TaskTracker,
    /// Whose word on a client's address is taken.
    pub proxies: TrustedProxies,
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace { inner, settings: self.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Trace<S> {
    inner: S,
    settings: TraceLayer,
}

impl<S, B> Service<Request<B>> for Trace<S>
where
    S: Service<Call<Arrived>, Response = Answer, Error = Infallible, Future: Send> + Clone + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let clock = self.settings.clock;
        let (head, body) = request.into_parts();
        let peer = head.extensions.get::<Peer>().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0);
        let peer = self.settings.proxies.client(peer, &head.headers);
        // A client that waits for our word has not begun to send.
        let draining = (!head.headers.contains_key(EXPECT)).then(|| self.settings.draining.clone());
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
            method: head.method,
            path: collapse_slashes(head.uri.path()),
            query: head.uri.query().unwrap_or_default().to_owned(),
            headers: head.headers,
            peer,
            arrived: event.arrived,
            notes,
        };
        let body = Lingering::new(body.map_err(Into::into).boxed_unsync(), draining);
        let call = Call { context, body: body.boxed_unsync(), stage: Arrived };
        Box::pin(async move {
            let in_flight = InFlight::new();
            let Ok(answer) = inner.call(call).await;
            drop(in_flight);
            event.answered(&answer);
            Ok(answer)
        })
    }
}

/// What the head tells of the answering. Never the path as it came, nor the query.
fn span(head: &http::request::Parts) -> Span {
    let mut span = Span::of_request();
    span.set_method(&head.method);
    let version = if head.version == Version::HTTP_2 { "2" } else { "1.1" };
    span.set_word("network.protocol.version", version);
    span
}

/// The event of one request; written when it is dropped, so also for a client that leaves.
struct Event {
    clock: Clock,
    arrived: Instant,
    /// The answering, in the request's trace.
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
                // A panic is answered further out. 499 is what nginx calls a client that left; nobody sees it but the log.
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
            // Of other paths nobody knows what is in them.
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

/// ⚑ `//api/generate` is on the wire today.
fn collapse_slashes(path: &str) -> String {
    let mut collapsed = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !collapsed.ends_with('/') {
            collapsed.push(c);
        }
    }
    collapsed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_collapse() {
        assert_eq!(collapse_slashes("//api///generate"), "/api/generate");
        assert_eq!(collapse_slashes("/api/status"), "/api/status");
        assert_eq!(collapse_slashes(""), "");
    }
}
