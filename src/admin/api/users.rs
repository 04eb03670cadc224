//! Users.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::access::Acting;
use super::problem::Problem;
use super::request::{Body, IfMatch, Limit, Page, Path, Query, Tagged, Text, given, there};
use crate::ids::{OrgId, TeamId, UserId};
use crate::store::{NewUser, Role, Status, User, UserChange, UserFilter};

/// Which users.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UserQuery {
    /// Only that of this name.
    name: Option<String>,
    /// Only those of this team.
    team_id: Option<TeamId>,
    /// Only those.
    #[param(inline)]
    role: Option<Role>,
    /// Only those.
    #[param(inline)]
    status: Option<Status>,
    /// Items of a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List an organisation's users
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/users", tag = "users",
    params(("org_id" = OrgId, Path, description = "Of which organisation"), UserQuery),
    responses((status = 200, body = Page<User>)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn list_users(
    State(api): State<Api>,
    Path(org): Path<OrgId>,
    Query(query): Query<UserQuery>,
) -> Result<Json<Page<User>>, Problem> {
    let slice = query.limit.behind(query.cursor.as_deref())?;
    let filter = UserFilter { name: query.name, team: query.team_id, role: query.role, status: query.status };
    let users = api.database.list_users(org, &filter, slice).await?;
    Ok(Page::of(users, query.limit, |user| user.user_id))
}

/// A user to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UserBody {
    /// Its name, unique within the organisation.
    name: Text,
    /// `member`: creates tasks, sees its own; `admin`: sees and manages all of its organisation.
    #[serde(default = "member")]
    role: Role,
    /// Its team.
    team_id: Option<TeamId>,
}

fn member() -> Role {
    Role::Member
}

/// Make a user
#[utoipa::path(
    post, path = "/admin/v1/orgs/{org_id}/users", tag = "users",
    params(("org_id" = OrgId, Path, description = "Of which organisation")),
    request_body = UserBody,
    responses((status = 201, body = User)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn create_user(
    Acting(database): Acting,
    Path(org): Path<OrgId>,
    Body(body): Body<UserBody>,
) -> Result<Tagged<User>, Problem> {
    let new = NewUser { name: body.name.into_string(), role: body.role, team: body.team_id };
    let id = database.add_user(org, &new).await?;
    let user = there(database.user(id).await?, id)?;
    Ok(Tagged(StatusCode::CREATED, user.version, user))
}

/// Show a user
#[utoipa::path(
    get, path = "/admin/v1/users/{user_id}", tag = "users",
    params(("user_id" = UserId, Path, description = "Which")),
    responses((status = 200, body = User)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn show_user(
    State(api): State<Api>,
    Path(id): Path<UserId>,
) -> Result<Tagged<User>, Problem> {
    let user = there(api.database.user(id).await?, id)?;
    Ok(Tagged(StatusCode::OK, user.version, user))
}

/// What is to change of a user; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UserPatch {
    /// Its name.
    name: Option<Text>,
    /// What it may do within the organisation.
    role: Option<Role>,
    /// `suspended`: its creates are refused.
    status: Option<Status>,
    /// Its team; null: none.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<TeamId>)]
    team_id: Option<Option<TeamId>>,
}

/// Change a user
#[utoipa::path(
    patch, path = "/admin/v1/users/{user_id}", tag = "users",
    params(
        ("user_id" = UserId, Path, description = "Which"),
        IfMatch
    ),
    request_body = UserPatch,
    responses((status = 200, body = User)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn update_user(
    Acting(database): Acting,
    Path(id): Path<UserId>,
    IfMatch(version): IfMatch,
    Body(patch): Body<UserPatch>,
) -> Result<Tagged<User>, Problem> {
    let change = UserChange {
        name: patch.name.map(Text::into_string),
        role: patch.role,
        status: patch.status,
        team: patch.team_id,
    };
    database.update_user(id, change, version).await?;
    let user = there(database.user(id).await?, id)?;
    Ok(Tagged(StatusCode::OK, user.version, user))
}

/// Delete a user
///
/// Its keys are refused; its tasks and what it spent stay.
#[utoipa::path(
    delete, path = "/admin/v1/users/{user_id}", tag = "users",
    params(
        ("user_id" = UserId, Path, description = "Which"),
        IfMatch
    ),
    responses((status = 204, description = "It is deleted")),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn delete_user(
    Acting(database): Acting,
    Path(id): Path<UserId>,
    IfMatch(version): IfMatch,
) -> Result<StatusCode, Problem> {
    database.delete_user(id, version).await?;
    Ok(StatusCode::NO_CONTENT)
}
