//! File descriptors: how many the process may have, and how many of them the data listener's connections may take.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::run::OPERATIONS_CONNECTIONS;
use crate::access::LOOKUP_CONNECTIONS;
use crate::admin::api::MANAGEMENT_CONNECTIONS;
use crate::background;
use crate::config::Config;

/// What is set aside for files, the listeners themselves, name look-ups, identity providers and traces.
const OTHERS: usize = 64;

/// How many connections the data listener may have with the limit of the process.
pub(super) struct Allowance {
    /// The limit of the process, which was raised as far as it may be.
    pub(super) limit: usize,
    /// A third of what the other parts leave. Half as many may wait for their place, and the rest is there for calls to the
    /// vendor.
    pub(super) left: usize,
    /// What the configuration wants.
    pub(super) wanted: usize,
}

/// The most connections to the database that a gateway opens.
pub(super) fn database_connections(config: &Config) -> usize {
    let others = background::CONNECTIONS
        + MANAGEMENT_CONNECTIONS
        + LOOKUP_CONNECTIONS
        + crate::store::CONTENT_CONNECTIONS
        // The lease, and the listener for changes, have a connection of their own.
        + 2;
    let pools = config.database.max_connections.saturating_add(others);
    let lanes = config.ledger.lanes.saturating_add(crate::store::SIDE_LANES);
    usize::try_from(pools).unwrap_or(usize::MAX).saturating_add(lanes)
}

/// Raises the limit of the process as far as it may.
pub(super) fn allowance(config: &Config) -> Result<Allowance, nix::Error> {
    let limit = raise()?;
    let set_aside = OTHERS + OPERATIONS_CONNECTIONS;
    let left = limit.saturating_sub(set_aside.saturating_add(database_connections(config))) / 3;
    Ok(Allowance { limit, left, wanted: config.server.max_connections })
}

/// How many connections the data listener may have.
pub(super) fn for_data_connections(config: &Config) -> usize {
    let Allowance { limit, left, wanted } = match allowance(config) {
        Ok(room) => room,
        Err(error) => {
            tracing::warn!(%error, "the limit of file descriptors is not known: taking server.max_connections as it is");
            return config.server.max_connections;
        }
    };
    if left < wanted {
        tracing::warn!(
            limit,
            connections = left.max(1),
            wanted,
            "the limit of file descriptors allows fewer connections than server.max_connections: raise it (LimitNOFILE, ulimit -n)"
        );
    }
    wanted.min(left).max(1)
}

fn raise() -> Result<usize, nix::Error> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        return Ok(usize::try_from(hard).unwrap_or(usize::MAX));
    }
    Ok(usize::try_from(soft).unwrap_or(usize::MAX))
}
