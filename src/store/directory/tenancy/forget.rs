//! Forgetting a user: a pseudonym takes the place of everything that names it. No balance, entry or hold changes.

use serde::Serialize;

use super::*;

/// The most tasks that one statement finds.
const SOME: i64 = 500;

/// A user that was forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ForgottenUser {
    pub user_id: UserId,
    /// What the user is called from now on: it follows from its id.
    pub pseudonym: String,
    /// Of how many tasks this call erased the content.
    pub erased_tasks: u64,
    /// Where the next call goes on; `null`: there was nothing left to erase.
    pub next: Option<HoldId>,
}

impl Acting {
    /// Deletes a user and puts a pseudonym in place of its name, of the names of its keys and of its subjects, also in the audit
    /// log. Returns the pseudonym. May be repeated, and is for users too that were deleted before.
    pub async fn forget_user(&self, user: UserId) -> Result<String, StoreError> {
        let pseudonym: Option<String> = sqlx::query_scalar("select forget_user($1)")
            .bind(user.as_uuid())
            .fetch_one(self.change())
            .await?;
        pseudonym.ok_or_else(|| StoreError::NotFound(format!("there is no user {user}")))
    }
}

impl Database {
    /// Tasks of a user of which content is stored, or may still be: at most 500, in the order of their ids, after `after`.
    pub async fn tasks_with_content(
        &self,
        user: UserId,
        after: Option<HoldId>,
    ) -> Result<Vec<(OrgId, HoldId)>, StoreError> {
        let rows: Vec<(Uuid, Uuid)> = sqlx::query_as(
            "select found.org_id, found.hold_id from app_user u cross join lateral ( \
               select c.org_id, c.hold_id from content c join hold h on h.org_id = c.org_id and h.hold_id = c.hold_id \
               where c.org_id = u.org_id and h.user_id = u.user_id and (c.first is not null or c.last is not null) \
               union \
               select o.org_id, o.hold_id from open_task o join hold h on h.org_id = o.org_id and h.hold_id = o.hold_id \
               where o.org_id = u.org_id and h.user_id = u.user_id) found \
             where u.user_id = $1 and ($2::uuid is null or found.hold_id > $2) order by found.hold_id limit $3",
        )
        .bind(user.as_uuid())
        .bind(after.map(HoldId::as_uuid))
        .bind(SOME)
        .fetch_all(self.pool())
        .await?;
        Ok(rows.into_iter().map(|(org, hold)| (OrgId::from_uuid(org), HoldId::from_uuid(hold))).collect())
    }
}
