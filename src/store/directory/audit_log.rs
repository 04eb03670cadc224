//! The audit log: who changed what, and from where. Triggers write it in the statement that makes the change (function
//! `audit_change`), and the one reading that is in it is written by its own statement (`Acting::read_request`); it is read
//! here.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::ids::{
    BudgetId, BudgetRequestId, EntryId, FactorId, HoldId, IdentityId, KeyId, OperatorTokenId, OrgId,
    ProviderId, TeamId, UserId,
};
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::words::words;

/// A change in the audit log: who made it, when, from where, and what was changed.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AuditEntry {
    /// Entries that were written later have greater ids.
    pub audit_id: i64,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Who made the change: a kind and a name or id. `database:…` is somebody who connected to the database directly.
    pub actor: String,
    /// The network address the change came from; null: it did not come over the network.
    pub address: Option<String>,
    pub action: String,
    pub request_id: Option<String>,
    /// The kind of thing that was changed.
    pub target_kind: TargetKind,
    pub target_id: String,
    /// The organisation that the changed thing belongs to; null: it is the platform's.
    pub org_id: Option<OrgId>,
    /// The thing before the change; of an update only the fields that changed.
    #[schema(value_type = Option<Object>)]
    pub before: Option<Value>,
    /// The thing after the change; of an update only the fields that changed.
    #[schema(value_type = Option<Object>)]
    pub after: Option<Value>,
}

/// Which changes to list.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Only changes to what belongs to this organisation.
    pub org: Option<OrgId>,
    pub actor: Option<String>,
    pub action: Option<String>,
    pub target: Option<String>,
    pub since: Option<OffsetDateTime>,
    pub until: Option<OffsetDateTime>,
    pub order: SortOrder,
}

/// The order in which entries are listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SortOrder {
    Asc,
    #[default]
    Desc,
}

/// How long to wait between two looks at the changes in progress, and how many looks to take.
const LOOKS: (Duration, u32) = (Duration::from_millis(50), 40);

/// Columns that hold ids, and the prefix of each id's text form: the log shows ids in the form that the API uses.
const ID_COLUMNS: &[(&str, &str)] = &[
    ("org_id", OrgId::PREFIX),
    ("team_id", TeamId::PREFIX),
    ("user_id", UserId::PREFIX),
    ("key_id", KeyId::PREFIX),
    ("entry_id", EntryId::PREFIX),
    ("related_entry", EntryId::PREFIX),
    ("hold_id", HoldId::PREFIX),
    ("token_id", OperatorTokenId::PREFIX),
    ("budget_id", BudgetId::PREFIX),
    ("request_id", BudgetRequestId::PREFIX),
    ("provider_id", ProviderId::PREFIX),
    ("identity_id", IdentityId::PREFIX),
    ("factor_id", FactorId::PREFIX),
];

words! {
    /// The kind of thing that was changed: the first argument of the trigger `audit_change`.
    pub enum TargetKind in "audit_log.target_kind" {
        /// An organisation, including its balance row and its settings.
        Org = "org",
        Team = "team",
        User = "user",
        Key = "key",
        /// An entry that an operator posted.
        Entry = "entry",
        /// A task in doubt that an operator resolved, or a task whose request an operator read.
        Hold = "hold",
        OperatorToken = "operator_token",
        Budget = "budget",
        IdentityProvider = "identity_provider",
        /// A subject of an identity provider, linked to a user.
        Identity = "identity",
        PriceFactor = "price_factor",
        /// A price book, by its version.
        PriceBook = "price_book",
        /// A price, by its book's version and its task type.
        Price = "price",
        /// A key that signs quotes, named by its generation.
        SigningKey = "signing_key",
    }
}

impl TargetKind {
    /// The prefix of the id's text form; `None`: the thing has a version or a name instead of an id.
    const fn prefix(self) -> Option<&'static str> {
        match self {
            Self::Org => Some(OrgId::PREFIX),
            Self::Team => Some(TeamId::PREFIX),
            Self::User => Some(UserId::PREFIX),
            Self::Key => Some(KeyId::PREFIX),
            Self::Entry => Some(EntryId::PREFIX),
            Self::Hold => Some(HoldId::PREFIX),
            Self::OperatorToken => Some(OperatorTokenId::PREFIX),
            Self::Budget => Some(BudgetId::PREFIX),
            Self::IdentityProvider => Some(ProviderId::PREFIX),
            Self::Identity => Some(IdentityId::PREFIX),
            Self::PriceFactor => Some(FactorId::PREFIX),
            Self::PriceBook | Self::Price | Self::SigningKey => None,
        }
    }
}

fn prefixed(prefix: &str, uuid: &str) -> Option<String> {
    Uuid::try_parse(uuid).ok().map(|uuid| format!("{prefix}_{}", uuid.simple()))
}

