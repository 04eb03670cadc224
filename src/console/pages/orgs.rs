//! The operators' first page: the organisations.

use serde::Deserialize;
use url::form_urlencoded::byte_serialize;

use crate::console::answers::Page;
use crate::console::frame::html;
use crate::console::shell::Shell;
use crate::console::view::{Badge, Id, Name};
use crate::console::visit::{Outcome, Visit};

#[derive(askama::Template)]
#[template(path = "orgs.html")]
struct OrgsPage {
    shell: Shell,
    name: String,
    orgs: Vec<OrgLine>,
    next: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Org {
    org_id: String,
    name: String,
    status: String,
    time_zone: String,
}

struct OrgLine {
    id: Id,
    name: Name,
    badge: Badge,
    time_zone: String,
}

impl OrgLine {
    fn new(org: Org) -> Self {
        let badge = match org.status.as_str() {
            "active" => Badge::new("good", "Active"),
            _ => Badge::new("bad", "Suspended"),
        };
        Self { id: Id(org.org_id), name: Name(org.name), badge, time_zone: org.time_zone }
    }
}

pub(in crate::console) async fn orgs(visit: Visit) -> Outcome {
    let query = visit.query();
    let mut place = "/admin/v1/orgs?limit=50".to_owned();
    for name in ["name", "cursor"] {
        if let Some(text) = query.get(name) {
            let text: String = byte_serialize(text.as_bytes()).collect();
            place.push_str(&format!("&{name}={text}"));
        }
    }
    let found: Page<Org> = visit.client.look(&place).await?;
    let next = found
        .next_cursor
        .map(|cursor| format!("{}?{}&cursor={cursor}", visit.link(""), query.query_without(&["cursor"])));
    let page = OrgsPage {
        shell: visit.operator("Organisations"),
        name: query.text("name"),
        orgs: found.items.into_iter().map(OrgLine::new).collect(),
        next,
    };
    Ok(html(&page))
}
