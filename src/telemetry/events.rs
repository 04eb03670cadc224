//! Log events: those of a request carry its ids, whoever writes them.
//!
//! A gateway's requests do not wait for whoever reads its log: lines go through a bounded queue to a thread that writes
//! what has gathered there. If nobody reads them, they are dropped and counted.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;
use std::{fmt, str, thread};

use serde::Serializer as _;
use serde::ser::SerializeMap as _;
use time::format_description::well_known::Rfc3339;
use tracing::{Event, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
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

/// How many lines may wait to be written: a second of the busiest gateway.
const QUEUED_LINES: usize = 8_192;
/// How long lines gather after a write; the system call costs as much as making a line does.
const GATHERING: Duration = Duration::from_millis(10);

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Sends all events of the process to standard error. Those that wait are written when what it returns is dropped.
#[must_use = "what waits is written when it is dropped"]
pub fn log_to_stderr(log: &Log) -> WorkerGuard {
    let stderr = Gathering(BufWriter::with_capacity(64 << 10, io::stderr()));
    let queue = NonBlockingBuilder::default().buffered_lines_limit(QUEUED_LINES).thread_name("log");
    let (writer, guard) = queue.finish(stderr);
    // A second subscriber in one process cannot happen; if it did, the first one would stay.
    if DROPPED.set(writer.error_counter()).is_ok() {
        drop(events(log, writer, io::stderr().is_terminal()).try_init());
    }
    guard
}

/// How many lines nobody read in time.
pub fn dropped_lines() -> u64 {
    DROPPED.get().map_or(0, |counter| counter.dropped_lines() as u64)
}

/// Is flushed when the queue is empty; then lets lines gather there.
struct Gathering<W: Write>(BufWriter<W>);

impl<W: Write> Write for Gathering<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.0.flush();
        thread::sleep(GATHERING);
        flushed
    }
}

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
        LogFormat::Json => Box::new(events.json().event_format(Json).finish()),
        LogFormat::Pretty => {
            let text = events.compact().map_event_format(|inner| inner.with_ansi(colours));
            Box::new(text.map_event_format(|inner| WithIds { inner }).finish())
        }
    }
}

/// An object a line, made in one pass: it is made for every request.
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
    // What comes by way of the `log` crate has its own in fields.
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

/// Adds the ids of the request to what another format has written.
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
