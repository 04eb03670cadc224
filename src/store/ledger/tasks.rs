//! Reading single tasks, and what is open. Lists are in `task_lists`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::credits::{Credits, PriceFactor};
use crate::ids::{HoldId, KeyId, OrgId, UserId};
use crate::order::Labels;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::words::words;
use crate::store::ledger::step::Terms;
use crate::store::ledger::texts::{StoredText, TaskText};

words! {
    /// The state of a hold (contract, "The life of a task").
    pub enum State in "hold.state", "open_task.state" {
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
    /// What the caller counts the task by. Not read where a task is only worked on.
    pub labels: Labels,
    /// The vendor's last `data`, verbatim.
    pub data: Option<StoredText>,
    /// Whether content is kept after the task has ended.
    pub keeps_content: bool,
    /// When the hold was reserved.
    pub created_at: OffsetDateTime,
    pub ended_at: Option<OffsetDateTime>,
    /// The age of the task when it was read, by the database's clock. The age of a task that was reopened, or that an
    /// operator recorded, counts from when its id became known.
    pub age: Duration,
    /// How often gateways have claimed the task for polling: the token of the last claim.
    pub polls: u32,
    /// What the vendor consumed, as the operator read it who recorded the task; `None`: no operator did, or gave no figure.
    pub stated: Option<Credits>,
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
                       (by_hand ->> 'credits')::bigint as stated, \
                       extract(epoch from clock_timestamp() - case when late = 'open' or by_hand is not null \
                       then coalesce(recorded_at, created_at) else created_at end)::float8 as age";

/// The columns of an open task `o` and its hold `h` that [`COLUMNS`] need.
pub(in crate::store) const STORED: &str = "o.org_id, o.hold_id, case when o.reopened then h.state else o.state end as state, \
     o.upstream_task, o.raw_consumed, o.reason, o.recorded_at, o.polls, o.by_hand, h.user_id, h.key_id, h.amount, h.list_price, h.factor_bp, \
     h.task_type, h.backend, h.account, h.charged, h.created_at, h.ended_at, h.late";

/// The columns of a hold `h` that [`STORED`] needs.
pub(in crate::store) const TERMS: &str = "h.user_id, h.key_id, h.state, h.amount, h.list_price, h.factor_bp, h.task_type, h.backend, \
     h.account, h.charged, h.created_at, h.ended_at, h.late";

/// The row of `content` of a row of `task`, whose columns `{DATA}` a [`Task`] is read from.
fn texts() -> String {
    let data = TaskText::Last.columns("data");
    format!(
        "left join lateral (select {data}, c.erase_at is not null as fleeting from content c \
         where c.org_id = task.org_id and c.hold_id = task.hold_id) texts on true"
    )
}

const DATA: &str = "texts.data, texts.data_bytes, texts.fleeting";

/// The labels of a row of `task`.
pub(super) const LABELS: &str = "(select jsonb_object_agg(l.name, l.value) from label l \
     where l.org_id = task.org_id and l.hold_id = task.hold_id) as labels";

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
        labels: content(row.try_get::<Option<Json<BTreeMap<String, String>>>, _>("labels"))?
            .map(|Json(labels)| Labels::of(labels))
            .unwrap_or_default(),
        data: StoredText::of(
            content(row.try_get::<Option<&str>, _>("data"))?,
            content(row.try_get::<Option<i32>, _>("data_bytes"))?,
        ),
        keeps_content: content(row.try_get::<Option<bool>, _>("fleeting"))? != Some(true),
        created_at: row.try_get("created_at")?,
        ended_at: row.try_get("ended_at")?,
        // Negative for a task that was created while the database's clock was ahead.
        age: Duration::try_from_secs_f64(row.try_get("age")?).unwrap_or_default(),
        polls: polls.try_into().map_err(|_| StoreError::Corrupt("hold.polls".into()))?,
        stated: row.try_get::<Option<i64>, _>("stated")?.map(Credits::new),
    })
}

/// A column that not every statement selects: those of `content`, because they may be long, and the labels.
fn content<T>(column: Result<Option<T>, sqlx::Error>) -> Result<Option<T>, sqlx::Error> {
    match column {
        Err(sqlx::Error::ColumnNotFound(_)) => Ok(None),
        column => column,
    }
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
            "select {COLUMNS}, {LABELS}, {DATA} from task {} where org_id = $1 and hold_id = $2",
            texts()
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
            "select {COLUMNS}, {LABELS}, {DATA} from ( \
                 select k.org_id as owner, k.hold_id as known from vendor_task k where k.upstream_task = $2 and k.org_id = $1 \
                 order by k.hold_id limit 1) vendor \
             join task on task.org_id = vendor.owner and task.hold_id = vendor.known {}",
            texts()
        )))
        .bind(org.as_uuid())
        .bind(upstream_task)
        .fetch_optional(self.pool())
        .await?;
        match row {
            Some(row) => task(&row).map(Some),
            None => self.archived_task(org, upstream_task).await,
        }
    }

    /// A task whose month is in an archive: that it succeeded and what it cost is all that is known of it here.
    async fn archived_task(&self, org: OrgId, upstream_task: &str) -> Result<Option<Task>, StoreError> {
        let row: Option<(Uuid, i64, String, OffsetDateTime, f64)> = sqlx::query_as(
            "select v.hold_id, v.charged, v.account, made.at, extract(epoch from clock_timestamp() - made.at)::float8 \
             from vendor_task v cross join lateral (select to_timestamp(('x' || left(replace(v.hold_id::text, '-', ''), 12))::bit(48)::bigint \
               / 1000.0) as at) made \
             where v.upstream_task = $2 and v.org_id = $1 and v.charged is not null order by v.hold_id limit 1",
        )
        .bind(org.as_uuid())
        .bind(upstream_task)
        .fetch_optional(self.pool())
        .await?;
        Ok(row.map(|(hold, charged, account, created_at, age)| Task {
            hold: HoldId::from_uuid(hold),
            org,
            user: UserId::from_uuid(Uuid::nil()),
            key: None,
            state: State::Settled,
            late: None,
            amount: Credits::new(charged),
            list_price: Credits::new(charged),
            factor: PriceFactor::LIST,
            task_type: "".into(),
            backend: "".into(),
            account: account.into(),
            upstream_task: Some(upstream_task.into()),
            raw_consumed: None,
            charged: Some(Credits::new(charged)),
            reason: None,
            labels: Labels::default(),
            data: None,
            keeps_content: false,
            created_at,
            ended_at: Some(created_at),
            age: Duration::try_from_secs_f64(age).unwrap_or_default(),
            polls: 0,
            stated: None,
        }))
    }

    /// Unfinished tasks of all organisations, by state.
    pub async fn open_holds(&self) -> Result<Vec<OpenHolds>, StoreError> {
        let rows: Vec<(State, i64, i64, f64)> = sqlx::query_as(
            "select o.state, count(*), coalesce(sum(h.amount), 0)::bigint, \
               coalesce(extract(epoch from now() - min(h.created_at)), 0)::float8 \
             from open_task o join hold h on h.org_id = o.org_id and h.hold_id = o.hold_id where not o.reopened group by o.state",
        )
        .fetch_all(self.pool())
        .await?;
        let open = rows.into_iter().map(|(state, count, credits, oldest)| {
            let oldest = Duration::try_from_secs_f64(oldest).unwrap_or_default();
            OpenHolds { state, count, credits: Credits::new(credits), oldest }
        });
        Ok(open.collect())
    }
}
