//! The operators' first page: the organisations, found by a part of their name.

use http::Method;
use serde_json::json;

use super::{Org, done, next_page};
use crate::console::answers::Page;
use crate::console::frame::html;
use crate::console::pages::choice::{Choice, choices};
use crate::console::shell::Shell;
use crate::console::table::{Cell, Column, Table};
use crate::console::view::Name;
use crate::console::visit::{Outcome, Visit};

#[derive(askama::Template)]
#[template(path = "operators/orgs.html")]
struct OrgsPage {
    shell: Shell,
    search: String,
    states: Vec<Choice>,
    is_filtered: bool,
    orgs: Table,
    next: Option<String>,
}

const STATES: [(&str, &str); 5] = [
    ("", "Any"),
    ("active", "Active"),
    ("suspended", "Suspended"),
    ("stopped", "Stopped by exposure"),
    ("deleted", "Deleted"),
];

const COLUMNS: &[Column] = &[
    Column::Text("Name"),
    Column::Text("Id"),
    Column::Text("State"),
    Column::Number("Available"),
    Column::Number("Held"),
    Column::Number("Open tasks"),
    Column::Number("In doubt"),
];

pub(super) async fn show(visit: Visit) -> Outcome {
    let query = visit.query();
    let state = if query.is_set("stopped") { "stopped".to_owned() } else { query.text("state") };
    let filter = match state.as_str() {
        "stopped" => "&stopped=true".to_owned(),
        "deleted" => "&deleted=true".to_owned(),
        "active" | "suspended" => format!("&status={state}"),
        _ => String::new(),
    };
    let place = format!("/admin/v1/orgs?limit=50{filter}{}", query.passed_on(&["search", "cursor"]));
    let (shell, found) =
        tokio::join!(visit.operator("Organisations"), visit.client.look::<Page<Org>>(&place));
    let found = found?;
    let is_filtered = query.is_set("search") || !state.is_empty();
    let row = |org: Org| {
        let to = visit.link(&format!("/orgs/{}", org.org_id));
        vec![
            Cell::of(Name(org.name.clone())).link(&to),
            Cell::id(&org.org_id),
            Cell::of(org.badge()),
            Cell::number(org.available),
            Cell::number(org.held),
            Cell::number(org.open_tasks),
            Cell::number(org.in_doubt),
        ]
    };
    let page = OrgsPage {
        search: query.text("search"),
        states: choices(STATES, &state),
        is_filtered,
        orgs: Table {
            caption: "Organisations",
            columns: COLUMNS,
            rows: found.items.into_iter().map(row).collect(),
            empty: if is_filtered { "No organisation matches." } else { "There is no organisation yet." },
        },
        next: next_page(&visit, "", found.next_cursor),
        shell,
    };
    Ok(html(&page))
}

pub(super) async fn create(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let body = json!({"name": fields.need("name")?, "time_zone": fields.get("time_zone").unwrap_or("UTC")});
    let call = visit.client.manage(Method::POST, "/admin/v1/orgs").body(body.to_string());
    let org: Org = call.whole().await?;
    Ok(done(&visit, &format!("/orgs/{}", org.org_id), "created"))
}
