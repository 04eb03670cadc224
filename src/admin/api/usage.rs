//! Usage: what tasks cost, grouped and filtered.

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use time::macros::format_description;
use time::{Date, Duration};
use utoipa::{IntoParams, ToSchema};

use super::budget_requests::of_user;
use super::call::{ApiCall, FurtherTurns, ReadCall};
use super::csv::{self, Accept, Cell, Format, plain, text};
use super::extract::Query;
use super::page::{Page, PageLimit};
use super::problem::Problem;
use crate::clock::Clock;
use crate::ids::{KeyId, OrgId, TeamId, UserId};
use crate::store::{Database, StoreError, Usage, UsageBy, UsageFilter};

/// The most lines a CSV table may have.
const LINES: u32 = 100_000;

/// Lines that are read from the database at a time for a CSV table.
const LINES_AT_A_TIME: u32 = 2000;

/// Usage by a label covers so many days at most, because it is summed up from the entries.
const LABEL_DAYS: i64 = 31;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct UsageQuery {
    /// The first UTC day; omitted: 29 days before `to`.
    #[param(value_type = Option<String>, format = Date)]
    from: Option<String>,
    /// The last UTC day, which is included; omitted: today.
    #[param(value_type = Option<String>, format = Date)]
    to: Option<String>,
    /// What to group by, separated by commas: org, day, team, user, key, task_type, label; omitted: one sum. By label: of one
    /// organisation and 31 days at most; `label` names it.
    group_by: Option<String>,
    /// The name of the label to group by. Tasks without it are a group of their own.
    #[param(min_length = 1, max_length = 64)]
    label: Option<String>,
    /// By whose clock days begin and end: `utc` if omitted. `org`: by that of the organisation's time zone, as in statements; of one
    /// organisation, by day, without other filters.
    #[serde(default)]
    #[param(inline)]
    clock: UsageClock,
    /// Only so many groups, those that consumed most, with their names; the last line is all others together. One thing to group by,
    /// and not a label. Users and keys of whole months (`from` a first day; `to` a last day, or today) take no longer the more of them
    /// there are; whoever was never among the first of a month is among the others.
    #[param(minimum = 1, maximum = 200)]
    top: Option<u8>,
    /// Only usage of this organisation.
    org_id: Option<OrgId>,
    /// Only usage of users who were in this team at the time.
    team_id: Option<TeamId>,
    /// Only usage of this user.
    user_id: Option<UserId>,
    /// Only usage with this key.
    key_id: Option<KeyId>,
    /// Only usage of this task type.
    task_type: Option<String>,
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

/// By whose clock a day begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum UsageClock {
    #[default]
    Utc,
    Org,
}

/// Show usage
///
/// Covers all organisations. A charge counts on the UTC day on which it was booked.
#[utoipa::path(
    get, path = "/admin/v1/usage", tag = "usage",
    responses((status = 200, description = "A page of usage, or as CSV all of it", content((Page<Usage> = "application/json"), (String = "text/csv")))),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn show_usage(call: ReadCall<(), (Accept, Query<UsageQuery>)>) -> Result<Response, Problem> {
    let ApiCall { database, turns, input: (Accept(accepted), Query(query)), .. } = call;
    usage((&database, turns), query.org_id, query, accepted).await
}

/// Show an organisation's usage
///
/// A charge counts on the UTC day on which it was booked. For months in the organisation's time zone see its statements. A
/// member sees its own.
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/usage", tag = "usage",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    responses((status = 200, description = "A page of usage, or as CSV all of it", content((Page<Usage> = "application/json"), (String = "text/csv")))),
    security(("bearer" = ["operator", "operator-read", "org-admin", "member"]))
)]
pub(super) async fn show_org_usage(
    call: ReadCall<OrgId, (Accept, Query<UsageQuery>)>,
) -> Result<Response, Problem> {
    let ApiCall { caller, database, turns, path: org, input: (Accept(accepted), Query(mut query)), .. } =
        call;
    query.user_id = of_user(&caller, query.user_id)?;
    if query.org_id.is_some_and(|named| named != org) {
        return Err(Problem::Invalid("org_id is given by the path: omit the parameter".into()));
    }
    usage((&database, turns), Some(org), query, accepted).await
}

