//! Users of an organisation: created, listed, changed, deleted.

use super::*;
use crate::store::db::page::Slice;
use crate::store::directory::keys::Role;

/// A user of an organisation.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct User {
    pub user_id: UserId,
    pub org_id: OrgId,
    pub team_id: Option<TeamId>,
    /// The name of the user, unique within the organisation.
    pub name: String,
    /// What the user may do within the organisation.
    pub role: Role,
    /// Whether the user may create tasks.
    pub status: Status,
    pub version: i32,
    /// When the user was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// A user that is to be created.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// The name of the user, unique within the organisation.
    pub name: String,
    /// What the user may do.
    pub role: Role,
    pub team: Option<TeamId>,
}

/// Changes of a user; a field that is `None` keeps its value.
#[derive(Debug, Clone, Default)]
pub struct UserChange {
    pub name: Option<String>,
    /// What the user may do.
    pub role: Option<Role>,
    /// Whether the user may create tasks.
    pub status: Option<Status>,
    /// The team of the user; `Some(None)`: no team.
    pub team: Option<Option<TeamId>>,
}

/// Which users to list.
#[derive(Debug, Clone, Default)]
pub struct UserFilter {
    /// Only the user with this name.
    pub name: Option<String>,
    /// Only users whose name contains this; capital letters do not matter.
    pub search: Option<String>,
    /// Only users of this team.
    pub team: Option<TeamId>,
    pub role: Option<Role>,
    pub status: Option<Status>,
}

impl FromRow<'_, PgRow> for User {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            user_id: UserId::from_uuid(row.try_get("user_id")?),
            org_id: OrgId::from_uuid(row.try_get("org_id")?),
            team_id: row.try_get::<Option<Uuid>, _>("team_id")?.map(TeamId::from_uuid),
            name: row.try_get("name")?,
            role: row.try_get("role")?,
            status: row.try_get("status")?,
            version: row.try_get("version")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

impl Database {
    /// Users of `org`, oldest first.
    pub async fn list_users(
        &self,
        org: OrgId,
        filter: &UserFilter,
        slice: Slice<UserId>,
    ) -> Result<Vec<User>, StoreError> {
        Ok(sqlx::query_as(
            "select user_id, org_id, team_id, name, role, status, version, created_at from app_user where org_id = $1 and deleted_at is null \
             and ($2::text is null or name = $2) and ($3::uuid is null or team_id = $3) \
             and ($4::text is null or role = $4) and ($5::text is null or status = $5) \
             and ($6::uuid is null or user_id > $6) \
             and ($8::text is null or strpos(lower(name), lower($8)) > 0) order by user_id limit $7",
        )
        .bind(org.as_uuid())
        .bind(&filter.name)
        .bind(filter.team.map(TeamId::as_uuid))
        .bind(filter.role)
        .bind(filter.status)
        .bind(slice.after.map(UserId::as_uuid))
        .bind(i64::from(slice.limit))
        .bind(&filter.search)
        .fetch_all(self.pool())
        .await?)
    }

    pub async fn user(&self, user: UserId) -> Result<Option<User>, StoreError> {
        let row = sqlx::query_as(
            "select user_id, org_id, team_id, name, role, status, version, created_at from app_user where user_id = $1 and deleted_at is null",
        );
        Ok(row.bind(user.as_uuid()).fetch_optional(self.pool()).await?)
    }

    /// Explains why a user of an existing `org` was not created or changed: fails if the team is not one of `org`.
    async fn own_team(&self, org: OrgId, team: Option<TeamId>) -> Result<(), StoreError> {
        let Some(team) = team else { return Ok(()) };
        let own: bool = sqlx::query_scalar(
            "select exists (select from team where team_id = $1 and org_id = $2 and deleted_at is null)",
        )
        .bind(team.as_uuid())
        .bind(org.as_uuid())
        .fetch_one(self.pool())
        .await?;
        own.then_some(()).ok_or_else(|| StoreError::NotFound(format!("{org} has no team {team}")))
    }

