//! A pool that many owners share: none of them can take all of its connections, however many calls it makes.

use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use super::database::Database;
use super::error::StoreError;
use super::servers::Servers;
use crate::shares::{Owner, Shares};

/// How many calls of all owners may wait for a turn at a pool. One owner may have half of what is free.
const WAITING: usize = 4_096;

/// A pool whose connections are shared by owner. An owner has as many turns at a time as half of the connections that
/// are free, the owners who wait have turns one after the other, and nobody reaches the pool without a turn.
#[derive(Debug, Clone)]
pub struct SharedDatabase<K: Owner> {
    database: Database,
    turns: Arc<Shares<K>>,
}

impl<K: Owner> SharedDatabase<K> {
    /// A pool at which nobody has a turn yet.
    pub fn new(database: Database) -> Self {
        Self::with_turns_at_all_but(0, database)
    }

    /// The same where so many connections are for something else.
    pub fn with_turns_at_all_but(others: usize, database: Database) -> Self {
        let connections = usize::try_from(database.max_connections()).unwrap_or(usize::MAX);
        let connections = connections.saturating_sub(others);
        Self { database, turns: Shares::with_queue(connections, WAITING, metrics::Gauge::noop()) }
    }

    /// A turn of `owner`, as soon as it may have one. Waits for at most as long as for a connection.
    pub async fn turn_of(&self, owner: K) -> Result<Turn<K>, StoreError> {
        let turn = tokio::time::timeout(self.patience(), self.turns.wait(owner, 1)).await;
        let share = turn.map_err(|_| StoreError::Timeout)?.map_err(|_| StoreError::QueueFull)?;
        Ok(Turn { database: self.database.keeping(Arc::new(share)), owner: PhantomData })
    }

    /// Sets the gauges of the pool, which the metrics call `pool`.
    pub fn show_pool(&self, pool: &'static str) {
        self.database.show_pool(pool);
    }

    /// The servers that the pool is on.
    pub(in crate::store) fn servers(&self) -> &Arc<Servers> {
        &self.database.servers
    }

    fn patience(&self) -> Duration {
        self.database.patience()
    }
}

impl<K: Owner> From<Database> for SharedDatabase<K> {
    fn from(database: Database) -> Self {
        Self::new(database)
    }
}

/// A turn at a pool. It ends with the last handle that was made from it, and when the connections of these handles are
/// back in the pool: also if a caller leaves while its statement runs.
#[derive(Debug)]
#[must_use = "the turn ends when this is dropped"]
pub struct Turn<K: Owner> {
    database: Database,
    owner: PhantomData<K>,
}

impl<K: Owner> Deref for Turn<K> {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.database
    }
}
