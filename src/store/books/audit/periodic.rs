//! The periodic audit: one gateway at a time runs it, on a connection of its own, for at most a tenth of the time.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::types::Json;
use sqlx::{FromRow, Row};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::Clock;
use crate::ids::{GatewayId, OrgId};
use crate::store::books::audit::auditor::{Auditor, place};
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;

/// An audit that takes longer is cancelled.
const LIMIT: Duration = Duration::from_secs(1800);

/// After an audit, none begins for this many times as long as it took, so that audits take a tenth of the time at most.
const REST: f64 = 9.0;

/// The time from one audit of the whole to the next, while nothing is wrong. Those between look at what is new or open.
const WHOLE_EVERY: Duration = Duration::from_secs(24 * 3600);

/// The least time between an audit that failed and the next attempt.
const PAUSE: Duration = Duration::from_secs(60);

/// The most organisations that a breach names.
const NAMED: i32 = 5;

/// An invariant that the audit found broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    pub check: &'static str,
    pub rows: u64,
    /// Some of the organisations that the rows belong to.
    pub orgs: Vec<OrgId>,
}

/// The result of the newest audit that finished.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditResult {
    /// When the audit finished.
    pub ended_at: OffsetDateTime,
    /// How long the audit took.
    pub took: Duration,
    /// Rows that break each invariant, by its name; an invariant that holds has no entry.
    pub breaches: BTreeMap<String, u64>,
}

impl Database {
    /// Runs the audit if none has begun within `every` and no other gateway is running one; returns the breaches, or
    /// `None` if no audit was due.
    pub async fn audit_if_due(
        &self,
        gateway: GatewayId,
        every: Duration,
        stop: &CancellationToken,
    ) -> Result<Option<Vec<Breach>>, StoreError> {
        let begun: Option<(i64, OffsetDateTime, bool)> = sqlx::query_as(
            "update audit_run set runs = runs + 1, gateway = $1, \
               not_before = now() + $3 * interval '1 second' \
             where not_before <= now() and (started_at is null or started_at + $2 * interval '1 second' <= now()) \
             returning runs, now(), whole_at is null or whole_at + $4 * interval '1 second' <= now() or breaches <> '{}'",
        )
        .bind(gateway.as_uuid())
        .bind(every.as_secs_f64())
        .bind((LIMIT + PAUSE).as_secs_f64())
        .bind(WHOLE_EVERY.as_secs_f64())
        .fetch_optional(self.pool())
        .await?;
        let Some((run, started_at, whole_due)) = begun else { return Ok(None) };
        let started = Clock.now();
        let looking = tokio::time::timeout(LIMIT, self.look_for_breaches(whole_due));
        let found = stop.run_until_cancelled(looking).await;
        // The audit only reads, so a stop cancels it; another gateway, or the next start, runs it again.
        let stopped = found.is_none();
        let found = found.and_then(Result::ok).unwrap_or(Err(StoreError::Timeout));
        let whole = found.as_ref().is_ok_and(|(_, whole)| *whole);
        let found = found.map(|(found, _)| found);
        let took = Clock.since(started);
        // A failed audit is tried again, but only after a rest: it may have failed because it takes so long.
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
               seconds = case when $4::jsonb is null then seconds else $2 end, breaches = coalesce($4, breaches), \
               whole_at = case when $6 then $5 else whole_at end \
             where runs = $1",
        )
        .bind(run)
        .bind(took.as_secs_f64())
        .bind(rest.as_secs_f64())
        .bind(breaches)
        .bind(started_at)
        .bind(whole)
        .execute(self.pool())
        .await?;
        if stopped { Ok(None) } else { found.map(Some) }
    }

    /// The result of the newest audit of any gateway; `None` if none has ever finished.
    pub async fn audit_result(&self) -> Result<Option<AuditResult>, StoreError> {
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

    /// Checks the invariants, on a connection outside the pools: of the whole if that is due or no month is sealed, else of what
    /// is new or open. Returns also whether it was the whole.
    async fn look_for_breaches(&self, whole_due: bool) -> Result<(Vec<Breach>, bool), StoreError> {
        let open = if whole_due { None } else { Auditor::of_what_is_open(self).await? };
        let whole = open.is_none();
        let (mut auditor, rounds) = match open {
            Some((auditor, round)) => (auditor, vec![round]),
            None => Auditor::of_the_whole(self).await?,
        };
        let mut breaches: BTreeMap<usize, Breach> = BTreeMap::new();
        for round in rounds {
            auditor.turn_to(&round).await?;
            for (check, sql) in &round.checks {
                // A broken ledger may have millions of rows to report, so the database counts them. Of the rows' texts only
                // the organisations' ids are fetched: the first id in a text is the organisation's.
                let counted = sqlx::query(sqlx::AssertSqlSafe(format!(
                    "with found (detail) as materialized ({sql}) select (select count(*) from found), array( \
                       select distinct substring(detail from '[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}')::uuid \
                       from (select detail from found where detail ~ '[0-9a-f]{{8}}-' limit 1000) as few order by 1 limit $1)"
                )));
                for row in auditor.rows(counted.bind(NAMED)).await? {
                    let (rows, orgs) = <(i64, Vec<Uuid>)>::from_row(&row)?;
                    if rows > 0 {
                        let empty = || Breach { check, rows: 0, orgs: Vec::new() };
                        let breach = breaches.entry(place(check)).or_insert_with(empty);
                        breach.rows = breach.rows.saturating_add(rows.unsigned_abs());
                        let some = usize::try_from(NAMED).unwrap_or(0).saturating_sub(breach.orgs.len());
                        breach.orgs.extend(orgs.into_iter().map(OrgId::from_uuid).take(some));
                    }
                }
            }
        }
        auditor.end().await;
        Ok((breaches.into_values().collect(), whole))
    }
}
