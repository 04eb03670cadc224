//! The statement of a month: the opening balance, every entry, the closing balance.

use serde::Deserialize;
use time::OffsetDateTime;

use crate::clock::Clock;
use crate::console::frame::html;
use crate::console::pages::choice::{Choice, months};
use crate::console::pages::usage::download;
use crate::console::shell::Shell;
use crate::console::view::{Money, Number, When};
use crate::console::visit::{Outcome, Visit};

#[derive(askama::Template)]
#[template(path = "statement.html")]
struct StatementPage {
    shell: Shell,
    org: String,
    month: String,
    months: Vec<Choice>,
    zone: String,
    opening: Money,
    closing: Money,
    totals: Vec<(String, Number, Number)>,
    archived: i64,
    lines: Vec<StatementLine>,
    csv: String,
    next: Option<String>,
}

struct StatementLine {
    at: When,
    kind: String,
    about: String,
    task: Option<String>,
    credits: Number,
    balance: Number,
}

#[derive(Debug, Deserialize)]
struct Statement {
    org_name: String,
    month: String,
    time_zone: String,
    opening: i64,
    closing: i64,
    #[serde(default)]
    archived: i64,
    totals: Vec<Total>,
    items: Vec<Line>,
    next_cursor: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Total {
    kind: String,
    lines: i64,
    credits: i64,
}

#[derive(Debug, Deserialize)]
struct Line {
    kind: String,
    credits: i64,
    balance: i64,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(default)]
    task_type: Option<String>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    hold_id: Option<String>,
}

/// The kinds of entries, in words.
fn kind(word: &str) -> String {
    match word {
        "grant" => "Granted",
        "adjust" => "Adjusted",
        "transfer" => "Transferred",
        "expire" => "Expired",
        "consume" => "Clip",
        "correct" => "Correction",
        other => other,
    }
    .to_owned()
}

pub(in crate::console) async fn statement(visit: Visit) -> Outcome {
    let (member, shell) = visit.member("Statement").await?;
    let zone = &member.zone;
    let query = visit.query();
    let this = zone.month(Clock.wall());
    let month = query.get("month").filter(|month| zone.bounds(month).is_some()).unwrap_or(&this).to_owned();
    let cursor = query.get("cursor").map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
    let org = &member.me.organisation.org_id;
    let found: Statement =
        visit.client.look(&format!("/admin/v1/orgs/{org}/statements/{month}?limit=100{cursor}")).await?;
    let page = StatementPage {
        org: found.org_name,
        months: months(&this)
            .into_iter()
            .map(|one| Choice { is_chosen: one == month, text: one.clone(), value: one })
            .collect(),
        zone: found.time_zone,
        opening: Money(found.opening),
        closing: Money(found.closing),
        totals: found
            .totals
            .into_iter()
            .map(|total| (kind(&total.kind), Number(total.lines), Number(total.credits)))
            .collect(),
        archived: found.archived,
        lines: found
            .items
            .into_iter()
            .map(|line| StatementLine {
                at: When::new(zone, line.created_at),
                kind: kind(&line.kind),
                // Of a line for many clips the reason says how many.
                about: match line.hold_id {
                    Some(_) => line.task_type.or(line.reason),
                    None => line.reason.or(line.task_type),
                }
                .unwrap_or_default(),
                task: line.hold_id,
                credits: Number(line.credits),
                balance: Number(line.balance),
            })
            .collect(),
        csv: format!("{}?month={month}", visit.link("/statement.csv")),
        next: found
            .next_cursor
            .map(|cursor| format!("{}?month={month}&cursor={cursor}", visit.link("/statement"))),
        month: found.month,
        shell,
    };
    Ok(html(&page))
}

/// The same statement as CSV.
pub(in crate::console) async fn csv(visit: Visit) -> Outcome {
    let (member, _) = visit.member("Statement").await?;
    let query = visit.query();
    let this = member.zone.month(Clock.wall());
    let month = query.get("month").filter(|month| member.zone.bounds(month).is_some()).unwrap_or(&this);
    let org = &member.me.organisation.org_id;
    download(&visit, &format!("/admin/v1/orgs/{org}/statements/{month}?format=csv")).await
}
