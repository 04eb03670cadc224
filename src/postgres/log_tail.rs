//! The last lines of the server's log, for error messages.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

const LINES: usize = 8;
const BYTES_MAX: u64 = 64 << 10;

/// The present end of the log: later lines belong to the attempt that begins now.
pub(super) fn position(log: &File) -> u64 {
    log.metadata().map_or(0, |found| found.len())
}

/// The last lines of the log that were written after `from`.
pub(super) fn read(path: &Path, from: u64) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut log| {
        let end = log.seek(SeekFrom::End(0))?;
        log.seek(SeekFrom::Start(from.max(end.saturating_sub(BYTES_MAX))))?;
        log.take(BYTES_MAX).read_to_end(&mut bytes)
    });
    match read {
        Ok(_) => last_lines(&String::from_utf8_lossy(&bytes)),
        Err(error) => format!("(unreadable: {error})"),
    }
}

/// The last lines of a program's output that are not blank.
pub(super) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        return "(nothing)".into();
    }
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