fn readable(mut row: Value) -> Value {
    // The subject of a budget: the budget's level says what kind of thing it is, in the words of this log.
    let level = row.get("level").and_then(Value::as_str);
    let kind = level.and_then(|level| TargetKind::ALL.into_iter().find(|kind| kind.stored() == level));
    let subject = kind.and_then(TargetKind::prefix).map(|prefix| ("subject_id", prefix));
    for (column, prefix) in ID_COLUMNS.iter().copied().chain(subject) {
        if let Some(value) = row.get_mut(column)
            && let Some(text) = value.as_str().and_then(|uuid| prefixed(prefix, uuid))
        {
            *value = text.into();
        }
    }
    row
}

fn entry(row: &PgRow) -> Result<AuditEntry, sqlx::Error> {
    let target_kind: TargetKind = row.try_get("target_kind")?;
    let target: String = row.try_get("target_id")?;
    let shown = target_kind.prefix().and_then(|prefix| prefixed(prefix, &target));
    Ok(AuditEntry {
        audit_id: row.try_get("audit_id")?,
        at: row.try_get("at")?,
        actor: row.try_get("actor")?,
        address: row.try_get("address")?,
        action: row.try_get("action")?,
        request_id: row.try_get("request_id")?,
        target_id: shown.unwrap_or(target),
        target_kind,
        org_id: row.try_get::<Option<Uuid>, _>("org_id")?.map(OrgId::from_uuid),
        before: row.try_get::<Option<Value>, _>("before")?.map(readable),
        after: row.try_get::<Option<Value>, _>("after")?.map(readable),
    })
}

/// The entries that match a filter, with the columns that [`entry`] reads.
macro_rules! filtered {
    () => {
        "select audit_id, at, actor, address, action, request_id, target_kind, target_id, org_id, before, after \
         from audit_log where ($1::uuid is null or org_id = $1) and ($2::text is null or actor = $2) \
         and ($3::text is null or action = $3) and ($4::text is null or target_id = $4) \
         and ($5::timestamptz is null or at >= $5) and ($6::timestamptz is null or at < $6) "
    };
}

impl Database {
    /// Changes that match `filter`, in its order, from behind the entry `behind`.
    ///
    /// In ascending order the list is complete up to its last entry: a reader that continues behind the last entry
    /// misses none that was committed late.
    pub async fn audit_log(
        &self,
        filter: &AuditFilter,
        behind: Option<i64>,
        limit: u16,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        // Ids are compared as the database prints them.
        let target = filter.target.as_deref().map(|text| {
            let hex = text.rsplit('_').next().unwrap_or(text);
            Uuid::try_parse(hex).map_or_else(|_| text.to_owned(), |uuid| uuid.to_string())
        });
        let (query, up_to) = match filter.order {
            SortOrder::Desc => (
                concat!(
                    filtered!(),
                    "and audit_id < coalesce($7, 9223372036854775807) and audit_id <= $9 order by audit_id desc limit $8"
                ),
                i64::MAX,
            ),
            SortOrder::Asc => (
                concat!(
                    filtered!(),
                    "and audit_id > coalesce($7, 0) and audit_id <= $9 order by audit_id limit $8"
                ),
                self.complete_up_to().await?,
            ),
        };
        let rows = sqlx::query(query)
            .bind(filter.org.map(OrgId::as_uuid))
            .bind(&filter.actor)
            .bind(&filter.action)
            .bind(target)
            .bind(filter.since)
            .bind(filter.until)
            .bind(behind)
            .bind(i64::from(limit))
            .bind(up_to)
            .fetch_all(self.pool())
            .await?;
        Ok(rows.iter().map(entry).collect::<Result<_, _>>()?)
    }

    /// The id of an entry before which no other can appear any more. An entry gets its id before it is committed, so
    /// every transaction that was writing when the last id was given must end first; such a transaction holds a lock on
    /// the table until it ends.
    async fn complete_up_to(&self) -> Result<i64, StoreError> {
        let last = sqlx::query_scalar("select last_value from audit_log_audit_id_seq")
            .fetch_one(self.pool())
            .await?;
        let mut writing: Option<Vec<String>> = None;
        for _ in 0..LOOKS.1 {
            let still: Vec<String> = sqlx::query_scalar(
                "select coalesce(array_agg(virtualtransaction), '{}') from pg_locks \
                 where locktype = 'relation' and relation = 'audit_log'::regclass and mode = 'RowExclusiveLock' \
                   and database = (select oid from pg_database where datname = current_database()) \
                   and ($1::text[] is null or virtualtransaction = any($1))",
            )
            .bind(&writing)
            .fetch_one(self.pool())
            .await?;
            if still.is_empty() {
                return Ok(last);
            }
            writing = Some(still);
            tokio::time::sleep(LOOKS.0).await;
        }
        Err(StoreError::Timeout)
    }
}