async fn usage(
    (database, turns): (&Database, FurtherTurns),
    org: Option<OrgId>,
    query: UsageQuery,
    accepted: Format,
) -> Result<Response, Problem> {
    let by = group_by(query.group_by.as_deref())?;
    let to = query.to.as_deref().map_or_else(|| Ok(Clock.wall().date()), |text| day("to", text))?;
    let from = match &query.from {
        Some(text) => day("from", text)?,
        None => to.saturating_sub(Duration::days(29)),
    };
    if from > to {
        return Err(Problem::Invalid("from must not be after to".into()));
    }
    check_label(&by, query.label.as_deref(), org, (from, to))?;
    let local = check_clock(&by, org, &query)?;
    let filter = UsageFilter {
        org,
        from,
        to,
        team: query.team_id,
        user: query.user_id,
        key: query.key_id,
        task_type: query.task_type.clone(),
        label: query.label.clone(),
    };
    if let Some(top) = query.top {
        let by = check_top(&by, top, &query)?;
        let page: Json<Page<Usage>> = Page::whole(database.top_usage(&filter, by, top.into()).await?);
        return Ok(page.into_response());
    }
    if query.format.unwrap_or(accepted) == Format::Csv {
        if let Some(org) = local {
            let rows = database.usage_by_local_day(org, from, to, LINES.saturating_add(1), 0).await?;
            if rows.len() > LINES as usize {
                return Err(too_many_lines());
            }
            let mut table = heading(&by, query.bom);
            for row in &rows {
                csv::line(&mut table, cells(&by, row));
            }
            return Ok(csv::answer(&format!("usage-{from}-{to}"), table.into()));
        }
        if database.usage_count(&filter, &by, LINES.saturating_add(1)).await? > LINES.into() {
            return Err(too_many_lines());
        }
        return Ok(csv::answer(&format!("usage-{from}-{to}"), table(turns, filter, by, query.bom)));
    }
    let slice = query.limit.after::<u32>(query.cursor.as_deref())?;
    let offset = slice.after.unwrap_or(0);
    let rows = match local {
        Some(org) => database.usage_by_local_day(org, from, to, slice.limit.into(), offset).await?,
        None => database.usage(&filter, &by, slice.limit.into(), offset).await?,
    };
    let next = offset.saturating_add(u32::from(slice.limit).saturating_sub(1));
    let page: Json<Page<Usage>> = Page::of(rows, query.limit, |_| next);
    Ok(page.into_response())
}

fn too_many_lines() -> Problem {
    Problem::Invalid(format!("more than {LINES} lines: ask for fewer days, or group by fewer things"))
}

/// The organisation by whose clock days are asked for, if they are.
fn check_clock(by: &[UsageBy], org: Option<OrgId>, query: &UsageQuery) -> Result<Option<OrgId>, Problem> {
    if query.clock == UsageClock::Utc {
        return Ok(None);
    }
    let narrowed = query.team_id.is_some()
        || query.user_id.is_some()
        || query.key_id.is_some()
        || query.task_type.is_some()
        || query.top.is_some();
    match org {
        Some(org) if by == [UsageBy::Day] && !narrowed => Ok(Some(org)),
        _ => Err(Problem::Invalid(
            "clock=org is for one organisation by day: group_by=day, and no filter but from and to".into(),
        )),
    }
}

