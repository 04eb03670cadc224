//! Operators' tokens.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::access::Acting;
use super::problem::Problem;
use super::request::{At, Body, Limit, Page, Path, Query, Text};
use crate::clock::Clock;
use crate::ids::OperatorTokenId;
use crate::store::{OperatorRole, OperatorToken};

/// Which part of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TokenQuery {
    /// Items of a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List operators' tokens
#[utoipa::path(
    get, path = "/admin/v1/operator-tokens", tag = "operators",
    params(TokenQuery),
    responses((status = 200, body = Page<OperatorToken>)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn list_operator_tokens(
    State(api): State<Api>,
    Query(query): Query<TokenQuery>,
) -> Result<Json<Page<OperatorToken>>, Problem> {
    let slice = query.limit.behind(query.cursor.as_deref())?;
    let tokens = api.database.list_operator_tokens(slice).await?;
    Ok(Page::of(tokens, query.limit, |token| token.token_id))
}

/// An operator's token to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenBody {
    /// What to call it.
    name: Text,
    /// `operator`: everything; `operator_read`: look at everything.
    role: OperatorRole,
    /// When it ends.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<At>,
}

/// A token, the one time it is shown.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShownToken {
    /// Its id.
    token_id: OperatorTokenId,
    /// What to send as `Authorization: Bearer`. It is not shown again.
    token: String,
}

/// Make an operator's token
///
/// It is shown once.
#[utoipa::path(
    post, path = "/admin/v1/operator-tokens", tag = "operators",
    request_body = TokenBody,
    responses((status = 201, body = ShownToken)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn create_operator_token(
    Acting(database): Acting,
    Body(body): Body<TokenBody>,
) -> Result<(StatusCode, Json<ShownToken>), Problem> {
    let expires_at = body.expires_at.map(At::get);
    if expires_at.is_some_and(|end| end <= Clock.wall()) {
        return Err(Problem::Invalid("expires_at is in the past".into()));
    }
    let name = body.name.into_string();
    let (token_id, token) = database.create_operator_token(&name, body.role, expires_at).await?;
    Ok((StatusCode::CREATED, Json(ShownToken { token_id, token: token.expose().to_owned() })))
}

/// Revoke an operator's token
///
/// At once, and for good. The last one that can change anything stays.
#[utoipa::path(
    delete, path = "/admin/v1/operator-tokens/{token_id}", tag = "operators",
    params(("token_id" = OperatorTokenId, Path, description = "Which")),
    responses((status = 204, description = "It is revoked")),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn revoke_operator_token(
    Acting(database): Acting,
    Path(id): Path<OperatorTokenId>,
) -> Result<StatusCode, Problem> {
    database.revoke_operator_token(id).await?;
    Ok(StatusCode::NO_CONTENT)
}
