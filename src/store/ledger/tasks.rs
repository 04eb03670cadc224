//! Reading tasks: one for a status call, a page for a list.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::credits::{Credits, PriceFactor};
use crate::ids::{HoldId, KeyId, OrgId, UserId};
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::words::words;
use crate::store::ledger::step::Terms;

words! {
    /// The state of a hold (contract, "The life of a task").
    pub enum State in "hold.state" {
        /// Reserved. The create may have been sent, but no answer is recorded.
        Held = "HELD",
        Running = "RUNNING",
        /// It is unknown whether the vendor accepted the task.
        InDoubt = "IN_DOUBT",
        Settled = "SETTLED",
        Released = "RELEASED",
        /// In doubt for too long: the organisation was refunded, and the platform books a possible loss.
        WrittenOff = "WRITTEN_OFF",
    }
}

impl State {
    /// Whether the task has ended.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Settled | Self::Released | Self::WrittenOff)
    }
}

words! {
    /// What became of a reopened task (contract, "How much").
    pub enum Late in "hold.late" {
        /// The task's id is known now, and the task is polled until the vendor reports its end.
        Open = "open",
        /// The task succeeded: its owner can read the result and was charged by a correction.
        Charged = "charged",
        /// The task failed: what it consumed is the platform's loss.
        Lost = "lost",
        GivenUp = "given_up",
    }
}

/// A task as the ledger has stored it.
#[derive(Debug, Clone)]
pub struct Task {
    pub hold: HoldId,
    pub org: OrgId,
    pub user: UserId,
    pub key: Option<KeyId>,
    /// The state of the task's hold.
    pub state: State,
    /// What became of the task if it was reopened; `None`: it was not.
    pub late: Option<Late>,
    /// Credits that are held for the task, or were.
    pub amount: Credits,
    pub list_price: Credits,
    /// The price factor of the task.
    pub factor: PriceFactor,
    /// The vendor's task type.
    pub task_type: Arc<str>,
    /// The name of the backend that the create was sent to.
    pub backend: Arc<str>,
    /// The name of the account with the vendor that pays.
    pub account: Arc<str>,
    /// The vendor's id of the task, once it is known.
    pub upstream_task: Option<Arc<str>>,
    /// The vendor's last valid figure.
    pub raw_consumed: Option<Credits>,
    /// What the organisation paid.
    pub charged: Option<Credits>,
    /// Why the task ended or is in doubt.
    pub reason: Option<String>,
    /// The vendor's last `data`, verbatim.
    pub data: Option<Arc<str>>,
    /// Whether content is kept after the task has ended.
    pub keeps_content: bool,
    /// When the hold was reserved.
    pub created_at: OffsetDateTime,
    pub ended_at: Option<OffsetDateTime>,
    /// The age of the task when it was read, by the database's clock. The age of a reopened task counts from when its
    /// id became known.
    pub age: Duration,
    /// How often gateways have claimed the task for polling: the token of the last claim.
    pub polls: u32,
}

impl Task {
    pub(in crate::store) fn terms(&self) -> Terms {
        Terms { amount: self.amount, list_price: self.list_price }
    }

    /// Whether nothing more can be learned about the task.
    pub fn is_over(&self) -> bool {
        self.state.is_terminal() && self.late != Some(Late::Open)
    }
}

/// The columns that a [`Task`] is read from, without its `data`.
pub(in crate::store) const COLUMNS: &str = "hold_id, org_id, user_id, key_id, state, amount, list_price, factor_bp, task_type, backend, \
                       account, upstream_task, raw_consumed, charged, reason, created_at, ended_at, polls, late, \
                       extract(epoch from clock_timestamp() - case when late = 'open' then recorded_at else created_at end)::float8 as age";

/// The columns of a hold `h` that [`COLUMNS`] need.
pub(in crate::store) const STORED: &str = "h.hold_id, h.org_id, h.user_id, h.key_id, h.state, h.amount, h.list_price, h.factor_bp, \
     h.task_type, h.backend, h.account, h.upstream_task, h.raw_consumed, h.charged, h.reason, h.created_at, h.recorded_at, \
     h.ended_at, h.polls, h.late";

/// The row of `content` of a row of `hold`, and its columns that a [`Task`] is read from.
const CONTENT: &str = "left join lateral (select coalesce(c.last, c.first) as data, c.erase_at is not null as fleeting \
     from content c where c.org_id = hold.org_id and c.hold_id = hold.hold_id) texts on true";
const DATA: &str = "texts.data, texts.fleeting";

pub(in crate::store) fn task(row: &PgRow) -> Result<Task, StoreError> {
    let factor =
        PriceFactor::new(row.try_get("factor_bp")?).ok_or(StoreError::Corrupt("factor_bp".into()))?;
    let polls: i32 = row.try_get("polls")?;
    Ok(Task {
        hold: HoldId::from_uuid(row.try_get("hold_id")?),
        org: OrgId::from_uuid(row.try_get("org_id")?),
        user: UserId::from_uuid(row.try_get("user_id")?),
        key: row.try_get::<Option<Uuid>, _>("key_id")?.map(KeyId::from_uuid),
        state: row.try_get("state")?,
        late: row.try_get("late")?,
        amount: Credits::new(row.try_get("amount")?),
        list_price: Credits::new(row.try_get("list_price")?),
        factor,
        task_type: row.try_get::<&str, _>("task_type")?.into(),
        backend: row.try_get::<&str, _>("backend")?.into(),
        account: row.try_get::<&str, _>("account")?.into(),
        upstream_task: row.try_get::<Option<&str>, _>("upstream_task")?.map(Into::into),
        raw_consumed: row.try_get::<Option<i64>, _>("raw_consumed")?.map(Credits::new),
        charged: row.try_get::<Option<i64>, _>("charged")?.map(Credits::new),
        reason: row.try_get("reason")?,
        data: content(row.try_get::<Option<&str>, _>("data"))?.map(Into::into),
        keeps_content: content(row.try_get::<Option<bool>, _>("fleeting"))? != Some(true),
        created_at: row.try_get("created_at")?,
        ended_at: row.try_get("ended_at")?,
        // Negative for a task that was created while the database's clock was ahead.
        age: Duration::try_from_secs_f64(row.try_get("age")?).unwrap_or_default(),
        polls: polls.try_into().map_err(|_| StoreError::Corrupt("hold.polls".into()))?,
    })
}

