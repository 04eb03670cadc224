//! Statements: what an organisation is told of a month.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::csv::{self, Cell, Format, plain, text};
use super::problem::Problem;
use super::request::{Limit, Path, Query};
use crate::credits::Credits;
use crate::ids::OrgId;
use crate::store::{Database, LedgerError, Line, Month, Place, Statement};

/// Lines read at a time, for a table.
const SOME: u32 = 2000;

/// Which part of it.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StatementQuery {
    /// `csv`: all lines at once, as with `Accept: text/csv`.
    #[param(inline)]
    format: Option<Format>,
    /// Items of a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A month, and a page of its lines.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StatementPage {
    #[serde(flatten)]
    statement: Statement,
    /// Lines, oldest first.
    items: Vec<Line>,
    /// What to send as `cursor` for those behind them; none: there are no more.
    next_cursor: Option<String>,
}

/// Show a statement
///
/// A month of the organisation's time zone. The opening balance and all lines give the closing balance; in the current
/// month that is what the organisation has, available and held.
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/statements/{month}", tag = "usage",
    params(
        ("org_id" = OrgId, Path, description = "Whose"),
        ("month" = Month, Path, description = "Which, such as 2026-11"),
        StatementQuery
    ),
    responses((status = 200, content((StatementPage = "application/json"), (String = "text/csv")))),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn show_statement(
    State(api): State<Api>,
    Path((org, month)): Path<(OrgId, String)>,
    headers: HeaderMap,
    Query(query): Query<StatementQuery>,
) -> Result<Response, Problem> {
    let statement = api.database.statement(org, month.parse()?).await?;
    if Format::wanted(query.format, &headers) == Format::Csv {
        let name = format!("statement-{org}-{}", statement.month);
        return Ok(csv::answer(&name, table(api.database, statement)));
    }
    let slice = query.limit.behind::<Place>(query.cursor.as_deref())?;
    let items = api.database.statement_lines(&statement, slice.after, None, slice.limit.into()).await?;
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

/// Where a table stands.
enum Next {
    Begin,
    After(Option<Place>, Credits),
    Over,
}

/// All of it, as it was when it was asked for, read as it is sent. What does not end with the closing balance is not all.
fn table(database: Database, statement: Statement) -> Body {
    let rows = stream::try_unfold(Next::Begin, move |next| {
        let (database, statement) = (database.clone(), statement.clone());
        async move {
            let mut table = String::new();
            let (after, balance) = match next {
                Next::Over => return Ok(None),
                Next::Begin => {
                    csv::line(&mut table, COLUMNS.map(|name| plain(Some(name))));
                    csv::line(&mut table, edge(statement.starts_at, "opening", statement.opening));
                    return Ok(Some((table, Next::After(None, statement.opening))));
                }
                Next::After(after, balance) => (after, balance),
            };
            let lines = database.statement_lines(&statement, after, Some(balance), SOME).await?;
            let Some(last) = lines.last() else {
                // Only if the database's clock went back meanwhile.
                if balance != statement.closing {
                    return Err(LedgerError::Conflict("the statement has changed: read it again".into()));
                }
                csv::line(&mut table, edge(statement.ends_at, "closing", balance));
                return Ok(Some((table, Next::Over)));
            };
            let next = Next::After(Some(last.entry.place()), last.balance);
            for line in lines {
                csv::line(&mut table, cells(&line));
            }
            Ok::<_, LedgerError>(Some((table, next)))
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
