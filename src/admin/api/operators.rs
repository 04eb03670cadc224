//! Operator tokens: the credentials of those who manage the platform.

use axum::Json;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::call::{ApiCall, ReadCall, WriteCall};
use super::extract::{Body, Query, Timestamp};
use super::names::Name;
use super::page::{Page, PageLimit};
use super::problem::Problem;
use crate::clock::Clock;
use crate::ids::OperatorTokenId;
use crate::store::{OperatorRole, OperatorToken};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenQuery {
    /// The most items a page may have; 50 if omitted.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: PageLimit,
    /// `next_cursor` of the previous page.
    cursor: Option<String>,
}

/// List operator tokens
#[utoipa::path(
    get, path = "/admin/v1/operator-tokens", tag = "operators",
    responses((status = 200, description = "A page of operator tokens", body = Page<OperatorToken>)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn list_operator_tokens(
    call: ReadCall<(), Query<TokenQuery>>,
) -> Result<Json<Page<OperatorToken>>, Problem> {
    let ApiCall { database, input: Query(query), .. } = call;
    let slice = query.limit.after(query.cursor.as_deref())?;
    let tokens = database.list_operator_tokens(slice).await?;
    Ok(Page::of(tokens, query.limit, |token| token.token_id))
}

/// A new operator token.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenBody {
    /// A name for people.
    name: Name,
    /// `operator`: may do everything; `operator_read`: may read everything.
    role: OperatorRole,
    /// When the token expires; omitted: never.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
}

/// A token with its secret text, which is shown only once.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShownToken {
    token_id: OperatorTokenId,
    /// Send it as `Authorization: Bearer …`. It cannot be shown again.
    token: String,
}

/// Create an operator token
///
/// The answer shows the token; it cannot be shown again.
#[utoipa::path(
    post, path = "/admin/v1/operator-tokens", tag = "operators",
    request_body = TokenBody,
    responses((status = 201, description = "The operator token with its secret text", body = ShownToken)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn create_operator_token(
    call: WriteCall<(), Body<TokenBody>>,
) -> Result<(StatusCode, Json<ShownToken>), Problem> {
    let ApiCall { database, input: Body(body), .. } = call;
    let expires_at = body.expires_at.map(Timestamp::get);
    if expires_at.is_some_and(|end| end <= Clock.wall()) {
        return Err(Problem::Invalid("expires_at is in the past".into()));
    }
    let name = body.name.into_string();
    let (token_id, token) = database.create_operator_token(&name, body.role, expires_at).await?;
    Ok((StatusCode::CREATED, Json(ShownToken { token_id, token: token.expose().to_owned() })))
}

/// Revoke an operator token
///
/// It stops working at once, permanently. The last token that may change anything and does not expire cannot be revoked.
#[utoipa::path(
    delete, path = "/admin/v1/operator-tokens/{token_id}", tag = "operators",
    params(("token_id" = OperatorTokenId, Path, description = "The token")),
    responses((status = 204, description = "Revoked")),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn revoke_operator_token(call: WriteCall<OperatorTokenId>) -> Result<StatusCode, Problem> {
    let ApiCall { database, path: id, .. } = call;
    database.revoke_operator_token(id).await?;
    Ok(StatusCode::NO_CONTENT)
}
