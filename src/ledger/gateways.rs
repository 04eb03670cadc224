//! Runs of gateways: a hold names the one that owns it, and the dead are known by their silence.

use std::time::Duration;

use super::{Database, LedgerError};
use crate::ids::GatewayId;

impl Database {
    /// Says that `gateway` is alive for another `lease`, by the database's clock.
    pub async fn renew_lease(&self, gateway: GatewayId, lease: Duration) -> Result<(), LedgerError> {
        sqlx::query(
            "insert into gateway (gateway_id, started_at, alive_until) \
             values ($1, now(), now() + $2 * interval '1 millisecond') \
             on conflict (gateway_id) do update set alive_until = excluded.alive_until",
        )
        .bind(gateway.as_uuid())
        .bind(i64::try_from(lease.as_millis()).unwrap_or(i64::MAX))
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Ends the lease at once: what `gateway` still owns may be taken over.
    pub async fn end_lease(&self, gateway: GatewayId) -> Result<(), LedgerError> {
        sqlx::query("update gateway set alive_until = now() where gateway_id = $1")
            .bind(gateway.as_uuid())
            .execute(self.pool())
            .await?;
        Ok(())
    }
}
