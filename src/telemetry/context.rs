//! The request and the span that the current work belongs to, and its form on the wire (W3C Trace Context).

use std::sync::Arc;

use futures_util::future::Either;
use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanId, TraceFlags, TraceId, TraceState};
use tokio::task::futures::TaskLocalFuture;

use super::export::Exporter;

tokio::task_local! {
    static CURRENT: TraceContext;
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The longest `tracestate` that is passed on; W3C Trace Context asks for at least this.
const LONGEST_STATE: usize = 512;

/// A position in a trace: the current span of the current request.
#[derive(Debug, Clone)]
pub struct TraceContext {
    trace: Arc<SharedTrace>,
    span: SpanId,
}

/// What all spans of one request share.
#[derive(Debug)]
struct SharedTrace {
    id: TraceId,
    request_id: Option<Box<str>>,
    /// The caller's span, from its `traceparent`.
    parent: Option<SpanId>,
    state: TraceState,
    /// Where spans go; none: the request is not sampled.
    exporter: Option<Arc<Exporter>>,
    /// The sampled flag that calls to others carry; none: they carry no trace headers.
    propagate: Option<bool>,
}

impl TraceContext {
    pub(super) fn new(
        request_id: Option<&str>,
        remote: Option<Remote>,
        exporter: Option<Arc<Exporter>>,
        propagate: Option<bool>,
    ) -> Self {
        let parent = remote.as_ref().map(|remote| remote.span);
        let (id, state) = match remote {
            Some(remote) => (remote.trace, remote.state),
            None => (TraceId::from(rand::random_range(1..=u128::MAX)), TraceState::NONE),
        };
        let request_id = request_id.map(Box::from);
        let trace = Arc::new(SharedTrace { id, request_id, parent, state, exporter, propagate });
        Self { trace, span: fresh_span() }
    }

    /// The context of a request that is logged but not traced.
    pub fn of_untraced(request_id: &str) -> Self {
        Self::new(Some(request_id), None, None, None)
    }

    /// Runs `work` within this context.
    pub fn around<F: Future>(self, work: F) -> TaskLocalFuture<Self, F> {
        CURRENT.scope(self, work)
    }

    /// Runs synchronous `work` within this context.
    pub fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.clone(), work)
    }

    /// The current context; none outside of requests and background work.
    pub(super) fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Reads the current context without cloning it.
    pub(super) fn look<T>(look: impl FnOnce(&Self) -> T) -> Option<T> {
        CURRENT.try_with(look).ok()
    }

    pub(super) fn child(&self) -> Self {
        Self { trace: self.trace.clone(), span: fresh_span() }
    }

    pub(super) fn trace_id(&self) -> TraceId {
        self.trace.id
    }

    pub(super) fn span_id(&self) -> SpanId {
        self.span
    }

    pub(super) fn remote_parent(&self) -> Option<SpanId> {
        self.trace.parent
    }

    pub(super) fn request_id(&self) -> Option<&str> {
        self.trace.request_id.as_deref()
    }

    pub(super) fn state(&self) -> &TraceState {
        &self.trace.state
    }

    pub(super) fn exporter(&self) -> Option<&Exporter> {
        self.trace.exporter.as_deref()
    }

    /// Adds trace headers to a call, if configured. A request that is not sampled says so, so that the callee need not
    /// sample either.
    pub(super) fn propagate(&self, headers: &mut HeaderMap) {
        let Some(sampled) = self.trace.propagate else { return };
        let flags = u8::from(sampled);
        let text = format!("00-{}-{}-{flags:02x}", self.trace.id, self.span);
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(TRACEPARENT, value);
        }
        let state = self.trace.state.header();
        if !state.is_empty()
            && let Ok(value) = HeaderValue::try_from(state)
        {
            headers.insert(TRACESTATE, value);
        }
    }
}

fn fresh_span() -> SpanId {
    SpanId::from(rand::random_range(1..=u64::MAX))
}

/// Work that may run in a context of its own. Not an `async` block with two branches: it would be three times as large.
pub(super) type MaybeWithin<F> = Either<TaskLocalFuture<TraceContext, F>, F>;

