//! An organisation's credits: its balance, how long it will last, and which grants will expire.

use serde::Serialize;
use sqlx::Row;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::credits::Credits;
use crate::ids::{EntryId, OrgId};
use crate::metrics as m;
use crate::store::books::exposure::{self, Exposure};
use crate::store::books::totals;
use crate::store::credits::balance::Balance;
use crate::store::credits::balance::{COLUMNS, balance};
use crate::store::db::change::Acting;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::words::words;

/// The most expiring grants that a summary lists.
const LOTS: i64 = 20;

/// The credits of an organisation: balance, threshold, runway, exposure, and the grants that expire next.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CreditSummary {
    #[serde(flatten)]
    pub balance: Balance,
    /// The organisation is low when fewer credits than this are available; null: it is never low.
    pub low_threshold: Option<Credits>,
    pub low: bool,
    /// Increases with each change of the threshold; 0: no threshold was ever set.
    pub version: i32,
    /// How long the available credits will last.
    pub runway: Runway,
    pub exposure: Exposure,
    /// Grants that expire and are not spent: the twenty that expire first.
    pub expiring: Vec<ExpiringGrant>,
}

/// How long the available credits last at the average rate of the last seven UTC days, today included. An organisation
/// that is younger is averaged over its age, but at least over a day. The expiry of grants is not considered.
#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq, ToSchema)]
pub struct Runway {
    /// Credits consumed a day, rounded up.
    pub per_day: Credits,
    /// Whole days that the credits last; null: nothing is consumed, or they last longer than a hundred years.
    pub days: Option<i32>,
    /// The instant at which the credits are spent; null: as for `days`.
    #[serde(with = "time::serde::rfc3339::option")]
    pub until: Option<OffsetDateTime>,
}

