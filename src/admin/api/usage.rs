//! Usage: what tasks cost, split and filtered.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use time::macros::format_description;
use time::{Date, Duration};
use utoipa::IntoParams;

use super::Api;
use super::csv::{self, Format, plain, text};
use super::problem::Problem;
use super::request::{Limit, Page, Path, Query};
use crate::clock::Clock;
use crate::ids::{KeyId, OrgId, TeamId, UserId};
use crate::store::{Usage, UsageBy, UsageFilter};

/// Lines of a table.
const LINES: u32 = 100_000;

/// Which usage.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UsageQuery {
    /// The first UTC day; thirty days up to `to` if left out.
    #[param(value_type = Option<String>, format = Date)]
    from: Option<String>,
    /// The last UTC day, which counts; today if left out.
    #[param(value_type = Option<String>, format = Date)]
    to: Option<String>,
    /// What to split by, with commas between: org, day, team, user, key, task_type; left out: one sum.
    group_by: Option<String>,
    /// Only of this organisation.
    org_id: Option<OrgId>,
    /// Only of users who were in this team.
    team_id: Option<TeamId>,
    /// Only of this user.
    user_id: Option<UserId>,
    /// Only with this key.
    key_id: Option<KeyId>,
    /// Only of this type.
    task_type: Option<String>,
    /// `csv`: everything at once, as with `Accept: text/csv`.
    #[param(inline)]
    format: Option<Format>,
    /// Items of a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Show usage
///
/// Over all organisations. Charges count on the UTC day they were booked.
#[utoipa::path(
    get, path = "/admin/v1/usage", tag = "usage",
    params(UsageQuery),
    responses((status = 200, content((Page<Usage> = "application/json"), (String = "text/csv")))),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn show_usage(
    State(api): State<Api>,
    headers: HeaderMap,
    Query(query): Query<UsageQuery>,
) -> Result<Response, Problem> {
    usage(&api, query.org_id, query, &headers).await
}

/// Show an organisation's usage
///
/// Charges count on the UTC day they were booked; a statement keeps the organisation's own months.
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/usage", tag = "usage",
    params(("org_id" = OrgId, Path, description = "Whose"), UsageQuery),
    responses((status = 200, content((Page<Usage> = "application/json"), (String = "text/csv")))),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn show_org_usage(
    State(api): State<Api>,
    Path(org): Path<OrgId>,
    headers: HeaderMap,
    Query(query): Query<UsageQuery>,
) -> Result<Response, Problem> {
    if query.org_id.is_some_and(|named| named != org) {
        return Err(Problem::Invalid("org_id is already said by the path".into()));
    }
    usage(&api, Some(org), query, &headers).await
}

async fn usage(
    api: &Api,
    org: Option<OrgId>,
    query: UsageQuery,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let by = group_by(query.group_by.as_deref())?;
    let to = query.to.as_deref().map_or_else(|| Ok(Clock.wall().date()), |text| day("to", text))?;
    let from = match &query.from {
        Some(text) => day("from", text)?,
        None => to.saturating_sub(Duration::days(29)),
    };
    if from > to {
        return Err(Problem::Invalid("from must not be behind to".into()));
    }
    let filter = UsageFilter {
        org,
        from,
        to,
        team: query.team_id,
        user: query.user_id,
        key: query.key_id,
        task_type: query.task_type,
    };
    if Format::wanted(query.format, headers) == Format::Csv {
        let rows = api.database.usage(&filter, &by, LINES.saturating_add(1), 0).await?;
        if rows.len() > LINES as usize {
            return Err(Problem::Invalid(format!(
                "more than {LINES} lines: ask for fewer days, or split by less"
            )));
        }
        return Ok(csv::answer(&format!("usage-{from}-{to}"), table(&by, &rows).into()));
    }
    let slice = query.limit.behind::<u32>(query.cursor.as_deref())?;
    let offset = slice.after.unwrap_or(0);
    let rows = api.database.usage(&filter, &by, slice.limit.into(), offset).await?;
    let next = offset.saturating_add(u32::from(slice.limit).saturating_sub(1));
    let page: Json<Page<Usage>> = Page::of(rows, query.limit, |_| next);
    Ok(page.into_response())
}

fn day(name: &str, text: &str) -> Result<Date, Problem> {
    Date::parse(text, format_description!("[year]-[month]-[day]"))
        .ok()
        .filter(|day| (1..=9999).contains(&day.year()))
        .ok_or_else(|| Problem::Invalid(format!("{name} must be a day, such as 2026-11-30")))
}

fn group_by(text: Option<&str>) -> Result<Vec<UsageBy>, Problem> {
    let mut by = Vec::new();
    for name in text.unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let found = UsageBy::ALL.into_iter().find(|by| by.name() == name);
        let found = found.filter(|found| !by.contains(found)).ok_or_else(|| {
            let names = UsageBy::ALL.map(UsageBy::name).join(", ");
            Problem::Invalid(format!("group_by takes each of these once, with commas between: {names}"))
        })?;
        by.push(found);
    }
    Ok(by)
}

fn table(by: &[UsageBy], rows: &[Usage]) -> String {
    let mut table = String::new();
    let sums = ["tasks", "charged", "corrected", "consumed"];
    csv::line(&mut table, by.iter().map(|by| by.name()).chain(sums).map(|name| plain(Some(name))));
    for row in rows {
        let groups = by.iter().map(|by| match by {
            UsageBy::Org => plain(row.org_id),
            UsageBy::Day => plain(row.day.as_ref()),
            UsageBy::Team => plain(row.team_id.flatten()),
            UsageBy::User => plain(row.user_id),
            UsageBy::Key => plain(row.key_id.flatten()),
            UsageBy::TaskType => text(row.task_type.as_deref()),
        });
        let sums = [row.tasks, row.charged.get(), row.corrected.get(), row.consumed.get()];
        csv::line(&mut table, groups.chain(sums.map(|sum| plain(Some(sum)))));
    }
    table
}
