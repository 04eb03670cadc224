//! Turns a request into a [`Call`] and writes one event for it: who, what, how long, how it ended. Never bodies,
//! prompts, queries or credentials.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use tower::{Layer, Service};

use crate::call::{Arrived, Call, Context, Notes};
use crate::clock::Clock;
use crate::error::Answer;
use crate::metrics as m;

/// See the module.
#[derive(Debug, Clone)]
pub struct TraceLayer {
    /// The time.
    pub clock: Clock,
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace { inner, clock: self.clock }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Trace<S> {
    inner: S,
    clock: Clock,
}

/// The address a request came from; the server puts it among the extensions.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

impl<S, B> Service<Request<B>> for Trace<S>
where
    S: Service<Call<Arrived>, Response = Answer, Error = Infallible, Future: Send> + Clone + Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
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
        let clock = self.clock;
        let (head, body) = request.into_parts();
        let request_id =
            head.headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
        let notes = Notes::default();
        let context = Context {
            method: head.method.clone(),
            path: collapse_slashes(head.uri.path()),
            query: head.uri.query().unwrap_or_default().to_owned(),
            headers: head.headers,
            peer: head
                .extensions
                .get::<Peer>()
                .map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0.to_canonical()),
            arrived: clock.now(),
            notes: notes.clone(),
        };
        let (arrived, peer) = (context.arrived, context.peer);
        let call = Call { context, body: body.map_err(Into::into).boxed_unsync(), stage: Arrived };
        Box::pin(async move {
            let in_flight = InFlight::new();
            let Ok(answer) = inner.call(call).await;
            drop(in_flight);
            let took = clock.since(arrived);
            let noted = notes.take();
            let route = noted.endpoint.map_or("none", crate::call::Endpoint::as_str);
            let status = answer.status().as_u16();
            metrics::histogram!(m::REQUEST_SECONDS, "route" => route).record(took);
            let code = noted.code.as_deref().unwrap_or("OK");
            let principal = noted.principal.as_deref();
            tracing::info!(
                request_id,
                route,
                method = %head.method,
                status,
                code,
                ms = took.as_secs_f64() * 1e3,
                peer = %peer,
                org = principal.map(|p| tracing::field::display(p.org)),
                user = principal.map(|p| tracing::field::display(p.user)),
                key = principal.map(|p| tracing::field::display(p.key)),
                hold = noted.hold.map(tracing::field::display),
                "request"
            );
            Ok(answer)
        })
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
