//! The names of a caller: of its organisation, team, user and key.

use sqlx::Row;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::ids::{KeyId, OrgId, TeamId, UserId};
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;

/// The names of a caller.
#[derive(Debug, Clone)]
pub struct CallerNames {
    pub org: String,
    /// The organisation's time zone.
    pub time_zone: String,
    pub team: Option<(TeamId, String)>,
    pub user: String,
    /// The caller's key; `None`: it has none.
    pub key: Option<KeyName>,
}

/// The name of a key.
#[derive(Debug, Clone)]
pub struct KeyName {
    pub name: String,
    pub expires_at: Option<OffsetDateTime>,
}

impl Database {
    /// The names of a user of `org` and of its key.
    pub async fn names_of_caller(
        &self,
        org: OrgId,
        user: UserId,
        key: Option<KeyId>,
    ) -> Result<Option<CallerNames>, StoreError> {
        let row = sqlx::query(
            "select o.name as org_name, o.time_zone, u.name as user_name, t.team_id, t.name as team_name, \
               k.name as key_name, k.expires_at \
             from app_user u join org o using (org_id) left join team t on t.team_id = u.team_id \
             left join api_key k on k.key_id = $3 and k.user_id = u.user_id where u.user_id = $2 and u.org_id = $1",
        )
        .bind(org.as_uuid())
        .bind(user.as_uuid())
        .bind(key.map(KeyId::as_uuid))
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let team: Option<Uuid> = row.try_get("team_id")?;
        let team_name: Option<String> = row.try_get("team_name")?;
        let key: Option<String> = row.try_get("key_name")?;
        let expires_at = row.try_get("expires_at")?;
        Ok(Some(CallerNames {
            org: row.try_get("org_name")?,
            time_zone: row.try_get("time_zone")?,
            team: team.map(TeamId::from_uuid).zip(team_name),
            user: row.try_get("user_name")?,
            key: key.map(|name| KeyName { name, expires_at }),
        }))
    }
}
