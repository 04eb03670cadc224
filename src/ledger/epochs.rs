//! Telling gateways that what they have cached is out of date: counters, moved by triggers on the tables themselves,
//! announced by NOTIFY and polled behind it.

use sqlx::postgres::PgListener;

use super::{Bounded, Database, LedgerError};

const CHANNEL: &str = "tollgate_epoch";

/// The counters. Whoever sees one move reads again what hangs on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Epochs {
    /// Keys, users, organisations: everything authentication caches.
    pub auth: i64,
    /// Price books.
    pub prices: i64,
}

/// Wakes when some gateway or operator changed something. Notifications can be lost: poll as well.
#[derive(Debug)]
pub struct EpochListener(PgListener);

impl EpochListener {
    /// Waits for a change, or for a broken connection (an error; listen anew).
    pub async fn changed(&mut self) -> Result<(), LedgerError> {
        // `None` means the connection was lost and notifications with it: as good as a change.
        self.0.try_recv().await?;
        Ok(())
    }
}

impl Database {
    /// The counters now.
    pub async fn epochs(&self) -> Result<Epochs, LedgerError> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("select name, value from epoch").fetch_all(self.pool()).bounded().await?;
        let value = |name| rows.iter().find(|(n, _)| n == name).map(|(_, value)| *value).unwrap_or_default();
        Ok(Epochs { auth: value("auth"), prices: value("prices") })
    }

    /// Listens for changes on a connection of its own.
    pub async fn listen(&self) -> Result<EpochListener, LedgerError> {
        let mut listener = PgListener::connect_with(self.pool()).await?;
        listener.listen(CHANNEL).await?;
        Ok(EpochListener(listener))
    }
}
