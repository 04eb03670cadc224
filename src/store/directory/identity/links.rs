//! The links between subjects of identity providers and users, as people make, list and remove them.

use serde::Serialize;
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::ids::{IdentityId, OrgId, ProviderId, UserId};
use crate::store::db::change::Acting;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::page::Slice;

/// A longer subject cannot be linked: it is refused without a look-up.
const MAX_SUBJECT: usize = 200;

/// The most subjects that are linked to one user; of those that are linked at the same instant there may be a few more.
const MOST_SUBJECTS: i64 = 20;

/// A link between a subject of an identity provider and a user.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct IdentityInfo {
    pub identity_id: IdentityId,
    /// The provider whose tokens have the subject.
    pub provider_id: ProviderId,
    /// The user that the subject is linked to.
    pub user_id: UserId,
    /// The subject, as the provider names the user.
    pub subject: String,
    /// When the subject was linked to the user.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

impl Database {
    /// The subjects that are linked to users of `org`, or to one of its users, oldest first.
    pub async fn list_identities(
        &self,
        org: OrgId,
        user: Option<UserId>,
        slice: Slice<IdentityId>,
    ) -> Result<Vec<IdentityInfo>, StoreError> {
        let rows = sqlx::query(
            "select identity_id, provider_id, user_id, subject, created_at from user_identity \
             where org_id = $1 and ($2::uuid is null or user_id = $2) \
             and ($3::uuid is null or identity_id > $3) order by identity_id limit $4",
        )
        .bind(org.as_uuid())
        .bind(user.map(UserId::as_uuid))
        .bind(slice.after.map(IdentityId::as_uuid))
        .bind(i64::from(slice.limit))
        .fetch_all(self.pool())
        .await?;
        let info = |row: &PgRow| {
            Ok(IdentityInfo {
                identity_id: IdentityId::from_uuid(row.try_get("identity_id")?),
                provider_id: ProviderId::from_uuid(row.try_get("provider_id")?),
                user_id: UserId::from_uuid(row.try_get("user_id")?),
                subject: row.try_get("subject")?,
                created_at: row.try_get("created_at")?,
            })
        };
        rows.iter().map(info).collect()
    }
}

impl Acting {
    /// Links a subject of a provider to an existing user of `org`.
    pub async fn link_identity(
        &self,
        id: ProviderId,
        org: OrgId,
        user: UserId,
        subject: &str,
    ) -> Result<IdentityId, StoreError> {
        let length = subject.chars().count();
        if subject.trim().is_empty() || length > MAX_SUBJECT || subject.chars().any(char::is_control) {
            return Err(StoreError::Invalid(
                "a subject must be 1 to 200 characters without control characters".into(),
            ));
        }
        let linked: i64 = sqlx::query_scalar(
            "select count(*) from (select from user_identity i where i.user_id = $1 and i.org_id = $2 limit $3) linked",
        )
        .bind(user.as_uuid())
        .bind(org.as_uuid())
        .bind(MOST_SUBJECTS)
        .fetch_one(self.pool())
        .await?;
        if linked >= MOST_SUBJECTS {
            return Err(StoreError::Conflict(format!(
                "{user} has {MOST_SUBJECTS} subjects of identity providers already: unlink one first"
            )));
        }
        let identity = IdentityId::generate();
        let done = sqlx::query(
            "insert into user_identity (identity_id, provider_id, org_id, subject, user_id) \
             select $1, p.provider_id, u.org_id, $5, u.user_id from identity_provider p, app_user u \
             where p.provider_id = $2 and p.deleted_at is null and p.serves = 'organisations' \
             and (p.org_id is null or p.org_id = $3) and u.org_id = $3 and u.user_id = $4 and u.deleted_at is null",
        )
        .bind(identity.as_uuid())
        .bind(id.as_uuid())
        .bind(org.as_uuid())
        .bind(user.as_uuid())
        .bind(subject)
        .execute(self.change())
        .await
        .map_err(|error| match &error {
            sqlx::Error::Database(e) if e.is_unique_violation() => {
                StoreError::Conflict("this subject is already linked to a user".into())
            }
            _ => error.into(),
        })?;
        if done.rows_affected() == 0 {
            return Err(StoreError::NotFound(format!("{org} has no user {user}, or no provider {id}")));
        }
        Ok(identity)
    }

    /// Unlinks a subject of a user of `org`. Tokens with this subject are refused afterwards, or, if the provider
    /// creates users, create a new user.
    pub async fn unlink_identity(&self, org: OrgId, identity: IdentityId) -> Result<(), StoreError> {
        let done = sqlx::query("delete from user_identity where org_id = $1 and identity_id = $2")
            .bind(org.as_uuid())
            .bind(identity.as_uuid())
            .execute(self.change())
            .await?;
        if done.rows_affected() == 0 {
            return Err(StoreError::NotFound(format!("{org} has no identity {identity}")));
        }
        Ok(())
    }
}
