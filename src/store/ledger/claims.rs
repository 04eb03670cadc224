//! Idempotency keys of creates: the earlier request with the same key, and its outcome.

use std::sync::Arc;

use sqlx::Row;
use uuid::Uuid;

use crate::ids::{HoldId, KeyId, OrgId, UserId};
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::once::Fingerprint;
use crate::store::ledger::tasks::State;

/// The most keys that one statement deletes.
const SOME: i64 = 5000;

/// An idempotency key that a create has used.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The fingerprint of the body that the key was used with.
    pub fingerprint: Fingerprint,
    pub hold: HoldId,
    pub state: State,
    /// Whether the task was reopened after its end.
    pub late: bool,
    /// The stored answer, if the create was answered.
    pub answer: Option<Arc<str>>,
}

impl Database {
    /// The create of `org` that used `key`, if there is one.
    pub async fn claim(&self, org: OrgId, key: &str) -> Result<Option<Claim>, StoreError> {
        let row = sqlx::query(
            "select c.fingerprint, c.hold_id, c.answer, h.state, h.late is not null as late from idempotency c \
             join hold h on h.org_id = c.org_id and h.hold_id = c.hold_id \
             where c.org_id = $1 and c.endpoint = 'generate' and c.key = $2",
        )
        .bind(org.as_uuid())
        .bind(key)
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Claim {
            fingerprint: Fingerprint::from_bytes(row.try_get("fingerprint")?)
                .ok_or(StoreError::Corrupt("idempotency.fingerprint".into()))?,
            hold: HoldId::from_uuid(row.try_get("hold_id")?),
            state: row.try_get("state")?,
            late: row.try_get("late")?,
            answer: row.try_get::<Option<&str>, _>("answer")?.map(Into::into),
        }))
    }

    /// The hold of a create without an idempotency key that is in doubt and has this body and this key (`None`: this
    /// user, without a key).
    pub async fn in_doubt(
        &self,
        org: OrgId,
        user: UserId,
        key: Option<KeyId>,
        body: Fingerprint,
    ) -> Result<Option<HoldId>, StoreError> {
        let hold: Option<Uuid> = sqlx::query_scalar(
            "select hold_id from hold where org_id = $1 and key_id = $2 and fingerprint = $3 \
             and state = 'IN_DOUBT' and idem_key is null \
             union all \
             select hold_id from hold where $2 is null and org_id = $1 and key_id is null and user_id = $4 and fingerprint = $3 \
             and state = 'IN_DOUBT' and idem_key is null limit 1",
        )
        .bind(org.as_uuid())
        .bind(key.map(KeyId::as_uuid))
        .bind(body.as_bytes())
        .bind(user.as_uuid())
        .fetch_optional(self.pool())
        .await?;
        Ok(hold.map(HoldId::from_uuid))
    }

    /// Deletes idempotency keys older than `hours` whose task has ended, some thousands at a time, because a long
    /// delete would block the creates that use these keys. Returns how many were deleted.
    pub async fn forget_old_claims(&self, hours: i32) -> Result<u64, StoreError> {
        let mut forgotten = 0;
        loop {
            let done = sqlx::query(
                "delete from idempotency where (org_id, endpoint, key) in ( \
                     select c.org_id, c.endpoint, c.key from idempotency c \
                     where c.created_at < now() - make_interval(hours => $1) \
                     and not exists (select from hold h where h.org_id = c.org_id and h.hold_id = c.hold_id \
                                     and (h.state in ('HELD', 'RUNNING', 'IN_DOUBT') or h.late = 'open')) limit $2)",
            )
            .bind(hours)
            .bind(SOME)
            .execute(self.pool())
            .await?;
            forgotten += done.rows_affected();
            if i64::try_from(done.rows_affected()).unwrap_or(i64::MAX) < SOME {
                return Ok(forgotten);
            }
        }
    }
}
