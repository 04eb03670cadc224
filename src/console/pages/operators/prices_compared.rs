//! A price book beside another one, and what past tasks would have cost by it.

use serde::Deserialize;

use super::price_book::Tariff;
use super::price_books::BookInfo;
use super::whole;
use crate::console::answers::Page;
use crate::console::frame::html;
use crate::console::pages::choice::{Choice, choices};
use crate::console::shell::Shell;
use crate::console::table::{Cell, Column, Table};
use crate::console::view::{Name, Number, grouped};
use crate::console::visit::{Outcome, Visit};

#[derive(Debug, Deserialize)]
struct Compared {
    before: i32,
    after: i32,
    changes: Vec<TariffChange>,
}

#[derive(Debug, Deserialize)]
struct TariffChange {
    task_type: String,
    before: Option<Tariff>,
    after: Option<Tariff>,
}

#[derive(askama::Template)]
#[template(path = "operators/diff.html")]
struct DiffPage {
    shell: Shell,
    before: i32,
    after: i32,
    books: Vec<Choice>,
    changes: Table,
}

const CHANGES: &[Column] = &[
    Column::Text("Type"),
    Column::Text("Before"),
    Column::Text("After"),
    Column::Number("Change in a second or video"),
];

impl TariffChange {
    fn row(&self) -> Vec<Cell> {
        let side = |tariff: Option<&Tariff>| {
            tariff.map_or_else(|| Cell::fine("no price: refused"), |tariff| Cell::text(tariff.words()))
        };
        // Prices of different units cannot be subtracted.
        let change = match (&self.before, &self.after) {
            (Some(before), Some(after)) if before.unit == after.unit => {
                Cell::signed(after.credits.saturating_sub(before.credits))
            }
            _ => Cell::fine("–"),
        };
        vec![Cell::word(&self.task_type), side(self.before.as_ref()), side(self.after.as_ref()), change]
    }
}

pub(super) async fn diff(visit: Visit) -> Outcome {
    let query = visit.query();
    let against = whole(query, "against")?.map(|other| format!("?against={other}")).unwrap_or_default();
    let place = format!("/admin/v1/price-books/{}/diff{against}", visit.param("version"));
    let client = &visit.client;
    let (shell, found) = tokio::join!(visit.operator("Compare price books"), async {
        tokio::try_join!(
            client.look::<Compared>(&place),
            client.look::<Page<BookInfo>>("/admin/v1/price-books?limit=50"),
        )
    });
    let (compared, books) = found?;
    let book = |book: &BookInfo| Choice {
        value: book.version.to_string(),
        text: format!("{} · {}", book.version, book.name),
        is_chosen: book.version == compared.before,
    };
    let page = DiffPage {
        before: compared.before,
        after: compared.after,
        books: books.items.iter().map(book).collect(),
        changes: Table {
            caption: "Prices that differ",
            columns: CHANGES,
            rows: compared.changes.iter().map(TariffChange::row).collect(),
            empty: "Both have the same prices.",
        },
        shell,
    };
    Ok(html(&page))
}

/// Sums of tasks, by both price books.
#[derive(Debug, Deserialize)]
struct Totals {
    tasks: i64,
    priced: i64,
    would_be_priced: i64,
    difference: i64,
    estimated: i64,
    refused: i64,
}

#[derive(Debug, Deserialize)]
struct OfOrg {
    org_id: String,
    name: String,
    #[serde(flatten)]
    totals: Totals,
}

#[derive(Debug, Deserialize)]
struct OfType {
    task_type: String,
    #[serde(flatten)]
    totals: Totals,
}

#[derive(Debug, Deserialize)]
struct WhatIf {
    total: Totals,
    orgs: Vec<OfOrg>,
    more_orgs: i64,
    task_types: Vec<OfType>,
    refused_types: Vec<String>,
}

#[derive(askama::Template)]
#[template(path = "operators/what_if.html")]
struct WhatIfPage {
    shell: Shell,
    version: String,
    times: Vec<Choice>,
    priced: Number,
    would_be: Number,
    difference: Cell,
    tasks: Number,
    estimated: i64,
    refused: i64,
    refused_types: String,
    orgs: Table,
    more_orgs: Option<String>,
    types: Table,
}

const TIMES: [(&str, &str); 4] = [("1", "a day"), ("7", "7 days"), ("30", "30 days"), ("90", "90 days")];

/// The most organisations of a page: those with the greatest differences come first.
const SHOWN: u16 = 200;

const ORGS: &[Column] = &[
    Column::Text("Organisation"),
    Column::Number("Tasks"),
    Column::Number("Price then"),
    Column::Number("Price by this book"),
    Column::Number("Difference"),
    Column::Number("Would be refused"),
];

const TYPES: &[Column] = &[
    Column::Text("Type"),
    Column::Number("Tasks"),
    Column::Number("Price then"),
    Column::Number("Price by this book"),
    Column::Number("Difference"),
    Column::Number("Would be refused"),
];

impl Totals {
    fn row(&self, name: Cell) -> Vec<Cell> {
        vec![
            name,
            Cell::number(self.tasks),
            Cell::number(self.priced),
            Cell::number(self.would_be_priced),
            Cell::signed(self.difference),
            Cell::number(self.refused),
        ]
    }
}

pub(super) async fn what_if(visit: Visit) -> Outcome {
    let asked = visit.query().text("days");
    let days = if TIMES.iter().any(|(value, _)| *value == asked) { asked } else { "1".to_owned() };
    let version = visit.param("version");
    let place = format!("/admin/v1/price-books/{version}/what-if?days={days}&orgs={SHOWN}");
    let (shell, found) = tokio::join!(visit.operator("What if"), visit.client.look::<WhatIf>(&place));
    let found = found?;
    let org = |org: &OfOrg| {
        let name = Cell::of(Name(org.name.clone())).link(&visit.link(&format!("/orgs/{}", org.org_id)));
        org.totals.row(name)
    };
    let total = &found.total;
    let page = WhatIfPage {
        times: choices(TIMES, &days),
        priced: Number(total.priced),
        would_be: Number(total.would_be_priced),
        difference: Cell::signed(total.difference),
        tasks: Number(total.tasks),
        estimated: total.estimated,
        refused: total.refused,
        refused_types: found.refused_types.join(", "),
        orgs: Table {
            caption: "By organisation, the greatest difference first",
            columns: ORGS,
            rows: found.orgs.iter().map(org).collect(),
            empty: "No task was charged in this time.",
        },
        more_orgs: (found.more_orgs > 0).then(|| grouped(found.more_orgs)),
        types: Table {
            caption: "By type",
            columns: TYPES,
            rows: found.task_types.iter().map(|one| one.totals.row(Cell::word(&one.task_type))).collect(),
            empty: "No task was charged in this time.",
        },
        version,
        shell,
    };
    Ok(html(&page))
}
