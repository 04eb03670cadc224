//! Tasks that go on, of all organisations or of one, oldest first.

use serde::Deserialize;
use time::OffsetDateTime;

use super::next_page;
use crate::console::answers::Page;
use crate::console::frame::html;
use crate::console::shell::Shell;
use crate::console::table::{Cell, Column, Table};
use crate::console::view::Badge;
use crate::console::visit::{Outcome, Visit};
use crate::console::zone::Zone;

#[derive(Debug, Deserialize)]
struct RunningRow {
    hold_id: String,
    org_id: String,
    org: String,
    state: String,
    reopened: bool,
    task_type: String,
    credits: i64,
    backend: String,
    account: String,
    upstream_task: Option<String>,
    polls: i64,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

#[derive(askama::Template)]
#[template(path = "operators/running.html")]
struct RunningPage {
    shell: Shell,
    org: String,
    tasks: Table,
    next: Option<String>,
}

const COLUMNS: &[Column] = &[
    Column::Text("Task, and its id at the service"),
    Column::Text("Since"),
    Column::Text("State"),
    Column::Text("Organisation"),
    Column::Text("Type"),
    Column::Number("Credits"),
    Column::Text("Account"),
    Column::Number("Asked for"),
];

impl RunningRow {
    fn badge(&self) -> Badge {
        match self.state.as_str() {
            "HELD" => Badge::new("busy", "Starting"),
            _ if self.reopened => Badge::new("warn", "Reopened"),
            _ => Badge::new("busy", "Running"),
        }
    }

    fn row(&self, visit: &Visit, zone: &Zone) -> Vec<Cell> {
        let task = Cell::id_link(&self.hold_id, &visit.link(&format!("/tasks/{}", self.hold_id)));
        let org = Cell::text(&self.org).link(&visit.link(&format!("/orgs/{}", self.org_id)));
        vec![
            task.over(&Cell::id_or(self.upstream_task.as_deref(), "not known yet")),
            Cell::when(zone, self.created_at),
            Cell::of(self.badge()),
            org,
            Cell::word(&self.task_type),
            Cell::number(self.credits),
            Cell::word(&self.account).over(&Cell::fine(&self.backend)),
            Cell::number(self.polls),
        ]
    }
}

pub(super) async fn show(visit: Visit) -> Outcome {
    let query = visit.query();
    let place = format!("/admin/v1/holds/running?limit=50{}", query.passed_on(&["org_id", "cursor"]));
    let (shell, found) =
        tokio::join!(visit.operator("Running tasks"), visit.client.look::<Page<RunningRow>>(&place));
    let (found, zone) = (found?, Zone::named("UTC"));
    let page = RunningPage {
        org: query.text("org_id"),
        tasks: Table {
            caption: "Tasks that go on, oldest first",
            columns: COLUMNS,
            rows: found.items.iter().map(|task| task.row(&visit, &zone)).collect(),
            empty: "No task is under way.",
        },
        next: next_page(&visit, "/running", found.next_cursor),
        shell,
    };
    Ok(html(&page))
}
