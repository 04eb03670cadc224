//! The credits of an organisation: grants, corrections, transfers, its overdraft, and its entries.

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::org::CreditSummary;
use super::{Org, Tab, body, done, instant, needed, next_page, tabs};
use crate::console::answers::Page;
use crate::console::frame::html;
use crate::console::pages::choice::{Choice, choices};
use crate::console::shell::Shell;
use crate::console::table::{Cell, Column, Facts, Table};
use crate::console::trouble::Trouble;
use crate::console::view::{Actor, Badge, Id, Money, Name, When};
use crate::console::visit::{Fields, Outcome, Visit};
use crate::console::zone::Zone;

#[derive(Debug, Deserialize)]
struct Entry {
    entry_id: String,
    kind: String,
    credits: i64,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(default)]
    hold_id: Option<String>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    external_ref: Option<String>,
    #[serde(default)]
    actor: Option<String>,
}

#[derive(askama::Template)]
#[template(path = "operators/credits.html")]
struct CreditsPage {
    shell: Shell,
    tabs: Vec<Tab>,
    org_id: String,
    name: Name,
    badge: Badge,
    id: Id,
    is_deleted: bool,
    stopped: Option<When>,
    facts: Facts,
    expiring: Table,
    entries: Table,
    kinds: Vec<Choice>,
    reference: String,
    next: Option<String>,
    /// Made with the page: each of its forms counts once, however often it is sent. Keys are apart by what is called.
    key: String,
    overdraft: i64,
    threshold: String,
    threshold_version: i32,
}

const KINDS: [(&str, &str); 7] = [
    ("", "Any"),
    ("grant", "Grants"),
    ("adjust", "Corrections of the balance"),
    ("transfer", "Transfers"),
    ("expire", "Expired grants"),
    ("consume", "Charges"),
    ("correct", "Corrections of charges"),
];

const EXPIRING: &[Column] = &[Column::Text("Expires"), Column::Text("Grant"), Column::Number("Left")];

const ENTRIES: &[Column] = &[
    Column::Text("When"),
    Column::Text("Kind"),
    Column::Text("Entry"),
    Column::Text("About"),
    Column::Number("Credits"),
];

/// The kind of an entry, in words.
fn kind(word: &str) -> &str {
    match word {
        "grant" => "Grant",
        "adjust" => "Correction of the balance",
        "transfer" => "Transfer",
        "expire" => "Expired grant",
        "consume" => "Charge",
        "correct" => "Correction of a charge",
        other => other,
    }
}

impl Entry {
    fn row(&self, visit: &Visit, zone: &Zone) -> Vec<Cell> {
        let about = match &self.hold_id {
            Some(hold) => Cell::id_link(hold, &visit.link(&format!("/tasks/{hold}"))),
            None => Cell::text(self.reason.as_deref().unwrap_or_default()),
        };
        let by = self.actor.as_ref().map(|actor| Cell::fine(Actor(actor.clone()).short()));
        let reference = self.external_ref.as_ref().map(Cell::fine);
        let about = [reference, by].iter().flatten().fold(about, Cell::over);
        vec![
            Cell::when(zone, self.created_at),
            Cell::text(kind(&self.kind)),
            Cell::id(&self.entry_id),
            about,
            Cell::signed(self.credits),
        ]
    }
}

fn facts(credits: &CreditSummary, zone: &Zone) -> Facts {
    Facts(vec![
        ("Available", Cell::of(Money(credits.available))),
        ("Held", Cell::of(Money(credits.held))),
        ("Consumed", Cell::of(Money(credits.consumed))),
        ("Given in all", Cell::of(Money(credits.granted))),
        ("Overdraft", Cell::of(Money(credits.overdraft))),
        ("Low below", credits.low_threshold.map_or_else(|| Cell::fine("never"), |low| Cell::of(Money(low)))),
        ("Lasts until", Cell::when_or(zone, credits.runway.until, "longer than can be said")),
    ])
}