/// The unspent rest of a grant that expires.
#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq, ToSchema)]
pub struct ExpiringGrant {
    pub entry_id: EntryId,
    /// Credits that no finished task has spent. Charges are attributed to grants a few seconds after they are made.
    pub left: Credits,
    /// When the grant expires; an instant in the past: open tasks may still spend it.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}

impl Database {
    /// The credits of `org`. `max_exposure`: the limit on its exposure; 0: no limit.
    pub async fn credit_summary(
        &self,
        org: OrgId,
        max_exposure: Credits,
    ) -> Result<CreditSummary, StoreError> {
        let exposed = exposure::COLUMNS;
        let since = "((now() at time zone 'UTC')::date - 6)";
        let usage = totals::USAGE.replace("$2", since).replace("$3", "'infinity'");
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "with spent as ( \
                 select (select coalesce(sum(u.charged + u.corrected), 0) from {usage} u) as credits, \
                        greatest(extract(epoch from now() - greatest(o.created_at, d.day at time zone 'UTC')), 86400)::numeric as seconds \
                 from org o cross join (select date_trunc('day', now() at time zone 'UTC') - interval '6 days' as day) d \
                 where o.org_id = $1 \
             ), lasts as ( \
                 select credits, seconds, case when credits > 0 then \
                     (select greatest(b.available, 0) from org_balance b where b.org_id = $1) * seconds / credits end as rest \
                 from spent \
             ) \
             select {COLUMNS}, {exposed}, s.low_threshold, coalesce(s.version, 0) as version, \
                    coalesce(b.available < s.low_threshold, false) as low, \
                    saturated(greatest(ceil(l.credits * 86400 / l.seconds), 0)) as per_day, \
                    case when l.rest < 3153600000 then floor(l.rest / 86400)::integer end as days, \
                    case when l.rest < 3153600000 then now() + floor(l.rest)::bigint * interval '1 second' end as until \
             from org_balance b cross join lasts l left join credit_setting s using (org_id) where b.org_id = $1"
        )))
        .bind(org.as_uuid())
        // Planned anew: how much there is behind the sums is not known before.
        .persistent(false)
        .fetch_optional(self.pool())
        .await?
        .ok_or_else(|| StoreError::NotFound(format!("there is no organisation {org}")))?;
        let lots: Vec<(uuid::Uuid, i64, OffsetDateTime)> = sqlx::query_as(
            "select entry_id, amount - burned - expired, expires_at from credit_lot \
             where org_id = $1 and burned + expired < amount order by expires_at, entry_id limit $2",
        )
        .bind(org.as_uuid())
        .bind(LOTS)
        .fetch_all(self.pool())
        .await?;
        let expiring = lots.into_iter().map(|(entry, left, expires_at)| ExpiringGrant {
            entry_id: EntryId::from_uuid(entry),
            left: Credits::new(left),
            expires_at,
        });
        Ok(CreditSummary {
            balance: balance(&row)?,
            low_threshold: row.try_get::<Option<i64>, _>("low_threshold")?.map(Credits::new),
            low: row.try_get("low")?,
            version: row.try_get("version")?,
            runway: Runway {
                per_day: Credits::new(row.try_get("per_day")?),
                days: row.try_get("days")?,
                until: row.try_get("until")?,
            },
            exposure: exposure::exposure(&row, max_exposure)?,
            expiring: expiring.collect(),
        })
    }

    /// Logs and counts the organisations that have fallen below their threshold. One gateway reports each of them once,
    /// and again only after it was above the threshold in between.
    pub async fn tell_low_balances(&self) -> Result<(), StoreError> {
        let fallen: Vec<(uuid::Uuid, i64, i64)> = sqlx::query_as(
            "with above as ( \
               delete from low_balance l using org_balance b where b.org_id = l.org_id and not exists ( \
                 select from credit_setting s where s.org_id = b.org_id and b.available < s.low_threshold)), \
             below as ( \
               insert into low_balance (org_id) select s.org_id from credit_setting s join org_balance b using (org_id) \
               where b.available < s.low_threshold on conflict do nothing returning org_id) \
             select org_id, b.available, s.low_threshold from below join org_balance b using (org_id) \
             join credit_setting s using (org_id)",
        )
        .fetch_all(self.pool())
        .await?;
        for (org, available, threshold) in fallen {
            metrics::counter!(m::LOW_BALANCE_EVENTS).increment(1);
            tracing::warn!(org = %OrgId::from_uuid(org), available, threshold, "an organisation is low on credits");
        }
        Ok(())
    }
}

words! {
    enum ThresholdOutcome in "set_low_threshold()" {
        Set = "set",
        UnknownOrg = "unknown_org",
        Stale = "stale",
    }
}

impl Acting {
    /// Sets the number of available credits below which `org` is low (`None`: never). `seen`: only if the threshold is
    /// at this version.
    pub async fn set_low_threshold(
        &self,
        org: OrgId,
        threshold: Option<Credits>,
        seen: Option<i32>,
    ) -> Result<(), StoreError> {
        if threshold.is_some_and(|threshold| threshold < Credits::ZERO) {
            return Err(StoreError::Invalid("low_threshold must not be negative".into()));
        }
        let (outcome, current): (ThresholdOutcome, Option<i32>) =
            sqlx::query_as("select outcome, version from set_low_threshold($1, $2, $3)")
                .bind(org.as_uuid())
                .bind(threshold.map(Credits::get))
                .bind(seen)
                .fetch_one(self.change())
                .await?;
        match (outcome, current) {
            (ThresholdOutcome::Set, _) => Ok(()),
            (ThresholdOutcome::UnknownOrg, _) => {
                Err(StoreError::NotFound(format!("there is no organisation {org}")))
            }
            (ThresholdOutcome::Stale, Some(current)) => Err(StoreError::Stale { current }),
            (ThresholdOutcome::Stale, None) => {
                Err(StoreError::Corrupt("set_low_threshold() returned no version".into()))
            }
        }
    }
}
