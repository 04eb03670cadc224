//! Epochs tell gateways that what they have cached is out of date. An epoch is a counter that triggers increase; NOTIFY
//! announces the change, and gateways also look at the counters regularly.

use std::sync::Arc;

use sqlx::postgres::{PgListener, PgPoolOptions};

use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::servers::{PrimaryTerm, Servers};
use crate::store::db::session::Deadline;

const CHANNEL: &str = "tollgate_epoch";

/// The epochs. A gateway that sees one increase reads again what depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Epochs {
    /// Epoch of keys, users and organisations: everything that authentication caches.
    pub auth: i64,
    pub prices: i64,
}

/// Wakes when something was changed by a gateway or an operator. Notifications can be lost, so callers must poll too.
#[derive(Debug)]
pub struct EpochListener {
    listener: PgListener,
    servers: Arc<Servers>,
    turn: PrimaryTerm,
}

impl EpochListener {
    /// Waits for a change. An error means a lost connection or another primary: the caller must listen anew.
    pub async fn changed(&mut self) -> Result<(), StoreError> {
        tokio::select! {
            // `None` means that the connection was lost, and perhaps notifications with it: treated as a change.
            notification = self.listener.try_recv() => notification.map(drop)?,
            () = self.servers.changed_from(self.turn) => return Err(StoreError::Unreachable),
        }
        Ok(())
    }
}

impl Database {
    pub async fn epochs(&self) -> Result<Epochs, StoreError> {
        let (auth, prices): (Option<i64>, Option<i64>) = sqlx::query_as(
            "select (select value from epoch where name = 'auth'), (select value from epoch where name = 'prices')",
        )
        .fetch_one(self.pool())
        .await?;
        // A missing counter would never increase, so that caches would never be read again.
        let there =
            |counter: Option<i64>| counter.ok_or(StoreError::Corrupt("a row of epoch is missing".into()));
        Ok(Epochs { auth: there(auth)?, prices: there(prices)? })
    }

    /// Listens for changes, on a connection of its own.
    pub async fn listen(&self) -> Result<EpochListener, StoreError> {
        // Not from the pool: a connection that hangs with a silent server must not take a place there.
        let (options, turn) = self.servers.options();
        let patience = Deadline::QUERY.patience();
        let servers = self.servers.clone();
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(patience)
            .after_connect(move |connection, _| {
                let servers = servers.clone();
                Box::pin(async move { servers.receive(connection).await })
            })
            .connect_lazy_with(options);
        let listening = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.eager_reconnect(false);
            listener.listen(CHANNEL).await?;
            Ok(listener)
        };
        let listener =
            tokio::time::timeout(patience, listening).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
        Ok(EpochListener { listener, servers: self.servers.clone(), turn })
    }
}
