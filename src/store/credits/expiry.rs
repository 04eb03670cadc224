//! Grants that run out: what burns them, and when what is left of them is taken back.
//!
//! The paid path sees one number, `org_balance.available`. Which grant a charge burned is found out later, from the
//! journal, by [`Database::expire_credits`]; any number of gateways may run it, each organisation under its balance row.
//!
//! Entries are attributed in the order they were written. One that takes credits burns the grants that had been given
//! before it and whose end lies after it was *spent*, the earliest end first; the rest burns the pool of credits that do
//! not run out. Spent was a charge when its hold was made, everything else when it was written: so a task that began in
//! time may burn a grant that ended while it ran, and one that began later may not. A pool below zero is a debt (an
//! overdraft, or credits held between a grant's end and the next run of this job): the next credits pay it first. What
//! is given back, corrected upwards or transferred goes to the pool: it does not run out.
//!
//! When everything is attributed, each grant past its end is taken back, the earliest first, by `expire` entries of all
//! that is left of it, except
//!
//! - what open holds from before its end may still burn: of all grants that ended, the earliest first, each is kept for
//!   as much as those holds are worth and no earlier grant is kept for. When they release it, it is taken then;
//! - what would bring `available` below zero. It stays owed and is taken when there is something.
//!
//! Proved by the audit at every instant, for each such organisation: granted − consumed = pool + what is left of its
//! grants + entries not attributed yet; a grant is burned and taken back at most once over; what was taken back of it is
//! the sum of its `expire` entries.

use time::OffsetDateTime;
use uuid::Uuid;

use crate::credits::Credits;
use crate::ids::OrgId;
use crate::store::db::change::Actor;
use crate::store::db::database::Database;
use crate::store::db::error::LedgerError;
use crate::store::ledger::metered;

/// Entries attributed under one lock of the balance row.
const SOME: i32 = 500;

impl Database {
    /// Attributes what was spent to the grants that run out, and takes back those that have. Tells how many credits.
    pub async fn expire_credits(&self) -> Result<Credits, LedgerError> {
        // In any order, so that gateways that begin together do not queue for the same rows.
        let orgs: Vec<Uuid> = sqlx::query_scalar(
            "select p.org_id from credit_pool p where exists (select from credit_event q where q.org_id = p.org_id) \
             or exists (select from credit_lot l join org_balance b on b.org_id = l.org_id \
                        where l.org_id = p.org_id and l.burned + l.expired < l.amount and l.expires_at <= now() \
                        and b.available > 0) order by random()",
        )
        .fetch_all(self.pool())
        .await?;
        let mut total = Credits::ZERO;
        for org in orgs.into_iter().map(OrgId::from_uuid) {
            let expired = self.expire_credits_of(org, None).await?;
            total = total.checked_add(expired).unwrap_or(total);
        }
        Ok(total)
    }

    /// The same for one organisation, as of `now`; none: by the database's clock.
    pub async fn expire_credits_of(
        &self,
        org: OrgId,
        now: Option<OffsetDateTime>,
    ) -> Result<Credits, LedgerError> {
        const PART: &str = "expiry";
        let job = self.acting(Actor::program(PART));
        loop {
            let (more, expired): (bool, i64) =
                sqlx::query_as("select more, expired from expire_credits($1, $2, $3, $4)")
                    .bind(org.as_uuid())
                    .bind(SOME)
                    .bind(job.actor())
                    .bind(now)
                    .fetch_one(job.change())
                    .await?;
            if expired > 0 {
                metered::expired(Credits::new(expired));
                tracing::info!(%org, expired, "credits have run out");
            }
            if !more {
                return Ok(Credits::new(expired));
            }
        }
    }
}
