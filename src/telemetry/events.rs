//! Log events. Events of a request carry its ids, wherever in the code they are written.

use std::io::{self, IsTerminal};
use std::time::Duration;
use std::{fmt, str};

use serde::Serializer as _;
use serde::ser::SerializeMap as _;
use time::format_description::well_known::Rfc3339;
use tracing::{Event, Subscriber};
use tracing_log::NormalizeEvent as _;
use tracing_serde::SerdeMapVisitor;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::UtcTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use super::context::TraceContext;
use crate::clock::Clock;
use crate::config::{Log, LogFormat};
use crate::log_queue;

/// Writes all log events of the process to standard error.
pub fn log_to_stderr(log: &Log) -> io::Result<Logging> {
    let writer = log_queue::start()?;
    // Called once per process; on a second call the first subscriber stays.
    drop(events(log, move || writer, io::stderr().is_terminal()).try_init());
    Ok(Logging(()))
}

/// Writes the queued log lines when it is dropped.
#[derive(Debug)]
#[must_use = "queued log lines are written when this is dropped"]
pub struct Logging(());

impl Drop for Logging {
    fn drop(&mut self) {
        log_queue::flush(Duration::from_secs(1));
    }
}

/// A subscriber that writes events to `writer` as configured; `colours` is for terminals.
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
        LogFormat::Json => Box::new(events.event_format(Json).finish()),
        LogFormat::Pretty => {
            let text = events.compact().map_event_format(|inner| inner.with_ansi(colours));
            Box::new(text.map_event_format(|inner| WithIds { inner }).finish())
        }
    }
}

/// One JSON object per line, written in one pass because every request writes one.
struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Vec::with_capacity(512);
        write_json(event, &mut line).map_err(|_| fmt::Error)?;
        writer.write_str(str::from_utf8(&line).map_err(|_| fmt::Error)?)?;
        writer.write_char('\n')
    }
}

fn write_json(event: &Event<'_>, line: &mut Vec<u8>) -> serde_json::Result<()> {
    // Events from the `log` crate have their metadata in fields.
    let normal = event.normalized_metadata();
    let metadata = normal.as_ref().unwrap_or_else(|| event.metadata());
    let mut serializer = serde_json::Serializer::new(line);
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("timestamp", &Clock.wall().format(&Rfc3339).unwrap_or_default())?;
    map.serialize_entry("level", metadata.level().as_str())?;
    let mut fields = SerdeMapVisitor::new(map);
    event.record(&mut fields);
    let mut map = fields.take_serializer()?;
    map.serialize_entry("target", metadata.target())?;
    TraceContext::look(|place| {
        map.serialize_entry("trace_id", &format_args!("{}", place.trace_id()))?;
        match place.request_id() {
            Some(request) => map.serialize_entry("request_id", request),
            None => Ok(()),
        }
    })
    .transpose()?;
    map.end()
}

/// Adds the ids of the request to the line of another format.
struct WithIds<F> {
    inner: F,
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
        write!(writer, "{} trace_id={}", line.trim_end(), place.trace_id())?;
        match place.request_id() {
            Some(request) => writeln!(writer, " request_id={request}"),
            None => writeln!(writer),
        }
    }
}
