//! Leases of gateways: each hold names the gateway that owns it, and a gateway whose lease has ended counts as dead.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::ids::GatewayId;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;

impl Database {
    /// Renews the lease of `gateway` for another `lease`, by the database's clock. Returns how many gateways live, this
    /// one included.
    pub async fn renew_lease(&self, gateway: GatewayId, lease: Duration) -> Result<u32, StoreError> {
        let others: i64 = sqlx::query_scalar(
            "with renewed as ( \
                 insert into gateway (gateway_id, started_at, alive_until) \
                 values ($1, now(), now() + $2 * interval '1 millisecond') \
                 on conflict (gateway_id) do update set alive_until = excluded.alive_until \
             ) select count(*) from gateway where alive_until > now() and gateway_id <> $1",
        )
        .bind(gateway.as_uuid())
        .bind(i64::try_from(lease.as_millis()).unwrap_or(i64::MAX))
        .fetch_one(self.pool())
        .await?;
        Ok(u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1))
    }

    /// Deletes gateways that have been dead for a day. The owner of a hold counts as dead also if its row is deleted.
    pub async fn forget_dead_gateways(&self) -> Result<(), StoreError> {
        sqlx::query("delete from gateway where alive_until < now() - interval '1 day'")
            .execute(self.pool())
            .await?;
        sqlx::query(
            "delete from sign_of_life s where not exists (select from gateway g where g.gateway_id = s.gateway_id)",
        )
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Ends the lease of `gateway` at once: other gateways may take over its holds.
    pub async fn end_lease(&self, gateway: GatewayId) -> Result<(), StoreError> {
        sqlx::query("update gateway set alive_until = now() where gateway_id = $1")
            .bind(gateway.as_uuid())
            .execute(self.pool())
            .await?;
        Ok(())
    }
}

/// This gateway's own lease. Without it nothing may be sent to the vendor, because another gateway may already have
/// counted this one as dead and put its holds in doubt.
#[derive(Debug)]
pub struct Lease {
    database: Database,
    gateway: GatewayId,
    length: Duration,
    clock: Clock,
    term: Mutex<Option<Term>>,
}

/// A period in which the lease was held without a gap.
#[derive(Debug, Clone, Copy)]
struct Term {
    /// When the first renewal of the period was begun.
    since: Instant,
    /// When the last successful renewal was begun.
    renewed: Instant,
}

impl Lease {
    /// A lease that has not been taken yet.
    pub fn new(database: Database, gateway: GatewayId, length: Duration, clock: Clock) -> Self {
        Self { database, gateway, length, clock, term: Mutex::new(None) }
    }

    /// Takes or renews the lease; returns how many gateways live.
    pub async fn renew(&self) -> Result<u32, StoreError> {
        let begun = self.clock.now();
        let gateways = self.database.renew_lease(self.gateway, self.length).await?;
        let mut term = self.term.lock().unwrap_or_else(PoisonError::into_inner);
        // A late renewal begins a new period, because another gateway may have taken over our holds in between.
        let since = term.filter(|term| self.is_fresh(*term)).map_or(begun, |term| term.since);
        *term = Some(Term { since, renewed: begun });
        Ok(gateways)
    }

    /// The gateway whose lease it is.
    pub fn gateway(&self) -> GatewayId {
        self.gateway
    }

    /// How often the lease should be renewed.
    pub fn interval(&self) -> Duration {
        self.length / 5
    }

    /// Whether the lease certainly still holds, with a margin for a request that is about to be sent.
    pub fn holds(&self) -> bool {
        self.term().is_some_and(|term| self.is_fresh(term))
    }

    /// Whether the lease certainly has held from `begun` to now, so that no gateway can have taken over a hold of that
    /// time.
    pub fn has_held_since(&self, begun: Instant) -> bool {
        self.term().is_some_and(|term| self.is_fresh(term) && term.since <= begun)
    }

    fn term(&self) -> Option<Term> {
        *self.term.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_fresh(&self, term: Term) -> bool {
        self.clock.since(term.renewed) < self.length.mul_f64(0.8)
    }

    pub async fn end(&self) -> Result<(), StoreError> {
        self.database.end_lease(self.gateway).await
    }
}
