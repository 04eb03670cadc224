//! Printing to standard output: tables for people, JSON for programs.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use serde::Serialize;

use super::CliError;

fn write(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "{text}")?;
    out.flush()
}

/// Prints `text` as it is. A reader that closes the pipe (`| head`) ends the command with exit code 0, any other error of
/// writing with 1.
pub(super) fn raw(text: impl Display) {
    match write(text) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            eprintln!("tollgate: standard output cannot be written: {error}");
            std::process::exit(1);
        }
    }
}

/// Prints a line; see [`raw`].
pub(super) fn line(text: impl Display) {
    raw(format_args!("{text}\n"));
}

/// Prints a line and ignores errors of writing: for commands that go on without a reader, or whose exit code counts.
pub(super) fn note(text: impl Display) {
    drop(write(format_args!("{text}\n")));
}

/// Prints a line with a secret that cannot be shown again; an error of writing fails the command.
pub(super) fn secret(text: impl Display) -> Result<(), CliError> {
    write(format_args!("{text}\n"))
        .map_err(|error| CliError::Failed(format!("a secret cannot be printed to standard output: {error}")))
}

/// Prints `rows` under `header`, with aligned columns.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    };
    line(&mut header.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    raw(text);
}

/// Prints `value` as one line of JSON.
pub(super) fn json(value: &impl Serialize) {
    line(serde_json::to_string(value).unwrap_or_default());
}
