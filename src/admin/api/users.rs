//! Users of an organisation, each with a role and perhaps a team.

use axum::Json;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::call::{ApiCall, ReadCall, WriteCall};
use super::conditions::IfMatch;
use super::extract::{Body, Query, Tagged, existing, given};
use super::names::Name;
use super::page::{Page, PageLimit};
use super::problem::Problem;
use crate::ids::{HoldId, OrgId, TeamId, UserId};
use crate::store::{ForgottenUser, NewUser, Role, Status, User, UserChange, UserFilter};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct UserQuery {
    /// Only the user with this name.
    name: Option<String>,
    /// Only users whose name contains this text; capital letters do not matter.
    search: Option<String>,
    /// Only users of this team.
    team_id: Option<TeamId>,
    /// Only users with this role.
    #[param(inline)]
    role: Option<Role>,
    /// Only users with this status.
    #[param(inline)]
    status: Option<Status>,
    /// The most items a page may have; 50 if omitted.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: PageLimit,
    /// `next_cursor` of the previous page.
    cursor: Option<String>,
}

/// List an organisation's users
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/users", tag = "users",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    responses((status = 200, description = "A page of users", body = Page<User>)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn list_users(call: ReadCall<OrgId, Query<UserQuery>>) -> Result<Json<Page<User>>, Problem> {
    let ApiCall { database, path: org, input: Query(query), .. } = call;
    let slice = query.limit.after(query.cursor.as_deref())?;
    let filter = UserFilter {
        name: query.name,
        search: query.search,
        team: query.team_id,
        role: query.role,
        status: query.status,
    };
    let users = database.list_users(org, &filter, slice).await?;
    Ok(Page::of(users, query.limit, |user| user.user_id))
}

/// The fields of a new user.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UserBody {
    /// A name, unique within the organisation.
    name: Name,
    /// `member`: creates tasks and sees its own; `admin`: sees and manages its whole organisation.
    #[serde(default = "member")]
    role: Role,
    /// The team of the user; omitted: none.
    team_id: Option<TeamId>,
}

fn member() -> Role {
    Role::Member
}

/// Create a user
#[utoipa::path(
    post, path = "/admin/v1/orgs/{org_id}/users", tag = "users",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    request_body = UserBody,
    responses((status = 201, description = "The new user", body = User)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn create_user(call: WriteCall<OrgId, Body<UserBody>>) -> Result<Tagged<User>, Problem> {
    let ApiCall { database, path: org, input: Body(body), .. } = call;
    let new = NewUser { name: body.name.into_string(), role: body.role, team: body.team_id };
    let id = database.add_user(org, &new).await?;
    let user = existing(database.user(id).await?, id)?;
    Ok(Tagged(StatusCode::CREATED, user.version, user))
}

/// Show a user
#[utoipa::path(
    get, path = "/admin/v1/users/{user_id}", tag = "users",
    params(("user_id" = UserId, Path, description = "The user")),
    responses((status = 200, description = "The user", body = User)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn show_user(call: ReadCall<UserId>) -> Result<Tagged<User>, Problem> {
    let ApiCall { database, path: id, .. } = call;
    let user = existing(database.user(id).await?, id)?;
    Ok(Tagged(StatusCode::OK, user.version, user))
}

/// Changes of a user; a field that is omitted keeps its value.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UserPatch {
    name: Option<Name>,
    /// What the user may do within its organisation.
    role: Option<Role>,
    /// `suspended`: creates of this user are refused.
    status: Option<Status>,
    /// The team of the user; null: none.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<TeamId>)]
    team_id: Option<Option<TeamId>>,
}

/// Change a user
#[utoipa::path(
    patch, path = "/admin/v1/users/{user_id}", tag = "users",
    params(("user_id" = UserId, Path, description = "The user")),
    request_body = UserPatch,
    responses((status = 200, description = "The user after the change", body = User)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn update_user(
    call: WriteCall<UserId, (IfMatch, Body<UserPatch>)>,
) -> Result<Tagged<User>, Problem> {
    let ApiCall { database, path: id, input: (IfMatch(version), Body(patch)), .. } = call;
    let change = UserChange {
        name: patch.name.map(Name::into_string),
        role: patch.role,
        status: patch.status,
        team: patch.team_id,
    };
    database.update_user(id, change, version).await?;
    let user = existing(database.user(id).await?, id)?;
    Ok(Tagged(StatusCode::OK, user.version, user))
}

/// Delete a user
///
/// Its keys are refused from now on. Its tasks and its spending stay recorded.
#[utoipa::path(
    delete, path = "/admin/v1/users/{user_id}", tag = "users",
    params(("user_id" = UserId, Path, description = "The user")),
    responses((status = 204, description = "Deleted")),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn delete_user(call: WriteCall<UserId, IfMatch>) -> Result<StatusCode, Problem> {
    let ApiCall { database, path: id, input: IfMatch(version), .. } = call;
    database.delete_user(id, version).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What is forgotten beside the name.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ForgetBody {
    /// `true`: also what the video service said about the user's tasks is erased: prompts that it repeats, links, messages.
    #[serde(default)]
    erase_content: bool,
    /// Go on where an earlier call stopped: `next` of its answer.
    #[serde(default)]
    after: Option<HoldId>,
}

/// Forget a user
///
/// Deletes the user, and puts a pseudonym in place of its name, of the names of its keys, and of both in the audit log. Its links
/// to identity providers go: if a provider still signs tokens for it, they are refused, or make a new user where the provider
/// creates users. Balances, entries and tasks stay, as they name users by their ids. What people wrote elsewhere (reasons of
/// entries, references) stays too. A user that was deleted before can be forgotten; forgetting twice changes nothing more.
///
/// One call erases the content of at most 500 tasks, and its answer says where the next call goes on.
#[utoipa::path(
    post, path = "/admin/v1/users/{user_id}/forget", tag = "users",
    params(("user_id" = UserId, Path, description = "The user")),
    request_body = ForgetBody,
    responses((status = 200, description = "The pseudonym", body = ForgottenUser)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn forget_user(
    call: WriteCall<UserId, Body<ForgetBody>>,
) -> Result<Json<ForgottenUser>, Problem> {
    let ApiCall { database, path: id, input: Body(body), contents, .. } = call;
    let pseudonym = database.forget_user(id).await?;
    let mut forgotten = ForgottenUser { user_id: id, pseudonym, erased_tasks: 0, next: None };
    if body.erase_content {
        let some = database.tasks_with_content(id, body.after).await?;
        for (org, hold) in &some {
            contents.erase(*org, *hold).await?;
            forgotten.erased_tasks += 1;
        }
        forgotten.next = some.last().map(|(_, hold)| *hold);
    }
    Ok(Json(forgotten))
}
