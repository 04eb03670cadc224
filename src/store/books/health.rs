//! What an operator has to know at a glance: doubts, stopped organisations, the newest audit, and the gateways that live.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::Row;
use sqlx::types::Json;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::ids::GatewayId;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::page::Slice;

/// The most doubts that are counted.
const COUNTED: i64 = 10_000;

/// The newest audit of the books that came to its end.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct AuditVerdict {
    #[serde(with = "time::serde::rfc3339")]
    pub ended_at: OffsetDateTime,
    /// How long the audit took, in milliseconds.
    pub took_ms: i64,
    /// How many rows break each check, by its name; checks that hold are left out.
    pub breaches: BTreeMap<String, u64>,
}

/// What all gateways share.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Health {
    /// The newest audit; null: none has come to its end yet.
    pub audit: Option<AuditVerdict>,
    /// Tasks in doubt, counted up to ten thousand.
    pub doubts: i64,
    /// When the oldest doubt began; null: there is none.
    #[serde(with = "time::serde::rfc3339::option")]
    pub oldest_doubt: Option<OffsetDateTime>,
    /// Organisations whose creates are stopped because of what their tasks cost the platform.
    pub stopped_organisations: i64,
    /// Gateways with a live lease.
    pub live_gateways: i64,
}

/// One run of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct GatewayInfo {
    pub gateway_id: GatewayId,
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// When its lease ends, or has ended, unless it is renewed.
    #[serde(with = "time::serde::rfc3339")]
    pub alive_until: OffsetDateTime,
    /// Whether its lease is live: otherwise the other gateways end its work.
    pub live: bool,
    /// Creates of this gateway that the vendor has not answered yet, as far as is on record.
    pub unanswered: i64,
}

impl Database {
    /// What all gateways share, in one statement that reads no history.
    pub async fn health(&self) -> Result<Health, StoreError> {
        let row = sqlx::query(
            "select a.ended_at, (a.seconds * 1000)::bigint as took, a.breaches, \
               (select count(*) from (select from open_task where state = 'IN_DOUBT' limit $1) d) as doubts, \
               (select min(doubt_at) from open_task where state = 'IN_DOUBT') as oldest, \
               (select count(*) from org_balance b join org o using (org_id) \
                where b.stopped_at is not null and o.deleted_at is null) as stopped, \
               (select count(*) from gateway where alive_until > now()) as live from audit_run a",
        )
        .bind(COUNTED)
        .fetch_one(self.pool())
        .await?;
        let ended: Option<OffsetDateTime> = row.try_get("ended_at")?;
        let audit = ended.map(|ended_at| {
            Ok::<_, sqlx::Error>(AuditVerdict {
                ended_at,
                took_ms: row.try_get::<Option<i64>, _>("took")?.unwrap_or_default(),
                breaches: row.try_get::<Json<_>, _>("breaches")?.0,
            })
        });
        Ok(Health {
            audit: audit.transpose()?,
            doubts: row.try_get("doubts")?,
            oldest_doubt: row.try_get("oldest")?,
            stopped_organisations: row.try_get("stopped")?,
            live_gateways: row.try_get("live")?,
        })
    }

    /// The gateways of the last day, the one that was started last first.
    pub async fn gateways(&self, slice: Slice<GatewayId>) -> Result<Vec<GatewayInfo>, StoreError> {
        let rows = sqlx::query(
            "select g.gateway_id, g.started_at, g.alive_until, g.alive_until > now() as live, \
               (select count(*) from open_task t where t.owner = g.gateway_id and t.state = 'HELD') as unanswered \
             from gateway g where ($1::uuid is null or g.gateway_id < $1) order by g.gateway_id desc limit $2",
        )
        .bind(slice.after.map(GatewayId::as_uuid))
        .bind(i64::from(slice.limit))
        .fetch_all(self.pool())
        .await?;
        let info = |row: &sqlx::postgres::PgRow| {
            Ok::<_, sqlx::Error>(GatewayInfo {
                gateway_id: GatewayId::from_uuid(row.try_get("gateway_id")?),
                started_at: row.try_get("started_at")?,
                alive_until: row.try_get("alive_until")?,
                live: row.try_get("live")?,
                unanswered: row.try_get("unanswered")?,
            })
        };
        Ok(rows.iter().map(info).collect::<Result<_, _>>()?)
    }
}
