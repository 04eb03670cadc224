//! Price books: drafts and their editing, which book is in force when, and what past tasks would have cost by another one.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::call::{ApiCall, ReadCall, WriteCall};
use super::conditions::IfMatch;
use super::extract::{Body, Query, Tagged, Timestamp, existing};
use super::names::Name;
use super::page::{Page, PageLimit, PageQuery};
use super::problem::Problem;
use crate::pricing::{BookVersion, PriceChange, Tariff, changes};
use crate::store::{Activation, BookInfo, BookState, Database, WhatIf};

/// A price book with its prices.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Book {
    #[serde(flatten)]
    info: BookInfo,
    /// The prices by task type.
    prices: BTreeMap<String, Tariff>,
}

async fn book(database: &Database, version: BookVersion) -> Result<Book, Problem> {
    let missing = || format!("price book {version}");
    let info = existing(database.book_info(version).await?, missing())?;
    let book = existing(database.book(version).await?, missing())?;
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

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct BookQuery {
    /// Only price books in this state.
    #[param(inline)]
    state: Option<BookState>,
    /// The most items a page may have; 50 if omitted.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: PageLimit,
    /// `next_cursor` of the previous page.
    cursor: Option<String>,
}

/// List price books
///
/// Newest first, without their prices.
#[utoipa::path(
    get, path = "/admin/v1/price-books", tag = "prices",
    responses((status = 200, description = "A page of price books", body = Page<BookInfo>)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn list_price_books(
    call: ReadCall<(), Query<BookQuery>>,
) -> Result<Json<Page<BookInfo>>, Problem> {
    let ApiCall { database, input: Query(query), .. } = call;
    let slice = query.limit.after(query.cursor.as_deref())?;
    let books = database.list_books(query.state, slice).await?;
    Ok(Page::of(books, query.limit, |book| book.version))
}

/// The fields of a new draft.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BookBody {
    /// A name for people.
    name: Name,
    /// The price book whose prices are copied; omitted: the draft begins empty.
    #[schema(value_type = Option<i32>, minimum = 1)]
    copy_of: Option<BookVersion>,
    /// Prices by task type; they are added to those of `copy_of` or replace them.
    #[serde(default)]
    prices: BTreeMap<String, Tariff>,
}

/// Create a draft
#[utoipa::path(
    post, path = "/admin/v1/price-books", tag = "prices",
    request_body = BookBody,
    responses((status = 201, description = "The new price book with its prices", body = Book)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn create_price_book(call: WriteCall<(), Body<BookBody>>) -> Result<Tagged<Book>, Problem> {
    let ApiCall { database, input: Body(body), .. } = call;
    let version = database.create_book(&body.name.into_string(), body.copy_of, &body.prices).await?;
    tagged(StatusCode::CREATED, &database, version).await
}

/// Show the price book in force
#[utoipa::path(
    get, path = "/admin/v1/price-books/in-force", tag = "prices",
    responses((status = 200, description = "The price book with its prices", body = Book)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn show_price_book_in_force(call: ReadCall) -> Result<Tagged<Book>, Problem> {
    let ApiCall { database, .. } = call;
    let version = existing(database.active_book_version().await?, "price book in force")?;
    tagged(StatusCode::OK, &database, version).await
}

/// Show a price book
#[utoipa::path(
    get, path = "/admin/v1/price-books/{version}", tag = "prices",
    params(("version" = i32, Path, description = "The price book")),
    responses((status = 200, description = "The price book with its prices", body = Book)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn show_price_book(call: ReadCall<i32>) -> Result<Tagged<Book>, Problem> {
    let ApiCall { database, path: version, .. } = call;
    tagged(StatusCode::OK, &database, BookVersion::new(version)).await
}

/// A change of a draft.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BookPatch {
    /// A name for people.
    name: Name,
}

/// Rename a draft
#[utoipa::path(
    patch, path = "/admin/v1/price-books/{version}", tag = "prices",
    params(("version" = i32, Path, description = "The price book")),
    request_body = BookPatch,
    responses((status = 200, description = "The price book with its prices after the change", body = Book)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn rename_price_book(
    call: WriteCall<i32, (IfMatch, Body<BookPatch>)>,
) -> Result<Tagged<Book>, Problem> {
    let ApiCall { database, path: version, input: (IfMatch(revision), Body(patch)), .. } = call;
    let version = BookVersion::new(version);
    database.rename_book(version, &patch.name.into_string(), revision).await?;
    tagged(StatusCode::OK, &database, version).await
}

/// Delete a draft
#[utoipa::path(
    delete, path = "/admin/v1/price-books/{version}", tag = "prices",
    params(("version" = i32, Path, description = "The price book")),
    responses((status = 204, description = "Deleted")),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn delete_price_book(call: WriteCall<i32, IfMatch>) -> Result<StatusCode, Problem> {
    let ApiCall { database, path: version, input: IfMatch(revision), .. } = call;
    database.delete_book(BookVersion::new(version), revision).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How a price is counted.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "it only describes a body")]
enum UnitName {
    /// By the second of video.
    Second,
    /// One price for each video.
    Fixed,
}

/// The price of a task type.
// The body is a `Tariff`. This is its description as one object: tools that are made from the document cannot take a body that is
// one of several forms.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "it only describes a body")]
pub(super) struct PriceBody {
    #[schema(inline)]
    unit: UnitName,
    /// Credits for a second, or for the video. With `credits_with_audio`: without sound.
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    credits: i64,
    /// Credits for a second with sound; omitted: sound does not change the price. Only with the unit `second`.
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    credits_with_audio: Option<i64>,
}

/// Set a price of a draft
#[utoipa::path(
    put, path = "/admin/v1/price-books/{version}/prices/{task_type}", tag = "prices",
    params(
        ("version" = i32, Path, description = "The price book"),
        ("task_type" = String, Path, description = "The task type")
    ),
    request_body = PriceBody,
    responses((status = 200, description = "The price book with its prices after the change", body = Book)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn set_price(
    call: WriteCall<(i32, String), (IfMatch, Body<Tariff>)>,
) -> Result<Tagged<Book>, Problem> {
    let ApiCall { database, path: (version, task_type), input: (IfMatch(revision), Body(tariff)), .. } = call;
    let version = BookVersion::new(version);
    database.set_price(version, &task_type, tariff, revision).await?;
    tagged(StatusCode::OK, &database, version).await
}

/// Remove a price from a draft
///
/// Creates of a task type without a price are refused.
#[utoipa::path(
    delete, path = "/admin/v1/price-books/{version}/prices/{task_type}", tag = "prices",
    params(
        ("version" = i32, Path, description = "The price book"),
        ("task_type" = String, Path, description = "The task type")
    ),
    responses((status = 200, description = "The price book with its prices after the change", body = Book)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn remove_price(call: WriteCall<(i32, String), IfMatch>) -> Result<Tagged<Book>, Problem> {
    let ApiCall { database, path: (version, task_type), input: IfMatch(revision), .. } = call;
    let version = BookVersion::new(version);
    database.remove_price(version, &task_type, revision).await?;
    tagged(StatusCode::OK, &database, version).await
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Against {
    /// The price book to compare with; omitted: the one in force.
    #[param(value_type = Option<i32>)]
    against: Option<BookVersion>,
}

/// The differences between two price books.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BookComparison {
    #[schema(value_type = i32)]
    before: BookVersion,
    #[schema(value_type = i32)]
    after: BookVersion,
    /// One line for each task type whose price differs.
    changes: Vec<PriceChange>,
}

/// Compare two price books
///
/// The price changes by task type if this price book replaces the other.
#[utoipa::path(
    get, path = "/admin/v1/price-books/{version}/diff", tag = "prices",
    params(("version" = i32, Path, description = "The price book")),
    responses((status = 200, description = "The two price books, side by side", body = BookComparison)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn compare_price_books(
    call: ReadCall<i32, Query<Against>>,
) -> Result<Json<BookComparison>, Problem> {
    let ApiCall { database, path: version, input: Query(query), .. } = call;
    let after = database.expect_book(BookVersion::new(version)).await?;
    let before = match query.against {
        Some(version) => version,
        None => existing(database.active_book_version().await?, "price book in force")?,
    };
    let before = database.expect_book(before).await?;
    let changes = changes(&before, &after);
    Ok(Json(BookComparison { before: before.version, after: after.version, changes }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Days {
    /// How many days to look back; 7 if omitted.
    #[serde(default = "a_week")]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 90)]
    days: u32,
    /// At most so many organisations, those with the greatest differences; all if omitted.
    #[param(maximum = 1000)]
    orgs: Option<u16>,
}

fn a_week() -> u32 {
    7
}

/// Replay past tasks against a price book
///
/// Prices the tasks that were created in the last days, from the beginning of an hour (UTC) on, and charged since by this price book,
/// each with the factor it had.
/// Prices are compared with prices, that is with what was held; charges follow the vendor's figures, which do not depend
/// on price books. Nothing is changed.
#[utoipa::path(
    get, path = "/admin/v1/price-books/{version}/what-if", tag = "prices",
    params(("version" = i32, Path, description = "The price book")),
    responses((status = 200, description = "What the tasks would have cost by the other price book", body = WhatIf)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn replay_tasks(call: ReadCall<i32, Query<Days>>) -> Result<Json<WhatIf>, Problem> {
    let ApiCall { database, path: version, input: Query(query), .. } = call;
    let mut outcome = database.what_if(BookVersion::new(version), query.days).await?;
    if let Some(most) = query.orgs {
        outcome.keep_greatest(most.into());
    }
    Ok(Json(outcome))
}

/// When a price book comes into force.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ActivateBody {
    /// An instant in the future; omitted: now.
    #[schema(value_type = Option<String>, format = DateTime)]
    at: Option<Timestamp>,
}

/// Put a price book in force
///
/// Now (on every gateway within a second), or at an instant in the future (on every gateway at that instant). Running tasks
/// keep their price. A price book that was in force before can come back now, but cannot be scheduled: schedule a copy.
#[utoipa::path(
    post, path = "/admin/v1/price-books/{version}/activate", tag = "prices",
    params(("version" = i32, Path, description = "The price book")),
    request_body = ActivateBody,
    responses((status = 200, description = "The price book with its prices after the change", body = Book)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn activate_price_book(
    call: WriteCall<i32, (IfMatch, Body<ActivateBody>)>,
) -> Result<Tagged<Book>, Problem> {
    let ApiCall { database, path: version, input: (IfMatch(revision), Body(body)), .. } = call;
    let version = BookVersion::new(version);
    database.put_in_force(version, body.at.map(Timestamp::get), revision).await?;
    tagged(StatusCode::OK, &database, version).await
}

/// Unschedule a price book
///
/// Possible until it comes into force. The price book is a draft again.
#[utoipa::path(
    post, path = "/admin/v1/price-books/{version}/unschedule", tag = "prices",
    params(("version" = i32, Path, description = "The price book")),
    responses((status = 200, description = "The price book with its prices after the change", body = Book)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn unschedule_price_book(call: WriteCall<i32, IfMatch>) -> Result<Tagged<Book>, Problem> {
    let ApiCall { database, path: version, input: IfMatch(revision), .. } = call;
    let version = BookVersion::new(version);
    database.unschedule_book(version, revision).await?;
    tagged(StatusCode::OK, &database, version).await
}

/// What is rolled back.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RollbackBody {
    /// The price book that must be in force now, or else nothing happens (409); omitted: any.
    #[schema(value_type = Option<i32>)]
    from: Option<BookVersion>,
}

/// Roll back to the previous price book
///
/// Puts the price book in force that was in force before the current one. A second call undoes the first.
#[utoipa::path(
    post, path = "/admin/v1/price-books/rollback", tag = "prices",
    request_body = RollbackBody,
    responses((status = 200, description = "The price book that is in force again", body = Book)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn roll_back_price_book(
    call: WriteCall<(), Body<RollbackBody>>,
) -> Result<Tagged<Book>, Problem> {
    let ApiCall { database, input: Body(body), .. } = call;
    let version = database.roll_back_book(body.from).await?;
    tagged(StatusCode::OK, &database, version).await
}

/// List price activations
///
/// Which price book was in force when, newest first, with scheduled ones and those unscheduled before they began.
#[utoipa::path(
    get, path = "/admin/v1/price-activations", tag = "prices",
    responses((status = 200, description = "A page of activations of price books", body = Page<Activation>)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn list_price_activations(
    call: ReadCall<(), Query<PageQuery>>,
) -> Result<Json<Page<Activation>>, Problem> {
    let ApiCall { database, input: Query(query), .. } = call;
    let slice = query.limit.after(query.cursor.as_deref())?;
    let lines = database.activations(slice).await?;
    Ok(Page::of(lines, query.limit, |line| line.activation_id))
}

/// The new key that signs quotes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QuoteKey {
    /// The number of the key; it counts up with each rotation.
    generation: i32,
}

/// Rotate the key that signs quotes
///
/// The new key signs as soon as every gateway knows it, some seconds later. Quotes that were given out remain binding.
#[utoipa::path(
    post, path = "/admin/v1/quote-keys/rotate", tag = "prices",
    responses((status = 200, description = "The new signing key", body = QuoteKey)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn rotate_quote_key(call: WriteCall) -> Result<Json<QuoteKey>, Problem> {
    let ApiCall { database, .. } = call;
    Ok(Json(QuoteKey { generation: database.rotate_signing_key().await? }))
}
