//! The queue of log lines for standard error.
//!
//! No request waits for the reader of standard error: a thread writes the lines that have gathered. Lines for which there is
//! no room, or that cannot be written, are dropped and counted. Code that ends the process calls [`flush`] first.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

/// Maximum number of waiting bytes: a second of the busiest gateway.
const ROOM: usize = 4 << 20;
/// How long lines gather after a write, because a system call for each line would double its cost.
const GATHERING: Duration = Duration::from_millis(10);

static QUEUE: Queue = Queue {
    lines: Mutex::new(Lines { waiting: Vec::new(), writing: false, dropped: 0 }),
    more: Condvar::new(),
    written: Condvar::new(),
};

struct Queue {
    lines: Mutex<Lines>,
    more: Condvar,
    written: Condvar,
}

struct Lines {
    waiting: Vec<u8>,
    writing: bool,
    dropped: u64,
}

impl Lines {
    fn under_way(&self) -> bool {
        self.writing || !self.waiting.is_empty()
    }
}

impl Queue {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes lines for ever. Not through `std`, whose lock would block other threads while nobody reads standard error.
    fn write_to(&self, mut file: File) {
        let mut batch = Vec::new();
        loop {
            let lines = self.more.wait_while(self.lines(), |lines| lines.waiting.is_empty());
            let mut lines = lines.unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut batch, &mut lines.waiting);
            lines.writing = true;
            drop(lines);
            let lost = match file.write_all(&batch) {
                Ok(()) => 0,
                Err(_) => batch.iter().filter(|byte| **byte == b'\n').count(),
            };
            batch.clear();
            batch.shrink_to(64 << 10);
            let mut lines = self.lines();
            lines.writing = false;
            lines.dropped += lost as u64;
            drop(lines);
            self.written.notify_all();
            thread::sleep(GATHERING);
        }
    }
}

/// A writer into the queue; each call of `write` is one line.
#[derive(Debug, Clone, Copy)]
pub struct LogWriter(());

/// Starts the writing thread, unless it runs, and returns a writer.
pub fn start() -> io::Result<LogWriter> {
    static STARTED: OnceLock<()> = OnceLock::new();
    let file = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    if STARTED.set(()).is_ok() {
        thread::Builder::new().name("log".into()).spawn(|| QUEUE.write_to(file))?;
    }
    Ok(LogWriter(()))
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut lines = QUEUE.lines();
        if lines.waiting.len() + line.len() > ROOM {
            lines.dropped += 1;
            return Ok(line.len());
        }
        let first = lines.waiting.is_empty();
        lines.waiting.extend_from_slice(line);
        drop(lines);
        if first {
            QUEUE.more.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until all lines are written, at most for `limit`.
pub fn flush(limit: Duration) {
    drop(QUEUE.written.wait_timeout_while(QUEUE.lines(), limit, |lines| lines.under_way()));
}

/// The number of dropped lines since the start of the process.
pub fn dropped_lines() -> u64 {
    QUEUE.lines().dropped
}
