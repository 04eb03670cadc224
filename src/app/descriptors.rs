//! File descriptors: how many the process may have, and how many of them the data listener's connections may take.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::run::OPERATIONS_CONNECTIONS;
use crate::access::LOOKUP_CONNECTIONS;
use crate::admin::api::MANAGEMENT_CONNECTIONS;
use crate::background;
use crate::config::Config;

/// What is set aside for files, the listeners themselves, name look-ups, identity providers and traces.
const OTHERS: usize = 64;

/// Raises the limit of the process as far as it may, and returns how many connections the data listener may have: a third of
/// what the other parts leave. Half as many may wait for their place, and the rest is there for calls to the vendor.
pub(super) fn for_data_connections(config: &Config) -> usize {
    let wanted = config.server.max_connections;
    let limit = match raise() {
        Ok(limit) => limit,
        Err(error) => {
            tracing::warn!(%error, "the limit of file descriptors is not known: taking server.max_connections as it is");
            return wanted;
        }
    };
    let others = background::CONNECTIONS + MANAGEMENT_CONNECTIONS + LOOKUP_CONNECTIONS;
    let pools = config.database.max_connections.saturating_add(others);
    let pools = usize::try_from(pools).unwrap_or(usize::MAX).saturating_add(config.ledger.lanes);
    let set_aside = OTHERS + OPERATIONS_CONNECTIONS;
    let left = limit.saturating_sub(set_aside.saturating_add(pools)) / 3;
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
