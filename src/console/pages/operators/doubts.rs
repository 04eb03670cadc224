//! Doubts: tasks whose outcome is unknown, the oldest doubt first.

use serde::Deserialize;
use time::OffsetDateTime;

use super::next_page;
use crate::console::answers::Page;
use crate::console::frame::html;
use crate::console::shell::Shell;
use crate::console::table::{Cell, Column, Table};
use crate::console::visit::{Outcome, Visit};
use crate::console::zone::Zone;

#[derive(Debug, Deserialize)]
struct Doubt {
    hold_id: String,
    org_id: String,
    org: String,
    task_type: String,
    credits: i64,
    backend: String,
    account: String,
    upstream_task: Option<String>,
    prompt_digest: Option<String>,
    reason: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
}

#[derive(askama::Template)]
#[template(path = "operators/doubts.html")]
struct DoubtsPage {
    shell: Shell,
    org: String,
    doubts: Table,
    next: Option<String>,
}

const COLUMNS: &[Column] = &[
    Column::Text("Task"),
    Column::Text("Since"),
    Column::Text("Organisation"),
    Column::Text("Type"),
    Column::Number("Credits"),
    Column::Text("Account"),
    Column::Text("The service's id"),
    Column::Text("Digest of the prompt"),
    Column::Text("Why"),
];

impl Doubt {
    fn row(&self, visit: &Visit, zone: &Zone) -> Vec<Cell> {
        let org = Cell::text(&self.org).link(&visit.link(&format!("/orgs/{}", self.org_id)));
        vec![
            Cell::id_link(&self.hold_id, &visit.link(&format!("/tasks/{}", self.hold_id))),
            Cell::when(zone, self.since),
            org,
            Cell::word(&self.task_type),
            Cell::number(self.credits),
            Cell::word(&self.account).over(&Cell::fine(&self.backend)),
            Cell::id_or(self.upstream_task.as_deref(), "unknown"),
            Cell::id_or(self.prompt_digest.as_deref(), "not kept"),
            Cell::text_or(self.reason.as_deref(), "nothing is said"),
        ]
    }
}

pub(super) async fn show(visit: Visit) -> Outcome {
    let query = visit.query();
    let place = format!("/admin/v1/holds/in-doubt?limit=50{}", query.passed_on(&["org_id", "cursor"]));
    let (shell, found) = tokio::join!(visit.operator("Doubts"), visit.client.look::<Page<Doubt>>(&place));
    let (found, zone) = (found?, Zone::named("UTC"));
    let page = DoubtsPage {
        org: query.text("org_id"),
        doubts: Table {
            caption: "Tasks in doubt, oldest doubt first",
            columns: COLUMNS,
            rows: found.items.iter().map(|doubt| doubt.row(&visit, &zone)).collect(),
            empty: "No task is in doubt.",
        },
        next: next_page(&visit, "/doubts", found.next_cursor),
        shell,
    };
    Ok(html(&page))
}