    async fn missing_user(&self, user: UserId) -> Result<StoreError, StoreError> {
        let current = self.user(user).await?.map(|user| user.version);
        Ok(unchanged(current, || no_user(user)))
    }
}

fn no_user(user: UserId) -> String {
    format!("there is no user {user}")
}

impl Acting {
    /// Creates a user of `org`.
    pub async fn add_user(&self, org: OrgId, new: &NewUser) -> Result<UserId, StoreError> {
        let user = UserId::generate();
        // The team is locked before the user, as a statement that deletes a team locks the team before its members.
        let done = sqlx::query(
            "with own as (select from team where team_id = $5 and org_id = $2 and deleted_at is null for share) \
             insert into app_user (user_id, org_id, name, role, team_id) \
             select $1, org_id, $3, $4, $5 from org \
             where org_id = $2 and deleted_at is null and ($5::uuid is null or exists (select from own))",
        )
        .bind(user.as_uuid())
        .bind(org.as_uuid())
        .bind(&new.name)
        .bind(new.role)
        .bind(new.team.map(TeamId::as_uuid))
        .execute(self.change())
        .await
        .map_err(|error| taken(error, || format!("{org} has a user named '{}' already", new.name)))?;
        if done.rows_affected() == 0 {
            self.own_team(org, new.team).await?;
            return Err(StoreError::NotFound(format!("there is no organisation {org}")));
        }
        Ok(user)
    }

    /// Changes a user, if its version is still `version`.
    pub async fn update_user(
        &self,
        user: UserId,
        new: UserChange,
        version: Option<i32>,
    ) -> Result<(), StoreError> {
        let done = sqlx::query(
            "with own as (select from team t join app_user m using (org_id) \
               where t.team_id = $6 and m.user_id = $1 and t.deleted_at is null for share of t) \
             update app_user u set name = coalesce($2, u.name), role = coalesce($3, u.role), \
               status = coalesce($4, u.status), team_id = case when $5 then $6 else u.team_id end \
             from org o where o.org_id = u.org_id and o.deleted_at is null and u.user_id = $1 \
               and u.deleted_at is null and u.version = coalesce($7, u.version) \
               and ($6::uuid is null or exists (select from own))",
        )
        .bind(user.as_uuid())
        .bind(&new.name)
        .bind(new.role)
        .bind(new.status)
        .bind(new.team.is_some())
        .bind(new.team.flatten().map(TeamId::as_uuid))
        .bind(version)
        .execute(self.change())
        .await
        .map_err(|error| taken(error, || "the organisation has a user of that name already".into()))?;
        if done.rows_affected() == 0 {
            let org: Option<Uuid> = sqlx::query_scalar(
                "select o.org_id from app_user u join org o using (org_id) \
                 where u.user_id = $1 and u.deleted_at is null and o.deleted_at is null",
            )
            .bind(user.as_uuid())
            .fetch_optional(self.pool())
            .await?;
            let org = org.ok_or_else(|| StoreError::NotFound(no_user(user)))?;
            self.own_team(OrgId::from_uuid(org), new.team.flatten()).await?;
            return Err(self.missing_user(user).await?);
        }
        Ok(())
    }

    /// Deletes a user: its keys are refused; its tasks and entries stay.
    pub async fn delete_user(&self, user: UserId, version: Option<i32>) -> Result<(), StoreError> {
        let done = sqlx::query(
            "update app_user set deleted_at = now(), status = 'suspended' \
             where user_id = $1 and deleted_at is null and version = coalesce($2, version)",
        )
        .bind(user.as_uuid())
        .bind(version)
        .execute(self.change())
        .await?;
        if done.rows_affected() == 0 {
            return Err(self.missing_user(user).await?);
        }
        Ok(())
    }
}
