//! Tasks that go on, as operators see them.

use serde::Serialize;
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use crate::credits::Credits;
use crate::ids::{HoldId, KeyId, OrgId, UserId};
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::page::Slice;
use crate::store::ledger::tasks::State;

/// A task that goes on, and is not in doubt.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct RunningTask {
    /// The hold of the task: the reference that the caller has.
    pub hold_id: HoldId,
    /// The organisation whose credits are held.
    pub org_id: OrgId,
    pub org: String,
    pub user_id: UserId,
    pub key_id: Option<KeyId>,
    /// `HELD`: the vendor's answer is not recorded yet. `RUNNING`: the vendor has the task.
    pub state: &'static str,
    /// Whether the task had ended before, and goes on because its id became known later.
    pub reopened: bool,
    /// The vendor's task type.
    pub task_type: String,
    pub credits: Credits,
    pub backend: String,
    /// The account with the vendor.
    pub account: String,
    /// The vendor's id of the task; null: it is not known.
    pub upstream_task: Option<String>,
    /// How often gateways have asked the vendor for its state.
    pub polls: i32,
    /// When the task was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

fn running(row: &PgRow) -> Result<RunningTask, sqlx::Error> {
    Ok(RunningTask {
        hold_id: HoldId::from_uuid(row.try_get("hold_id")?),
        org_id: OrgId::from_uuid(row.try_get("org_id")?),
        org: row.try_get("org")?,
        user_id: UserId::from_uuid(row.try_get("user_id")?),
        key_id: row.try_get::<Option<uuid::Uuid>, _>("key_id")?.map(KeyId::from_uuid),
        state: row.try_get::<State, _>("state")?.as_str(),
        reopened: row.try_get("reopened")?,
        task_type: row.try_get("task_type")?,
        credits: Credits::new(row.try_get("amount")?),
        backend: row.try_get("backend")?,
        account: row.try_get("account")?,
        upstream_task: row.try_get("upstream_task")?,
        polls: row.try_get("polls")?,
        created_at: row.try_get("created_at")?,
    })
}

impl Database {
    /// Tasks that go on, of one organisation or of all, oldest first; those in doubt are a list of their own.
    pub async fn running_tasks(
        &self,
        org: Option<OrgId>,
        slice: Slice<HoldId>,
    ) -> Result<Vec<RunningTask>, StoreError> {
        // The plan depends on whether there is an organisation: by its tasks, or by the age of all.
        let rows = sqlx::query(
            "select t.hold_id, t.org_id, o.name as org, h.user_id, h.key_id, t.state, t.reopened, h.task_type, h.amount, \
               t.backend, t.account, t.upstream_task, t.polls, h.created_at \
             from open_task t join hold h using (org_id, hold_id) join org o using (org_id) \
             where t.state <> 'IN_DOUBT' and ($1::uuid is null or t.org_id = $1) and ($2::uuid is null or t.hold_id > $2) \
             order by t.hold_id limit $3",
        )
        .bind(org.map(OrgId::as_uuid))
        .bind(slice.after.map(HoldId::as_uuid))
        .bind(i64::from(slice.limit))
        .persistent(false)
        .fetch_all(self.pool())
        .await?;
        Ok(rows.iter().map(running).collect::<Result<_, _>>()?)
    }
}
