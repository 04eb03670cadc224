//! Who did what to what, from where. Written by triggers with the change itself (migration 6); read here.

use serde::Serialize;
use serde_json::Value;
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Bounded, Database, LedgerError};
use crate::ids::OrgId;

/// One change.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AuditEntry {
    /// Its place in the log.
    pub audit_id: i64,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Who: a kind and a name or id; `database:…` is somebody with a connection of their own.
    pub actor: String,
    /// From where; none: not over the network.
    pub address: Option<String>,
    /// The operation.
    pub action: String,
    /// The request.
    pub request_id: Option<String>,
    /// What kind of thing was changed.
    pub target_kind: String,
    /// Which one.
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
    /// By whom.
    pub actor: Option<String>,
    /// By this operation.
    pub action: Option<String>,
    /// To this one.
    pub target: Option<String>,
    /// From then on.
    pub since: Option<OffsetDateTime>,
    /// Before then.
    pub until: Option<OffsetDateTime>,
}

/// Columns that hold ids, and how their text begins: the log shows ids as everything else does.
const ID_COLUMNS: &[(&str, &str)] = &[
    ("org_id", "org"),
    ("team_id", "team"),
    ("user_id", "usr"),
    ("key_id", "key"),
    ("entry_id", "ent"),
    ("hold_id", "hold"),
    ("token_id", "opt"),
    ("budget_id", "bud"),
    ("provider_id", "idp"),
];

fn prefixed(prefix: &str, uuid: &str) -> Option<String> {
    Uuid::try_parse(uuid).ok().map(|uuid| format!("{prefix}_{}", uuid.simple()))
}

fn readable(mut row: Value) -> Value {
    for (column, prefix) in ID_COLUMNS {
        if let Some(value) = row.get_mut(column)
            && let Some(text) = value.as_str().and_then(|uuid| prefixed(prefix, uuid))
        {
            *value = text.into();
        }
    }
    row
}

fn entry(row: &PgRow) -> Result<AuditEntry, sqlx::Error> {
    let target_kind: String = row.try_get("target_kind")?;
    let target: String = row.try_get("target_id")?;
    let prefix = match target_kind.as_str() {
        "user" => "usr",
        "entry" => "ent",
        "operator_token" => "opt",
        "budget" => "bud",
        "identity_provider" => "idp",
        other => other,
    };
    Ok(AuditEntry {
        audit_id: row.try_get("audit_id")?,
        at: row.try_get("at")?,
        actor: row.try_get("actor")?,
        address: row.try_get("address")?,
        action: row.try_get("action")?,
        request_id: row.try_get("request_id")?,
        target_id: prefixed(prefix, &target).unwrap_or(target),
        target_kind,
        org_id: row.try_get::<Option<Uuid>, _>("org_id")?.map(OrgId::from_uuid),
        before: row.try_get::<Option<Value>, _>("before")?.map(readable),
        after: row.try_get::<Option<Value>, _>("after")?.map(readable),
    })
}

impl Database {
    /// Changes, newest first, older than `before`.
    pub async fn audit_log(
        &self,
        filter: &AuditFilter,
        before: Option<i64>,
        limit: u16,
    ) -> Result<Vec<AuditEntry>, LedgerError> {
        // Stored as the database prints it.
        let target = filter.target.as_deref().map(|text| {
            let hex = text.rsplit('_').next().unwrap_or(text);
            Uuid::try_parse(hex).map_or_else(|_| text.to_owned(), |uuid| uuid.to_string())
        });
        let rows = sqlx::query(
            "select * from audit_log where ($1::uuid is null or org_id = $1) and ($2::text is null or actor = $2) \
             and ($3::text is null or action = $3) and ($4::text is null or target_id = $4) \
             and ($5::timestamptz is null or at >= $5) and ($6::timestamptz is null or at < $6) \
             and ($7::bigint is null or audit_id < $7) order by audit_id desc limit $8",
        )
        .bind(filter.org.map(OrgId::as_uuid))
        .bind(&filter.actor)
        .bind(&filter.action)
        .bind(target)
        .bind(filter.since)
        .bind(filter.until)
        .bind(before)
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .bounded()
        .await?;
        Ok(rows.iter().map(entry).collect::<Result<_, _>>()?)
    }
}
