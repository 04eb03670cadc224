//! One price book: its prices, which can be edited while it is a draft, and when it comes into force.

use std::collections::BTreeMap;

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::price_books::BookInfo;
use super::{body, done, instant, needed, whole};
use crate::console::frame::html;
use crate::console::shell::Shell;
use crate::console::table::{Cell, Column, Facts, Table};
use crate::console::trouble::Trouble;
use crate::console::view::{Badge, Name};
use crate::console::visit::{Fields, Outcome, Visit};
use crate::console::zone::Zone;

/// The price of a type.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Tariff {
    pub(super) unit: String,
    pub(super) credits: i64,
    pub(super) credits_with_audio: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct Book {
    #[serde(flatten)]
    info: BookInfo,
    prices: BTreeMap<String, Tariff>,
}

/// A price in a form.
struct PriceLine {
    task_type: String,
    is_fixed: bool,
    credits: i64,
    with_audio: String,
}

#[derive(askama::Template)]
#[template(path = "operators/price_book.html")]
struct BookPage {
    shell: Shell,
    version: i32,
    revision: i32,
    name: Name,
    plain_name: String,
    badge: Badge,
    facts: Facts,
    prices: Table,
    lines: Vec<PriceLine>,
    is_draft: bool,
    is_scheduled: bool,
    is_active: bool,
}

const PRICES: &[Column] = &[
    Column::Text("Type"),
    Column::Text("Counted by"),
    Column::Number("Credits"),
    Column::Number("With sound"),
];

impl BookPage {
    /// The address of this price book.
    fn here(&self) -> String {
        format!("{}/console/prices/{}", self.shell.bare.base, self.version)
    }
}

impl Tariff {
    /// In words: `80 a second, 100 with sound`.
    pub(super) fn words(&self) -> String {
        let credits = crate::console::view::grouped(self.credits);
        if self.unit == "fixed" {
            return format!("{credits} a video");
        }
        match self.credits_with_audio {
            Some(audio) => format!("{credits} a second, {} with sound", crate::console::view::grouped(audio)),
            None => format!("{credits} a second"),
        }
    }

    fn row(&self, task_type: &str) -> Vec<Cell> {
        let unit = if self.unit == "fixed" { "the video" } else { "the second" };
        vec![
            Cell::word(task_type),
            Cell::text(unit),
            Cell::number(self.credits),
            Cell::number_or(self.credits_with_audio, "the same"),
        ]
    }
}

pub(super) async fn show(visit: Visit) -> Outcome {
    let place = format!("/admin/v1/price-books/{}", visit.param("version"));
    let (shell, book) = tokio::join!(visit.operator("Price book"), visit.client.look::<Book>(&place));
    let (Book { info, prices }, zone) = (book?, Zone::named("UTC"));
    let line = |(task_type, tariff): (&String, &Tariff)| PriceLine {
        task_type: task_type.clone(),
        is_fixed: tariff.unit == "fixed",
        credits: tariff.credits,
        with_audio: tariff.credits_with_audio.map(|credits| credits.to_string()).unwrap_or_default(),
    };
    let page = BookPage {
        badge: info.badge(),
        is_draft: info.is_draft(),
        is_scheduled: info.is_scheduled(),
        is_active: info.active,
        facts: Facts(vec![
            ("Version", Cell::text(info.version.to_string())),
            ("In force from", Cell::when_or(&zone, info.effective_from, "not decided")),
            ("Created", Cell::when(&zone, info.created_at)),
        ]),
        prices: Table {
            caption: "Prices by type",
            columns: PRICES,
            rows: prices.iter().map(|(task_type, tariff)| tariff.row(task_type)).collect(),
            empty: "It has no price yet. Creates of a type without a price are refused.",
        },
        lines: prices.iter().map(line).collect(),
        version: info.version,
        revision: info.revision,
        name: Name(info.name.clone()),
        plain_name: info.name,
        shell,
    };
    Ok(html(&page))
}

/// What a form of the page asks for: method, place below the book, body, and the word for what was done.
fn asked(
    visit: &Visit,
    what: &str,
    fields: &Fields,
) -> Result<(Method, String, Option<String>, &'static str), Trouble> {
    let price = || Ok::<_, Trouble>(format!("/prices/{}", visit.escaped(fields.need("task_type")?.trim())));
    Ok(match what {
        "rename" => {
            (Method::PATCH, String::new(), Some(json!({"name": fields.need("name")?}).to_string()), "saved")
        }
        "price" => {
            let fixed = fields.get("unit") == Some("fixed");
            let audio = if fixed { Value::Null } else { json!(whole(fields, "credits_with_audio")?) };
            let body = body(&[
                ("unit", json!(if fixed { "fixed" } else { "second" })),
                ("credits", json!(needed(fields, "credits")?)),
                ("credits_with_audio", audio),
            ]);
            (Method::PUT, price()?, Some(body), "saved")
        }
        "remove" => (Method::DELETE, price()?, None, "deleted"),
        "activate" => {
            let at = instant(fields, "at")?;
            let word = if at.is_some() { "scheduled" } else { "in_force" };
            (Method::POST, "/activate".into(), Some(body(&[("at", json!(at))])), word)
        }
        "unschedule" => (Method::POST, "/unschedule".into(), None, "unscheduled"),
        "delete" => (Method::DELETE, String::new(), None, "deleted"),
        _ => return Err(Trouble::not_found("There is no such form.")),
    })
}

/// Changes a price book, if it is still as it was when the form was made.
pub(super) async fn change(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let (what, version) = (visit.param("what"), visit.param("version"));
    let (method, below, body, word) = asked(&visit, &what, &fields)?;
    let place = format!("/admin/v1/price-books/{version}{below}");
    super::change(&visit, method, &place, fields.get("revision"), body).await?;
    let back = if what == "delete" { "/prices".to_owned() } else { format!("/prices/{version}") };
    Ok(done(&visit, &back, word))
}
