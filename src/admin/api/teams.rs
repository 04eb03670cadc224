//! Teams.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::access::Acting;
use super::problem::Problem;
use super::request::{Body, IfMatch, Limit, Page, Path, Query, Tagged, Text, there};
use crate::ids::{OrgId, TeamId};
use crate::store::{Status, Team, TeamChange};

/// Which teams.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TeamQuery {
    /// Only that of this name.
    name: Option<String>,
    /// Items of a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List an organisation's teams
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/teams", tag = "teams",
    params(("org_id" = OrgId, Path, description = "Of which organisation"), TeamQuery),
    responses((status = 200, body = Page<Team>)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn list_teams(
    State(api): State<Api>,
    Path(org): Path<OrgId>,
    Query(query): Query<TeamQuery>,
) -> Result<Json<Page<Team>>, Problem> {
    let slice = query.limit.behind(query.cursor.as_deref())?;
    let teams = api.database.list_teams(org, query.name.as_deref(), slice).await?;
    Ok(Page::of(teams, query.limit, |team| team.team_id))
}

/// A team to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TeamBody {
    /// Its name, unique within the organisation.
    name: Text,
}

/// Make a team
#[utoipa::path(
    post, path = "/admin/v1/orgs/{org_id}/teams", tag = "teams",
    params(("org_id" = OrgId, Path, description = "Of which organisation")),
    request_body = TeamBody,
    responses((status = 201, body = Team)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn create_team(
    Acting(database): Acting,
    Path(org): Path<OrgId>,
    Body(body): Body<TeamBody>,
) -> Result<Tagged<Team>, Problem> {
    let id = database.create_team(org, &body.name.into_string()).await?;
    let team = there(database.team(id).await?, id)?;
    Ok(Tagged(StatusCode::CREATED, team.version, team))
}

/// Show a team
#[utoipa::path(
    get, path = "/admin/v1/teams/{team_id}", tag = "teams",
    params(("team_id" = TeamId, Path, description = "Which")),
    responses((status = 200, body = Team)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn show_team(
    State(api): State<Api>,
    Path(id): Path<TeamId>,
) -> Result<Tagged<Team>, Problem> {
    let team = there(api.database.team(id).await?, id)?;
    Ok(Tagged(StatusCode::OK, team.version, team))
}

/// What is to change of a team; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TeamPatch {
    /// Its name.
    name: Option<Text>,
    /// `suspended`: its members' creates are refused.
    status: Option<Status>,
}

/// Change a team
#[utoipa::path(
    patch, path = "/admin/v1/teams/{team_id}", tag = "teams",
    params(
        ("team_id" = TeamId, Path, description = "Which"),
        IfMatch
    ),
    request_body = TeamPatch,
    responses((status = 200, body = Team)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn update_team(
    Acting(database): Acting,
    Path(id): Path<TeamId>,
    IfMatch(version): IfMatch,
    Body(patch): Body<TeamPatch>,
) -> Result<Tagged<Team>, Problem> {
    let change = TeamChange { name: patch.name.map(Text::into_string), status: patch.status };
    database.update_team(id, change, version).await?;
    let team = there(database.team(id).await?, id)?;
    Ok(Tagged(StatusCode::OK, team.version, team))
}

/// Delete a team
///
/// Its members stay, without a team; what it spent stays with it.
#[utoipa::path(
    delete, path = "/admin/v1/teams/{team_id}", tag = "teams",
    params(
        ("team_id" = TeamId, Path, description = "Which"),
        IfMatch
    ),
    responses((status = 204, description = "It is deleted")),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn delete_team(
    Acting(database): Acting,
    Path(id): Path<TeamId>,
    IfMatch(version): IfMatch,
) -> Result<StatusCode, Problem> {
    database.delete_team(id, version).await?;
    Ok(StatusCode::NO_CONTENT)
}