/// What the greatest groups are of.
fn check_top(by: &[UsageBy], top: u8, query: &UsageQuery) -> Result<UsageBy, Problem> {
    let invalid = |why: &str| Err(Problem::Invalid(why.into()));
    match by {
        _ if !(1..=200).contains(&top) => invalid("top must be from 1 to 200"),
        _ if query.format == Some(Format::Csv) || query.cursor.is_some() => {
            invalid("top is one page of JSON: omit format and cursor")
        }
        [UsageBy::Label] => invalid("top is not known of labels: omit it"),
        [by] => Ok(*by),
        _ => invalid("top needs one thing to group by: group_by=key"),
    }
}

/// Usage by a label needs its name, one organisation, and few days.
fn check_label(
    by: &[UsageBy],
    label: Option<&str>,
    org: Option<OrgId>,
    (from, to): (Date, Date),
) -> Result<(), Problem> {
    let invalid = |why: &str| Err(Problem::Invalid(why.into()));
    match (by.contains(&UsageBy::Label), label) {
        (false, None) => Ok(()),
        (true, None) => invalid("group_by=label needs the name of the label: label=project"),
        (false, Some(_)) => invalid("label is the name of a label to group by: add group_by=label"),
        (true, Some(_)) if org.is_none() => invalid("group_by=label needs one organisation: org_id=org_…"),
        (true, Some(_)) if (to - from).whole_days() >= LABEL_DAYS => {
            invalid("group_by=label takes 31 days at most: ask for fewer")
        }
        (true, Some(_)) => Ok(()),
    }
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
            Problem::Invalid(format!(
                "group_by takes these, each at most once and separated by commas: {names}"
            ))
        })?;
        by.push(found);
    }
    Ok(by)
}

/// What comes next in a table that is being sent.
enum NextLines {
    Begin,
    After(Option<Usage>),
    Over,
}

/// The CSV of all usage that was asked for; lines are read while earlier ones are sent, each part in a turn of its own: while its
/// client reads, others have theirs.
fn table(turns: FurtherTurns, filter: UsageFilter, by: Vec<UsageBy>, bom: bool) -> Body {
    let rows = stream::try_unfold(NextLines::Begin, move |next| {
        let (turns, filter, by) = (turns.clone(), filter.clone(), by.clone());
        async move {
            let after = match next {
                NextLines::Over => return Ok(None),
                NextLines::Begin => return Ok(Some((heading(&by, bom), NextLines::After(None)))),
                NextLines::After(after) => after,
            };
            let mut table = String::new();
            let turn = turns.take().await?;
            let mut rows = turn.usage_after(&filter, &by, LINES_AT_A_TIME, after.as_ref()).await?;
            drop(turn);
            for row in &rows {
                csv::line(&mut table, cells(&by, row));
            }
            let more = rows.len() == LINES_AT_A_TIME as usize;
            let last = rows.pop().filter(|_| more);
            let next = last.map_or(NextLines::Over, |last| NextLines::After(Some(last)));
            Ok::<_, StoreError>(Some((table, next)))
        }
    });
    Body::from_stream(rows)
}

/// The first line of a table.
fn heading(by: &[UsageBy], bom: bool) -> String {
    let mut table = String::from(csv::mark(bom));
    let sums = ["tasks", "charged", "corrected", "consumed"];
    csv::line(&mut table, by.iter().map(|by| by.name()).chain(sums).map(|name| plain(Some(name))));
    table
}

fn cells(by: &[UsageBy], row: &Usage) -> Vec<Cell> {
    let groups = by.iter().map(|by| match by {
        UsageBy::Org => plain(row.org_id),
        UsageBy::Day => plain(row.day.as_ref()),
        UsageBy::Team => plain(row.team_id.flatten()),
        UsageBy::User => plain(row.user_id),
        UsageBy::Key => plain(row.key_id.flatten()),
        UsageBy::TaskType => text(row.task_type.as_deref()),
        UsageBy::Label => text(row.label.as_ref().and_then(|value| value.as_deref())),
    });
    let sums = [row.tasks, row.charged.get(), row.corrected.get(), row.consumed.get()];
    groups.chain(sums.map(|sum| plain(Some(sum)))).collect()
}
