//! Months that are closed: what an organisation's holds and entries of a month add up to, and a chain of digests over them, taken
//! down once and proved again on demand. `docs/months.md` says how to prove it without this program.

use std::time::Duration;

use sqlx::Connection;
use time::Date;
use uuid::Uuid;

use super::audit::Finding;
use crate::clock::Clock;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::session::Deadline;

/// The check that [`Database::prove_months`] makes.
pub const MONTHS: &str = "a month that is sealed is as it was sealed";

/// The most organisations that are looked up at once.
const SOME: i64 = 200;

impl Database {
    /// Seals the months that are closed, one organisation and month a statement, until none is left or the time is up. Returns how
    /// many were sealed. Gateways may do so at once.
    pub async fn seal_months(&self, within: Duration) -> Result<u64, StoreError> {
        let begun = Clock.now();
        let mut connection = self.connection_for_long_work("tollgate-months", Deadline::INVARIANT).await?;
        let mut sealed = 0;
        'all: loop {
            let orgs: Vec<Uuid> = sqlx::query_scalar(
                "select b.org_id from org_balance b cross join lateral closed_month(b.org_id, now()) c \
                 where c.month is not null limit $1",
            )
            .bind(SOME)
            .fetch_all(&mut connection)
            .await?;
            if orgs.is_empty() {
                break;
            }
            for org in orgs {
                if Clock.since(begun) >= within {
                    break 'all;
                }
                let month: Option<Date> = sqlx::query_scalar("select seal_month($1, null)")
                    .bind(org)
                    .fetch_one(&mut connection)
                    .await?;
                sealed += u64::from(month.is_some());
            }
        }
        connection.close().await?;
        Ok(sealed)
    }

    /// Computes the sums and the chain of each sealed month again, one organisation and month a statement. Returns how many months
    /// there are, and those that differ. Of a month whose charged tasks are in an archive the chain can be computed from its files
    /// alone; that it is the one that it was archived with is looked at here, and its sums are the audit's to prove.
    pub async fn prove_months(&self) -> Result<(u64, Vec<Finding>), StoreError> {
        let mut connection = self.connection_for_long_work("tollgate-months", Deadline::INVARIANT).await?;
        let months: Vec<(Uuid, Date, bool, Option<bool>)> = sqlx::query_as(
            "select s.org_id, s.month, s.chain_before = coalesce(lag(s.chain) over (partition by s.org_id order by s.month), \
               decode(repeat('00', 32), 'hex')), (select a.chain = s.chain from archived_month a \
               where a.org_id = s.org_id and a.month = s.month) from month_seal s order by s.month, s.org_id",
        )
        .fetch_all(&mut connection)
        .await?;
        let mut wrong = Vec::new();
        for &(org, month, follows, archived) in &months {
            let same: Option<bool> = sqlx::query_scalar(
                "select (f.holds, f.settled, f.released, f.written_off, f.charged, f.entries, f.consumed, f.corrected, f.granted, \
                   f.chain) is not distinct from (s.holds, s.settled, s.released, s.written_off, s.charged, s.entries, s.consumed, \
                   s.corrected, s.granted, s.chain) \
                 from month_seal s cross join lateral month_figures(s.org_id, s.month, s.chain_before) f \
                 where s.org_id = $1 and s.month = $2 and not $3",
            )
            .bind(org)
            .bind(month)
            .bind(archived.is_some())
            .fetch_optional(&mut connection)
            .await?;
            let same = same.or(archived).unwrap_or(false);
            if !same || !follows {
                let why =
                    if same { "does not follow the month before it" } else { "is not as it was sealed" };
                wrong.push(Finding { check: MONTHS, detail: format!("org {org} month {month} {why}") });
            }
        }
        connection.close().await?;
        Ok((u64::try_from(months.len()).unwrap_or(u64::MAX), wrong))
    }
}
