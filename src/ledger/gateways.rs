//! Runs of gateways: a hold names the one that owns it, and the dead are known by their silence.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Bounded, Database, LedgerError};
use crate::clock::Clock;
use crate::ids::GatewayId;

impl Database {
    /// Says that `gateway` is alive for another `lease`, by the database's clock; tells how many are, with it.
    pub async fn renew_lease(&self, gateway: GatewayId, lease: Duration) -> Result<u32, LedgerError> {
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
        .bounded()
        .await?;
        Ok(u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1))
    }

    /// Forgets gateways that have been dead for a day. Holds that name one it does not know are a dead gateway's too.
    pub async fn forget_dead_gateways(&self) -> Result<(), LedgerError> {
        sqlx::query("delete from gateway where alive_until < now() - interval '1 day'")
            .execute(self.pool())
            .bounded()
            .await?;
        Ok(())
    }

    /// Ends the lease at once: what `gateway` still owns may be taken over.
    pub async fn end_lease(&self, gateway: GatewayId) -> Result<(), LedgerError> {
        sqlx::query("update gateway set alive_until = now() where gateway_id = $1")
            .bind(gateway.as_uuid())
            .execute(self.pool())
            .bounded()
            .await?;
        Ok(())
    }
}

/// This gateway's own lease. Without it nothing may be sent upstream: another gateway may already have taken this
/// one for dead and put its holds in doubt.
#[derive(Debug)]
pub struct Lease {
    database: Database,
    gateway: GatewayId,
    length: Duration,
    clock: Clock,
    /// When the last renewal that succeeded was begun.
    renewed: Mutex<Option<Instant>>,
}

impl Lease {
    /// A lease that has yet to be taken.
    pub fn new(database: Database, gateway: GatewayId, length: Duration, clock: Clock) -> Self {
        Self { database, gateway, length, clock, renewed: Mutex::new(None) }
    }

    /// Takes or renews it; tells how many gateways there are.
    pub async fn renew(&self) -> Result<u32, LedgerError> {
        let begun = self.clock.now();
        let gateways = self.database.renew_lease(self.gateway, self.length).await?;
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = Some(begun);
        Ok(gateways)
    }

    /// How often to renew it.
    pub fn interval(&self) -> Duration {
        self.length / 5
    }

    /// Whether it surely still holds, with a margin for what is about to be sent.
    pub fn holds(&self) -> bool {
        let renewed = *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        renewed.is_some_and(|begun| self.clock.since(begun) < self.length.mul_f64(0.8))
    }

    /// Gives it back.
    pub async fn end(&self) -> Result<(), LedgerError> {
        self.database.end_lease(self.gateway).await
    }
}