/// Runs `work` in a context, if there is one.
pub(super) fn within<F: Future>(context: Option<TraceContext>, work: F) -> MaybeWithin<F> {
    match context {
        Some(context) => Either::Left(context.around(work)),
        None => Either::Right(work),
    }
}

/// Keeps the current context for `work` that is spawned as a task of its own.
pub fn carry<F: Future>(work: F) -> impl Future<Output = F::Output> {
    within(TraceContext::current(), work)
}

/// The caller's position in its trace.
#[derive(Debug)]
pub(super) struct Remote {
    trace: TraceId,
    span: SpanId,
    pub(super) sampled: bool,
    state: TraceState,
}

impl Remote {
    /// Reads the caller's headers. Malformed ones count as absent; a malformed `tracestate` does not affect `traceparent`.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all(TRACEPARENT).iter();
        let (parent, None) = (parents.next()?.to_str().ok()?, parents.next()) else { return None };
        let mut parts = parent.trim().split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        // Later versions may add fields, this one has none.
        let known = version != "ff" && (version != "00" || parts.next().is_none());
        if !known || !hex(version, 2) || !hex(trace, 32) || !hex(span, 16) || !hex(flags, 2) {
            return None;
        }
        let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
        if trace == TraceId::INVALID || span == SpanId::INVALID {
            return None;
        }
        let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
        let states: Option<Vec<&str>> =
            headers.get_all(TRACESTATE).iter().map(|value| value.to_str().ok()).collect();
        let state = states.map(|states| states.join(",")).filter(|state| state.len() <= LONGEST_STATE);
        let state = state.and_then(|state| state.parse().ok()).unwrap_or_default();
        Some(Self { trace, span, sampled: flags.is_sampled(), state })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let value = |text: &str| HeaderValue::try_from(text).unwrap();
        let mut headers = HeaderMap::new();
        for (name, text) in lines {
            headers.append(*name, value(text));
        }
        headers
    }

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn good_headers_are_read() {
        let remote =
            Remote::of(&headers(&[("traceparent", GOOD), ("tracestate", "a=1"), ("tracestate", "b=2")]));
        let remote = remote.unwrap();
        assert_eq!(remote.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((remote.span.to_string().as_str(), remote.sampled), ("00f067aa0ba902b7", true));
        assert_eq!(remote.state.header(), "a=1,b=2");
        let later = format!("01{}-more", &GOOD[2..]);
        assert!(Remote::of(&headers(&[("traceparent", &later)])).is_some());
    }

    #[test]
    fn bad_headers_are_ignored() {
        let zero = "0".repeat(32);
        for bad in [
            "",
            "x",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            &format!("{GOOD}-more"),
            &GOOD.to_uppercase(),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &zero),
            &GOOD.replace("00f067aa0ba902b7", &zero[..16]),
            &GOOD.replace("4bf9", "4bf"),
            &GOOD.replace("-01", "-0g"),
        ] {
            assert!(Remote::of(&headers(&[("traceparent", bad)])).is_none(), "{bad}");
        }
        assert!(Remote::of(&headers(&[("traceparent", GOOD), ("traceparent", GOOD)])).is_none());
        let long = format!("a={}", "x".repeat(600));
        for state in ["no equals sign", &long] {
            let remote = Remote::of(&headers(&[("traceparent", GOOD), ("tracestate", state)])).unwrap();
            assert_eq!(remote.state.header(), "", "{state}");
        }
    }

    #[test]
    fn only_who_is_to_know_is_told() {
        let told = |propagate| {
            let remote = Remote::of(&headers(&[("traceparent", GOOD), ("tracestate", "a=1")]));
            let context = TraceContext::new(None, remote, None, propagate);
            let mut headers = HeaderMap::new();
            context.propagate(&mut headers);
            (headers, context)
        };
        assert!(told(None).0.is_empty());
        let (headers, context) = told(Some(false));
        let expected = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-00", context.span);
        assert_eq!(headers["traceparent"].to_str().unwrap(), expected);
        assert_eq!(headers["tracestate"].to_str().unwrap(), "a=1");
    }
}
