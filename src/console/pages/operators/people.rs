//! The budgets and keys of an organisation, as operators see them. Its own admins manage both.

use http::Method;
use serde::Deserialize;
use time::OffsetDateTime;

use super::{Org, Tab, done, next_page, tabs};
use crate::console::answers::Page;
use crate::console::frame::html;
use crate::console::shell::Shell;
use crate::console::table::{Cell, Column, Table};
use crate::console::trouble::Trouble;
use crate::console::view::{Badge, Id, Meter, Name, When, grouped};
use crate::console::visit::{Outcome, Visit};
use crate::console::zone::Zone;

#[derive(Debug, Deserialize)]
struct Budget {
    budget_id: String,
    level: String,
    subject_id: Option<String>,
    period: String,
    limit: Option<i64>,
    used: Option<i64>,
    held: Option<i64>,
    counting: bool,
    #[serde(with = "time::serde::rfc3339::option")]
    resets_at: Option<OffsetDateTime>,
}

#[derive(Debug, Deserialize)]
struct Key {
    key_id: String,
    user_id: String,
    name: String,
    status: String,
    #[serde(with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    last_used_at: Option<OffsetDateTime>,
}

#[derive(askama::Template)]
#[template(path = "operators/people.html")]
struct PeoplePage {
    shell: Shell,
    tabs: Vec<Tab>,
    org_id: String,
    name: Name,
    badge: Badge,
    id: Id,
    budgets: Table,
    more_budgets: bool,
    /// What members ask for.
    requests: Vec<RequestLine>,
    keys: Table,
    next: Option<String>,
}

/// A wish for more of a budget.
#[derive(Debug, Deserialize)]
struct Request {
    request_id: String,
    user_id: String,
    level: String,
    period: String,
    credits: i64,
    #[serde(with = "time::serde::rfc3339")]
    until: OffsetDateTime,
    reason: String,
}

struct RequestLine {
    request_id: String,
    user: Id,
    budget: String,
    credits: String,
    until: When,
    reason: String,
}

const BUDGETS: &[Column] = &[
    Column::Text("Whose"),
    Column::Text("Window"),
    Column::Number("Spent and held"),
    Column::Number("Limit"),
    Column::Text("Used"),
    Column::Text("Begins anew"),
];

const KEYS: &[Column] = &[
    Column::Text("Name"),
    Column::Text("Key"),
    Column::Text("User"),
    Column::Text("State"),
    Column::Text("Last used"),
    Column::Text("Expires"),
];

impl Budget {
    fn row(&self, zone: &Zone) -> Vec<Cell> {
        let spent = self.used.map(|used| used.saturating_add(self.held.unwrap_or_default()));
        let whose = match &self.subject_id {
            Some(subject) => Cell::text(&self.level).over(&Cell::id(subject)),
            None if self.level == "organisation" => Cell::text("organisation"),
            None => Cell::text(format!("every {} without one of its own", self.level)),
        };
        let meter = match (spent, self.limit) {
            _ if self.counting => Cell::of(Badge::new("busy", "counting")),
            (Some(used), Some(limit)) => Cell::of(Meter { used, limit }),
            _ => Cell::fine("–"),
        };
        vec![
            whose.over(&Cell::id(&self.budget_id)),
            Cell::text(&self.period),
            Cell::number_or(spent, "each its own"),
            Cell::number_or(self.limit, "none"),
            meter,
            Cell::when_or(zone, self.resets_at, "never"),
        ]
    }
}

impl Key {
    fn row(&self, zone: &Zone) -> Vec<Cell> {
        let badge = match self.status.as_str() {
            "active" => Badge::new("good", "Active"),
            "suspended" => Badge::new("warn", "Suspended"),
            "expired" => Badge::new("bad", "Expired"),
            _ => Badge::new("bad", "Revoked"),
        };
        vec![
            Cell::of(Name(self.name.clone())),
            Cell::id(&self.key_id),
            Cell::id(&self.user_id),
            Cell::of(badge),
            Cell::when_or(zone, self.last_used_at, "never"),
            Cell::when_or(zone, self.expires_at, "never"),
        ]
    }
}

pub(super) async fn show(visit: Visit) -> Outcome {
    let id = visit.param("org");
    let places = [
        format!("/admin/v1/orgs/{id}"),
        format!("/admin/v1/orgs/{id}/budgets?limit=20"),
        format!("/admin/v1/orgs/{id}/keys?limit=25{}", visit.query().passed_on(&["cursor"])),
        format!("/admin/v1/orgs/{id}/budget-requests?limit=20&state=open"),
    ];
    let client = &visit.client;
    let (shell, found) = tokio::join!(visit.operator("Budgets and keys"), async {
        tokio::try_join!(
            client.look::<Org>(&places[0]),
            client.look::<Page<Budget>>(&places[1]),
            client.look::<Page<Key>>(&places[2]),
            client.look::<Page<Request>>(&places[3]),
        )
    });
    let (org, budgets, keys, requests) = found?;
    let zone = Zone::named(&org.time_zone);
    let request = |one: Request| RequestLine {
        request_id: one.request_id,
        user: Id(one.user_id),
        budget: format!("{}, {}", one.level, one.period),
        credits: grouped(one.credits),
        until: When::new(&zone, one.until),
        reason: one.reason,
    };
    let page = PeoplePage {
        tabs: tabs(&visit, &id),
        badge: org.badge(),
        id: Id(org.org_id.clone()),
        budgets: Table {
            caption: "Budgets of the organisation",
            columns: BUDGETS,
            rows: budgets.items.iter().map(|budget| budget.row(&zone)).collect(),
            empty: "It has no budget of its own: the platform's defaults apply.",
        },
        more_budgets: budgets.next_cursor.is_some(),
        requests: requests.items.into_iter().map(request).collect(),
        keys: Table {
            caption: "Keys of the organisation",
            columns: KEYS,
            rows: keys.items.iter().map(|key| key.row(&zone)).collect(),
            empty: "It has no key.",
        },
        next: next_page(&visit, &format!("/orgs/{id}/people"), keys.next_cursor),
        name: Name(org.name),
        org_id: org.org_id,
        shell,
    };
    Ok(html(&page))
}

/// Grants what a member asks for, or declines it.
pub(super) async fn answer(visit: Visit) -> Outcome {
    let (org, request) = (visit.param("org"), visit.param("request"));
    let (answer, word) = match visit.param("answer").as_str() {
        "grant" => ("grant", "granted"),
        "decline" => ("decline", "declined"),
        _ => return Err(Trouble::not_found("There is no such form.")),
    };
    let place = format!("/admin/v1/orgs/{org}/budget-requests/{request}/{answer}");
    super::change(&visit, Method::POST, &place, None, Some("{}".into())).await?;
    Ok(done(&visit, &format!("/orgs/{org}/people"), word))
}
