//! Teams: users of one organisation whose spending is counted together.

use axum::Json;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::call::{ApiCall, ReadCall, WriteCall};
use super::conditions::IfMatch;
use super::extract::{Body, Query, Tagged, existing};
use super::names::Name;
use super::page::{Page, PageLimit};
use super::problem::Problem;
use crate::ids::{OrgId, TeamId};
use crate::store::{Status, Team, TeamChange};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct TeamQuery {
    /// Only the team with this name.
    name: Option<String>,
    /// The most items a page may have; 50 if omitted.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: PageLimit,
    /// `next_cursor` of the previous page.
    cursor: Option<String>,
}

/// List an organisation's teams
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/teams", tag = "teams",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    responses((status = 200, description = "A page of teams", body = Page<Team>)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn list_teams(call: ReadCall<OrgId, Query<TeamQuery>>) -> Result<Json<Page<Team>>, Problem> {
    let ApiCall { database, path: org, input: Query(query), .. } = call;
    let slice = query.limit.after(query.cursor.as_deref())?;
    let teams = database.list_teams(org, query.name.as_deref(), slice).await?;
    Ok(Page::of(teams, query.limit, |team| team.team_id))
}

/// The fields of a new team.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TeamBody {
    /// A name, unique within the organisation.
    name: Name,
}

/// Create a team
#[utoipa::path(
    post, path = "/admin/v1/orgs/{org_id}/teams", tag = "teams",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    request_body = TeamBody,
    responses((status = 201, description = "The new team", body = Team)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn create_team(call: WriteCall<OrgId, Body<TeamBody>>) -> Result<Tagged<Team>, Problem> {
    let ApiCall { database, path: org, input: Body(body), .. } = call;
    let id = database.create_team(org, &body.name.into_string()).await?;
    let team = existing(database.team(id).await?, id)?;
    Ok(Tagged(StatusCode::CREATED, team.version, team))
}

/// Show a team
#[utoipa::path(
    get, path = "/admin/v1/teams/{team_id}", tag = "teams",
    params(("team_id" = TeamId, Path, description = "The team")),
    responses((status = 200, description = "The team", body = Team)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn show_team(call: ReadCall<TeamId>) -> Result<Tagged<Team>, Problem> {
    let ApiCall { database, path: id, .. } = call;
    let team = existing(database.team(id).await?, id)?;
    Ok(Tagged(StatusCode::OK, team.version, team))
}

/// Changes of a team; a field that is omitted keeps its value.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TeamPatch {
    name: Option<Name>,
    /// `suspended`: creates of its members are refused.
    status: Option<Status>,
}

/// Change a team
#[utoipa::path(
    patch, path = "/admin/v1/teams/{team_id}", tag = "teams",
    params(("team_id" = TeamId, Path, description = "The team")),
    request_body = TeamPatch,
    responses((status = 200, description = "The team after the change", body = Team)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn update_team(
    call: WriteCall<TeamId, (IfMatch, Body<TeamPatch>)>,
) -> Result<Tagged<Team>, Problem> {
    let ApiCall { database, path: id, input: (IfMatch(version), Body(patch)), .. } = call;
    let change = TeamChange { name: patch.name.map(Name::into_string), status: patch.status };
    database.update_team(id, change, version).await?;
    let team = existing(database.team(id).await?, id)?;
    Ok(Tagged(StatusCode::OK, team.version, team))
}

/// Delete a team
///
/// Its members stay as users without a team. Its spending stays recorded.
#[utoipa::path(
    delete, path = "/admin/v1/teams/{team_id}", tag = "teams",
    params(("team_id" = TeamId, Path, description = "The team")),
    responses((status = 204, description = "Deleted")),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn delete_team(call: WriteCall<TeamId, IfMatch>) -> Result<StatusCode, Problem> {
    let ApiCall { database, path: id, input: IfMatch(version), .. } = call;
    database.delete_team(id, version).await?;
    Ok(StatusCode::NO_CONTENT)
}
