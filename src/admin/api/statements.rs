//! Statements: the ledger of an organisation for one month.

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::{IntoParams, ToSchema};

use super::call::{ApiCall, FurtherTurns, ReadCall};
use super::csv::{self, Accept, Cell, Format, plain, text};
use super::extract::Query;
use super::page::PageLimit;
use super::problem::Problem;
use crate::credits::Credits;
use crate::ids::OrgId;
use crate::store::{EntryPosition, Line, Month, Statement, StoreError};

/// Lines that are read from the database at a time for a CSV table.
const LINES_AT_A_TIME: u32 = 2000;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct StatementQuery {
    /// `csv`: all lines at once, as with `Accept: text/csv`; omitted: JSON in pages.
    #[param(inline)]
    format: Option<Format>,
    /// `true`: a CSV table begins with a byte order mark, without which Excel takes it for another encoding than UTF-8.
    #[serde(default)]
    bom: bool,
    /// The most items a page may have; 50 if omitted.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: PageLimit,
    /// `next_cursor` of the previous page.
    cursor: Option<String>,
}

/// A statement with one page of its lines.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StatementPage {
    #[serde(flatten)]
    statement: Statement,
    /// The lines of this page, oldest first.
    items: Vec<Line>,
    /// Send it as `cursor` to get the next page; null: this is the last page.
    next_cursor: Option<String>,
}

/// Show a statement
///
/// Covers one month in the organisation's time zone. The opening balance plus all lines is the closing balance; in the
/// current month that is the present balance, available and held credits together.
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/statements/{month}", tag = "usage",
    params(
        ("org_id" = OrgId, Path, description = "The organisation"),
        ("month" = Month, Path, description = "The month, such as 2026-11")
    ),
    responses((status = 200, description = "A page of the statement, or as CSV all of it", content((StatementPage = "application/json"), (String = "text/csv")))),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn show_statement(
    call: ReadCall<(OrgId, String), (Accept, Query<StatementQuery>)>,
) -> Result<Response, Problem> {
    let ApiCall { database, turns, path: (org, month), input: (Accept(accepted), Query(query)), .. } = call;
    let statement = database.statement(org, month.parse()?).await?;
    if query.format.unwrap_or(accepted) == Format::Csv {
        let name = format!("statement-{org}-{}", statement.month);
        return Ok(csv::answer(&name, table(turns, statement, query.bom)));
    }
    let slice = query.limit.after::<EntryPosition>(query.cursor.as_deref())?;
    let items = database.statement_lines(&statement, slice.after, None, slice.limit.into()).await?;
    let (items, next_cursor) = query.limit.cut(items, |line| line.entry.place());
    Ok(Json(StatementPage { statement, items, next_cursor }).into_response())
}

const COLUMNS: [&str; 16] = [
    "date",
    "kind",
    "credits",
    "balance",
    "task_id",
    "task_type",
    "user_id",
    "team_id",
    "key_id",
    "reason",
    "external_ref",
    "overrun",
    "expires_at",
    "entry_id",
    "hold_id",
    "related_entry",
];

/// What comes next in a table that is being sent.
enum NextPiece {
    Begin,
    After(Option<EntryPosition>, Credits),
    Over,
}

/// The CSV of a whole statement, as of the request; lines are read while earlier ones are sent. The table ends with a line
/// for the closing balance; a file without it was cut off. Each part is read in a turn of its own: while its client reads, others
/// have theirs.
fn table(turns: FurtherTurns, statement: Statement, bom: bool) -> Body {
    let rows = stream::try_unfold(NextPiece::Begin, move |next| {
        let (turns, statement) = (turns.clone(), statement.clone());
        async move {
            let mut table = String::new();
            let (after, balance) = match next {
                NextPiece::Over => return Ok(None),
                NextPiece::Begin => {
                    table.push_str(csv::mark(bom));
                    csv::line(&mut table, COLUMNS.map(|name| plain(Some(name))));
                    csv::line(&mut table, edge(statement.starts_at, "opening", statement.opening));
                    return Ok(Some((table, NextPiece::After(None, statement.opening))));
                }
                NextPiece::After(after, balance) => (after, balance),
            };
            let turn = turns.take().await?;
            let lines = turn.statement_lines(&statement, after, Some(balance), LINES_AT_A_TIME).await?;
            drop(turn);
            let Some(last) = lines.last() else {
                // Possible only if the database's clock was set back in the meantime.
                if balance != statement.closing {
                    return Err(StoreError::Conflict(
                        "the statement changed while it was read: ask for it again".into(),
                    ));
                }
                csv::line(&mut table, edge(statement.ends_at, "closing", balance));
                return Ok(Some((table, NextPiece::Over)));
            };
            let next = NextPiece::After(Some(last.entry.place()), last.balance);
            for line in lines {
                csv::line(&mut table, cells(&line));
            }
            Ok::<_, StoreError>(Some((table, next)))
        }
    });
    Body::from_stream(rows)
}

fn instant(at: OffsetDateTime) -> Option<String> {
    at.format(&Rfc3339).ok()
}

fn edge(at: OffsetDateTime, kind: &str, balance: Credits) -> [Cell; 16] {
    let mut cells = COLUMNS.map(|_| plain(None::<Credits>));
    let [date, kind_cell, _, balance_cell, ..] = &mut cells;
    (*date, *kind_cell, *balance_cell) = (plain(instant(at)), plain(Some(kind)), plain(Some(balance)));
    cells
}

fn cells(line: &Line) -> [Cell; 16] {
    let entry = &line.entry;
    [
        plain(instant(entry.created_at)),
        plain(Some(entry.kind.as_str())),
        plain(Some(entry.credits)),
        plain(Some(line.balance)),
        text(entry.task_id.as_deref()),
        text(entry.task_type.as_deref()),
        plain(entry.user_id),
        plain(entry.team_id),
        plain(entry.key_id),
        text(entry.reason.as_deref()),
        text(entry.external_ref.as_deref()),
        plain(Some(entry.overrun).filter(|overrun| *overrun != Credits::ZERO)),
        plain(entry.expires_at.and_then(instant)),
        plain(Some(entry.entry_id)),
        plain(entry.hold_id),
        plain(entry.related_entry),
    ]
}
