//! What the platform lost, or may have lost, by single tasks.

use serde::Deserialize;
use time::OffsetDateTime;

use super::next_page;
use crate::console::answers::Page;
use crate::console::frame::html;
use crate::console::pages::choice::{Choice, choices};
use crate::console::shell::Shell;
use crate::console::table::{Cell, Column, Table};
use crate::console::view::{Badge, Money};
use crate::console::visit::{Outcome, Visit};
use crate::console::zone::Zone;

#[derive(Debug, Deserialize)]
struct Loss {
    hold_id: String,
    org_id: String,
    account: String,
    task_type: String,
    credits: i64,
    possible: bool,
    reason: String,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

#[derive(askama::Template)]
#[template(path = "operators/losses.html")]
struct LossesPage {
    shell: Shell,
    times: Vec<Choice>,
    certain: Money,
    possible: Money,
    losses: Table,
    next: Option<String>,
}

/// How many days back a page looks.
pub(super) const TIMES: [(&str, &str); 4] =
    [("1", "a day"), ("7", "7 days"), ("30", "30 days"), ("365", "a year")];

const COLUMNS: &[Column] = &[
    Column::Text("Task"),
    Column::Text("Booked"),
    Column::Text("Organisation"),
    Column::Text("Type"),
    Column::Text("Account"),
    Column::Text("Certain"),
    Column::Text("Why"),
    Column::Number("Credits"),
];

impl Loss {
    fn row(&self, visit: &Visit, zone: &Zone) -> Vec<Cell> {
        let badge = if self.possible { Badge::new("warn", "Possible") } else { Badge::new("bad", "Lost") };
        vec![
            Cell::id_link(&self.hold_id, &visit.link(&format!("/tasks/{}", self.hold_id))),
            Cell::when(zone, self.created_at),
            Cell::id_link(&self.org_id, &visit.link(&format!("/orgs/{}", self.org_id))),
            Cell::word(&self.task_type),
            Cell::word(&self.account),
            Cell::of(badge),
            Cell::text(&self.reason),
            Cell::number(self.credits),
        ]
    }
}

/// The days that a page was asked for.
pub(super) fn days(visit: &Visit, otherwise: &str) -> String {
    let asked = visit.query().text("days");
    let known = TIMES.iter().any(|(value, _)| *value == asked);
    if known { asked } else { otherwise.to_owned() }
}

pub(super) async fn show(visit: Visit) -> Outcome {
    let days = days(&visit, "30");
    let place = format!("/admin/v1/losses?limit=50&days={days}{}", visit.query().passed_on(&["cursor"]));
    let (shell, found) = tokio::join!(visit.operator("Losses"), visit.client.look::<Page<Loss>>(&place));
    let (found, zone) = (found?, Zone::named("UTC"));
    let sum = |possible: bool| {
        let some = found.items.iter().filter(|loss| loss.possible == possible);
        Money(some.map(|loss| loss.credits).fold(0, i64::saturating_add))
    };
    let page = LossesPage {
        times: choices(TIMES, &days),
        certain: sum(false),
        possible: sum(true),
        losses: Table {
            caption: "Losses, newest first",
            columns: COLUMNS,
            rows: found.items.iter().map(|loss| loss.row(&visit, &zone)).collect(),
            empty: "Nothing was lost in this time.",
        },
        next: next_page(&visit, "/losses", found.next_cursor),
        shell,
    };
    Ok(html(&page))
}
