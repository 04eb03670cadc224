//! Price books: drafts and their editing, what is in force and when, what a draft would have cost.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::access::Acting;
use super::problem::Problem;
use super::request::{At, Body, IfMatch, Limit, Page, Path, Query, Tagged, Text, there};
use crate::pricing::{BookVersion, PriceChange, Tariff, changes};
use crate::store::{Activation, BookInfo, BookState, Database, WhatIf};

/// A price book with its prices.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Book {
    #[serde(flatten)]
    info: BookInfo,
    /// The price of each task type.
    prices: BTreeMap<String, Tariff>,
}

async fn book(database: &Database, version: BookVersion) -> Result<Book, Problem> {
    let missing = || format!("price book {version}");
    let info = there(database.book_info(version).await?, missing())?;
    let book = there(database.book(version).await?, missing())?;
    let prices = book.prices.iter().map(|(name, tariff)| (name.to_string(), *tariff)).collect();
    Ok(Book { info, prices })
}

async fn tagged(
    status: StatusCode,
    database: &Database,
    version: BookVersion,
) -> Result<Tagged<Book>, Problem> {
    let book = book(database, version).await?;
    Ok(Tagged(status, book.info.revision, book))
}

/// Which price books.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct BookQuery {
    /// Only those.
    #[param(inline)]
    state: Option<BookState>,
    /// Items of a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List price books
///
/// Newest first, without their prices.
#[utoipa::path(
    get, path = "/admin/v1/price-books", tag = "prices",
    params(BookQuery),
    responses((status = 200, body = Page<BookInfo>)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn list_price_books(
    State(api): State<Api>,
    Query(query): Query<BookQuery>,
) -> Result<Json<Page<BookInfo>>, Problem> {
    let slice = query.limit.behind(query.cursor.as_deref())?;
    let books = api.database.list_books(query.state, slice).await?;
    Ok(Page::of(books, query.limit, |book| book.version))
}

/// A draft to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BookBody {
    /// What to call it.
    name: Text,
    /// The book whose prices it begins with; none: it begins empty.
    #[schema(value_type = Option<i32>, minimum = 1)]
    copy_of: Option<BookVersion>,
    /// Prices, beside those of `copy_of` or in their place, by task type.
    #[serde(default)]
    prices: BTreeMap<String, Tariff>,
}

