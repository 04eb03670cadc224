//! Idempotency keys of creates: the earlier request with the same key, and its outcome.

use sqlx::Row;
use uuid::Uuid;

use crate::ids::{HoldId, OrgId, UserId};
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::once::Fingerprint;
use crate::store::ledger::tasks::{COLUMNS, Task, task};
use crate::store::ledger::texts::{StoredText, TaskText};

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
    pub first: Option<StoredText>,
}

impl Database {
    /// The create of `org` that used `key`, if there is one.
    pub async fn claim(&self, org: OrgId, key: &str) -> Result<Option<Claim>, StoreError> {
        let first = TaskText::First.columns("first");
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS}, claimed, first, first_bytes from ( \
                 select k.org_id as owner, k.hold_id as made, k.fingerprint as claimed from idempotency k \
                 where k.org_id = $1 and k.endpoint = 'generate' and k.key = $2) claim \
             join task on task.org_id = claim.owner and task.hold_id = claim.made \
             left join lateral (select {first} from content c where c.org_id = claim.owner and c.hold_id = claim.made) texts on true"
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
            first: StoredText::of(row.try_get("first")?, row.try_get("first_bytes")?),
        }))
    }

    /// The hold of this user's create without an idempotency key that is in doubt and has this body.
    pub async fn in_doubt(
        &self,
        org: OrgId,
        user: UserId,
        body: Fingerprint,
    ) -> Result<Option<HoldId>, StoreError> {
        let hold: Option<Uuid> = sqlx::query_scalar(
            "select o.hold_id from (select d.hold_id from open_task d where d.org_id = $1 and d.guarded = $3 offset 0) o \
             cross join lateral (select from hold h where h.org_id = $1 and h.hold_id = o.hold_id and h.user_id = $2 limit 1) own \
             limit 1",
        )
        .bind(org.as_uuid())
        .bind(user.as_uuid())
        .bind(body.as_bytes())
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
                     and not exists (select from open_task o where o.org_id = c.org_id and o.hold_id = c.hold_id) limit $1)",
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
