//! Teams of an organisation: created, listed, changed, deleted.

use super::*;
use crate::store::db::page::Slice;

/// A team of an organisation.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Team {
    pub team_id: TeamId,
    pub org_id: OrgId,
    /// The name of the team, unique within the organisation.
    pub name: String,
    /// Whether the team's members may create tasks.
    pub status: Status,
    pub version: i32,
    /// When the team was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// Changes of a team; a field that is `None` keeps its value.
#[derive(Debug, Clone, Default)]
pub struct TeamChange {
    pub name: Option<String>,
    /// Whether the team's members may create tasks.
    pub status: Option<Status>,
}

impl FromRow<'_, PgRow> for Team {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            team_id: TeamId::from_uuid(row.try_get("team_id")?),
            org_id: OrgId::from_uuid(row.try_get("org_id")?),
            name: row.try_get("name")?,
            status: row.try_get("status")?,
            version: row.try_get("version")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

impl Database {
    /// The teams of `org`, or the one with a given name, oldest first.
    pub async fn list_teams(
        &self,
        org: OrgId,
        name: Option<&str>,
        slice: Slice<TeamId>,
    ) -> Result<Vec<Team>, StoreError> {
        Ok(sqlx::query_as(
            "select team_id, org_id, name, status, version, created_at from team where org_id = $1 and deleted_at is null and ($2::text is null or name = $2) \
             and ($3::uuid is null or team_id > $3) order by team_id limit $4",
        )
        .bind(org.as_uuid())
        .bind(name)
        .bind(slice.after.map(TeamId::as_uuid))
        .bind(i64::from(slice.limit))
        .fetch_all(self.pool())
        .await?)
    }

    pub async fn team(&self, team: TeamId) -> Result<Option<Team>, StoreError> {
        let row = sqlx::query_as(
            "select team_id, org_id, name, status, version, created_at from team where team_id = $1 and deleted_at is null",
        );
        Ok(row.bind(team.as_uuid()).fetch_optional(self.pool()).await?)
    }

    async fn missing_team(&self, team: TeamId) -> Result<StoreError, StoreError> {
        let current = self.team(team).await?.map(|team| team.version);
        Ok(unchanged(current, || format!("there is no team {team}")))
    }
}

impl Acting {
    /// Creates a team of `org`.
    pub async fn create_team(&self, org: OrgId, name: &str) -> Result<TeamId, StoreError> {
        let team = TeamId::generate();
        let done = sqlx::query(
            "insert into team (team_id, org_id, name) \
             select $1, org_id, $3 from org where org_id = $2 and deleted_at is null",
        )
        .bind(team.as_uuid())
        .bind(org.as_uuid())
        .bind(name)
        .execute(self.change())
        .await
        .map_err(|error| taken(error, || format!("{org} has a team named '{name}' already")))?;
        if done.rows_affected() == 0 {
            return Err(StoreError::NotFound(format!("there is no organisation {org}")));
        }
        Ok(team)
    }

    /// Changes a team, if its version is still `version`.
    pub async fn update_team(
        &self,
        team: TeamId,
        new: TeamChange,
        version: Option<i32>,
    ) -> Result<(), StoreError> {
        let done = sqlx::query(
            "update team set name = coalesce($2, name), status = coalesce($3, status) \
             where team_id = $1 and deleted_at is null and version = coalesce($4, version)",
        )
        .bind(team.as_uuid())
        .bind(&new.name)
        .bind(new.status)
        .bind(version)
        .execute(self.change())
        .await
        .map_err(|error| taken(error, || "the organisation has a team of that name already".into()))?;
        if done.rows_affected() == 0 {
            return Err(self.missing_team(team).await?);
        }
        Ok(())
    }

    /// Deletes a team; its members stay in the organisation, without a team.
    pub async fn delete_team(&self, team: TeamId, version: Option<i32>) -> Result<(), StoreError> {
        let deleted: bool = sqlx::query_scalar("select delete_team($1, $2)")
            .bind(team.as_uuid())
            .bind(version)
            .fetch_one(self.change())
            .await?;
        if !deleted {
            return Err(self.missing_team(team).await?);
        }
        Ok(())
    }
}
