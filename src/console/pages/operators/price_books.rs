//! The price books, and when they were in force.

use http::Method;
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;

use super::{body, done, next_page, whole};
use crate::console::answers::Page;
use crate::console::frame::html;
use crate::console::shell::Shell;
use crate::console::table::{Cell, Column, Table};
use crate::console::view::{Actor, Badge, Name};
use crate::console::visit::{Outcome, Visit};
use crate::console::zone::Zone;

/// A price book without its prices.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct BookInfo {
    pub(super) version: i32,
    pub(super) name: String,
    pub(super) state: String,
    #[serde(with = "time::serde::rfc3339::option")]
    pub(super) effective_from: Option<OffsetDateTime>,
    pub(super) active: bool,
    pub(super) revision: i32,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) created_at: OffsetDateTime,
}

#[derive(Debug, Deserialize)]
struct Activation {
    version: i32,
    #[serde(with = "time::serde::rfc3339")]
    effective_from: OffsetDateTime,
    actor: String,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    withdrawn_at: Option<OffsetDateTime>,
}

#[derive(askama::Template)]
#[template(path = "operators/price_books.html")]
struct BooksPage {
    shell: Shell,
    books: Table,
    next: Option<String>,
    copies: Vec<(i32, String)>,
    /// The price book in force, if it is on this page.
    active: Option<i32>,
    activations: Table,
}

const BOOKS: &[Column] = &[
    Column::Text("Name"),
    Column::Text("Version"),
    Column::Text("State"),
    Column::Text("In force from"),
    Column::Text("Created"),
];

const ACTIVATIONS: &[Column] = &[
    Column::Text("In force from"),
    Column::Text("Price book"),
    Column::Text("By"),
    Column::Text("Decided"),
    Column::Text("Withdrawn"),
];

impl BookInfo {
    pub(super) fn is_draft(&self) -> bool {
        self.state == "draft"
    }

    pub(super) fn is_scheduled(&self) -> bool {
        self.state == "scheduled"
    }

    pub(super) fn badge(&self) -> Badge {
        if self.active {
            Badge::new("good", "In force")
        } else if self.is_draft() {
            Badge::new("", "Draft")
        } else if self.is_scheduled() {
            Badge::new("busy", "Scheduled")
        } else {
            Badge::new("", "Was in force")
        }
    }

    fn row(&self, visit: &Visit, zone: &Zone) -> Vec<Cell> {
        vec![
            Cell::of(Name(self.name.clone())).link(&visit.link(&format!("/prices/{}", self.version))),
            Cell::text(self.version.to_string()),
            Cell::of(self.badge()),
            Cell::when_or(zone, self.effective_from, "never"),
            Cell::when(zone, self.created_at),
        ]
    }
}

pub(super) async fn show(visit: Visit) -> Outcome {
    let query = visit.query();
    let books = format!("/admin/v1/price-books?limit=50{}", query.passed_on(&["cursor"]));
    let client = &visit.client;
    let (shell, found) = tokio::join!(visit.operator("Price books"), async {
        tokio::try_join!(
            client.look::<Page<BookInfo>>(&books),
            client.look::<Page<Activation>>("/admin/v1/price-activations?limit=20"),
        )
    });
    let ((books, activations), zone) = (found?, Zone::named("UTC"));
    let activation = |one: &Activation| {
        let book = Cell::text(one.version.to_string());
        vec![
            Cell::when(&zone, one.effective_from),
            book.link(&visit.link(&format!("/prices/{}", one.version))),
            Cell::of(Actor(one.actor.clone())),
            Cell::when(&zone, one.created_at),
            Cell::when_or(&zone, one.withdrawn_at, "no"),
        ]
    };
    let page = BooksPage {
        books: Table {
            caption: "Price books, newest first",
            columns: BOOKS,
            rows: books.items.iter().map(|book| book.row(&visit, &zone)).collect(),
            empty: "There is no price book yet.",
        },
        copies: books.items.iter().map(|book| (book.version, book.name.clone())).collect(),
        active: books.items.iter().find(|book| book.active).map(|book| book.version),
        next: next_page(&visit, "/prices", books.next_cursor),
        activations: Table {
            caption: "When which price book was in force, newest first",
            columns: ACTIVATIONS,
            rows: activations.items.iter().map(activation).collect(),
            empty: "No price book was ever in force.",
        },
        shell,
    };
    Ok(html(&page))
}

pub(super) async fn create(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let body = body(&[("name", json!(fields.need("name")?)), ("copy_of", json!(whole(&fields, "copy_of")?))]);
    let book: BookInfo =
        visit.client.manage(Method::POST, "/admin/v1/price-books").body(body).whole().await?;
    Ok(done(&visit, &format!("/prices/{}", book.version), "created"))
}

/// Puts the price book in force that was in force before. The form names the one that is rolled back, so that a second click does not
/// undo the first.
pub(super) async fn roll_back(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let body = json!({"from": super::needed(&fields, "from")?}).to_string();
    let call = visit.client.manage(Method::POST, "/admin/v1/price-books/rollback").body(body);
    let book: BookInfo = call.whole().await?;
    Ok(done(&visit, &format!("/prices/{}", book.version), "in_force"))
}
