//! Who did what to what, from where. Written by triggers with the change itself (function `audit_change`); read here.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::ids::{
    BudgetId, EntryId, FactorId, HoldId, IdentityId, KeyId, OperatorTokenId, OrgId, ProviderId, TeamId,
    UserId,
};
use crate::store::db::database::Database;
use crate::store::db::error::LedgerError;
use crate::store::db::words::words;

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AuditEntry {
    /// Its place in the log.
    pub audit_id: i64,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Who: a kind and a name or id; `database:…` is somebody with a connection of their own.
    pub actor: String,
    /// From where; none: not over the network.
    pub address: Option<String>,
    pub action: String,
    pub request_id: Option<String>,
    /// What kind of thing was changed.
    pub target_kind: TargetKind,
    pub target_id: String,
    /// Whose it is; none: the platform's.
    pub org_id: Option<OrgId>,
    /// How it was; of an update only what changed.
    #[schema(value_type = Option<Object>)]
    pub before: Option<Value>,
    /// How it is since; of an update only what changed.
    #[schema(value_type = Option<Object>)]
    pub after: Option<Value>,
}

/// Which changes to list.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Of this organisation's things.
    pub org: Option<OrgId>,
    pub actor: Option<String>,
    pub action: Option<String>,
    pub target: Option<String>,
    pub since: Option<OffsetDateTime>,
    pub until: Option<OffsetDateTime>,
    pub order: SortOrder,
}

/// The order of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SortOrder {
    Asc,
    #[default]
    Desc,
}

/// Looks at the changes under way that often, and so many times.
const LOOKS: (Duration, u32) = (Duration::from_millis(50), 40);

/// Columns that hold ids, and how their text begins: the log shows ids as everything else does.
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
    ("provider_id", ProviderId::PREFIX),
    ("identity_id", IdentityId::PREFIX),
    ("factor_id", FactorId::PREFIX),
];

words! {
    /// What kind of thing was changed: the first argument of the trigger `audit_change`.
    pub enum TargetKind in "audit_log.target_kind" {
        /// An organisation, its balance row and its settings included.
        Org = "org",
        Team = "team",
        User = "user",
        Key = "key",
        /// An entry that an operator posted.
        Entry = "entry",
        /// A task in doubt that an operator resolved.
        Hold = "hold",
        OperatorToken = "operator_token",
        Budget = "budget",
        IdentityProvider = "identity_provider",
        /// A subject of an identity provider that is tied to a user.
        Identity = "identity",
        PriceFactor = "price_factor",
        /// A price book, by its version.
        PriceBook = "price_book",
        /// A price, by its book's version and its task type.
        Price = "price",
        /// A key that signs quotes, by its generation.
        SigningKey = "signing_key",
    }
}

impl TargetKind {
    /// How the id of such a thing begins; none: it has no id of ours, but a version or a name.
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
    // What a budget bounds: its level says what that is, in the words of this log.
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

/// Entries that a filter lets through, read as [`entry`] wants them.
macro_rules! filtered {
    () => {
        "select audit_id, at, actor, address, action, request_id, target_kind, target_id, org_id, before, after \
         from audit_log where ($1::uuid is null or org_id = $1) and ($2::text is null or actor = $2) \
         and ($3::text is null or action = $3) and ($4::text is null or target_id = $4) \
         and ($5::timestamptz is null or at >= $5) and ($6::timestamptz is null or at < $6) "
    };
}

impl Database {
    /// Changes, behind that one in the order of the filter.
    ///
    /// Oldest first, none is left out that shows only later: who goes on behind the last one has seen all before it.
    pub async fn audit_log(
        &self,
        filter: &AuditFilter,
        behind: Option<i64>,
        limit: u16,
    ) -> Result<Vec<AuditEntry>, LedgerError> {
        // Stored as the database prints it.
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

    /// An entry before which none is still to come. Each has its number before it can be seen, so whoever was writing
    /// when the last number was given must end first: such a transaction holds a lock on the table until then.
    async fn complete_up_to(&self) -> Result<i64, LedgerError> {
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
        Err(LedgerError::Timeout)
    }
}
