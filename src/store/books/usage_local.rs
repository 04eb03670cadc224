//! Usage by the days of an organisation's own time zone: it adds up to the months of statements.

use time::Date;

use super::totals;
use super::usage::{Usage, UsageBy, usage};
use crate::ids::OrgId;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;

impl Database {
    /// Usage of an organisation on the days `from` to `to` of its time zone, a line for each day on which something was charged. What
    /// is in an archive counts by UTC days, but for the ends of months.
    pub async fn usage_by_local_day(
        &self,
        org: OrgId,
        from: Date,
        to: Date,
        limit: u32,
        offset: u32,
    ) -> Result<Vec<Usage>, StoreError> {
        let booked = totals::booked_since("m.starts_at", "m.aligned");
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "with o as ( \
                 select o.time_zone, $2::date::timestamp at time zone o.time_zone as starts_at, \
                        ($3::date + 1)::timestamp at time zone o.time_zone as ends_at from org o where o.org_id = $1 \
             ), m as materialized ( \
                 select o.*, (extract(epoch from o.starts_at) % 900, extract(epoch from o.ends_at) % 900) = (0, 0) as aligned from o \
             ) \
             select d.day, d.tasks::bigint as tasks, saturated(d.charged) as charged, saturated(d.corrected) as corrected, \
                    saturated(coalesce(d.charged, 0) + coalesce(d.corrected, 0)) as consumed \
             from m cross join lateral ( \
                 select (e.at at time zone m.time_zone)::date as day, coalesce(sum(e.lines) filter (where e.kind = 'consume'), 0) as tasks, \
                        -sum(e.amount) filter (where e.kind = 'consume') as charged, \
                        -sum(e.amount) filter (where e.kind = 'correct') as corrected \
                 from {booked} e where e.at < m.ends_at and e.kind in ('consume', 'correct') group by 1) d \
             order by d.day limit $4 offset $5"
        )))
        .bind(org.as_uuid())
        .bind(from)
        .bind(to)
        .bind(i64::from(limit))
        .bind(i64::from(offset))
        .persistent(false)
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(|row| usage(row, &[UsageBy::Day])).collect()
    }
}