pub(super) async fn show(visit: Visit) -> Outcome {
    let (id, query) = (visit.param("org"), visit.query());
    let places = [
        format!("/admin/v1/orgs/{id}"),
        format!("/admin/v1/orgs/{id}/credits"),
        format!(
            "/admin/v1/orgs/{id}/entries?limit=25{}",
            query.passed_on(&["kind", "external_ref", "cursor"])
        ),
    ];
    let client = &visit.client;
    let (shell, found) = tokio::join!(visit.operator("Credits"), async {
        tokio::try_join!(
            client.look::<Org>(&places[0]),
            client.look::<CreditSummary>(&places[1]),
            client.look::<Page<Entry>>(&places[2]),
        )
    });
    let (org, credits, entries) = found?;
    let zone = Zone::named(&org.time_zone);
    let expiring = credits.expiring.iter().map(|grant| {
        vec![Cell::when(&zone, grant.expires_at), Cell::id(&grant.entry_id), Cell::number(grant.left)]
    });
    let is_filtered = query.is_set("kind") || query.is_set("external_ref");
    let page = CreditsPage {
        tabs: tabs(&visit, &id),
        badge: org.badge(),
        id: Id(org.org_id.clone()),
        is_deleted: org.deleted_at.is_some(),
        stopped: When::maybe(&zone, credits.exposure.stopped_at),
        facts: facts(&credits, &zone),
        expiring: Table {
            caption: "Grants that expire next",
            columns: EXPIRING,
            rows: expiring.collect(),
            empty: "No grant expires.",
        },
        entries: Table {
            caption: "Entries of the ledger, newest first",
            columns: ENTRIES,
            rows: entries.items.iter().map(|entry| entry.row(&visit, &zone)).collect(),
            empty: if is_filtered { "No entry matches." } else { "There is no entry yet." },
        },
        kinds: choices(KINDS, &query.text("kind")),
        reference: query.text("external_ref"),
        next: next_page(&visit, &format!("/orgs/{id}/credits"), entries.next_cursor),
        key: visit.form_key(),
        overdraft: credits.overdraft,
        threshold: credits.low_threshold.map(|low| low.to_string()).unwrap_or_default(),
        threshold_version: credits.version,
        name: Name(org.name),
        org_id: org.org_id,
        shell,
    };
    Ok(html(&page))
}

/// A call that a form makes.
struct FormCall {
    method: Method,
    place: String,
    body: String,
}

/// The call of a form: method, place and body. The same fields give the same body.
fn sent(what: &str, org: &str, fields: &Fields) -> Result<FormCall, Trouble> {
    let of = |end: &str| format!("/admin/v1/orgs/{org}/credits{end}");
    let why = || -> Result<[(&str, Value); 2], Trouble> {
        Ok([("reason", json!(fields.need("reason")?)), ("external_ref", json!(fields.get("external_ref")))])
    };
    let (method, place, body) = match what {
        "grant" => {
            let [reason, reference] = why()?;
            let expires = ("expires_at", json!(instant(fields, "expires")?));
            let fields = [("credits", json!(needed(fields, "credits")?)), reason, reference, expires];
            (Method::POST, of("/grants"), body(&fields))
        }
        "adjust" => {
            let [reason, reference] = why()?;
            let fields = [("credits", json!(needed(fields, "credits")?)), reason, reference];
            (Method::POST, of("/adjustments"), body(&fields))
        }
        "transfer" => {
            let [reason, reference] = why()?;
            let (from, to) = (("from_org", json!(org)), ("to_org", json!(fields.need("to")?.trim())));
            let fields = [from, to, ("credits", json!(needed(fields, "credits")?)), reason, reference];
            (Method::POST, "/admin/v1/transfers".to_owned(), body(&fields))
        }
        "overdraft" => {
            (Method::PUT, of("/overdraft"), body(&[("overdraft", json!(needed(fields, "credits")?))]))
        }
        "resume" => (Method::POST, of("/resume"), body(&[("reason", json!(fields.need("reason")?))])),
        "threshold" => {
            let low = super::whole(fields, "credits")?;
            (Method::PATCH, of(""), json!({"low_threshold": low}).to_string())
        }
        _ => return Err(Trouble::not_found("There is no such form.")),
    };
    Ok(FormCall { method, place, body })
}

/// Books what one of the forms says.
pub(super) async fn book(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let (what, org) = (visit.param("what"), visit.param("org"));
    let FormCall { method, place, body } = sent(&what, &org, &fields)?;
    let mut call = visit.client.manage(method, &place).body(body);
    // Two of them set something, and change nothing if they are sent again.
    match what.as_str() {
        "threshold" => call = call.header("if-match", &format!("\"{}\"", fields.text("version"))),
        "resume" => {}
        _ => call = call.header("idempotency-key", fields.need("key")?),
    }
    call.send().await?;
    let word = match what.as_str() {
        "resume" => "resumed",
        "threshold" | "overdraft" => "saved",
        _ => "booked",
    };
    Ok(done(&visit, &format!("/orgs/{org}/credits"), word))
}
