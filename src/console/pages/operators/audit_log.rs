//! The audit log: who changed what, when and from where.

use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;

use super::{instant, next_page};
use crate::console::answers::Page;
use crate::console::frame::html;
use crate::console::shell::Shell;
use crate::console::table::{Cell, Column, Table};
use crate::console::view::{Actor, Alert, escaped};
use crate::console::visit::{Outcome, Visit};
use crate::console::zone::Zone;

/// The most characters that are shown of a change.
const SHOWN: usize = 600;

#[derive(Debug, Deserialize)]
pub(super) struct Change {
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    actor: String,
    address: Option<String>,
    action: String,
    target_kind: String,
    target_id: String,
    org_id: Option<String>,
    before: Option<Value>,
    after: Option<Value>,
}

#[derive(askama::Template)]
#[template(path = "operators/audit_log.html")]
struct AuditPage {
    shell: Shell,
    org: String,
    actor: String,
    action: String,
    target: String,
    since: String,
    until: String,
    is_filtered: bool,
    alert: Option<Alert>,
    changes: Table,
    next: Option<String>,
}

const COLUMNS: &[Column] = &[
    Column::Text("When"),
    Column::Text("Who"),
    Column::Text("Action"),
    Column::Text("What"),
    Column::Text("Organisation"),
    Column::Text("Change"),
];

/// One side of a change, cut: the log has all of it.
fn side(value: Option<&Value>) -> String {
    let Some(value) = value else { return String::new() };
    let text = value.to_string();
    let short: String = text.chars().take(SHOWN).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}

/// A cell with what it was and what it is, behind a click.
fn both(change: &Change) -> Cell {
    let (before, after) = (side(change.before.as_ref()), side(change.after.as_ref()));
    let part = |name: &str, text: &str| {
        if text.is_empty() {
            String::new()
        } else {
            format!("<dt>{name}</dt><dd><code>{}</code></dd>", escaped(text))
        }
    };
    let parts = format!("{}{}", part("Before", &before), part("After", &after));
    if parts.is_empty() {
        return Cell::fine("none");
    }
    Cell::html(format!(r#"<details><summary>Show</summary><dl class="change">{parts}</dl></details>"#))
}

/// The thing that was changed, with a link where there is a page about it.
fn target(visit: &Visit, change: &Change) -> Cell {
    let kind = Cell::fine(change.target_kind.replace('_', " "));
    let place = match change.target_kind.as_str() {
        "org" => Some(format!("/orgs/{}", encoded_path(&change.target_id))),
        "hold" => Some(format!("/tasks/{}", encoded_path(&change.target_id))),
        "price_book" => Some(format!("/prices/{}", encoded_path(&change.target_id))),
        _ => None,
    };
    match place {
        Some(place) => Cell::id_link(&change.target_id, &visit.link(&place)).over(&kind),
        None => Cell::id(&change.target_id).over(&kind),
    }
}

fn encoded_path(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || ['_', '-'].contains(c)).collect()
}

impl Change {
    /// A short row: when, who, what was done to what.
    pub(super) fn short_row(&self, visit: &Visit, zone: &Zone) -> Vec<Cell> {
        vec![
            Cell::when(zone, self.at),
            Cell::of(Actor(self.actor.clone())),
            Cell::code(&self.action),
            target(visit, self),
        ]
    }

    fn row(&self, visit: &Visit, zone: &Zone) -> Vec<Cell> {
        let who = Cell::of(Actor(self.actor.clone()));
        let who = match &self.address {
            Some(address) => who.over(&Cell::fine(format!("from {address}"))),
            None => who,
        };
        let org = match &self.org_id {
            Some(org) => Cell::id_link(org, &visit.link(&format!("/orgs/{}", encoded_path(org)))),
            None => Cell::fine("the platform"),
        };
        vec![Cell::when(zone, self.at), who, Cell::code(&self.action), target(visit, self), org, both(self)]
    }
}

pub(super) async fn show(visit: Visit) -> Outcome {
    let query = visit.query();
    let mut place = format!(
        "/admin/v1/audit-log?limit=30{}",
        query.passed_on(&["org_id", "actor", "action", "target_id", "cursor"])
    );
    for name in ["since", "until"] {
        if let Some(at) = instant(query, name)? {
            place.push_str(&format!("&{name}={at}"));
        }
    }
    let (shell, found) = tokio::join!(visit.operator("Audit log"), visit.client.look::<Page<Change>>(&place));
    let (found, alert) = match found {
        Ok(found) => (found, None),
        // A filter that is wrong is told beside the filters.
        Err(problem) if problem.status == http::StatusCode::BAD_REQUEST => {
            (Page { items: Vec::new(), next_cursor: None }, Some(Alert::of(&problem)))
        }
        Err(problem) => return Err(problem.into()),
    };
    let zone = Zone::named("UTC");
    let names = ["org_id", "actor", "action", "target_id", "since", "until"];
    let page = AuditPage {
        org: query.text("org_id"),
        actor: query.text("actor"),
        action: query.text("action"),
        target: query.text("target_id"),
        since: query.text("since"),
        until: query.text("until"),
        is_filtered: names.iter().any(|name| query.is_set(name)),
        alert,
        changes: Table {
            caption: "Changes, newest first",
            columns: COLUMNS,
            rows: found.items.iter().map(|change| change.row(&visit, &zone)).collect(),
            empty: "No change matches.",
        },
        next: next_page(&visit, "/audit", found.next_cursor),
        shell,
    };
    Ok(html(&page))
}
