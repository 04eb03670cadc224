//! Spans: one operation each, with its duration, attributes and outcome.

use std::borrow::Cow;
use std::fmt::Display;
use std::time::{Instant, SystemTime};

use http::{HeaderMap, Method};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::context::{MaybeWithin, TraceContext, within};
use crate::clock::Clock;

/// An operation in progress; the span ends when this is dropped. Nearly free for requests that are not sampled.
#[derive(Debug, Default)]
#[must_use = "a span ends when it is dropped"]
pub struct Span {
    context: Option<TraceContext>,
    record: Option<Box<Record>>,
}

#[derive(Debug)]
struct Record {
    kind: SpanKind,
    name: Cow<'static, str>,
    parent: SpanId,
    parent_is_remote: bool,
    begun: Instant,
    begun_at: SystemTime,
    attributes: Vec<KeyValue>,
    status: Status,
}

impl Span {
    /// The server span of the current request.
    pub fn of_request() -> Self {
        let Some(context) = TraceContext::current() else { return Self::default() };
        let parent = context.remote_parent();
        Self::begin(context, SpanKind::Server, "request", parent.unwrap_or(SpanId::INVALID), parent.is_some())
    }

    /// The root span of background work.
    pub fn of_own_work(name: &'static str) -> Self {
        let Some(context) = TraceContext::current() else { return Self::default() };
        Self::begin(context, SpanKind::Internal, name, SpanId::INVALID, false)
    }

    /// A child span for a part of the current work.
    pub fn of_part(name: &'static str) -> Self {
        Self::child(SpanKind::Internal, name)
    }

    /// A client span for a call to another service.
    pub fn of_call(name: &'static str) -> Self {
        Self::child(SpanKind::Client, name)
    }

    fn child(kind: SpanKind, name: &'static str) -> Self {
        let child = TraceContext::look(|current| match current.exporter() {
            Some(_) => Self::begin(current.child(), kind, name, current.span_id(), false),
            // Without a sampled trace there is no child: the context stays the current one.
            None => Self { context: Some(current.clone()), record: None },
        });
        child.unwrap_or_default()
    }

    fn begin(
        context: TraceContext,
        kind: SpanKind,
        name: &'static str,
        parent: SpanId,
        parent_is_remote: bool,
    ) -> Self {
        let record = context.exporter().is_some().then(|| {
            Box::new(Record {
                kind,
                name: name.into(),
                parent,
                parent_is_remote,
                begun: Clock.now(),
                begun_at: Clock.wall().into(),
                attributes: Vec::with_capacity(8),
                status: Status::Unset,
            })
        });
        Self { context: Some(context), record }
    }

    /// Runs `work` within this span.
    pub fn around<F: Future>(&self, work: F) -> MaybeWithin<F> {
        within(self.record.is_some().then(|| self.context.clone()).flatten(), work)
    }

    /// Sets the HTTP method, as a word of the OpenTelemetry conventions, and returns that word for use in the span's name.
    pub fn set_method(&mut self, method: &Method) -> &'static str {
        let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];
        let known = known.into_iter().find(|known| *known == method.as_str());
        self.set_word("http.request.method", known.unwrap_or("_OTHER"));
        let name = known.unwrap_or("HTTP");
        self.rename(name);
        name
    }

    /// Replaces the name given at the beginning.
    pub fn rename(&mut self, name: impl Into<Cow<'static, str>>) {
        if let Some(record) = &mut self.record {
            record.name = name.into();
        }
    }

    /// Sets an attribute; the value must not identify a tenant's content.
    pub fn set(&mut self, key: &'static str, value: impl Display) {
        if let Some(record) = &mut self.record {
            record.attributes.push(KeyValue::new(key, value.to_string()));
        }
    }

    /// Sets an attribute to a static text, without copying it.
    pub fn set_word(&mut self, key: &'static str, value: &'static str) {
        self.set_value(key, value);
    }

    /// Sets an attribute to a number.
    pub fn set_number(&mut self, key: &'static str, value: impl Into<i64>) {
        self.set_value(key, value.into());
    }

    fn set_value(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(record) = &mut self.record {
            record.attributes.push(KeyValue::new(key, value));
        }
    }

    /// Marks the span as failed. `kind` must come from a small closed set.
    pub fn fail(&mut self, kind: &'static str) {
        self.set_word("error.type", kind);
        if let Some(record) = &mut self.record {
            record.status = Status::error(kind);
        }
    }

    /// Adds this span to the headers of a call, if propagation is configured.
    pub fn propagate(&self, headers: &mut HeaderMap) {
        if let Some(context) = &self.context {
            context.propagate(headers);
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let told = self.record.as_ref().is_none_or(|record| record.status != Status::Unset);
        if std::thread::panicking() && !told {
            self.fail("panic");
        }
        let (Some(context), Some(record)) = (&self.context, self.record.take()) else { return };
        let Some(exporter) = context.exporter() else { return };
        let Record { kind, name, parent, parent_is_remote, begun, begun_at, attributes, status } = *record;
        exporter.end(SpanData {
            span_context: SpanContext::new(
                context.trace_id(),
                context.span_id(),
                TraceFlags::SAMPLED,
                false,
                context.state().clone(),
            ),
            parent_span_id: parent,
            parent_span_is_remote: parent_is_remote,
            span_kind: kind,
            name,
            start_time: begun_at,
            // By the monotonic clock: the wall clock may have been set in the meantime.
            end_time: begun_at + Clock.since(begun),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status,
            instrumentation_scope: InstrumentationScope::default(),
        });
    }
}
