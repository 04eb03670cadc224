//! Log events: those of a request carry its ids, whoever writes them.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::UtcTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use super::context::TraceContext;
use crate::config::{Log, LogFormat};

/// What writes events to `writer`, as configured; in colours where they are shown to people.
pub fn events<W>(log: &Log, writer: W, colours: bool) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let events = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_timer(UtcTime::rfc_3339())
        .with_ansi(colours);
    match log.format {
        LogFormat::Json => {
            let json = events.json().flatten_event(true);
            Box::new(json.map_event_format(|inner| WithIds { inner, format: log.format }).finish())
        }
        LogFormat::Pretty => {
            let text = events.compact().map_event_format(|inner| inner.with_ansi(colours));
            Box::new(text.map_event_format(|inner| WithIds { inner, format: log.format }).finish())
        }
    }
}

/// Adds the ids of the request to what another format has written.
struct WithIds<F> {
    inner: F,
    format: LogFormat,
}

impl<S, N, F> FormatEvent<S, N> for WithIds<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(place) = TraceContext::current() else {
            return self.inner.format_event(context, writer, event);
        };
        let mut line = String::with_capacity(512);
        self.inner.format_event(context, Writer::new(&mut line), event)?;
        let (line, trace) = (line.trim_end(), place.trace_id());
        match (self.format, line.strip_suffix('}'), place.request_id()) {
            (LogFormat::Json, Some(open), Some(request)) => {
                writeln!(writer, "{open},\"trace_id\":\"{trace}\",\"request_id\":\"{request}\"}}")
            }
            (LogFormat::Json, Some(open), None) => writeln!(writer, "{open},\"trace_id\":\"{trace}\"}}"),
            (_, _, Some(request)) => writeln!(writer, "{line} trace_id={trace} request_id={request}"),
            (_, _, None) => writeln!(writer, "{line} trace_id={trace}"),
        }
    }
}
