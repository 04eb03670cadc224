//! Links by which an admin lets a user in without a key, and the end of all sessions of a user.

use super::*;
use crate::ids::UserId;
use crate::store::db::change::Acting;

/// How many invitations of one user may be open: a further one ends the oldest.
const MOST_INVITATIONS: i64 = 5;

impl Acting {
    /// Stores a link that opens one session of the user within `lasts`; when it ends. The user must not be suspended.
    pub async fn invite(
        &self,
        user: UserId,
        hash: SessionHash,
        lasts: Duration,
    ) -> Result<OffsetDateTime, StoreError> {
        let row = sqlx::query(
            "with ended as (delete from console_link where link_sha256 in ( \
                 select l.link_sha256 from console_link l where l.user_id = $2 order by l.expires_at desc offset $5)) \
             insert into console_link (link_sha256, kind, public_id, org_id, user_id, expires_at) \
             select $1, $3, u.user_id::text, u.org_id, u.user_id, now() + make_interval(secs => $4) \
             from app_user u join org o on o.org_id = u.org_id \
             where u.user_id = $2 and u.status = 'active' and u.deleted_at is null and o.deleted_at is null \
             returning expires_at",
        )
        .bind(hash.0.as_slice())
        .bind(user.as_uuid())
        .bind(SessionKind::User)
        .bind(lasts.as_secs_f64())
        .bind(MOST_INVITATIONS - 1)
        .fetch_optional(self.change())
        .await?;
        match row {
            Some(row) => Ok(row.try_get("expires_at")?),
            None if self.user(user).await?.is_some() => Err(StoreError::Conflict(
                "this user is suspended: the session that the link opens would end at once".into(),
            )),
            None => Err(StoreError::NotFound(format!("there is no user {user}"))),
        }
    }

    /// Ends all sessions of a user, whatever opened them, and its open invitations; how many sessions there were.
    pub async fn end_sessions(&self, user: UserId) -> Result<i64, StoreError> {
        let ended: Option<i64> = sqlx::query_scalar("select end_sessions($1)")
            .bind(user.as_uuid())
            .fetch_one(self.change())
            .await?;
        ended.ok_or_else(|| StoreError::NotFound(format!("there is no user {user}")))
    }
}
