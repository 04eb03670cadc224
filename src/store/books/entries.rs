//! Reading the journal: entries as lists show them.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::credits::Credits;
use crate::ids::{EntryId, HoldId, KeyId, OrgId, TeamId, UserId};
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::ledger::entry_kind::EntryKind;

/// The position of an entry in its organisation's journal: first by time, then by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryPosition {
    /// When the entry was written.
    pub at: OffsetDateTime,
    /// Orders entries that were written at the same instant.
    pub entry: EntryId,
}

/// The text form, which cursors use.
impl fmt::Display for EntryPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The database keeps microseconds.
        write!(f, "{}.{}", self.at.unix_timestamp_nanos() / 1000, self.entry)
    }
}

impl FromStr for EntryPosition {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        let parse = || {
            let (at, entry) = text.split_once('.')?;
            let nanoseconds = at.parse::<i128>().ok()?.checked_mul(1000)?;
            let at = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok()?;
            Some(Self { at, entry: entry.parse().ok()? })
        };
        parse().ok_or_else(|| StoreError::Invalid("this is not a cursor of a list of entries".into()))
    }
}

/// An entry of the ledger.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Entry {
    pub entry_id: EntryId,
    /// When the entry was written.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    pub kind: EntryKind,
    /// Positive: the organisation got credits; negative: it lost credits.
    pub credits: Credits,
    /// Of a charge: the credits by which it exceeds what was held.
    pub overrun: Credits,
    /// Of a charge: the hold it was charged to.
    pub hold_id: Option<HoldId>,
    /// Of a charge: the vendor's id of the task.
    pub task_id: Option<String>,
    /// Of a charge: the vendor's task type.
    pub task_type: Option<String>,
    /// Of a charge: the user who created the task.
    pub user_id: Option<UserId>,
    /// The user's team at the time of the create.
    pub team_id: Option<TeamId>,
    /// Of a charge: the key that created the task, if it was created with a key.
    pub key_id: Option<KeyId>,
    pub reason: Option<String>,
    /// What the entry is called elsewhere, such as the number of an invoice.
    pub external_ref: Option<String>,
    /// Of a transfer: its other half; of an `expire`: the grant that expired.
    pub related_entry: Option<EntryId>,
    /// Of a grant: when it expires; null: never.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// Who posted the entry; null: no person did.
    pub actor: Option<String>,
}

impl Entry {
    pub fn place(&self) -> EntryPosition {
        EntryPosition { at: self.created_at, entry: self.entry_id }
    }
}

/// The columns that an [`Entry`] is read from; `e`, `h` and `l` are named in [`TABLES`].
pub(in crate::store) const COLUMNS: &str = "e.entry_id, e.created_at, e.kind, e.amount, e.overrun, e.hold_id, h.upstream_task, \
     e.task_type, e.user_id, e.team_id, e.key_id, \
     e.reason, e.external_ref, e.related_entry, l.expires_at, e.actor";

/// The columns of an entry `e` that [`COLUMNS`] and [`TABLES`] need.
pub(in crate::store) const STORED: &str = "e.org_id, e.entry_id, e.created_at, e.kind, e.amount, e.overrun, e.hold_id, e.task_type, \
     e.user_id, e.team_id, e.key_id, e.reason, e.external_ref, e.related_entry, e.actor";

/// Joins the hold and the lot of an entry `e`.
pub(in crate::store) const TABLES: &str = "left join lateral (select h.upstream_task from hold h \
         where h.org_id = e.org_id and h.hold_id = e.hold_id limit 1) h on true \
     left join lateral (select l.expires_at from credit_lot l \
         where e.kind = 'grant' and l.org_id = e.org_id and l.entry_id = e.entry_id limit 1) l on true";

pub(in crate::store) fn entry(row: &PgRow) -> Result<Entry, StoreError> {
    let id = |column| row.try_get::<Option<Uuid>, _>(column);
    Ok(Entry {
        entry_id: EntryId::from_uuid(row.try_get("entry_id")?),
        created_at: row.try_get("created_at")?,
        kind: row.try_get("kind")?,
        credits: Credits::new(row.try_get("amount")?),
        overrun: Credits::new(row.try_get("overrun")?),
        hold_id: id("hold_id")?.map(HoldId::from_uuid),
        task_id: row.try_get("upstream_task")?,
        task_type: row.try_get("task_type")?,
        user_id: id("user_id")?.map(UserId::from_uuid),
        team_id: id("team_id")?.map(TeamId::from_uuid),
        key_id: id("key_id")?.map(KeyId::from_uuid),
        reason: row.try_get("reason")?,
        external_ref: row.try_get("external_ref")?,
        related_entry: id("related_entry")?.map(EntryId::from_uuid),
        expires_at: row.try_get("expires_at")?,
        actor: row.try_get("actor")?,
    })
}

/// Which entries a list shows.
#[derive(Debug, Clone, Default)]
pub struct EntryFilter {
    /// Only entries of this kind.
    pub kind: Option<EntryKind>,
    /// Only entries with this `external_ref`.
    pub external_ref: Option<String>,
    /// Only entries written at or after this instant.
    pub since: Option<OffsetDateTime>,
    /// Only entries written before this instant.
    pub until: Option<OffsetDateTime>,
    /// Only entries older than this one: the cursor.
    pub before: Option<EntryPosition>,
}

impl Database {
    /// The newest entries of `org` that match `filter`.
    pub async fn entries(
        &self,
        org: OrgId,
        filter: &EntryFilter,
        limit: u16,
    ) -> Result<Vec<Entry>, StoreError> {
        // References have an index of their own, which only a query that always asks for a reference can use.
        let reference =
            if filter.external_ref.is_some() { "e.external_ref = $2" } else { "$2::text is null" };
        // So do the entries that are not charges, which are few.
        let rare = filter.kind.is_some_and(|kind| kind != EntryKind::Consume);
        let kinds = if rare { "e.kind <> 'consume'" } else { "true" };
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from (select {STORED} from entry e where e.org_id = $1 and {reference} and {kinds} \
             and ($3::text is null or e.kind = $3) and e.created_at >= coalesce($4, '-infinity') \
             and e.created_at < coalesce($5, 'infinity') \
             and (e.created_at, e.entry_id) < (coalesce($6, 'infinity'), coalesce($7, '00000000-0000-0000-0000-000000000000')) \
             order by e.created_at desc, e.entry_id desc limit $8) e {TABLES} order by e.created_at desc, e.entry_id desc"
        )))
        .bind(org.as_uuid())
        .bind(&filter.external_ref)
        .bind(filter.kind)
        .bind(filter.since)
        .bind(filter.until)
        .bind(filter.before.map(|place| place.at))
        .bind(filter.before.map(|place| place.entry.as_uuid()))
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(entry).collect()
    }
}
