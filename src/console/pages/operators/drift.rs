//! Drift: what was booked, compared with what the video service reported.

use serde::Deserialize;
use time::OffsetDateTime;

use super::losses::{TIMES, days};
use crate::console::frame::html;
use crate::console::pages::choice::{Choice, choices};
use crate::console::shell::Shell;
use crate::console::table::{Cell, Column, Table};
use crate::console::visit::{Outcome, Visit};
use crate::console::zone::Zone;

/// The most tasks of a page; the API has up to a thousand.
const SHOWN: usize = 100;

#[derive(Debug, Deserialize)]
struct Drift {
    accounts: Vec<OfAccount>,
    tasks: Vec<OfTask>,
    prices: Vec<OfPrice>,
}

#[derive(Debug, Deserialize)]
struct OfAccount {
    account: String,
    tasks: i64,
    charged: i64,
    lost: i64,
    possibly_lost: i64,
    reported: i64,
    drift: i64,
    differing: i64,
}

#[derive(Debug, Deserialize)]
struct OfTask {
    hold_id: String,
    org_id: String,
    task_type: String,
    list_price: i64,
    reported: Option<i64>,
    drift: i64,
    reason: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    ended_at: OffsetDateTime,
}

#[derive(Debug, Deserialize)]
struct OfPrice {
    task_type: String,
    price_book: i32,
    tasks: i64,
    listed: i64,
    consumed: i64,
}

#[derive(askama::Template)]
#[template(path = "operators/drift.html")]
struct DriftPage {
    shell: Shell,
    times: Vec<Choice>,
    accounts: Table,
    tasks: Table,
    more_tasks: bool,
    prices: Table,
}

const ACCOUNTS: &[Column] = &[
    Column::Text("Account"),
    Column::Number("Tasks"),
    Column::Number("Charged"),
    Column::Number("Lost"),
    Column::Number("Possibly lost"),
    Column::Number("Reported"),
    Column::Number("Booked less reported"),
    Column::Number("Tasks that differ"),
];

const TASKS: &[Column] = &[
    Column::Text("Task"),
    Column::Text("Ended"),
    Column::Text("Organisation"),
    Column::Text("Type"),
    Column::Number("List price"),
    Column::Number("Reported"),
    Column::Number("Booked less reported"),
    Column::Text("Why"),
];

const PRICES: &[Column] = &[
    Column::Text("Type"),
    Column::Text("Price book"),
    Column::Number("Tasks"),
    Column::Number("By the list"),
    Column::Number("Consumed"),
    Column::Number("Difference"),
];

pub(super) async fn show(visit: Visit) -> Outcome {
    let days = days(&visit, "1");
    let place = format!("/admin/v1/drift?days={days}");
    let (shell, found) = tokio::join!(visit.operator("Drift"), visit.client.look::<Drift>(&place));
    let (found, zone) = (found?, Zone::named("UTC"));
    let account = |one: &OfAccount| {
        let mut row = vec![Cell::word(&one.account)];
        let figures = [one.tasks, one.charged, one.lost, one.possibly_lost, one.reported];
        row.extend(figures.map(Cell::number));
        row.extend([Cell::signed(one.drift), Cell::number(one.differing)]);
        row
    };
    let task = |one: &OfTask| {
        vec![
            Cell::id_link(&one.hold_id, &visit.link(&format!("/tasks/{}", one.hold_id))),
            Cell::when(&zone, one.ended_at),
            Cell::id_link(&one.org_id, &visit.link(&format!("/orgs/{}", one.org_id))),
            Cell::word(&one.task_type),
            Cell::number(one.list_price),
            Cell::number_or(one.reported, "nothing"),
            Cell::signed(one.drift),
            Cell::text_or(one.reason.as_deref(), "nothing is said"),
        ]
    };
    let price = |one: &OfPrice| {
        let book = visit.link(&format!("/prices/{}", one.price_book));
        vec![
            Cell::word(&one.task_type),
            Cell::text(one.price_book.to_string()).link(&book),
            Cell::number(one.tasks),
            Cell::number(one.listed),
            Cell::number(one.consumed),
            Cell::signed(one.consumed.saturating_sub(one.listed)),
        ]
    };
    let page = DriftPage {
        times: choices(TIMES, &days),
        accounts: Table {
            caption: "By account with the video service",
            columns: ACCOUNTS,
            rows: found.accounts.iter().map(account).collect(),
            empty: "No task has ended in this time.",
        },
        more_tasks: found.tasks.len() > SHOWN,
        tasks: Table {
            caption: "Tasks that differ, newest first",
            columns: TASKS,
            rows: found.tasks.iter().take(SHOWN).map(task).collect(),
            empty: "For every task the same figure was booked as the video service reported.",
        },
        prices: Table {
            caption: "Types whose tasks consumed other figures than their list prices",
            columns: PRICES,
            rows: found.prices.iter().map(price).collect(),
            empty: "Every task consumed its list price.",
        },
        shell,
    };
    Ok(html(&page))
}
