//! `GET /api/prices`: the prices in force for the caller.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::Handlers;
use crate::call::{Admitted, Call};
use crate::credits::PriceFactor;
use crate::error::{Answer, GatewayError};
use crate::order::TypeFields;
use crate::pricing::{BookVersion, Tariff};
use crate::wire::{Success, success};

/// The prices in force.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PricesData {
    #[schema(value_type = i32)]
    price_book: BookVersion,
    /// The name of the price book.
    price_book_name: String,
    /// The caller's price factor, in basis points: a create costs list price × factor, rounded up.
    price_factor_bp: PriceFactor,
    types: Vec<TypePrice>,
}

/// The price of a task type, and the fields that a create of it takes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TypePrice {
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    task_type: Arc<str>,
    /// The list price, before the factor.
    price: Tariff,
    /// Whether the caller's key may create this type.
    allowed: bool,
    fields: TypeFields,
}

/// List prices
///
/// The price book in force, with the caller's price factor. `POST /api/quote` prices a whole body.
#[utoipa::path(
    get, path = "/api/prices", tag = "credits", operation_id = "prices",
    responses((status = 200, description = "The prices in force", body = Success<PricesData>))
)]
pub(super) async fn prices(handlers: &Handlers, call: Call<Admitted>) -> Result<Answer, GatewayError> {
    let principal = &call.stage.principal;
    let (book, price_factor_bp) = handlers.prices.in_force(principal)?;
    let types = book.prices.iter().map(|(task_type, price)| TypePrice {
        task_type: task_type.clone(),
        price: *price,
        allowed: principal.allows_type(task_type),
        fields: TypeFields::of(task_type),
    });
    let data = PricesData {
        price_book: book.version,
        price_book_name: book.name.clone(),
        price_factor_bp,
        types: types.collect(),
    };
    handlers.success(principal.org, success(&data))
}
