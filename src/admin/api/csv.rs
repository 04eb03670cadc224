//! Tables for spreadsheets (RFC 4180).
//!
//! A text that a caller wrote may begin like a formula, which some spreadsheets would run: it gets an apostrophe in front. Where
//! the decimal sign is a comma, a spreadsheet splits lines at `;` and knows nothing of our quotation marks: so an apostrophe is
//! also set where a formula would begin after such a split. Numbers, ids and times are written by the gateway and stay as they
//! are.

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{ACCEPT, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::path::Parameter;

use super::extract::Input;
use super::problem::Problem;

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    Json,
    /// All lines at once.
    Csv,
}

/// The form that the `Accept` header asks for.
pub(super) struct Accept(pub(super) Format);

impl Input for Accept {
    /// OpenAPI names the forms with the answers: a parameter called `Accept` is to be ignored by its readers.
    fn describe(_: &mut Vec<RefOr<Parameter>>) {}

    fn read(parts: &Parts, _: &Bytes) -> Result<Self, Problem> {
        #[expect(
            clippy::disallowed_methods,
            reason = "several lines are one list, and its beginning decides"
        )]
        let accepted = parts.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let csv = accepted.trim().starts_with("text/csv");
        Ok(Self(if csv { Format::Csv } else { Format::Json }))
    }
}

/// A field of a table.
pub(super) enum Cell {
    /// Written by the gateway.
    Plain(String),
    /// Written by a caller: may look like a formula.
    Text(String),
}

pub(super) fn plain(value: Option<impl ToString>) -> Cell {
    Cell::Plain(value.map(|value| value.to_string()).unwrap_or_default())
}

pub(super) fn text(value: Option<&str>) -> Cell {
    Cell::Text(value.unwrap_or_default().to_owned())
}

/// A text without any place where a spreadsheet could begin to read a formula.
fn defused(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    // The tab and the line break are removed by some spreadsheets, which then read what follows.
    let mut begins = true;
    if text.starts_with(['\t', '\r']) {
        safe.push('\'');
    }
    for c in text.chars() {
        if begins && matches!(c, '=' | '+' | '-' | '@' | '＝' | '＋' | '－' | '＠') {
            safe.push('\'');
        }
        begins = matches!(c, ';' | '\t' | '|' | '\r' | '\n') || (begins && (c == '"' || c.is_whitespace()));
        safe.push(c);
    }
    safe
}

/// The byte order mark, by which some spreadsheets know that a table is UTF-8; nothing if it is not wanted.
pub(super) fn mark(wanted: bool) -> &'static str {
    if wanted { "\u{feff}" } else { "" }
}

pub(super) fn line(table: &mut String, cells: impl IntoIterator<Item = Cell>) {
    for (n, cell) in cells.into_iter().enumerate() {
        if n > 0 {
            table.push(',');
        }
        let value = match cell {
            Cell::Plain(value) => value,
            Cell::Text(value) => defused(&value),
        };
        if value.contains([',', '"', '\n', '\r']) {
            table.push('"');
            table.push_str(&value.replace('"', "\"\""));
            table.push('"');
        } else {
            table.push_str(&value);
        }
    }
    table.push_str("\r\n");
}

/// An answer with a table. `name` becomes the file name: it must consist of ids and dates.
pub(super) fn answer(name: &str, body: Body) -> Response {
    let mut answer = body.into_response();
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8; header=present"));
    if let Ok(value) = HeaderValue::try_from(format!("attachment; filename=\"{name}.csv\"")) {
        headers.insert(CONTENT_DISPOSITION, value);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_and_formulas_disarmed() {
        let mut table = String::new();
        let cells = ["a,b", "say \"hi\"", "two\nlines", "=1+1", "+1", "-1", "@x", "\t=1", "a=b", ""];
        line(&mut table, cells.map(|value| text(Some(value))));
        assert_eq!(table, "\"a,b\",\"say \"\"hi\"\"\",\"two\nlines\",'=1+1,'+1,'-1,'@x,'\t'=1,a=b,\r\n");
        let mut table = String::new();
        line(&mut table, [plain(Some(-400)), plain(None::<i64>), text(None)]);
        assert_eq!(table, "-400,,\r\n");
    }

    #[test]
    fn no_split_makes_a_formula() {
        for (text, safe) in [
            ("x;=cmd|' /C calc'!A0;Gün", "x;'=cmd|' /C calc'!A0;Gün"),
            ("x; \"=1", "x; \"'=1"),
            ("x\t=1\n+2\r\n-3|@4", "x\t'=1\n'+2\r\n'-3|'@4"),
            ("  =1", "  '=1"),
            ("＝1", "'＝1"),
            ("a-b; c=d, e@f", "a-b; c=d, e@f"),
        ] {
            assert_eq!(defused(text), safe);
        }
    }
}