/// Make a draft
#[utoipa::path(
    post, path = "/admin/v1/price-books", tag = "prices",
    request_body = BookBody,
    responses((status = 201, body = Book)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn create_price_book(
    Acting(database): Acting,
    Body(body): Body<BookBody>,
) -> Result<Tagged<Book>, Problem> {
    let version = database.create_book(&body.name.into_string(), body.copy_of, &body.prices).await?;
    tagged(StatusCode::CREATED, &database, version).await
}

/// Show the price book in force
#[utoipa::path(
    get, path = "/admin/v1/price-books/in-force", tag = "prices",
    responses((status = 200, body = Book)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn show_price_book_in_force(State(api): State<Api>) -> Result<Tagged<Book>, Problem> {
    let version = there(api.database.active_book_version().await?, "price book in force")?;
    tagged(StatusCode::OK, &api.database, version).await
}

/// Show a price book
#[utoipa::path(
    get, path = "/admin/v1/price-books/{version}", tag = "prices",
    params(("version" = i32, Path, description = "Which")),
    responses((status = 200, body = Book)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn show_price_book(
    State(api): State<Api>,
    Path(version): Path<i32>,
) -> Result<Tagged<Book>, Problem> {
    tagged(StatusCode::OK, &api.database, BookVersion::new(version)).await
}

/// What is to change of a draft.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BookPatch {
    /// What to call it.
    name: Text,
}

/// Rename a draft
#[utoipa::path(
    patch, path = "/admin/v1/price-books/{version}", tag = "prices",
    params(
        ("version" = i32, Path, description = "Which"),
        IfMatch
    ),
    request_body = BookPatch,
    responses((status = 200, body = Book)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn rename_price_book(
    Acting(database): Acting,
    Path(version): Path<i32>,
    IfMatch(revision): IfMatch,
    Body(patch): Body<BookPatch>,
) -> Result<Tagged<Book>, Problem> {
    let version = BookVersion::new(version);
    database.rename_book(version, &patch.name.into_string(), revision).await?;
    tagged(StatusCode::OK, &database, version).await
}

/// Delete a draft
#[utoipa::path(
    delete, path = "/admin/v1/price-books/{version}", tag = "prices",
    params(
        ("version" = i32, Path, description = "Which"),
        IfMatch
    ),
    responses((status = 204, description = "It is gone")),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn delete_price_book(
    Acting(database): Acting,
    Path(version): Path<i32>,
    IfMatch(revision): IfMatch,
) -> Result<StatusCode, Problem> {
    database.delete_book(BookVersion::new(version), revision).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Set a price of a draft
#[utoipa::path(
    put, path = "/admin/v1/price-books/{version}/prices/{task_type}", tag = "prices",
    params(
        ("version" = i32, Path, description = "Of which book"),
        ("task_type" = String, Path, description = "The price of what"),
        IfMatch
    ),
    request_body = Tariff,
    responses((status = 200, body = Book)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn set_price(
    Acting(database): Acting,
    Path((version, task_type)): Path<(i32, String)>,
    IfMatch(revision): IfMatch,
    Body(tariff): Body<Tariff>,
) -> Result<Tagged<Book>, Problem> {
    let version = BookVersion::new(version);
    database.set_price(version, &task_type, tariff, revision).await?;
    tagged(StatusCode::OK, &database, version).await
}

/// Take a price out of a draft
///
/// Creates of a type without a price are refused.
#[utoipa::path(
    delete, path = "/admin/v1/price-books/{version}/prices/{task_type}", tag = "prices",
    params(
        ("version" = i32, Path, description = "Of which book"),
        ("task_type" = String, Path, description = "The price of what"),
        IfMatch
    ),
    responses((status = 200, body = Book)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn remove_price(
    Acting(database): Acting,
    Path((version, task_type)): Path<(i32, String)>,
    IfMatch(revision): IfMatch,
) -> Result<Tagged<Book>, Problem> {
    let version = BookVersion::new(version);
    database.remove_price(version, &task_type, revision).await?;
    tagged(StatusCode::OK, &database, version).await
}

/// What to compare with.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Against {
    /// A book; none: the one in force.
    #[param(value_type = Option<i32>)]
    against: Option<BookVersion>,
}

/// What differs between two price books.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Comparison {
    /// The book of the prices before.
    #[schema(value_type = i32)]
    before: BookVersion,
    /// The book of the prices after.
    #[schema(value_type = i32)]
    after: BookVersion,
    /// By task type.
    changes: Vec<PriceChange>,
}

/// Compare two price books
///
/// What changes by task type when this book takes the place of the other.
#[utoipa::path(
    get, path = "/admin/v1/price-books/{version}/diff", tag = "prices",
    params(("version" = i32, Path, description = "Which"), Against),
    responses((status = 200, body = Comparison)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn compare_price_books(
    State(api): State<Api>,
    Path(version): Path<i32>,
    Query(query): Query<Against>,
) -> Result<Json<Comparison>, Problem> {
    let after = api.database.expect_book(BookVersion::new(version)).await?;
    let before = match query.against {
        Some(version) => version,
        None => there(api.database.active_book_version().await?, "price book in force")?,
    };
    let before = api.database.expect_book(before).await?;
    let changes = changes(&before, &after);
    Ok(Json(Comparison { before: before.version, after: after.version, changes }))
}

/// How far to look back.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Days {
    /// The last so many days.
    #[serde(default = "a_week")]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 90)]
    days: u32,
}

fn a_week() -> u32 {
    7
}

/// Replay past tasks against a price book
///
/// The tasks that were created in the last days and charged since, priced by this book, each with the factor it had.
/// Prices are compared with prices, that is with what was held: what the vendor reports, which charges follow, does not
/// depend on our books. Nothing changes by it.
#[utoipa::path(
    get, path = "/admin/v1/price-books/{version}/what-if", tag = "prices",
    params(("version" = i32, Path, description = "Which"), Days),
    responses((status = 200, body = WhatIf)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn replay_tasks(
    State(api): State<Api>,
    Path(version): Path<i32>,
    Query(query): Query<Days>,
) -> Result<Json<WhatIf>, Problem> {
    Ok(Json(api.database.what_if(BookVersion::new(version), query.days).await?))
}

/// When a book shall come into force.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ActivateBody {
    /// An instant to come; none: now.
    #[schema(value_type = Option<String>, format = DateTime)]
    at: Option<At>,
}

/// Put a price book in force
///
/// At once, on every gateway within a second; or at an instant to come, on every gateway at that instant. Running tasks
/// keep the price they have. A book that was in force before can come back at once, but not be scheduled: schedule a copy.
#[utoipa::path(
    post, path = "/admin/v1/price-books/{version}/activate", tag = "prices",
    params(
        ("version" = i32, Path, description = "Which"),
        IfMatch
    ),
    request_body = ActivateBody,
    responses((status = 200, body = Book)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn activate_price_book(
    Acting(database): Acting,
    Path(version): Path<i32>,
    IfMatch(revision): IfMatch,
    Body(body): Body<ActivateBody>,
) -> Result<Tagged<Book>, Problem> {
    let version = BookVersion::new(version);
    database.put_in_force(version, body.at.map(At::get), revision).await?;
    tagged(StatusCode::OK, &database, version).await
}

/// Take a schedule back
///
/// While its instant is to come. The book is a draft again.
#[utoipa::path(
    post, path = "/admin/v1/price-books/{version}/unschedule", tag = "prices",
    params(
        ("version" = i32, Path, description = "Which"),
        IfMatch
    ),
    responses((status = 200, body = Book)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn unschedule_price_book(
    Acting(database): Acting,
    Path(version): Path<i32>,
    IfMatch(revision): IfMatch,
) -> Result<Tagged<Book>, Problem> {
    let version = BookVersion::new(version);
    database.unschedule_book(version, revision).await?;
    tagged(StatusCode::OK, &database, version).await
}

/// What is to be rolled back.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RollbackBody {
    /// The book that is to go: refused if another is in force. None: whichever is.
    #[schema(value_type = Option<i32>)]
    from: Option<BookVersion>,
}

/// Roll back to the former price book
///
/// Puts the book in force again that was in force before the present one. A second call undoes the first.
#[utoipa::path(
    post, path = "/admin/v1/price-books/rollback", tag = "prices",
    request_body = RollbackBody,
    responses((status = 200, body = Book)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn roll_back_price_book(
    Acting(database): Acting,
    Body(body): Body<RollbackBody>,
) -> Result<Tagged<Book>, Problem> {
    let version = database.roll_back_book(body.from).await?;
    tagged(StatusCode::OK, &database, version).await
}

/// A part of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// Items of a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    pub(super) limit: Limit,
    /// `next_cursor` of the page before.
    pub(super) cursor: Option<String>,
}

/// List what was in force when
///
/// Newest first, with what is scheduled and what was taken back before it began.
#[utoipa::path(
    get, path = "/admin/v1/price-activations", tag = "prices",
    params(PageQuery),
    responses((status = 200, body = Page<Activation>)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn list_price_activations(
    State(api): State<Api>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Activation>>, Problem> {
    let slice = query.limit.behind(query.cursor.as_deref())?;
    let lines = api.database.activations(slice).await?;
    Ok(Page::of(lines, query.limit, |line| line.activation_id))
}

/// The key that signs quotes from now on.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QuoteKey {
    /// Its number.
    generation: i32,
}

/// Replace the key that signs quotes
///
/// The new one signs as soon as every gateway knows it, some seconds later. Quotes that were given out bind as before.
#[utoipa::path(
    post, path = "/admin/v1/quote-keys/rotate", tag = "prices",
    responses((status = 200, body = QuoteKey)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn rotate_quote_key(Acting(database): Acting) -> Result<Json<QuoteKey>, Problem> {
    Ok(Json(QuoteKey { generation: database.rotate_signing_key().await? }))
}
