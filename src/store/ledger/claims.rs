//! Idempotency keys of creates: the earlier request with the same key, and its outcome.

use std::sync::Arc;

use sqlx::Row;
use uuid::Uuid;

use crate::ids::{HoldId, KeyId, OrgId, UserId};
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::once::Fingerprint;
use crate::store::ledger::tasks::{COLUMNS, STORED, Task, task};

/// The most keys that one statement deletes.
const SOME: i64 = 5000;

/// An idempotency key that a create has used.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The fingerprint of the body that the key was used with.
    pub fingerprint: Fingerprint,
    /// The task of that create.
    pub task: Task,
    /// The vendor's `data` of its answer to that create; `None`: it did not come, or is not kept any more.
    pub first: Option<Arc<str>>,
}

impl Database {
    /// The create of `org` that used `key`, if there is one.
    pub async fn claim(&self, org: OrgId, key: &str) -> Result<Option<Claim>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS}, claimed, first from ( \
                 select {STORED}, k.fingerprint as claimed, c.first from idempotency k \
                 join hold h on h.org_id = k.org_id and h.hold_id = k.hold_id \
                 left join content c on c.org_id = h.org_id and c.hold_id = h.hold_id \
                 where k.org_id = $1 and k.endpoint = 'generate' and k.key = $2) found"
        )))
        .bind(org.as_uuid())
        .bind(key)
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Claim {
            fingerprint: Fingerprint::from_bytes(row.try_get("claimed")?)
                .ok_or(StoreError::Corrupt("idempotency.fingerprint".into()))?,
            task: task(&row)?,
            first: row.try_get::<Option<&str>, _>("first")?.map(Into::into),
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
        // First what the audit goes by, and then no key that is younger.
        sqlx::query(
            "update forgotten_keys set made_before = greatest(made_before, now() - make_interval(hours => $1))",
        )
        .bind(hours)
        .execute(self.pool())
        .await?;
        loop {
            let done = sqlx::query(
                "delete from idempotency where (org_id, endpoint, key) in ( \
                     select c.org_id, c.endpoint, c.key from idempotency c \
                     where c.created_at < now() - make_interval(hours => $2) \
                     and c.created_at < (select made_before from forgotten_keys) \
                     and not exists (select from hold h where h.org_id = c.org_id and h.hold_id = c.hold_id \
                                     and (h.state in ('HELD', 'RUNNING', 'IN_DOUBT') or h.late = 'open')) limit $1)",
            )
            .bind(SOME)
            .bind(hours)
            .execute(self.pool())
            .await?;
            forgotten += done.rows_affected();
            if i64::try_from(done.rows_affected()).unwrap_or(i64::MAX) < SOME {
                return Ok(forgotten);
            }
        }
    }
}