/// A column of `content`. Lists do not select them, because they may be long.
fn content<T>(column: Result<Option<T>, sqlx::Error>) -> Result<Option<T>, sqlx::Error> {
    match column {
        Err(sqlx::Error::ColumnNotFound(_)) => Ok(None),
        column => column,
    }
}

/// Which tasks a list contains.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Only tasks in one of these states.
    pub states: Option<Vec<State>>,
    /// Compare `states` with the state that callers see instead of the stored one: a reopened task is shown as running
    /// or as succeeded.
    pub as_shown: bool,
    /// Only tasks of this user.
    pub user: Option<UserId>,
    /// Only tasks of this key.
    pub key: Option<KeyId>,
    /// Only tasks created at or after this instant.
    pub since: Option<OffsetDateTime>,
    /// Only tasks created before this instant.
    pub until: Option<OffsetDateTime>,
    /// Only tasks older than this one: the cursor.
    pub before: Option<HoldId>,
}

/// How many holds in one state are open, and how many credits they hold.
#[derive(Debug, Clone, Copy)]
pub struct OpenHolds {
    pub state: State,
    pub count: i64,
    pub credits: Credits,
    /// The age of the oldest hold in this state.
    pub oldest: Duration,
}

impl Database {
    /// The task of `org` with this hold id, with its `data`.
    pub async fn task_by_hold(&self, org: OrgId, hold: HoldId) -> Result<Option<Task>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS}, {DATA} from hold {CONTENT} where org_id = $1 and hold_id = $2"
        )))
        .bind(org.as_uuid())
        .bind(hold.as_uuid())
        .fetch_optional(self.pool())
        .await?;
        row.as_ref().map(task).transpose()
    }

    /// The task of `org` with this id of the vendor, with its `data`.
    pub async fn task_by_upstream_id(
        &self,
        org: OrgId,
        upstream_task: &str,
    ) -> Result<Option<Task>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS}, {DATA} from hold {CONTENT} where upstream_task = $2 and org_id = $1 order by created_at limit 1"
        )))
        .bind(org.as_uuid())
        .bind(upstream_task)
        .fetch_optional(self.pool())
        .await?;
        row.as_ref().map(task).transpose()
    }

    /// The newest tasks of `org` that match `filter`, without their `data`.
    pub async fn tasks(&self, org: OrgId, filter: &TaskFilter, limit: u32) -> Result<Vec<Task>, StoreError> {
        // Said once more as a constant, so that the index of these states is used.
        let unpaid = [State::Released, State::WrittenOff];
        let few =
            filter.states.as_ref().is_some_and(|states| states.iter().all(|state| unpaid.contains(state)));
        let few = if few { "and state in ('RELEASED', 'WRITTEN_OFF')" } else { "" };
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from hold where org_id = $1 {few} and ($2::text[] is null or case when $9 and late = 'open' then 'RUNNING' \
             when $9 and late = 'charged' then 'SETTLED' else state end = any($2)) \
             and ($3::uuid is null or user_id = $3) and ($4::uuid is null or key_id = $4) \
             and ($5::timestamptz is null or created_at >= $5) and ($6::timestamptz is null or created_at < $6) \
             and ($7::uuid is null or hold_id < $7) order by hold_id desc limit $8"
        )))
        .bind(org.as_uuid())
        .bind(&filter.states)
        .bind(filter.user.map(UserId::as_uuid))
        .bind(filter.key.map(KeyId::as_uuid))
        .bind(filter.since)
        .bind(filter.until)
        .bind(filter.before.map(HoldId::as_uuid))
        .bind(i64::from(limit))
        .bind(filter.as_shown)
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(task).collect()
    }

    /// Unfinished tasks of all organisations, by state.
    pub async fn open_holds(&self) -> Result<Vec<OpenHolds>, StoreError> {
        let rows: Vec<(State, i64, i64, f64)> = sqlx::query_as(
            // Each state is counted separately: each has an index of its own, and no index covers all three.
            "select state, holds, credits, coalesce(extract(epoch from now() - oldest), 0)::float8 from ( \
             select 'HELD' as state, count(*) as holds, coalesce(sum(amount), 0)::bigint as credits, min(created_at) as oldest \
             from hold where state = 'HELD' union all \
             select 'RUNNING', count(*), coalesce(sum(amount), 0)::bigint, min(created_at) from hold where state = 'RUNNING' union all \
             select 'IN_DOUBT', count(*), coalesce(sum(amount), 0)::bigint, min(created_at) from hold where state = 'IN_DOUBT') open",
        )
        .fetch_all(self.pool())
        .await?;
        let open =
            rows.into_iter().filter(|(_, count, ..)| *count > 0).map(|(state, count, credits, oldest)| {
                let oldest = Duration::try_from_secs_f64(oldest).unwrap_or_default();
                OpenHolds { state, count, credits: Credits::new(credits), oldest }
            });
        Ok(open.collect())
    }
}
