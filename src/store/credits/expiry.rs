//! Grants that expire: which charges spend them, and when their unspent rest is taken back.
//!
//! The paid path sees one number, `org_balance.available`. Which grant a charge has spent is found out later, from the
//! journal, by [`Database::expire_credits`]. Any number of gateways may run it: it works on one organisation at a time,
//! under the lock of the organisation's balance row.
//!
//! Entries are attributed in the order they were written. An entry that takes credits spends the grants that were given
//! before it and that end after the instant at which it was *spent*, the earliest end first; the rest is taken from the
//! pool of credits that do not expire. A charge is spent when its hold is made, every other entry when it is written:
//! so a task that began in time may spend a grant that ended while it ran, and a task that began later may not. A pool
//! below zero is a debt (an overdraft, or credits held between a grant's end and the next run of this job): the next
//! credits pay it first. What is given back, corrected upwards or transferred goes to the pool: it does not expire.
//!
//! When everything is attributed, the rest of each grant past its end is taken back by an `expire` entry, the earliest
//! end first, except
//!
//! - what open holds from before the grant's end may still spend. Of the grants that have ended, the earliest first,
//!   each keeps as much as those holds are worth and as no earlier grant has kept. When a hold releases its credits,
//!   they are taken then;
//! - what would bring `available` below zero. It stays owed and is taken when credits are available.
//!
//! The audit proves at every instant, for each organisation with such grants: granted − consumed = pool + unspent rests
//! of its grants + entries not attributed yet; a grant is spent and taken back at most once over; what was taken back
//! of it is the sum of its `expire` entries.

use time::OffsetDateTime;
use uuid::Uuid;

use crate::credits::Credits;
use crate::ids::OrgId;
use crate::store::db::change::Actor;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::ledger::metered;

/// Entries attributed in one statement, under one lock of the balance row.
const SOME: i32 = 500;

impl Database {
    /// Attributes charges to the grants that expire, and takes back the rest of those that have expired. Returns the
    /// credits taken back, or the first error: an organisation that fails, for example because somebody has locked its
    /// row, keeps no other from its turn.
    pub async fn expire_credits(&self) -> Result<Credits, StoreError> {
        // In random order, so that gateways that begin together do not queue for the same rows.
        let orgs: Vec<Uuid> = sqlx::query_scalar(
            "select p.org_id from credit_pool p where exists (select from credit_event q where q.org_id = p.org_id) \
             or exists (select from credit_lot l join org_balance b on b.org_id = l.org_id \
                        where l.org_id = p.org_id and l.burned + l.expired < l.amount and l.expires_at <= now() \
                        and b.available > 0) order by random()",
        )
        .fetch_all(self.pool())
        .await?;
        let (mut total, mut failed) = (Credits::ZERO, None);
        // A step of each, and then another one of those that have more: nobody waits for a long journal of another.
        let mut orgs: Vec<OrgId> = orgs.into_iter().map(OrgId::from_uuid).collect();
        while !orgs.is_empty() {
            let mut rest = Vec::new();
            for org in orgs {
                match self.expire_some_of(org, None).await {
                    Ok((more, expired)) => {
                        total = total.checked_add(expired).unwrap_or(total);
                        if more {
                            rest.push(org);
                        }
                    }
                    Err(error) => drop(failed.get_or_insert(error)),
                }
            }
            orgs = rest;
        }
        failed.map_or(Ok(total), Err)
    }

    /// Does the same for one organisation, as of `now`; `None`: by the database's clock.
    pub async fn expire_credits_of(
        &self,
        org: OrgId,
        now: Option<OffsetDateTime>,
    ) -> Result<Credits, StoreError> {
        loop {
            if let (false, expired) = self.expire_some_of(org, now).await? {
                return Ok(expired);
            }
        }
    }

    /// One step of that: whether there is more to do, and the credits that were taken back.
    async fn expire_some_of(
        &self,
        org: OrgId,
        now: Option<OffsetDateTime>,
    ) -> Result<(bool, Credits), StoreError> {
        const PART: &str = "expiry";
        let job = self.acting(Actor::program(PART));
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
        Ok((more, Credits::new(expired)))
    }
}
