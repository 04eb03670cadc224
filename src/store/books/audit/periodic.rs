//! The audit that gateways run by themselves: one of them at a time, on a connection of its own, and seldom enough.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::types::Json;
use sqlx::{Connection, Row};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::Clock;
use crate::ids::{GatewayId, OrgId};
use crate::store::books::audit::{INVARIANTS, snapshot};
use crate::store::db::database::Database;
use crate::store::db::error::LedgerError;
use crate::store::db::session::Deadline;

/// An audit that takes longer is given up: its snapshot keeps the database from cleaning up.
const LIMIT: Duration = Duration::from_secs(1800);

/// For each second it ran, it rests so many: it never takes more than a tenth of the time.
const REST: f64 = 9.0;

/// One that failed is not tried again before.
const PAUSE: Duration = Duration::from_secs(60);

/// Organisations that are named for a check, at most.
const NAMED: i32 = 5;

/// A check that found rows it must not find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    pub check: &'static str,
    pub rows: u64,
    /// Whose they are: some of them.
    pub orgs: Vec<OrgId>,
}

/// The newest result there is.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditResult {
    /// When it came to its end.
    pub ended_at: OffsetDateTime,
    /// How long it took.
    pub took: Duration,
    /// Rows that broke each check, by its name; those that hold are left out.
    pub breaches: BTreeMap<String, u64>,
}

impl Database {
    /// Runs the audit if none has begun within `every` and it is nobody else's turn; tells what it found. Nothing: it is
    /// not due.
    pub async fn audit_if_due(
        &self,
        gateway: GatewayId,
        every: Duration,
        stop: &CancellationToken,
    ) -> Result<Option<Vec<Breach>>, LedgerError> {
        let begun: Option<(i64, OffsetDateTime)> = sqlx::query_as(
            "update audit_run set runs = runs + 1, gateway = $1, \
               not_before = now() + $3 * interval '1 second' \
             where not_before <= now() and (started_at is null or started_at + $2 * interval '1 second' <= now()) \
             returning runs, now()",
        )
        .bind(gateway.as_uuid())
        .bind(every.as_secs_f64())
        .bind((LIMIT + PAUSE).as_secs_f64())
        .fetch_optional(self.pool())
        .await?;
        let Some((run, started_at)) = begun else { return Ok(None) };
        let started = Clock.now();
        let looking = tokio::time::timeout(LIMIT, self.look_for_breaches());
        let found = stop.run_until_cancelled(looking).await;
        // It only reads: a stop does not wait for it, and leaves it to whoever comes next.
        let stopped = found.is_none();
        let found = found.and_then(Result::ok).unwrap_or(Err(LedgerError::Timeout));
        let took = Clock.since(started);
        // One that failed is tried again, but has to rest as well: it may have failed because it takes so long.
        let rest = match (&found, stopped) {
            (_, true) => Duration::ZERO,
            (Ok(_), _) => took.mul_f64(REST),
            (Err(_), _) => took.mul_f64(REST).max(PAUSE),
        };
        let breaches = found.as_ref().ok().map(|found| {
            let rows = found.iter().map(|breach| (breach.check.to_owned(), breach.rows));
            Json(rows.collect::<BTreeMap<String, u64>>())
        });
        sqlx::query(
            "update audit_run set not_before = now() + $3 * interval '1 second', \
               started_at = case when $4::jsonb is null then started_at else $5 end, \
               ended_at = case when $4::jsonb is null then ended_at else now() end, \
               seconds = case when $4::jsonb is null then seconds else $2 end, breaches = coalesce($4, breaches) \
             where runs = $1",
        )
        .bind(run)
        .bind(took.as_secs_f64())
        .bind(rest.as_secs_f64())
        .bind(breaches)
        .bind(started_at)
        .execute(self.pool())
        .await?;
        if stopped { Ok(None) } else { found.map(Some) }
    }

    /// The newest result, of whichever gateway; nothing if there was none.
    pub async fn audit_result(&self) -> Result<Option<AuditResult>, LedgerError> {
        let row = sqlx::query(
            "select ended_at, seconds, breaches from audit_run where ended_at is not null and seconds is not null",
        )
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(AuditResult {
            ended_at: row.try_get("ended_at")?,
            took: Duration::try_from_secs_f64(row.try_get("seconds")?).unwrap_or_default(),
            breaches: row.try_get::<Json<_>, _>("breaches")?.0,
        }))
    }

    /// Every invariant in one snapshot, on a connection that nobody else needs.
    async fn look_for_breaches(&self) -> Result<Vec<Breach>, LedgerError> {
        let mut connection = self.audit_connection().await?;
        let mut snapshot = snapshot(&mut connection).await?;
        let mut breaches = Vec::new();
        for &(check, sql) in INVARIANTS {
            // A broken ledger may have millions of rows to tell of: they are counted there. Of their text no more is
            // taken than whose they are: that comes first.
            let (rows, orgs): (i64, Vec<Uuid>) = sqlx::query_as(sqlx::AssertSqlSafe(format!(
                "with found (detail) as materialized ({sql}) select (select count(*) from found), array( \
                   select distinct substring(detail from '[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}')::uuid \
                   from (select detail from found where detail ~ '[0-9a-f]{{8}}-' limit 1000) as few order by 1 limit $1)"
            )))
            .bind(NAMED)
            .fetch_one(&mut *snapshot)
            .await?;
            if rows > 0 {
                let orgs = orgs.into_iter().map(OrgId::from_uuid).collect();
                breaches.push(Breach { check, rows: rows.unsigned_abs(), orgs });
            }
        }
        snapshot.rollback().await?;
        drop(tokio::time::timeout(Deadline::QUERY.patience(), connection.close()).await);
        Ok(breaches)
    }
}
